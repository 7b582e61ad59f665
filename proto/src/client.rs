//! A connection from an application, as far as bytes tell: login, then the borders and kinds of its messages.
//!
//! No socket is here. The driver feeds what it read and does what the returned [`FromClient`] says.

pub mod command;
pub mod login;
mod replace;
pub mod startup;
pub mod statements;

use std::sync::Arc;

use crate::error::Error;
use crate::parameters::ParameterSet;
use crate::prepared::Registry;
use crate::server::Server;
use crate::wire::frame::{Header, Walker};
use crate::wire::frontend::{Frontend, Request};
use command::{Command, Look};
use replace::{Collecting, Replaced};
use statements::ClientStatements;

/// What clients may send, from the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// `max_packet_size`: longest message, in bytes.
    pub packet_len_max: u32,
    /// False with `disable_pqexec`: the simple query protocol is refused.
    pub simple_query: bool,
    /// `max_prepared_statements`: most prepared statements kept on a server; 0 where they are none of our business.
    pub prepared_max: u32,
    /// LISTEN and UNLISTEN are carried out here: the client has no server of its own that could.
    pub listens: bool,
}

impl ClientLimits {
    /// Some queries are [commands](Command) to be carried out here.
    pub fn has_commands(&self) -> bool {
        self.listens || self.prepared_max > 0
    }
}

/// A client after login.
#[derive(Debug)]
pub struct Client {
    walker: Walker,
    /// Its values of the tracked parameters.
    pub parameters: ParameterSet,
    /// Its prepared statements.
    statements: Box<ClientStatements>,
    /// A Parse that has not come as a whole.
    collecting: Option<Box<Collecting>>,
    /// What it did with prepared statements, to be counted.
    uses: Uses,
    /// The driver has done what the next Bind needs.
    bound: bool,
}

/// What a client did with named prepared statements.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Parse messages of the client.
    pub client_parses: u64,
    /// Parse messages sent to servers.
    pub server_parses: u64,
    /// Bind messages.
    pub binds: u64,
}

/// What to do with the bytes at the start of a client's buffer. What is not mentioned stays for the next call, together
/// with more bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromClient {
    /// Pass this many bytes to the linked server.
    Forward(usize),
    /// Pass this many bytes to the linked server and send no more until it has answered some.
    Full(usize),
    /// No server is linked: drop this many bytes. They mean nothing without one (Flush and COPY data, which a backend
    /// that has nothing to do ignores).
    Discard(usize),
    /// No server is linked, and a request is next.
    NeedServer,
    /// After this many bytes for the linked server (0 without one) there is a message that the driver is to carry out, or to do
    /// something before it goes on: see [`Client::command`].
    Command(usize),
    /// After this many bytes for the linked server (0 without one), the client says goodbye.
    Terminate(usize),
    /// Pass `forward` bytes to the linked server, then `insert`, and drop the `skip` bytes after the forwarded ones. More
    /// may follow at once. See [`Server::poll_fake`] for what the client is due now.
    Splice {
        /// Bytes for the server.
        forward: usize,
        /// Bytes that the server does not get.
        skip: usize,
        /// What it gets instead.
        insert: Vec<u8>,
    },
}

impl Client {
    /// A client that has just got its first ReadyForQuery.
    pub fn new(parameters: ParameterSet) -> Self {
        Self {
            walker: Walker::default(),
            parameters,
            statements: Box::new(ClientStatements::new(Arc::default())),
            collecting: None,
            uses: Uses::default(),
            bound: false,
        }
    }

    /// The same in a pool with these prepared statements.
    #[must_use]
    pub fn preparing(self, registry: Arc<Registry>) -> Self {
        Self { statements: Box::new(ClientStatements::new(registry)), ..self }
    }

    /// Its prepared statements, as far as they are looked after.
    pub fn statements(&mut self) -> &mut ClientStatements {
        &mut self.statements
    }

