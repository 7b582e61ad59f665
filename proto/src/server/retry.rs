//! A request that is sent once more, where a server refuses it because a prepared statement does not fit its table any more
//! ("cached plan must not change result type"; PostgreSQL does so before it executes anything, `RevalidateCachedQuery` in
//! `plancache.c`).
//!
//! With a server of its own a client meets that only if it has prepared the statement before the table was changed. Here
//! another may have, and so what can be repaired is repaired, if the client cannot tell: it has got no answer to the request
//! yet, it is in no transaction, and it is about to be told what the rows look like. One that knows that from before must get
//! the error, lest it take one column for another.

use super::prepared::Sent;
use super::{KernelLink, Server, WHOLE_MESSAGE_LEN_MAX};
use crate::error::Error;
use crate::wire::backend::{TransactionStatus, kind};
use crate::wire::frame::{HEADER_LEN, Header, MESSAGE_LEN_MAX};
use crate::wire::frontend::Request;

/// Longest request that is kept, in bytes, from what was sent first to an idle server up to its Sync.
const KEPT_LEN_MAX: usize = 8192;

/// What was sent to a server since it was idle.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Retry {
    /// It is not sent once more, whatever comes.
    #[default]
    Never,
    /// These bytes, as the server got them. The client has got no answer.
    Kept(Vec<u8>),
    /// The error came, which nobody was told: they are sent once more when the server is ready.
    Due(Vec<u8>),
}

impl Retry {
    /// What it is of a pair that was taken back from the kernel path, where the client may have got half of an answer.
    pub(super) fn resume(link: &KernelLink) -> Self {
        let is_answered = link.answers > 0 || link.failed || link.reply_rest > 0;
        let Some(sent) = link.sent.as_ref().filter(|_| !is_answered && link.status == TransactionStatus::Idle) else {
            return Self::Never;
        };
        match Repeatable::read(sent) {
            Some(all) if !all.describes => Self::Kept(sent.clone()),
            _ => Self::Never,
        }
    }

    /// More is sent.
    pub(super) fn sent(&mut self, bytes: &[u8]) {
        let Self::Kept(kept) = self else { return };
        if kept.len() + bytes.len() > KEPT_LEN_MAX {
            *self = Self::Never;
        } else {
            kept.extend_from_slice(bytes);
        }
    }

    /// The client gets an answer, or what was sent depends on something else.
    pub(super) fn forget(&mut self) {
        if matches!(self, Self::Kept(_)) {
            *self = Self::Never;
        }
    }
}

/// What an error of a server means beyond what it says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    /// Nothing.
    Plain,
    /// It is the server's last word.
    Last,
    /// The client need not know: what it asked for is sent once more.
    Repeatable,
}

/// What a server is sent once more.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resend {
    /// The bytes; none if there is nothing.
    pub bytes: Vec<u8>,
    /// Parse messages among them.
    pub parses: u64,
}

/// What can be sent once more.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Repeatable<'a> {
    pub(super) requests: Vec<Request>,
    /// The server's names of the prepared statements that are bound or described.
    pub(super) names: Vec<&'a [u8]>,
    /// Some are described, which is answered by two messages: PostgreSQL may refuse after the first.
    pub(super) describes: bool,
}

impl<'a> Repeatable<'a> {
    /// Reads what was sent; `None` if that is not one extended query up to its Sync, which uses prepared statements by name
    /// and asks for a description of all that it executes.
    pub(super) fn read(mut sent: &'a [u8]) -> Option<Self> {
        let mut all = Self { requests: Vec::new(), names: Vec::new(), describes: false };
        let mut is_described = true;
        while let Some(header) = Header::read(sent, MESSAGE_LEN_MAX).ok()? {
            let body = sent.get(HEADER_LEN..header.total())?;
            sent = &sent[header.total()..];
            let request = match (header.kind, body) {
                // Only the portal without a name, of which there is one.
                (b'B', [0, rest @ ..]) if is_described => {
                    all.names.push(name(rest)?);
                    is_described = false;
                    Request::Bind
                }
                (b'D', b"P\0") => {
                    is_described = true;
                    Request::Describe
                }
                (b'D', [b'S', rest @ ..]) if is_described => {
                    all.names.push(name(rest)?);
                    all.describes = true;
                    Request::Describe
                }
                (b'E', [0, ..]) if is_described => Request::Execute,
                (b'S', []) if is_described && sent.is_empty() => {
                    all.requests.push(Request::Sync);
                    return Some(all);
                }
                _ => return None,
            };
            all.requests.push(request);
        }
        None
    }
}

