//! Reads what the proxy sends and compares every byte with what was expected. It does no IO.

use std::collections::VecDeque;

use super::expect::{Expect, Row};
use super::script::{Ending, Notifications};

/// The reading side of one connection.
#[derive(Debug)]
pub(super) struct Checker {
    /// With what this client's values of tracked parameters begin.
    own: String,
    expects: VecDeque<Expect>,
    notifications: Notifications,
    cancelable: bool,
    state: State,
    /// Messages of the script that have come, without those that may come at any time.
    pub(super) messages: usize,
    /// How many queries were cancelled.
    pub(super) cancelled: usize,
    /// The error that ends the connection.
    pub(super) fatal: Option<Report>,
    /// The last BackendKeyData.
    pub(super) key: Vec<u8>,
}

/// Where in a message the bytes stand.
#[derive(Debug)]
enum State {
    Header(Vec<u8>),
    /// A body that is kept until it is whole.
    Body {
        kind: u8,
        len: usize,
        body: Vec<u8>,
    },
    /// A row that is compared as it comes.
    Row {
        row: Row,
        at: usize,
    },
}

/// An ErrorResponse or NoticeResponse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    pub(super) severity: String,
    pub(super) sqlstate: String,
    pub(super) message: String,
}

impl Checker {
    /// A client whose values of tracked parameters contain `own`.
    pub(super) fn new(own: String) -> Self {
        Self {
            own,
            expects: VecDeque::new(),
            notifications: Notifications::default(),
            cancelable: false,
            state: State::Header(Vec::new()),
            messages: 0,
            cancelled: 0,
            fatal: None,
            key: Vec::new(),
        }
    }

    /// From now on these are expected. The ones before must have come.
    pub(super) fn begin(&mut self, expects: VecDeque<Expect>, ending: Ending, notifications: Notifications) {
        assert!(self.is_satisfied(), "a script begins before the last one ended");
        (self.expects, self.messages) = (expects, 0);
        self.notifications.certain = notifications.certain;
        self.notifications.possible.extend(notifications.possible);
        self.cancelable = ending == Ending::MayBeCancelled;
    }

    /// True when all that was expected has come, and nothing of a further message.
    pub(super) fn is_satisfied(&self) -> bool {
        self.expects.is_empty()
            && self.notifications.certain.is_empty()
            && matches!(&self.state, State::Header(header) if header.is_empty())
    }

    /// Compares bytes.
    ///
    /// # Errors
    /// Says what came instead of what.
    pub(super) fn feed(&mut self, mut bytes: &[u8]) -> Result<(), String> {
        while !bytes.is_empty() {
            let used = match &mut self.state {
                State::Header(header) => {
                    let used = bytes.len().min(HEADER_LEN - header.len());
                    header.extend_from_slice(&bytes[..used]);
                    used
                }
                State::Body { len, body, .. } => {
                    let used = bytes.len().min(*len - body.len());
                    body.extend_from_slice(&bytes[..used]);
                    used
                }
                State::Row { row, at } => {
                    let used = bytes.len().min(row.len() - *at);
                    if let Some(offset) = row.mismatch(*at, &bytes[..used]) {
                        let got = readable(&bytes[offset..]);
                        return Err(format!(
                            "byte {} of {:?} is wrong, from there: {got}",
                            *at + offset,
                            self.expects[0]
                        ));
                    }
                    *at += used;
                    used
                }
            };
            bytes = &bytes[used..];
            self.advance()?;
        }
        Ok(())
    }