    /// The command at the start of `buf`, after [`FromClient::Command`].
    pub fn command<'a>(&self, buf: &'a [u8]) -> Option<Asked<'a>> {
        if let Some((command, len)) = Command::read(buf) {
            return Some(Asked::Query(command, len));
        }
        self.listen_of(buf).map(|sql| Asked::Bind(sql.to_vec()))
    }

    /// What the [Bind](Asked::Bind) at the start of the buffer needs was done: it goes on.
    pub fn note_bound(&mut self) {
        self.bound = true;
    }

    /// Its server goes back, so that nothing is unanswered.
    pub fn unlink(&mut self, server: &mut Server) {
        self.statements.correct(server.take_corrections());
        self.statements.settle();
    }

    /// What it did with prepared statements since this was last asked.
    pub fn take_uses(&mut self) -> Uses {
        std::mem::take(&mut self.uses)
    }

    /// Goes on where the kernel path left off: `rest` bytes of the client's current message are still to come.
    pub fn resume(&mut self, rest: u32) {
        self.walker = Walker::resume(rest);
    }

    /// True when the client's last byte ended a message.
    pub fn at_border(&self) -> bool {
        self.walker.at_border() && self.collecting.is_none()
    }

    /// True when the server that it is linked to got its last message as a whole: a Parse that is still collected is not for a
    /// server yet.
    pub fn is_whole(&self) -> bool {
        self.walker.at_border()
    }

    /// Walks bytes received while linked to `server`, which learns what it will owe.
    ///
    /// # Errors
    /// What the client is told before it is disconnected. Messages before the bad one may be counted as sent although
    /// they were not: the server must be closed unless it is idle.
    pub fn handle_bytes(&mut self, buf: &[u8], server: &mut Server, limits: ClientLimits) -> Result<FromClient, Error> {
        let result = self.walk(buf, server, limits)?;
        match &result {
            FromClient::Forward(n) | FromClient::Full(n) | FromClient::Command(n) | FromClient::Terminate(n) => {
                server.note_sent(&buf[..*n]);
            }
            FromClient::Splice { forward, insert, .. } => {
                server.note_sent(&buf[..*forward]);
                server.note_sent(insert);
            }
            FromClient::Discard(_) | FromClient::NeedServer => {}
        }
        Ok(result)
    }

    fn walk(&mut self, buf: &[u8], server: &mut Server, limits: ClientLimits) -> Result<FromClient, Error> {
        self.statements.correct(server.take_corrections());
        if limits.prepared_max > 0 {
            server.track();
        }
        server.share(limits.listens);
        if self.collecting.is_some() {
            return self.collect(buf, server, limits);
        }
        let mut at = self.walker.pass(buf.len());
        while self.walker.at_border() {
            let Some(header) = Header::read(&buf[at..], limits.packet_len_max)? else { break };
            match read(header, limits)? {
                Frontend::Terminate => return Ok(FromClient::Terminate(at)),
                Frontend::Silent => server.handle_silent(),
                Frontend::Request(_) if server.is_full() => return Ok(FromClient::Full(at)),
                Frontend::Request(request) => {
                    let replaced = match header.kind {
                        b'P' | b'B' | b'D' | b'C' if limits.has_commands() => {
                            self.replace(header, &buf[at..], server, limits)?
                        }
                        b'Q' if limits.has_commands() => self.replace_query(header, &buf[at..], server, limits)?,
                        _ => Replaced::No,
                    };
                    match replaced {
                        Replaced::No => server.handle_request(request),
                        Replaced::Later => break,
                        Replaced::Hold => return Ok(FromClient::Full(at)),
                        Replaced::With { skip, insert } => return Ok(FromClient::Splice { forward: at, skip, insert }),
                        Replaced::ByDriver => return Ok(FromClient::Command(at)),
                    }
                }
            }
            at += self.walker.enter(header, buf.len() - at);
        }
        Ok(FromClient::Forward(at))
    }

    /// Walks bytes received while no server is linked.
    ///
    /// # Errors
    /// What the client is told before it is disconnected.
    pub fn handle_bytes_unlinked(&mut self, buf: &[u8], limits: ClientLimits) -> Result<FromClient, Error> {
        if self.is_held() || (self.collecting.is_some() && !buf.is_empty()) {
            return Ok(FromClient::NeedServer);
        }
        let mut at = self.walker.pass(buf.len());
        while self.walker.at_border() {
            let Some(header) = Header::read(&buf[at..], limits.packet_len_max)? else { break };
            match read(header, limits)? {
                Frontend::Terminate => return Ok(FromClient::Terminate(0)),
                Frontend::Silent | Frontend::Request(Request::CopyEnd) => {
                    at += self.walker.enter(header, buf.len() - at);
                }
                Frontend::Request(Request::Query) if at == 0 && limits.listens => {
                    return Ok(match Command::look(header, buf) {
                        Look::Command(Command::Listen { .. } | Command::Unlisten(_)) => FromClient::Command(0),
                        Look::Later => FromClient::Discard(0),
                        Look::Command(_) | Look::None => FromClient::NeedServer,
                    });
                }
                Frontend::Request(_) if at == 0 => return Ok(FromClient::NeedServer),
                Frontend::Request(_) => break,
            }
        }
        Ok(FromClient::Discard(at))
    }
}

