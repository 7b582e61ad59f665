//! Replies a server owes: which requests were sent to it and are not answered yet.
//!
//! The backend answers requests in order, so a queue of what was sent tells what each reply belongs to. Three rules of
//! the backend make it more than a counter (manual, sections 55.2.3, 55.2.4 and 55.2.6; `PostgresMain` and
//! `CopyGetData` in PostgreSQL's sources):
//! * after an error in the extended protocol everything is skipped up to the next Sync;
//! * in COPY-in mode Sync and Flush are ignored, CopyDone or CopyFail ends it, any other message is swallowed and
//!   fails it;
//! * a CopyDone or CopyFail outside COPY-in mode is ignored.
//!
//! ```text
//! Normal --CopyInResponse--> CopyIn --CopyDone, CopyFail, ErrorResponse, other request--> Normal
//! Normal --ErrorResponse, no Sync sent yet--> SkipToSync --Sync--> Normal
//! CopyIn --ErrorResponse after a Sync that it may or may not have ignored--> Unknown
//! ```

use std::collections::VecDeque;

use crate::wire::backend::kind;
use crate::wire::frontend::Request;

/// Most requests a server may owe replies for before its client is no longer read. The backend flushes its output at
/// 8 KiB (PQ_SEND_BUFFER_SIZE), about 1,600 of the smallest replies, so that a client which pipelines more than this
/// has replies to read.
pub const OUTSTANDING_MAX: usize = 65_536;

/// The queue of requests not answered yet.
#[derive(Debug, Default)]
pub struct Outstanding {
    queue: VecDeque<Request>,
    mode: Mode,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Normal,
    /// The backend reads COPY data. `syncs` counts Syncs it ignores if the mode lasts.
    CopyIn { syncs: u32 },
    /// The backend skips everything up to a Sync that was not sent yet.
    SkipToSync,
    /// What the backend owes cannot be known: the server must never be given to another client. It serves this one to
    /// the end of its transaction and is closed then. `asked` is true between a request that asks for ReadyForQuery
    /// and the next ReadyForQuery: nothing more is sent meanwhile, since it could be lost with the server.
    Unknown { asked: bool },
}

/// A reply that cannot belong to any request: the server broke the protocol, or we lost track of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unexpected;