    /// Goes on to the next state when this one is full.
    fn advance(&mut self) -> Result<(), String> {
        if let State::Header(header) = &self.state
            && let [kind, a, b, c, d] = header[..]
        {
            self.state = self.body(kind, u32::from_be_bytes([a, b, c, d]) as usize)?;
        }
        match &mut self.state {
            State::Body { kind, len, body } if body.len() == *len => {
                let (kind, body) = (*kind, std::mem::take(body));
                self.state = State::Header(Vec::new());
                self.message(kind, body)
            }
            State::Row { row, at } if row.len() == *at => {
                self.state = State::Header(Vec::new());
                self.row_is_whole();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// The state after a header.
    fn body(&self, kind: u8, len: usize) -> Result<State, String> {
        if let Some(fatal) = &self.fatal
            && (kind != b'E' || fatal.is(SERVER_LOST))
        {
            return Err(format!("a message of type {:?} after {fatal:?}", char::from(kind)));
        }
        if let Some(Expect::Rows(rows)) = self.expects.front()
            && rows.framing.kind() == kind
        {
            let row = rows.row();
            return match len.checked_sub(LENGTH_LEN) {
                Some(len) if len == row.len() => Ok(State::Row { row, at: 0 }),
                _ => Err(format!("a row of {len} bytes instead of {rows:?}")),
            };
        }
        match len.checked_sub(LENGTH_LEN) {
            Some(len) if len <= BODY_LEN_MAX => Ok(State::Body { kind, len, body: Vec::new() }),
            _ => Err(format!("a message of type {:?} and length {len}, {}", char::from(kind), self.instead_of())),
        }
    }

    fn row_is_whole(&mut self) {
        self.messages += 1;
        if let Some(Expect::Rows(rows)) = self.expects.front_mut() {
            rows.next += 1;
            if rows.left() == 0 {
                self.expects.pop_front();
            }
        }
    }

    fn message(&mut self, kind: u8, body: Vec<u8>) -> Result<(), String> {
        match kind {
            b'S' => return self.parameter(&body),
            b'A' => return self.notification(&body),
            _ => {}
        }
        let report = if matches!(kind, b'E' | b'N') { Report::read(&body) } else { Report::default() };
        if kind == b'E' && (report.severity == "FATAL" || self.fatal.is_some()) {
            // PostgreSQL's last word may be followed by the proxy's, as with PgBouncer.
            return match self.fatal.replace(report.clone()) {
                // One that listens may also be told why the server that listens for it was lost.
                Some(first) if !report.is(SERVER_LOST) && !report.is(TERMINATED) => {
                    Err(format!("{report:?} after {first:?}"))
                }
                _ => Ok(()),
            };
        }
        let fits = match self.expects.front() {
            Some(Expect::Message { kind: k, body: b }) => (*k, b) == (kind, &body),
            Some(Expect::Error { sqlstate, message }) => {
                kind == b'E' && report.sqlstate == *sqlstate && report.message == *message
            }
            Some(Expect::Notice { message }) => kind == b'N' && report.message == *message,
            Some(Expect::Key) => kind == b'K',
            Some(Expect::Listening) if report.is(TERMINATED) || report.is(SERVER_LOST) => {
                self.notifications.doubt();
                true
            }
            Some(Expect::Listening) => (kind, &*body) == (b'C', b"LISTEN\0"),
            Some(Expect::Rows(_)) | None => false,
        };
        if fits {
            if kind == b'K' {
                self.key = body;
            }
            self.messages += 1;
            self.expects.pop_front();
            return Ok(());
        }
        if self.cancelable && report.sqlstate == QUERY_CANCELED {
            self.cancelled += 1;
            while self.expects.front().is_some_and(|expect| !expect.is_ready()) {
                self.messages += self.expects.pop_front().map_or(0, |expect| expect.messages());
            }
            return Ok(());
        }
        Err(format!("a message of type {:?} {}, {}", char::from(kind), readable(&body), self.instead_of()))
    }

    /// ParameterStatus may come at any time. What was set by a client has its number in it.
    fn parameter(&self, body: &[u8]) -> Result<(), String> {
        let mut texts = body.split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text));
        let (name, value) = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
        let own = !OWN_PARAMETERS.contains(&&*name)
            || value.trim_start_matches('<').to_ascii_lowercase().starts_with(&self.own);
        if own { Ok(()) } else { Err(format!("{name} became {value}, which is not {}'s", self.own)) }
    }

    fn notification(&mut self, body: &[u8]) -> Result<(), String> {
        let mut texts =
            body[PROCESS_LEN..].split(|byte| *byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
        let got = (texts.next().unwrap_or_default(), texts.next().unwrap_or_default());
        let Notifications { certain, possible } = &mut self.notifications;
        for notifications in [certain, possible] {
            if let Some(at) = notifications.iter().position(|notification| *notification == got) {
                notifications.remove(at);
                return Ok(());
            }
        }
        Err(format!("it is notified of {got:?}, expected are {:?}", self.notifications))
    }

    /// For messages of failures.
    pub(super) fn instead_of(&self) -> String {
        let next: Vec<_> = self.expects.iter().take(3).collect();
        let came = self.messages;
        format!(
            "expected after {came} messages: {next:?} and {} more, notified of {:?}; {:?}",
            self.expects.len() - next.len(),
            self.notifications.certain,
            self.state
        )
    }
}

impl Report {
    /// True for this SQLSTATE and message.
    pub(super) fn is(&self, (sqlstate, message): (&str, &str)) -> bool {
        self.sqlstate == sqlstate && self.message == message
    }

    fn read(body: &[u8]) -> Self {
        let mut report = Self::default();
        for field in body.split(|byte| *byte == 0).filter(|field| !field.is_empty()) {
            let value = String::from_utf8_lossy(&field[1..]).into_owned();
            match field[0] {
                b'S' => report.severity = value,
                b'C' => report.sqlstate = value,
                b'M' => report.message = value,
                _ => {}
            }
        }
        report
    }
}

/// The beginning of `bytes`, readable.
fn readable(bytes: &[u8]) -> String {
    bytes[..bytes.len().min(200)].escape_ascii().to_string()
}

/// What PostgreSQL says when a backend is terminated.
pub(super) const TERMINATED: (&str, &str) = ("57P01", "terminating connection due to administrator command");
/// What the proxy says when the connection to the server is lost.
pub(super) const SERVER_LOST: (&str, &str) = ("08P01", "server conn crashed?");
/// Tracked parameters to which every client gives values of its own.
const OWN_PARAMETERS: [&str; 2] = ["application_name", "TimeZone"];
/// SQLSTATE of a query that was cancelled.
const QUERY_CANCELED: &str = "57014";
/// Longest body of a message that is not a row; the scripts ask for nothing longer.
const BODY_LEN_MAX: usize = 4096;
const HEADER_LEN: usize = 5;
/// The process number in a NotificationResponse.
const PROCESS_LEN: usize = 4;
const LENGTH_LEN: usize = 4;