/// What a client asks for that the driver carries out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked<'a> {
    /// A Query: this command, and the length of the message. The server, if one is linked, owes nothing.
    Query(Command<'a>, usize),
    /// The Bind of this LISTEN or UNLISTEN (see [`Command::read_listen`]), which goes on after [`Client::note_bound`].
    Bind(Vec<u8>),
}

/// Requests that can be sent to a server at once and leave nothing open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WholeRequests {
    /// Their type bytes, without those of messages that have no answer.
    pub kinds: Vec<u8>,
    /// How many of them are answered by ReadyForQuery.
    pub enders: u32,
    /// Prepared statements are among them, see [`Client::rename_whole`].
    pub named: bool,
}

impl WholeRequests {
    /// Most requests.
    pub const LEN_MAX: usize = 64;

    /// Reads a buffer that consists of whole queries, simple or extended up to their Sync; `None` for anything else.
    pub fn read(buf: &[u8], limits: ClientLimits) -> Option<Self> {
        let (mut whole, mut at) = (Self { kinds: Vec::new(), enders: 0, named: false }, 0);
        let mut last = 0;
        while at < buf.len() {
            let header = Header::read(&buf[at..], limits.packet_len_max).ok()??;
            match header.kind {
                // Behind an extended query that fails, a Query is skipped: not each of them would be answered.
                b'Q' if !limits.simple_query || !matches!(last, 0 | b'Q' | b'S') => return None,
                b'Q' | b'P' if limits.has_commands() && Command::is_likely(header, &buf[at..]) => return None,
                b'Q' | b'S' => whole.enders += 1,
                b'P' | b'B' | b'D' | b'E' | b'C' => {}
                _ => return None,
            }
            whole.kinds.push(header.kind);
            last = header.kind;
            at += header.total();
        }
        (at == buf.len() && matches!(last, b'Q' | b'S') && whole.kinds.len() <= Self::LEN_MAX).then_some(whole)
    }
}