/// The name at the start of `bytes`, which is not empty.
fn name(bytes: &[u8]) -> Option<&[u8]> {
    let len = bytes.iter().position(|&byte| byte == 0)?;
    (len > 0).then(|| &bytes[..len])
}

impl Server {
    /// The server reports an error: if it is that a prepared statement does not fit its table any more, all are to be created
    /// again.
    pub(super) fn refused(&mut self, error: &[u8]) -> Refusal {
        if is_outgrown(error) {
            self.statements.retire();
            self.retired = true;
            if self.repeats()
                && let Retry::Kept(sent) = &mut self.retry
            {
                self.retry = Retry::Due(std::mem::take(sent));
                return Refusal::Repeatable;
            }
        }
        let has = |wanted: &[u8]| fields(error).any(|field| field == wanted);
        if has(b"VFATAL") || has(b"VPANIC") || has(b"SFATAL") { Refusal::Last } else { Refusal::Plain }
    }

    /// True if what was sent can be sent once more.
    fn repeats(&self) -> bool {
        let Retry::Kept(sent) = &self.retry else { return false };
        let all = Repeatable::read(sent);
        all.is_some_and(|all| all.names.iter().all(|name| self.statements.named(name).is_some()))
    }

    /// Whether the message behind the one at the start of `buf` is an error because of which all is sent once more. `None` if too
    /// little of it is there.
    pub(super) fn is_refused_behind(&mut self, header: Header, buf: &[u8]) -> Result<Option<bool>, Error> {
        if header.len > WHOLE_MESSAGE_LEN_MAX || !self.repeats() {
            return Ok(Some(false));
        }
        let Some(rest) = buf.get(header.total()..) else { return Ok(None) };
        let Some(next) = self.header(rest)? else { return Ok(None) };
        if next.kind != kind::ERROR_RESPONSE || next.len > WHOLE_MESSAGE_LEN_MAX {
            return Ok(Some(false));
        }
        Ok(rest.get(HEADER_LEN..next.total()).map(is_outgrown))
    }

    /// The server is ready: what it has refused is sent once more, with its prepared statements created again. False if there
    /// is nothing.
    pub(super) fn repeat(&mut self) -> Result<bool, Error> {
        let Retry::Due(sent) = std::mem::take(&mut self.retry) else { return Ok(false) };
        let is_ready = self.status == TransactionStatus::Idle && self.outstanding.is_empty();
        let Some(all) = Repeatable::read(&sent).filter(|_| is_ready) else {
            return Err(Error::ServerProtocol("server is not ready after an error".into()));
        };
        let statements: Vec<_> = all.names.iter().filter_map(|name| self.statements.named(name)).collect();
        let mut resend = Resend::default();
        for statement in &statements {
            let sent = self.handle_use(statement, usize::MAX, &mut resend.bytes);
            resend.parses += u64::from(sent == Sent::Parse);
        }
        all.requests.into_iter().for_each(|request| self.handle_request(request));
        resend.bytes.extend(sent);
        self.resend = resend;
        // At most once.
        self.retry = Retry::Never;
        Ok(true)
    }

    /// What is to be sent to the server, behind all that was sent before: not the client's, but instead of what it sent.
    pub fn take_resend(&mut self) -> Resend {
        std::mem::take(&mut self.resend)
    }
}

fn fields(error: &[u8]) -> impl Iterator<Item = &[u8]> {
    error.split(|&byte| byte == 0)
}

