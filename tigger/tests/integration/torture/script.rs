//! A script: bytes to send and every message that must come back, in order. It is built from requests; how it is cut and
//! when it is sent is not decided here.

use std::collections::VecDeque;

use super::expect::{ColumnType, Expect, Rows, TEXT, data_row, parameter_description, row_description};
use crate::wire::{cstr, message};

/// How a script ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Ending {
    /// All replies come.
    #[default]
    Answered,
    /// All replies come, but queries may be cancelled.
    MayBeCancelled,
    /// A reply is cut short by the end of the connection.
    Terminated,
}

/// A place in a script after which a client could wait for the replies so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Border {
    /// Bytes up to here.
    pub(super) bytes: usize,
    /// Messages that answer them.
    pub(super) messages: usize,
}

/// Requests and their replies.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) bytes: Vec<u8>,
    pub(super) expects: VecDeque<Expect>,
    pub(super) borders: Vec<Border>,
    pub(super) ending: Ending,
    /// Transaction status at its end.
    pub(super) status: u8,
    /// A COPY has failed behind a Sync that it ignored. The proxy cannot know that (`outstanding.rs`), and ends the server
    /// at the next chance: what was sent behind is answered, but no transaction and no COPY can be begun there. If the
    /// server is killed at that moment, the proxy takes it for the end that it asked for, and the client goes on after a
    /// FATAL, with replies missing: so there is no such COPY while there are kills.
    pub(super) in_doubt: bool,
    pub(super) notifications: Notifications,
    messages: usize,
}

/// Notifications, by channel and payload, each of which comes once at the most, whenever it likes.
#[derive(Clone, Debug, Default)]
pub(super) struct Notifications {
    /// Those that come.
    pub(super) certain: Vec<(String, String)>,
    /// Those that may have been lost.
    pub(super) possible: Vec<(String, String)>,
}

impl Notifications {
    pub(super) fn is_empty(&self) -> bool {
        self.certain.is_empty() && self.possible.is_empty()
    }

    /// The client listens no more, or does not know whether it does.
    pub(super) fn doubt(&mut self) {
        self.possible.append(&mut self.certain);
    }
}

impl Script {
    pub(super) fn new() -> Self {
        Self {
            bytes: Vec::new(),
            expects: VecDeque::new(),
            borders: Vec::new(),
            ending: Ending::Answered,
            status: b'I',
            in_doubt: false,
            notifications: Notifications::default(),
            messages: 0,
        }
    }

    /// Adds a request.
    pub(super) fn send(&mut self, kind: u8, body: &[u8]) {
        self.bytes.extend_from_slice(&message(kind, body));
    }

    /// Adds a message, or several, of the reply.
    pub(super) fn expect(&mut self, expect: Expect) {
        self.messages += expect.messages();
        self.expects.push_back(expect);
    }

    /// Expects a message without a body of interest to anybody.
    pub(super) fn expect_kind(&mut self, kinds: &str) {
        kinds.bytes().for_each(|kind| self.expect(Expect::Message { kind, body: Vec::new() }));
    }

    /// A client could wait here.
    pub(super) fn border(&mut self) {
        self.borders.push(Border { bytes: self.bytes.len(), messages: self.messages });
    }

    pub(super) fn query(&mut self, sql: &str) {
        self.send(b'Q', &cstr(sql));
    }

    pub(super) fn parse(&mut self, statement: &str, sql: &str) {
        self.send(b'P', &[cstr(statement), cstr(sql), vec![0, 0]].concat());
    }

    /// Binds one parameter, or none, in text format.
    pub(super) fn bind(&mut self, portal: &str, statement: &str, parameter: Option<&str>) {
        let parameters = match parameter {
            Some(value) => [&[0, 1], &u32::try_from(value.len()).unwrap().to_be_bytes()[..], value.as_bytes()].concat(),
            None => vec![0, 0],
        };
        self.send(b'B', &[cstr(portal), cstr(statement), vec![0, 0], parameters, vec![0, 0]].concat());
    }

    /// `which`: `S` for a statement, `P` for a portal.
    pub(super) fn describe(&mut self, which: u8, name: &str) {
        self.send(b'D', &[vec![which], cstr(name)].concat());
    }

    /// At most so many rows; 0 for all.
    pub(super) fn execute(&mut self, portal: &str, rows: usize) {
        self.send(b'E', &[cstr(portal), u32::try_from(rows).unwrap().to_be_bytes().to_vec()].concat());
    }

    /// `which` as for [`Self::describe`].
    pub(super) fn close(&mut self, which: u8, name: &str) {
        self.send(b'C', &[vec![which], cstr(name)].concat());
    }

    pub(super) fn sync(&mut self) {
        self.send(b'S', &[]);
    }

    /// Parse, Bind and Describe of the unnamed statement and portal, with their replies.
    pub(super) fn prepare(&mut self, sql: &str, parameter: Option<&str>, column: &str) {
        self.parse("", sql);
        self.bind("", "", parameter);
        self.describe(b'P', "");
        self.expect_kind("12");
        self.described(column, TEXT);
    }

    pub(super) fn described(&mut self, column: &str, of: ColumnType) {
        self.expect(row_description(column, of));
    }

    pub(super) fn parameter_described(&mut self) {
        self.expect(parameter_description());
    }

    pub(super) fn row(&mut self, value: &str) {
        self.expect(data_row(value));
    }

    pub(super) fn rows(&mut self, rows: Rows) {
        self.expect(Expect::Rows(rows));
    }

    pub(super) fn complete(&mut self, tag: &str) {
        self.expect(Expect::Message { kind: b'C', body: cstr(tag) });
    }

    /// An error; a transaction is lost by it.
    pub(super) fn fail(&mut self, sqlstate: &'static str, message: impl Into<String>) {
        self.expect(Expect::Error { sqlstate, message: message.into() });
        if self.status == b'T' {
            self.status = b'E';
        }
    }

    /// ReadyForQuery, and a border.
    pub(super) fn ready(&mut self) {
        self.expect(Expect::Message { kind: b'Z', body: vec![self.status] });
        self.border();
    }

    /// A simple query that returns nothing but a tag and leaves the transaction in `status`.
    pub(super) fn command(&mut self, sql: &str, tag: &str, status: u8) {
        self.query(sql);
        self.complete(tag);
        self.status = status;
        self.ready();
    }
}
