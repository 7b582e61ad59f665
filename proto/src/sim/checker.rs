//! Judges what one client receives: byte for byte what a backend of its own would have answered, and, where a fault was
//! injected, a prefix of that and the fault's error.

use super::Report;
use super::backend::{BackendModel, Dialect, Hits, Parameters};
use crate::wire::backend::kind;
use crate::wire::error_response::ErrorFields;
use crate::wire::frame::{HEADER_LEN, Header, MESSAGE_LEN_MAX};

/// Text of the notices and notifications that idle servers send; they may reach anybody.
pub(super) const NOISE: &str = "noise";

#[derive(Debug)]
pub(super) struct Checker {
    client: usize,
    reference: BackendModel,
    /// An unfinished message.
    partial: Vec<u8>,
    /// The server was killed and may have said so.
    pub(super) killed: bool,
    /// Its server was ended in doubt while it had begun something else: what it gets may be wrong, and is an error.
    pub(super) excused: bool,
    /// A COPY has failed: its server may be kept for longer than needed.
    pub(super) in_doubt: bool,
    /// The error that the proxy must have sent last.
    pub(super) told: Option<Vec<u8>>,
    /// Last errors that came.
    came: Vec<Vec<u8>>,
}

impl Checker {
    pub(super) fn new(client: usize, parameters: Parameters, dialect: Dialect) -> Self {
        let reference = BackendModel::new(parameters, dialect);
        Self {
            client,
            reference,
            partial: Vec::new(),
            killed: false,
            excused: false,
            in_doubt: false,
            told: None,
            came: Vec::new(),
        }
    }

    /// The client wrote this.
    pub(super) fn handle_written(&mut self, bytes: &[u8]) {
        self.reference.feed(bytes);
    }

    /// The client received this.
    pub(super) fn handle_received(&mut self, bytes: &[u8], hits: &Hits, report: &mut Report) -> Result<(), String> {
        self.partial.extend_from_slice(bytes);
        loop {
            let header = Header::read(&self.partial, MESSAGE_LEN_MAX).map_err(|bad| self.fault(&bad.to_string()))?;
            let Some(header) = header.filter(|header| self.partial.len() >= header.total()) else { return Ok(()) };
            let message: Vec<u8> = self.partial.drain(..header.total()).collect();
            self.handle_message(message, hits, report)?;
        }
    }

    fn handle_message(&mut self, message: Vec<u8>, hits: &Hits, report: &mut Report) -> Result<(), String> {
        if is_noise(&message) || self.excused {
            return Ok(());
        }
        if self.came.is_empty() {
            let expected = self.advance(hits);
            if expected == Some(&message[..]) {
                self.reference.drop_message();
                count(&message, report);
                self.in_doubt |= message[0] == kind::ERROR_RESPONSE && message.windows(4).any(|text| text == b"copy");
                return Ok(());
            }
        }
        let fields = ErrorFields::read(&message[HEADER_LEN..]);
        let is_error = message[0] == kind::ERROR_RESPONSE && fields.severity == "FATAL";
        let by_server = is_error && self.killed && self.came.is_empty() && fields.sqlstate == "57P01";
        let by_proxy = is_error && self.told.as_ref() == Some(&message) && !self.came.contains(&message);
        if !by_server && !by_proxy {
            let expected = self.advance(hits).map(show);
            return Err(self.fault(&format!("received {}, expected {expected:?}", show(&message))));
        }
        self.came.push(message);
        Ok(())
    }

    /// The next message that the reference answers.
    fn advance(&mut self, hits: &Hits) -> Option<&[u8]> {
        while self.reference.first_message().is_none() {
            if !self.reference.step(hits) {
                return None;
            }
        }
        self.reference.first_message()
    }

    /// Everything was delivered: was it all?
    pub(super) fn check_complete(&mut self, hits: &Hits) -> Result<(), String> {
        if self.excused {
            return Ok(());
        }
        while self.reference.step(hits) {}
        if self.reference.flushed() > 0 {
            let missing = self.reference.first_message().map(show);
            return Err(self.fault(&format!("lost a reply: {missing:?}")));
        }
        if !self.partial.is_empty() {
            return Err(self.fault("received a part of a message"));
        }
        Ok(())
    }

    /// The proxy ended the connection, for which there was a reason (`expected`) or not.
    pub(super) fn check_end(&mut self, expected: bool, hits: &Hits) -> Result<(), String> {
        if self.excused {
            return Ok(());
        }
        if let Some(told) = &self.told
            && self.came.last() != Some(told)
        {
            return Err(self.fault(&format!("was not told {}", show(told))));
        }
        if !expected {
            return Err(self.fault("was disconnected without a reason"));
        }
        let partial = std::mem::take(&mut self.partial);
        let noise = partial.first().is_some_and(|kind| b"NA".contains(kind));
        let last_words = noise || (self.killed && partial.first() == Some(&kind::ERROR_RESPONSE));
        match self.advance(hits) {
            Some(next) if next.starts_with(&partial) => Ok(()),
            _ if partial.is_empty() || last_words => Ok(()),
            _ => Err(self.fault(&format!("received a part of a wrong message: {}", show(&partial)))),
        }
    }

    /// Whether a backend of its own would refuse something with this SQLSTATE.
    pub(super) fn expects_error(&mut self, sqlstate: &str, hits: &Hits) -> bool {
        self.excused || self.reference.says_error(sqlstate, hits)
    }

    pub(super) fn fault(&self, text: &str) -> String {
        format!("client {} {text}", self.client)
    }
}

/// True for what servers say unasked.
pub(super) fn is_noise(message: &[u8]) -> bool {
    matches!(message[0], kind::NOTICE_RESPONSE | kind::NOTIFICATION_RESPONSE)
        && message.windows(NOISE.len()).any(|window| window == NOISE.as_bytes())
}

fn count(message: &[u8], report: &mut Report) {
    match message[0] {
        kind::READY_FOR_QUERY => report.replies += 1,
        kind::COPY_IN_RESPONSE => report.copies_in += 1,
        b'H' => report.copies_out += 1,
        kind::NOTICE_RESPONSE => report.notices += 1,
        kind::PARAMETER_STATUS => report.parameters_reported += 1,
        kind::PORTAL_SUSPENDED => report.portals_suspended += 1,
        kind::COMMAND_COMPLETE if message.ends_with(b"COMMIT\0") => report.commits += 1,
        kind::COMMAND_COMPLETE if message.ends_with(b"ROLLBACK\0") => report.rollbacks += 1,
        kind::ERROR_RESPONSE => match &*ErrorFields::read(&message[HEADER_LEN..]).sqlstate {
            "22P04" => report.copies_failed += 1,
            "42809" => report.copies_failed_early += 1,
            "25P02" => report.failed_transactions += 1,
            _ => report.errors += 1,
        },
        _ => {}
    }
}

/// Type and start of a message.
fn show(message: &[u8]) -> String {
    let body: String = message[HEADER_LEN.min(message.len())..]
        .iter()
        .take(80)
        .map(|&byte| if byte.is_ascii_graphic() || byte == b' ' { char::from(byte) } else { '.' })
        .collect();
    format!("{}[{}] {body}", char::from(message[0]), message.len())
}