/// True for the error that a prepared statement does not fit its table any more. PostgreSQL names the function that says so, in
/// whatever language the text is (`plancache.c`).
fn is_outgrown(error: &[u8]) -> bool {
    fields(error).any(|field| field == b"RRevalidateCachedQuery")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::client::{Client, ClientLimits, FromClient};
    use crate::parameters::{ParameterSet, Tracked};
    use crate::prepared::Registry;
    use crate::server::FromServer;

    #[test]
    fn only_whole_queries_with_descriptions_are_sent_once_more() {
        let bind = |name: &str| message(b'B', format!("\0{name}\0\0\0\0\0\0\0").as_bytes());
        let describe = message(b'D', b"P\0");
        let statement = |name: &str| message(b'D', format!("S{name}\0").as_bytes());
        let (execute, sync) = (message(b'E', b"\0\0\0\0\0"), message(b'S', b""));
        let check = |messages: &[&[u8]], expected: Option<&[&str]>| {
            let bytes = messages.concat();
            let found = Repeatable::read(&bytes);
            let names = found.as_ref().map(|found| found.names.clone());
            let expected = expected.map(|names| names.iter().map(|name| name.as_bytes()).collect::<Vec<_>>());
            assert_eq!(names, expected, "{bytes:?}");
            assert!(found.is_none_or(|found| found.requests.len() == messages.len()));
            // Not before it is there as a whole, and not with more behind it.
            assert!((0..bytes.len()).all(|len| Repeatable::read(&bytes[..len]).is_none()));
            assert_eq!(Repeatable::read(&[&bytes, &sync[..]].concat()), None);
        };
        let (a, b) = (bind("~a"), bind("~b"));
        check(&[&a, &describe, &execute, &sync], Some(&["~a"]));
        check(&[&statement("~b"), &a, &describe, &execute, &sync], Some(&["~b", "~a"]));
        check(&[&a, &describe, &execute, &b, &describe, &execute, &execute, &sync], Some(&["~a", "~b"]));
        check(&[&statement("~a"), &sync], Some(&["~a"]));
        // The client knows the columns from before.
        check(&[&a, &execute, &sync], None);
        check(&[&a, &statement("~a"), &execute, &sync], None);
        check(&[&a, &execute, &describe, &sync], None);
        check(&[&a, &describe, &execute, &b, &execute, &sync], None);
        check(&[&a, &sync], None);
        // Statements and portals that others may have made.
        check(&[&bind(""), &describe, &execute, &sync], None);
        check(&[&statement(""), &sync], None);
        check(&[&message(b'B', b"p\0~a\0\0\0\0\0\0\0"), &describe, &execute, &sync], None);
        check(&[&a, &message(b'D', b"Pp\0"), &execute, &sync], None);
        check(&[&a, &describe, &message(b'E', b"p\0\0\0\0\0"), &sync], None);
        check(&[&message(b'P', b"~a\0\0\0\0"), &a, &describe, &execute, &sync], None);
        check(&[&a, &describe, &execute, &message(b'H', b""), &sync], None);
        check(&[&message(b'Q', b"\0")], None);
    }

    #[test]
    fn long_requests_are_not_kept() {
        let mut retry = Retry::Kept(Vec::new());
        retry.sent(&[0; KEPT_LEN_MAX]);
        assert!(matches!(&retry, Retry::Kept(kept) if kept.len() == KEPT_LEN_MAX));
        retry.sent(&[0]);
        assert_eq!(retry, Retry::Never);
        retry.sent(&[0]);
        assert_eq!(retry, Retry::Never);
    }
    const LIMITS: ClientLimits =
        ClientLimits { packet_len_max: MESSAGE_LEN_MAX, simple_query: true, prepared_max: 10, listens: false };

    /// A client and its server, on which it has prepared `S_1`.
    struct Pair {
        client: Client,
        server: Server,
        tracked: Tracked,
    }

    impl Pair {
        fn new() -> Self {
            let tracked = Tracked::new([]);
            let parameters = ParameterSet::new(&tracked);
            let client = Client::new(parameters.clone()).preparing(Arc::new(Registry::default()));
            let mut pair = Self { client, server: Server::new(parameters).tracking(true), tracked };
            let sent = pair.send(&[message(b'P', b"S_1\0select\0\0\0"), message(b'S', b"")].concat());
            assert_eq!(kinds(&sent), "PS");
            assert_eq!(pair.reply(&[message(b'1', b""), message(b'Z', b"I")].concat(), 1), "1Z");
            pair
        }

        /// What the server gets of what the client sends.
        fn send(&mut self, mut bytes: &[u8]) -> Vec<u8> {
            let mut sent = Vec::new();
            loop {
                match self.client.handle_bytes(bytes, &mut self.server, LIMITS).unwrap() {
                    FromClient::Forward(n) => {
                        sent.extend_from_slice(&bytes[..n]);
                        assert_eq!(n, bytes.len());
                        return sent;
                    }
                    FromClient::Splice { forward, skip, insert } => {
                        sent.extend_from_slice(&bytes[..forward]);
                        sent.extend(insert);
                        bytes = &bytes[forward + skip..];
                    }
                    other => panic!("{other:?}"),
                }
            }
        }

        /// The kinds of messages that the client gets of what the server says, which comes in pieces.
        fn reply(&mut self, bytes: &[u8], piece: usize) -> String {
            let (mut carry, mut got) = (Vec::new(), Vec::new());
            for bytes in bytes.chunks(piece) {
                carry.extend_from_slice(bytes);
                loop {
                    match self.server.handle_bytes(&carry, &self.tracked, |_, _| {}).unwrap() {
                        FromServer::Forward(n) => {
                            got.extend(carry.drain(..n));
                            break;
                        }
                        FromServer::Ready(n) => got.extend(carry.drain(..n)),
                        FromServer::Splice { forward, skip, insert } => {
                            got.extend(carry.drain(..forward + skip).take(forward));
                            got.extend(insert.into_iter().flatten());
                        }
                    }
                }
            }
            assert!(carry.is_empty());
            kinds(&got)
        }
    }

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        crate::wire::backend::message(&mut out, kind, |out| out.extend_from_slice(body));
        out
    }

    fn kinds(mut bytes: &[u8]) -> String {
        let mut kinds = String::new();
        while let Some(header) = Header::read(bytes, MESSAGE_LEN_MAX).unwrap() {
            kinds.push(char::from(header.kind));
            bytes = &bytes[header.total()..];
        }
        kinds
    }

    fn outgrown() -> Vec<u8> {
        message(b'E', b"SFEHLER\0VERROR\0C0A000\0Manders\0Fplancache.c\0L1\0RRevalidateCachedQuery\0\0")
    }

    #[test]
    fn a_query_is_sent_once_more_with_its_statement_prepared_again() {
        let query =
            [message(b'B', b"\0S_1\0\0\0\0\0\0\0"), message(b'D', b"P\0"), message(b'E', b"\0\0\0\0\0")].concat();
        let query = [query, message(b'S', b"")].concat();
        let described = [message(b'D', b"SS_1\0"), message(b'S', b"")].concat();
        let (ready, done) = (message(b'Z', b"I"), [message(b'C', b"SELECT 0\0"), message(b'Z', b"I")].concat());
        let again = [message(b'3', b""), message(b'1', b"")].concat();
        let rows = [again.clone(), message(b'2', b""), message(b'T', b"\0\0"), done].concat();
        let types = message(b't', b"\0\0");
        let description = [again, types.clone(), message(b'T', b"\0\0"), ready.clone()].concat();
        for piece in 1..60 {
            for (request, refusal, answer, expected) in [
                (&query, outgrown(), &rows, "2TCZ"),
                (&described, [types.clone(), outgrown()].concat(), &description, "tTZ"),
            ] {
                let mut pair = Pair::new();
                // Twice: it is not the first time that counts.
                for _ in 0..2 {
                    let sent = pair.send(request);
                    assert_eq!(kinds(&sent), kinds(request));
                    assert_eq!(pair.reply(&refusal, piece), "");
                    assert!(pair.server.take_retired() && pair.server.is_full() && pair.server.owes());
                    assert_eq!(pair.server.take_resend(), Resend::default());
                    assert_eq!(pair.reply(&ready, piece), "");
                    assert!(!pair.server.is_full() && pair.server.owes() && !pair.server.is_idle());
                    let resend = pair.server.take_resend();
                    assert_eq!((kinds(&resend.bytes), resend.parses), (format!("CP{}", kinds(request)), 1));
                    assert!(resend.bytes.ends_with(&sent));
                    assert_eq!(pair.reply(answer, piece), expected);
                    assert!(pair.server.is_idle());
                }
            }
        }
    }

    #[test]
    fn once() {
        let query = [message(b'D', b"SS_1\0"), message(b'S', b"")].concat();
        let ready = message(b'Z', b"I");
        let mut pair = Pair::new();
        pair.send(&query);
        assert_eq!(pair.reply(&[outgrown(), ready.clone()].concat(), 1000), "");
        let again = [message(b'3', b""), message(b'1', b""), message(b't', b"\0\0"), outgrown(), ready].concat();
        assert_eq!(pair.reply(&again, 1000), "tEZ");
        assert!(pair.server.is_idle() && pair.server.take_resend().bytes.len() > query.len());
    }

    #[test]
    fn what_is_answered_in_part_or_fails_otherwise_is_not_sent_once_more() {
        let group = |messages: &[Vec<u8>]| [messages.concat(), message(b'S', b"")].concat();
        let (describe, plain) = (message(b'D', b"SS_1\0"), message(b'E', b"SERROR\0VERROR\0C42P01\0Mno\0\0"));
        let check = |request: Vec<u8>, reply: &[Vec<u8>], expected: &str| {
            for piece in [1, 7, 1000] {
                let mut pair = Pair::new();
                pair.send(&request);
                assert_eq!(pair.reply(&reply.concat(), piece), expected);
                assert_eq!(pair.server.take_resend(), Resend::default());
            }
        };
        let (types, ready) = (message(b't', b"\0\0"), message(b'Z', b"I"));
        check(group(std::slice::from_ref(&describe)), &[types.clone(), plain.clone(), ready.clone()], "tEZ");
        check(group(std::slice::from_ref(&describe)), &[plain, ready.clone()], "EZ");
        let row = message(b'T', b"\0\0");
        let both = [describe.clone(), describe.clone()];
        check(group(&both), &[types.clone(), row, types, outgrown(), ready.clone()], "tTtEZ");
        check(
            group(&[message(b'P', b"\0\0\0\0"), describe.clone()]),
            &[message(b'1', b""), outgrown(), ready.clone()],
            "1EZ",
        );
        // In a transaction.
        let mut pair = Pair::new();
        pair.send(&message(b'Q', b"begin\0"));
        pair.reply(&[message(b'C', b"BEGIN\0"), message(b'Z', b"T")].concat(), 1);
        pair.send(&group(&[describe]));
        assert_eq!(pair.reply(&[outgrown(), message(b'Z', b"E")].concat(), 1), "EZ");
        assert_eq!(pair.server.take_resend(), Resend::default());
    }

    #[test]
    fn a_notice_is_no_answer_and_the_end_of_the_server_is_one() {
        let request = [message(b'D', b"SS_1\0"), message(b'S', b"")].concat();
        let mut pair = Pair::new();
        pair.send(&request);
        let notice = message(b'N', b"SNOTICE\0\0");
        assert_eq!(pair.reply(&[notice, outgrown()].concat(), 3), "N");
        let last = message(b'E', b"SFATAL\0VFATAL\0C57P01\0Mbye\0\0");
        assert_eq!(pair.reply(&last, 3), "E");
        assert!(!pair.server.is_idle());
    }
}
