//! The replies a server owes, against a model of the backend: while the pooler believes that nothing is owed, the backend
//! must have nothing to answer. The two are apart in time: requests and replies lie in two pipes between them.
//!
//! An input is a script. Letters of requests (`PBDECSQFcfdH`) send one. `<` hands one reply to the pooler, `*` all of
//! them. The others move the backend: `.` takes or finishes something, `!` fails it, `g` makes the running statement a
//! COPY from the client, `w` ends a statement but not the query, `s` suspends a portal.
#![no_main]

use std::collections::VecDeque;

use libfuzzer_sys::fuzz_target;
use tigger_proto::parameters::{ParameterSet, Tracked};
use tigger_proto::server::Server;
use tigger_proto::server::outstanding::Outstanding;
use tigger_proto::wire::frontend::Frontend;

fuzz_target!(|script: &[u8]| {
    let tracked = Tracked::new([]);
    let (mut outstanding, mut server) = (Outstanding::default(), Server::new(ParameterSet::new(&tracked)));
    let mut backend = Backend::default();
    for &op in script {
        match op {
            b'.' | b'!' | b'g' | b'w' | b's' => backend.step(op),
            b'<' | b'*' => {
                let count = if op == b'<' { backend.replies.len().min(1) } else { backend.replies.len() };
                for reply in backend.replies.drain(..count) {
                    outstanding.handle_reply(reply).expect("a reply that was asked for");
                    server.handle_bytes(message(reply), &tracked, |_, _| {}).expect("a reply that was asked for");
                }
            }
            kind => match Frontend::from_kind(kind) {
                Some(Frontend::Request(request)) if !outstanding.is_full() => {
                    outstanding.handle_request(request);
                    server.handle_request(request);
                    backend.requests.push_back(kind);
                }
                Some(Frontend::Silent) => backend.requests.push_back(kind),
                _ => {}
            },
        }
        let script = || String::from_utf8_lossy(script).into_owned();
        assert!(!outstanding.is_empty() || !backend.owes(), "{}: {outstanding:?} {backend:?}", script());
        assert!(!server.is_idle() || backend.is_at_rest(), "{}: {server:?} {backend:?}", script());
        // The other direction: a server that could be used again must not be kept for ever. What a failed COPY leaves
        // cannot be known.
        if backend.is_at_rest() && backend.requests.is_empty() && !backend.copy_failed {
            assert!(outstanding.is_empty(), "{}: {outstanding:?}", script());
        }
    }
});

/// `PostgresMain`, `exec_simple_query` and `CopyGetData` of PostgreSQL's sources, as far as replies go.
#[derive(Debug, Default)]
struct Backend {
    /// Sent, not read.
    requests: VecDeque<u8>,
    /// Written, not seen.
    replies: VecDeque<u8>,
    running: Option<Statement>,
    /// The running statement reads from the client.
    copying: bool,
    /// `ignore_till_sync`
    ignore_till_sync: bool,
    /// An extended query was begun and not ended by Sync: its transaction is open.
    open: bool,
    /// A COPY failed.
    copy_failed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Statement {
    Query,
    Function,
    Execute,
}

impl Backend {
    /// True when a reply is on its way or something that was sent will be answered or skipped.
    fn owes(&self) -> bool {
        !self.replies.is_empty()
            || self.running.is_some()
            || self.ignore_till_sync
            || self.requests.iter().any(|kind| !matches!(kind, b'c' | b'f' | b'd' | b'H'))
    }

    /// True when somebody else may use it.
    fn is_at_rest(&self) -> bool {
        !self.owes() && !self.open
    }

    fn step(&mut self, op: u8) {
        match self.running {
            Some(statement) if self.copying => self.copy(statement, op),
            Some(statement) => self.run(statement, op),
            None => self.take(op),
        }
    }

    fn take(&mut self, op: u8) {
        let Some(kind) = self.requests.pop_front() else { return };
        if self.ignore_till_sync && kind != b'S' {
            return;
        }
        match kind {
            b'Q' => self.running = Some(Statement::Query),
            b'F' => self.running = Some(Statement::Function),
            b'S' => {
                self.ignore_till_sync = false;
                // A deferred constraint.
                if op == b'!' && self.open {
                    self.replies.push_back(b'E');
                }
                self.ready();
            }
            b'P' | b'B' | b'D' | b'C' | b'E' => {
                self.open = true;
                match (kind, op) {
                    (_, b'!') => self.fail(Statement::Execute),
                    (b'E', _) => self.running = Some(Statement::Execute),
                    (b'P', _) => self.replies.push_back(b'1'),
                    (b'B', _) => self.replies.push_back(b'2'),
                    (b'C', _) => self.replies.push_back(b'3'),
                    (_, b's') => self.replies.push_back(b'n'),
                    _ => self.replies.extend(*b"tT"),
                }
            }
            // COPY messages outside COPY, and Flush.
            _ => {}
        }
    }

    fn run(&mut self, statement: Statement, op: u8) {
        match (op, statement) {
            (b'!', _) => self.fail(statement),
            (b'g', Statement::Query | Statement::Execute) => {
                self.replies.push_back(b'G');
                self.copying = true;
            }
            (b'w', Statement::Query) => self.replies.extend(*b"TDC"),
            (b's', Statement::Query) => {
                self.replies.push_back(b'I');
                self.ready();
            }
            (_, Statement::Query) => {
                self.replies.push_back(b'C');
                self.ready();
            }
            (_, Statement::Function) => {
                self.replies.push_back(b'V');
                self.ready();
            }
            (op, Statement::Execute) => {
                self.running = None;
                self.replies.push_back(match op {
                    b's' => b's',
                    b'w' => b'I',
                    _ => b'C',
                });
            }
        }
    }

    fn copy(&mut self, statement: Statement, op: u8) {
        // What fails the COPY by itself: a trigger, a cancel request, the data.
        if op == b'!' {
            return self.fail(statement);
        }
        match self.requests.pop_front() {
            None | Some(b'S' | b'H' | b'd') => {}
            Some(b'c') => {
                self.copying = false;
                self.replies.push_back(b'C');
                // A query may have more statements.
                self.running = Some(statement).filter(|statement| *statement == Statement::Query);
            }
            Some(_) => self.fail(statement),
        }
    }

    fn fail(&mut self, statement: Statement) {
        self.replies.push_back(b'E');
        self.copy_failed |= self.copying;
        self.running = None;
        self.copying = false;
        if statement == Statement::Execute {
            self.ignore_till_sync = true;
        } else {
            self.ready();
        }
    }

    fn ready(&mut self) {
        self.running = None;
        self.open = false;
        self.replies.push_back(b'Z');
    }
}

/// The smallest message of this type.
fn message(reply: u8) -> &'static [u8] {
    match reply {
        b'Z' => b"Z\0\0\0\x05I",
        b'1' => b"1\0\0\0\x04",
        b'2' => b"2\0\0\0\x04",
        b'3' => b"3\0\0\0\x04",
        b'C' => b"C\0\0\0\x05\0",
        b'D' => b"D\0\0\0\x06\0\0",
        b'E' => b"E\0\0\0\x05\0",
        b'G' => b"G\0\0\0\x07\0\0\0",
        b'I' => b"I\0\0\0\x04",
        b'T' => b"T\0\0\0\x06\0\0",
        b'V' => b"V\0\0\0\x08\xff\xff\xff\xff",
        b'n' => b"n\0\0\0\x04",
        b's' => b"s\0\0\0\x04",
        b't' => b"t\0\0\0\x06\0\0",
        _ => unreachable!("the model does not say {reply}"),
    }
}