fn read(header: Header, limits: ClientLimits) -> Result<Frontend, Error> {
    match Frontend::from_kind(header.kind) {
        Some(Frontend::Request(Request::Query)) if !limits.simple_query => Err(Error::QueryDisallowed),
        Some(message) => Ok(message),
        None => Err(Error::UnknownPacket),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::Tracked;
    use crate::wire::frame::MESSAGE_LEN_MAX;
    use crate::wire::frontend;

    const LIMITS: ClientLimits =
        ClientLimits { packet_len_max: MESSAGE_LEN_MAX, simple_query: true, prepared_max: 0, listens: false };

    fn new() -> (Client, Server) {
        let parameters = ParameterSet::new(&Tracked::new([]));
        (Client::new(parameters.clone()), Server::new(parameters))
    }

    #[test]
    fn unlinked() {
        let check = |bytes: &[u8], expected: Result<FromClient, Error>| {
            assert_eq!(new().0.handle_bytes_unlinked(bytes, LIMITS), expected, "{bytes:?}");
        };
        let mut query = Vec::new();
        frontend::query(&mut query, "select 1");
        check(&query, Ok(FromClient::NeedServer));
        check(&query[..5], Ok(FromClient::NeedServer));
        check(&query[..4], Ok(FromClient::Discard(0)));
        check(b"S\0\0\0\x04", Ok(FromClient::NeedServer));
        check(b"H\0\0\0\x04", Ok(FromClient::Discard(5)));
        check(b"d\0\0\0\x09ab", Ok(FromClient::Discard(7)));
        check(b"c\0\0\0\x04H\0\0\0\x04S\0\0\0\x04", Ok(FromClient::Discard(10)));
        check(b"X\0\0\0\x04", Ok(FromClient::Terminate(0)));
        check(b"p\0\0\0\x04", Err(Error::UnknownPacket));
        check(b"\x16\x03\x01\0\0", Err(Error::UnknownPacket));
        assert!(matches!(new().0.handle_bytes_unlinked(b"Q\0\0\0\x03", LIMITS), Err(Error::BadHeader(_))));
        let small = ClientLimits { packet_len_max: 8, ..LIMITS };
        assert!(matches!(new().0.handle_bytes_unlinked(&query, small), Err(Error::BadHeader(_))));
        let no_query = ClientLimits { simple_query: false, ..LIMITS };
        assert_eq!(new().0.handle_bytes_unlinked(&query, no_query), Err(Error::QueryDisallowed));
    }

    #[test]
    fn linked_at_every_split() {
        let mut stream = Vec::new();
        frontend::query(&mut stream, "select 1");
        stream.extend(b"H\0\0\0\x04S\0\0\0\x04");
        for cut in 0..=stream.len() {
            let (mut client, mut server) = new();
            let FromClient::Forward(first) = client.handle_bytes(&stream[..cut], &mut server, LIMITS).unwrap() else {
                panic!("not forwarded")
            };
            let rest = stream.len() - first;
            assert_eq!(client.handle_bytes(&stream[first..], &mut server, LIMITS), Ok(FromClient::Forward(rest)));
            assert!(client.at_border() && server.owes() && !server.is_idle());
        }
    }

    #[test]
    fn terminate_after_requests() {
        let (mut client, mut server) = new();
        let bytes = b"S\0\0\0\x04X\0\0\0\x04";
        assert_eq!(client.handle_bytes(bytes, &mut server, LIMITS), Ok(FromClient::Terminate(5)));
    }

    #[test]
    fn whole_requests() {
        let check = |bytes: &[u8], expected: Option<(&str, u32)>| {
            let whole = WholeRequests::read(bytes, LIMITS);
            let expected = expected.map(|(kinds, enders)| WholeRequests { kinds: kinds.into(), enders, named: false });
            assert_eq!(whole, expected, "{bytes:?}");
        };
        check(b"Q\0\0\0\x05\0", Some(("Q", 1)));
        check(b"Q\0\0\0\x05\0S\0\0\0\x04", Some(("QS", 2)));
        check(b"P\0\0\0\x08\0\0\0\0S\0\0\0\x04", Some(("PS", 1)));
        check(b"", None);
        check(b"Q\0\0\0\x05", None);
        check(b"P\0\0\0\x08\0\0\0\0", None);
        check(b"P\0\0\0\x08\0\0\0\0Q\0\0\0\x05\0S\0\0\0\x04", None);
        check(b"Q\0\0\0\x05\0H\0\0\0\x04", None);
        check(b"F\0\0\0\x04", None);
        check(&b"S\0\0\0\x04".repeat(65), None);
        assert_eq!(WholeRequests::read(b"Q\0\0\0\x05\0", ClientLimits { simple_query: false, ..LIMITS }), None);
    }

    #[test]
    fn a_server_that_owes_too_much_is_not_sent_more() {
        let (mut client, mut server) = new();
        let bytes = b"S\0\0\0\x04".repeat(crate::server::outstanding::OUTSTANDING_MAX + 7);
        let FromClient::Full(n) = client.handle_bytes(&bytes, &mut server, LIMITS).unwrap() else { panic!("no limit") };
        assert_eq!(n, 5 * crate::server::outstanding::OUTSTANDING_MAX);
        assert_eq!(client.handle_bytes(&bytes[n..], &mut server, LIMITS), Ok(FromClient::Full(0)));
    }
}