impl Outstanding {
    /// True when the server owes nothing.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && matches!(self.mode, Mode::Normal)
    }

    /// True when nobody can tell what the server owes; lasts as long as the server.
    pub fn is_unknown(&self) -> bool {
        matches!(self.mode, Mode::Unknown { .. })
    }

    /// True when no more requests should be sent until replies come.
    pub fn is_full(&self) -> bool {
        self.queue.len() >= OUTSTANDING_MAX || self.mode == Mode::Unknown { asked: true }
    }

    /// Takes note of a request that is sent to the server.
    pub fn handle_request(&mut self, request: Request) {
        match (self.mode, request) {
            (Mode::SkipToSync, Request::Sync) => {
                self.mode = Mode::Normal;
                self.queue.push_back(request);
            }
            (Mode::Unknown { .. }, Request::Sync | Request::Query | Request::FunctionCall) => {
                self.mode = Mode::Unknown { asked: true };
            }
            (Mode::SkipToSync | Mode::Unknown { .. }, _) => {}
            (Mode::CopyIn { syncs }, Request::Sync) => self.mode = Mode::CopyIn { syncs: syncs.saturating_add(1) },
            (Mode::CopyIn { .. }, _) => self.mode = Mode::Normal,
            (Mode::Normal, Request::CopyEnd) if self.queue.is_empty() => {}
            (Mode::Normal, _) => self.queue.push_back(request),
        }
    }

    /// Takes note of a reply of type `reply`.
    ///
    /// # Errors
    /// [`Unexpected`] for a ReadyForQuery that nothing asked for.
    pub fn handle_reply(&mut self, reply: u8) -> Result<(), Unexpected> {
        match reply {
            kind::READY_FOR_QUERY => self.ready()?,
            kind::ERROR_RESPONSE => self.error(),
            kind::COPY_IN_RESPONSE | kind::COPY_BOTH_RESPONSE => self.copy_in(),
            kind::PARSE_COMPLETE => self.answered(Request::Parse),
            kind::BIND_COMPLETE => self.answered(Request::Bind),
            kind::CLOSE_COMPLETE => self.answered(Request::Close),
            kind::ROW_DESCRIPTION | kind::NO_DATA => self.answered(Request::Describe),
            kind::COMMAND_COMPLETE | kind::EMPTY_QUERY_RESPONSE | kind::PORTAL_SUSPENDED => {
                self.answered(Request::Execute);
            }
            _ => {}
        }
        Ok(())
    }

    fn answered(&mut self, request: Request) {
        if self.queue.front() == Some(&request) {
            self.queue.pop_front();
            self.drop_ignored();
        }
    }

    /// CopyDone and CopyFail at the front met a backend that was not in COPY-in mode.
    fn drop_ignored(&mut self) {
        while self.queue.front() == Some(&Request::CopyEnd) {
            self.queue.pop_front();
        }
    }

    fn ready(&mut self) -> Result<(), Unexpected> {
        if self.is_unknown() {
            self.mode = Mode::Unknown { asked: false };
            return Ok(());
        }
        let ends = |request: &Request| matches!(request, Request::Sync | Request::Query | Request::FunctionCall);
        let position = self.queue.iter().position(ends).ok_or(Unexpected)?;
        self.queue.drain(..=position);
        self.drop_ignored();
        if matches!(self.mode, Mode::CopyIn { .. }) {
            self.mode = Mode::Normal;
        }
        Ok(())
    }

    fn error(&mut self) {
        match self.mode {
            // A Sync was sent into COPY-in mode. The error may have come before the backend read it (then it is
            // answered) or after (then it was ignored): we cannot tell.
            Mode::CopyIn { syncs } if syncs > 0 => {
                self.queue.clear();
                self.mode = Mode::Unknown { asked: false };
                return;
            }
            Mode::CopyIn { .. } => self.mode = Mode::Normal,
            _ => {}
        }
        match self.queue.front() {
            None | Some(Request::Sync | Request::Query | Request::FunctionCall) => {}
            Some(_) => match self.queue.iter().position(|request| *request == Request::Sync) {
                Some(sync) => drop(self.queue.drain(..sync)),
                None => {
                    self.queue.clear();
                    self.mode = Mode::SkipToSync;
                }
            },
        }
    }

    /// The request at the front put the backend into COPY-in mode: find what it does with the requests already sent.
    fn copy_in(&mut self) {
        if self.is_unknown() {
            return;
        }
        let mut syncs = 0;
        while let Some(&next) = self.queue.get(1) {
            // Either ignored (Sync), or the message that ends the mode.
            self.queue.remove(1);
            if next == Request::Sync {
                syncs += 1;
            } else {
                self.mode = Mode::Normal;
                return;
            }
        }
        self.mode = Mode::CopyIn { syncs };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Upper case of `script`: a request to the server, after `<` a reply from it, `.` asserts that nothing is owed,
    /// `!` that something is.
    #[track_caller]
    fn check(script: &str) {
        let mut outstanding = Outstanding::default();
        for word in script.split_whitespace() {
            match word.as_bytes() {
                b"." => assert!(outstanding.is_empty(), "{script}: {outstanding:?}"),
                b"!" => assert!(!outstanding.is_empty(), "{script}: {outstanding:?}"),
                [b'<', reply] => outstanding.handle_reply(*reply).unwrap(),
                [kind] => match crate::wire::frontend::Frontend::from_kind(*kind) {
                    Some(crate::wire::frontend::Frontend::Request(request)) => outstanding.handle_request(request),
                    other => panic!("{script}: {other:?}"),
                },
                _ => panic!("{script}: {word}"),
            }
        }
    }

    #[test]
    fn simple_queries() {
        check(". Q ! <T <D <C ! <Z .");
        check("Q Q ! <T <C <Z ! <C <Z .");
        check("Q <E ! <Z .");
        check("Q <C <C <C <Z .");
        check("F <V <Z .");
        check("Q <I <Z .");
    }

    #[test]
    fn extended_queries() {
        check("P B D E S ! <1 <2 <T <D <C ! <Z .");
        check("P ! <1 . D ! <t <n . S ! <Z .");
        check("P B E S P B E S <1 <2 <C <Z ! <1 <2 <C <Z .");
        check("P B E E <1 <2 <s <C . S <Z .");
        check("C S <3 <Z .");
        check("P B E Q <1 <2 <C ! <C <Z .");
    }

    #[test]
    fn errors_skip_to_sync() {
        check("P B E S <E ! <Z .");
        check("P B E S P B E S <E <Z ! <1 <2 <C <Z .");
        check("P <E ! B E ! S ! <Z .");
        // A Query is skipped like everything else until Sync.
        check("P <E Q ! S <Z .");
        check("P Q S <E ! <Z .");
        // The error of a deferred constraint comes with the Sync itself.
        check("E S <C <E ! <Z .");
        check("<E .");
    }

    #[test]
    fn copy_in() {
        check("Q <G ! c ! <C <Z .");
        check("Q <G f <E <Z .");
        check("Q <G <E c <Z .");
        check("Q <G <E <Z c .");
        check("Q c <G ! <C <Z .");
        check("Q c <E <Z .");
        check("Q c c <G <C <G <C <Z .");
        // Sync sent with the Execute, and again after CopyDone, as libpq does.
        check("P B E S <1 <2 <G ! c S ! <C <Z .");
        check("P B E S c S <1 <2 <G ! <C <Z .");
        // The same, but the COPY fails before it starts: both Syncs are answered.
        check("P B E S c S <E <Z ! <Z .");
        check("P B E S <1 <2 <G c S <E ! <Z .");
        // A message that has no place in COPY-in mode is swallowed and fails it.
        check("Q <G Q <E ! <Z .");
        check("P B E <1 <2 <G P <E ! S <Z .");
        // A Sync inside COPY-in mode and an error of the data: unknowable, so never idle again.
        check("P B E S <1 <2 <G <E ! S ! <Z ! <Z !");
    }

    #[test]
    fn a_ready_that_nothing_asked_for() {
        assert_eq!(Outstanding::default().handle_reply(b'Z'), Err(Unexpected));
        let mut outstanding = Outstanding::default();
        outstanding.handle_request(Request::Parse);
        assert_eq!(outstanding.handle_reply(b'Z'), Err(Unexpected));
    }
}
