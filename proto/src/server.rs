//! A connection to PostgreSQL, as far as bytes tell: login, replies owed, transaction status, parameters.
//!
//! No socket is here. The driver feeds what it read and does what the returned [`FromServer`] says.

pub mod effect;
pub mod listener;
pub mod login;
pub mod outstanding;
pub mod prepared;
pub mod retry;
pub mod statements;

use crate::error::Error;
use crate::parameters::{ParameterSet, Tracked};
use crate::wire::backend::{self, TransactionStatus, kind};
use crate::wire::error_response::ErrorFields;
use crate::wire::frame::{HEADER_LEN, Header, MESSAGE_LEN_MAX, Walker};
use crate::wire::frontend::Request;
use effect::Correction;
use outstanding::{Answer, Bad, Outstanding, Settling};
use prepared::ends_all;
use retry::{Refusal, Resend, Retry};
use statements::ServerStatements;

/// Longest ParameterStatus, ReadyForQuery or idle-time error that is waited for as a whole, in bytes. PostgreSQL's own
/// parameters are far shorter; a server that sends longer ones is closed rather than buffered.
const WHOLE_MESSAGE_LEN_MAX: u32 = 16 * 1024;

/// A server after login.
#[derive(Debug)]
pub struct Server {
    walker: Walker,
    outstanding: Outstanding,
    status: TransactionStatus,
    parameters: ParameterSet,
    /// Set when the server must not be pooled again, whatever its status.
    doomed: bool,
    /// Messages were sent behind the last one that is answered by ReadyForQuery: the server may not have read them.
    tail: bool,
    packet_len_max: u32,
    statements: ServerStatements,
    /// Its clients' prepared statements are looked after.
    tracks: bool,
    /// They are out of date.
    retired: bool,
    /// It has one client after the other, so that whatever it is listening to is nobody's.
    shared: bool,
    /// How many requests with a ReadyForQuery were sent so far.
    group: u64,
    corrections: Vec<Correction>,
    retry: Retry,
    /// What the driver is to send.
    resend: Resend,
}

/// What to do with the bytes at the start of a server's buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FromServer {
    /// Pass this many bytes to the client and keep the rest (an unfinished header or short message) for the next read.
    Forward(usize),
    /// Pass this many bytes to the client: they end with a ReadyForQuery. See [`Server::is_idle`] for what it means.
    Ready(usize),
    /// Pass `forward` bytes to the client, then `insert`, and drop the `skip` bytes after the forwarded ones.
    Splice {
        /// Bytes for the client.
        forward: usize,
        /// Bytes that are for nobody.
        skip: usize,
        /// A message that the server has not sent.
        insert: Option<[u8; HEADER_LEN]>,
    },
}

/// What a message of a server is.
enum Message {
    /// Not there, as far as it is needed.
    Incomplete,
    /// So many bytes that are the client's.
    Pass(usize),
    /// The same, up to the end of a ReadyForQuery.
    Ready(usize),
    /// So many bytes that are for nobody.
    Swallow(usize),
}

/// How the query that a driver sends by itself (parameters, reset) went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnQuery {
    /// Keep the bytes from here on and read more.
    More(usize),
    /// Done, all replies swallowed; the bytes from here on are not part of it.
    Done(usize),
    /// Done, but the server reported this error.
    Failed(usize, ErrorFields),
}

/// Where a pair stands that is taken back from the kernel path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KernelLink {
    /// Requests sent since the last one that ReadyForQuery has answered, in order.
    pub requests: Vec<Request>,
    /// How many of them got their reply since the last ReadyForQuery.
    pub answers: u32,
    /// An ErrorResponse came since the last ReadyForQuery.
    pub failed: bool,
    /// Status of the last ReadyForQuery.
    pub status: TransactionStatus,
    /// Bytes of the server's current message that are still to come.
    pub reply_rest: u32,
    /// What it was sent since it was idle, if that was kept.
    pub sent: Option<Vec<u8>>,
}

impl Server {
    /// A server that has just sent its first ReadyForQuery.
    pub fn new(parameters: ParameterSet) -> Self {
        Self {
            walker: Walker::default(),
            outstanding: Outstanding::default(),
            status: TransactionStatus::Idle,
            parameters,
            doomed: false,
            tail: false,
            packet_len_max: MESSAGE_LEN_MAX,
            statements: ServerStatements::default(),
            tracks: false,
            retired: false,
            shared: false,
            group: 0,
            corrections: Vec::new(),
            retry: Retry::default(),
            resend: Resend::default(),
        }
    }

    /// The same with a limit (`max_packet_size`) on the length of each message.
    pub fn with_packet_len_max(self, packet_len_max: u32) -> Self {
        Self { packet_len_max, ..self }
    }

    /// The same, which has one client after the other if `shared`: none of them gets the notifications that come.
    pub fn shared(self, shared: bool) -> Self {
        Self { shared, ..self }
    }

    /// The same, whose clients' prepared statements are looked after if `tracks`.
    pub fn tracking(self, tracks: bool) -> Self {
        Self { tracks, ..self }
    }

    /// From now on it is `shared`, or not.
    pub fn share(&mut self, shared: bool) {
        self.shared = shared;
    }

    /// The tracked parameters as last reported.
    pub fn parameters(&self) -> &ParameterSet {
        &self.parameters
    }

    /// It is linked to a client with these parameters, see [`ParameterSet::unite`].
    pub fn unite_parameters(&mut self, client: &mut ParameterSet) {
        client.unite(&mut self.parameters);
    }

    /// What was applied for other clients than one with the parameters `client` is removed.
    pub fn handle_reset(&mut self, client: &ParameterSet) {
        self.parameters.reset_applied(client);
    }

    /// What is applied for a client with the parameters `client` is set.
    pub fn handle_applied(&mut self, client: &ParameterSet) {
        self.parameters.copy_applied(client);
    }

    /// A query may have given parameters that were applied their defaults.
    pub fn doubt_applied(&mut self) {
        self.parameters.doubt_applied();
    }

    /// Status of the last ReadyForQuery.
    pub fn status(&self) -> TransactionStatus {
        self.status
    }

    /// Invariant 3: true when the server owes no reply, is between messages, and is in no transaction.
    pub fn is_idle(&self) -> bool {
        self.status == TransactionStatus::Idle && self.outstanding.is_empty() && self.walker.at_border() && !self.doomed
    }

    /// True when the transaction is over but the server cannot be pooled, because what it still owes is not known. The
    /// driver sends Terminate, shuts down its sending side (a backend in COPY-in mode swallows Terminate), and calls
    /// [`Self::handle_terminate`]; what comes before the server hangs up is still for the client.
    pub fn is_spent(&self) -> bool {
        self.status == TransactionStatus::Idle
            && self.walker.at_border()
            && (self.outstanding.is_spent() || (self.doomed && self.outstanding.is_empty()))
    }

    /// Takes note that Terminate was sent because the server [is spent](Self::is_spent).
    pub fn handle_terminate(&mut self) {
        self.outstanding.handle_terminate();
    }

    /// True after [`Self::handle_terminate`].
    pub fn is_ending(&self) -> bool {
        self.outstanding.is_ending()
    }

    /// True when the hang-up of the server is the end that [`Self::handle_terminate`] began, and lost nothing: its
    /// client goes on with another.
    pub fn has_ended(&self) -> bool {
        self.status == TransactionStatus::Idle && self.walker.at_border() && self.outstanding.has_ended()
    }

    /// True when the last byte forwarded to the client ended a message: only then may an error of ours follow.
    pub fn at_border(&self) -> bool {
        self.walker.at_border()
    }

    /// True while a client must not send more requests because too many are unanswered.
    pub fn is_full(&self) -> bool {
        self.outstanding.is_full() || matches!(self.retry, Retry::Due(_))
    }

    /// True when replies are owed.
    pub fn owes(&self) -> bool {
        !self.outstanding.is_empty()
    }

    /// Takes note that a request of the client goes to this server.
    #[inline]
    pub fn handle_request(&mut self, request: Request) {
        self.tail = request == Request::CopyEnd;
        self.group += u64::from(outstanding::ends(request));
        self.outstanding.handle_request(request);
    }

    /// Takes note that a message of the client goes to this server which has no answer of its own.
    #[inline]
    pub fn handle_silent(&mut self) {
        self.tail = true;
    }

    /// Takes note that these bytes go to the server: requests of which it was told.
    #[inline]
    pub(crate) fn note_sent(&mut self, bytes: &[u8]) {
        self.retry.sent(bytes);
    }

    /// True when the server owes nothing, has read all it was sent, and is at the border between two messages, inside of
    /// a transaction or not.
    pub fn is_between_requests(&self) -> bool {
        self.outstanding.is_empty() && self.walker.at_border() && !self.doomed && !self.tail
    }

    /// When the server owes nothing and is at the border between two messages, inside of a transaction or not.
    pub fn settling(&self) -> Settling {
        match self.outstanding.settling() {
            Settling::Now if !self.walker.at_border() => Settling::Soon,
            settling => settling,
        }
    }

    /// True when the server, which [is idle](Self::is_idle), has read all that was sent to it: its last answer belongs to
    /// the last message. Only then may it be lent to the kernel path, whose bytes would overtake unread ones.
    pub fn has_read_all(&self) -> bool {
        !self.tail
    }

    /// Leaves the server, which [is between requests](Self::is_between_requests), to the kernel path; returns its
    /// transaction status. It is idle when the kernel path releases it, or [`Self::resume`] comes first.
    pub fn hand_over(&mut self) -> TransactionStatus {
        debug_assert!(self.is_between_requests());
        std::mem::replace(&mut self.status, TransactionStatus::Idle)
    }

    /// Goes on where the kernel path left off.
    pub fn resume(&mut self, link: &KernelLink) {
        self.walker = Walker::resume(link.reply_rest);
        self.status = link.status;
        self.outstanding = Outstanding::resume(&link.requests, link.answers, link.failed);
        // The kernel path leaves nothing behind the last request that ReadyForQuery answers, but Flush messages, which
        // mean nothing there.
        self.tail = false;
        self.retry = Retry::resume(link);
    }

    /// Walks bytes received while linked. `on_parameter` learns each tracked parameter that the server reports.
    ///
    /// # Errors
    /// [`Error::ServerProtocol`]: message borders are lost, or a reply came that nothing asked for. The server must be
    /// closed.
    pub fn handle_bytes(
        &mut self,
        buf: &[u8],
        tracked: &Tracked,
        mut on_parameter: impl FnMut(usize, &str),
    ) -> Result<FromServer, Error> {
        let mut at = self.walker.pass(buf.len());
        loop {
            if let Some(insert) = self.poll_fake() {
                return Ok(FromServer::Splice { forward: at, skip: 0, insert: Some(insert) });
            }
            match self.handle_message(&buf[at..], tracked, &mut on_parameter) {
                Ok(Message::Incomplete) => return Ok(FromServer::Forward(at)),
                Ok(Message::Pass(n)) => at += n,
                Ok(Message::Ready(n)) => return Ok(FromServer::Ready(at + n)),
                Ok(Message::Swallow(n)) => return Ok(FromServer::Splice { forward: at, skip: n, insert: None }),
                // What came before it is the client's: it is met again, in front.
                Err(_) if at > 0 => return Ok(FromServer::Splice { forward: at, skip: 0, insert: None }),
                Err(error) => return Err(error),
            }
        }
    }

    /// One message at the start of `buf`.
    fn handle_message(
        &mut self,
        buf: &[u8],
        tracked: &Tracked,
        on_parameter: &mut impl FnMut(usize, &str),
    ) -> Result<Message, Error> {
        let Some(header) = self.header(buf)? else { return Ok(Message::Incomplete) };
        let is_whole = match header.kind {
            kind::READY_FOR_QUERY | kind::PARAMETER_STATUS => true,
            kind::ERROR_RESPONSE => !self.statements.is_empty() && header.len <= WHOLE_MESSAGE_LEN_MAX,
            kind::PARSE_COMPLETE | kind::CLOSE_COMPLETE => header.total() == HEADER_LEN,
            kind::COMMAND_COMPLETE => (self.tracks || self.shared) && ends_all(header, buf),
            kind::NOTIFICATION_RESPONSE => self.shared,
            _ => false,
        };
        if header.kind == kind::PARAMETER_DESCRIPTION && matches!(self.retry, Retry::Kept(_)) {
            match self.is_refused_behind(header, buf)? {
                None => return Ok(Message::Incomplete),
                Some(true) => return Ok(Message::Swallow(header.total())),
                Some(false) => {}
            }
        }
        if !is_whole {
            if self.replied(header.kind)? == Answer::Swallow {
                return Err(Error::ServerProtocol("bad ParseComplete or CloseComplete from server".into()));
            }
            return Ok(Message::Pass(self.walker.enter(header, buf.len())));
        }
        let Some(body) = whole(header, buf)? else { return Ok(Message::Incomplete) };
        match header.kind {
            kind::READY_FOR_QUERY => {
                self.ready(body)?;
                let is_repeated = self.repeat()?;
                return Ok(if is_repeated { Message::Swallow(header.total()) } else { Message::Ready(header.total()) });
            }
            kind::NOTIFICATION_RESPONSE => {
                // A client before had it listen in a way that was not noticed.
                self.doomed = true;
                return Ok(Message::Swallow(header.total()));
            }
            kind::PARAMETER_STATUS => {
                if let Some((position, value)) = self.parameter(body, tracked)? {
                    on_parameter(position, value);
                }
            }
            reply => {
                let refusal = match reply {
                    kind::COMMAND_COMPLETE => {
                        self.completed(body);
                        None
                    }
                    kind::ERROR_RESPONSE => Some(self.refused(body)),
                    _ => None,
                };
                match (self.replied(reply), refusal) {
                    (Ok(_), Some(Refusal::Repeatable)) | (Ok(Answer::Swallow), _) => {
                        return Ok(Message::Swallow(header.total()));
                    }
                    // It hangs up next: what is in doubt does not matter any more.
                    (Err(Error::PreparedBehindCopy), Some(Refusal::Last)) => {}
                    (answer, _) => drop(answer?),
                }
            }
        }
        Ok(Message::Pass(header.total()))
    }

    /// Walks bytes received while nobody is linked; returns how many were used. Parameters are noted, notices and
    /// notifications dropped. Only whole messages are used: the rest of a dropped one must not reach the next client.
    ///
    /// # Errors
    /// [`Error::ServerRefused`] when the server says why it ends the connection, [`Error::ServerProtocol`] for anything
    /// that belongs to a query: both close the server.
    pub fn handle_idle_bytes(&mut self, buf: &[u8], tracked: &Tracked) -> Result<usize, Error> {
        let mut at = self.walker.pass(buf.len());
        while let Some(header) = self.header(&buf[at..])? {
            let unasked =
                [kind::PARAMETER_STATUS, kind::ERROR_RESPONSE, kind::NOTICE_RESPONSE, kind::NOTIFICATION_RESPONSE];
            if !unasked.contains(&header.kind) {
                let text = format!("unexpected message 0x{:02x} from an idle server", header.kind);
                return Err(Error::ServerProtocol(text.into()));
            }
            let Some(body) = whole(header, &buf[at..])? else { break };
            match header.kind {
                kind::ERROR_RESPONSE => return Err(Error::ServerRefused(ErrorFields::read(body))),
                kind::PARAMETER_STATUS => drop(self.parameter(body, tracked)?),
                kind::NOTIFICATION_RESPONSE if self.shared => return Err(Error::ServerListens),
                _ => {}
            }
            at += header.total();
        }
        Ok(at)
    }

    /// Takes note of a simple query that the driver sends by itself; its replies go to [`Self::handle_own_reply`].
    pub fn handle_own_query(&mut self) {
        debug_assert_eq!(self.settling(), Settling::Now);
        self.handle_request(Request::Query);
    }

    /// Walks the replies to the driver's own query, which reach no client.
    ///
    /// # Errors
    /// As [`Self::handle_bytes`].
    pub fn handle_own_reply(
        &mut self,
        buf: &[u8],
        tracked: &Tracked,
        failure: &mut Option<ErrorFields>,
    ) -> Result<OwnQuery, Error> {
        let mut at = self.walker.pass(buf.len());
        while let Some(header) = self.header(&buf[at..])? {
            let wanted = [kind::READY_FOR_QUERY, kind::PARAMETER_STATUS, kind::ERROR_RESPONSE];
            let is_end_of_all = header.kind == kind::COMMAND_COMPLETE && self.tracks && ends_all(header, &buf[at..]);
            self.doomed |= self.shared && header.kind == kind::NOTIFICATION_RESPONSE;
            if !wanted.contains(&header.kind) && !is_end_of_all {
                self.replied(header.kind)?;
                at += self.walker.enter(header, buf.len() - at);
                continue;
            }
            let Some(body) = whole(header, &buf[at..])? else { break };
            at += header.total();
            match header.kind {
                kind::READY_FOR_QUERY => {
                    self.ready(body)?;
                    // There is no client who would want to know.
                    self.corrections.clear();
                    return Ok(match failure.take() {
                        Some(fields) => OwnQuery::Failed(at, fields),
                        None => OwnQuery::Done(at),
                    });
                }
                kind::PARAMETER_STATUS => drop(self.parameter(body, tracked)?),
                kind::COMMAND_COMPLETE => {
                    self.completed(body);
                    self.replied(header.kind)?;
                }
                _ => {
                    self.replied(header.kind)?;
                    *failure = Some(ErrorFields::read(body));
                }
            }
        }
        Ok(OwnQuery::More(at))
    }

    fn header(&mut self, buf: &[u8]) -> Result<Option<Header>, Error> {
        if !self.walker.at_border() {
            return Ok(None);
        }
        Header::read(buf, self.packet_len_max).map_err(|bad| Error::ServerProtocol(bad.to_string().into()))
    }

    fn replied(&mut self, reply: u8) -> Result<Answer, Error> {
        let answer = self.outstanding.handle_reply(reply).map_err(|bad| match bad {
            Bad::Unexpected => Error::ServerProtocol("server sent a reply that nothing asked for".into()),
            Bad::Doubtful => Error::PreparedBehindCopy,
        })?;
        self.learn();
        let is_unasked = matches!(reply, kind::NOTICE_RESPONSE | kind::NOTIFICATION_RESPONSE);
        if answer == Answer::Forward && !is_unasked {
            self.retry.forget();
        }
        Ok(answer)
    }

    fn ready(&mut self, body: &[u8]) -> Result<(), Error> {
        let [byte] = body else { return Err(Error::ServerProtocol("bad ReadyForQuery from server".into())) };
        let status = TransactionStatus::from_byte(*byte)
            .ok_or_else(|| Error::ServerProtocol("bad transaction status from server".into()))?;
        self.replied(kind::READY_FOR_QUERY)?;
        self.status = status;
        Ok(())
    }

    fn parameter<'a>(&mut self, body: &'a [u8], tracked: &Tracked) -> Result<Option<(usize, &'a str)>, Error> {
        let (name, value) = backend::read_parameter_status(body)
            .ok_or_else(|| Error::ServerProtocol("bad ParameterStatus from server".into()))?;
        Ok(tracked.position(name).map(|position| {
            self.parameters.set(position, value);
            (position, value)
        }))
    }

    /// Never pool this server again.
    pub fn doom(&mut self) {
        self.doomed = true;
    }
}

/// The body of the message at the start of `buf` if it is there as a whole.
fn whole(header: Header, buf: &[u8]) -> Result<Option<&[u8]>, Error> {
    if header.len > WHOLE_MESSAGE_LEN_MAX {
        return Err(Error::ServerProtocol(
            format!("message 0x{:02x} of {} bytes from server", header.kind, header.len).into(),
        ));
    }
    Ok(buf.get(HEADER_LEN..header.total()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn new(tracked: &Tracked) -> Server {
        Server::new(ParameterSet::new(tracked))
    }

    /// A stream of replies: two rows, a parameter, a notice, ReadyForQuery.
    fn replies(status: u8) -> Vec<u8> {
        let mut out = Vec::new();
        backend::row_description(&mut out, [("a", backend::ColumnType::Text)].into_iter());
        backend::data_row(&mut out, &[Some("x".repeat(30))]);
        backend::parameter_status(&mut out, "timezone", "CET");
        crate::wire::error_response::write(&mut out, crate::wire::error_response::Severity::Notice, "00000", "n");
        backend::command_complete(&mut out, "SELECT 1");
        backend::message(&mut out, kind::READY_FOR_QUERY, |out| out.push(status));
        out
    }

    /// Feeds `stream` cut at `cuts`; returns what reached the client and where it was ready.
    fn feed(server: &mut Server, stream: &[u8], cuts: &[usize]) -> (Vec<u8>, Vec<usize>) {
        let tracked = Tracked::new([]);
        let (mut client, mut ready, mut carry, mut from) = (Vec::new(), Vec::new(), Vec::new(), 0);
        for &to in cuts.iter().chain([&stream.len()]) {
            carry.extend_from_slice(&stream[from..to]);
            from = to;
            loop {
                let (n, is_ready) = match server.handle_bytes(&carry, &tracked, |_, _| {}).unwrap() {
                    FromServer::Forward(n) => (n, false),
                    FromServer::Ready(n) => (n, true),
                    FromServer::Splice { .. } => panic!("nothing is prepared"),
                };
                client.extend(carry.drain(..n));
                if !is_ready {
                    break;
                }
                ready.push(client.len());
            }
        }
        assert!(carry.is_empty());
        (client, ready)
    }

    proptest! {
        #[test]
        fn every_split_passes_the_same_bytes(cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
            let tracked = Tracked::new([]);
            let stream = [replies(b'T'), replies(b'I')].concat();
            let mut cuts: Vec<usize> = cuts.iter().map(|i| i.index(stream.len() + 1)).collect();
            cuts.sort_unstable();
            let mut server = new(&tracked);
            server.handle_request(Request::Query);
            server.handle_request(Request::Query);
            let (client, ready) = feed(&mut server, &stream, &cuts);
            prop_assert_eq!(&client, &stream);
            prop_assert_eq!(ready, vec![stream.len() / 2, stream.len()]);
            prop_assert!(server.is_idle());
            prop_assert_eq!(server.parameters().value(2), Some("CET"));
        }
    }

    #[test]
    fn idle_needs_status_and_no_replies_owed() {
        let tracked = Tracked::new([]);
        let mut server = new(&tracked);
        assert!(server.is_idle());
        server.handle_request(Request::Query);
        server.handle_request(Request::Query);
        feed(&mut server, &replies(b'I'), &[]);
        assert!(!server.is_idle() && server.owes());
        feed(&mut server, &replies(b'T'), &[]);
        assert!(!server.is_idle() && !server.owes());
        server.handle_request(Request::Query);
        feed(&mut server, &replies(b'E'), &[]);
        assert!(!server.is_idle());
    }

    #[test]
    fn notifications_of_shared_servers_are_nobodys() {
        let tracked = Tracked::new([]);
        let mut notification = Vec::new();
        backend::message(&mut notification, kind::NOTIFICATION_RESPONSE, |out| {
            out.extend_from_slice(b"\0\0\0\x01x\0\0");
        });
        let stream = [&notification[..], &replies(b'I')].concat();
        let handle = |server: &mut Server, bytes: &[u8]| server.handle_bytes(bytes, &tracked, |_, _| {});
        for shared in [false, true] {
            let mut server = new(&tracked).shared(shared);
            server.handle_request(Request::Query);
            if shared {
                assert_eq!(handle(&mut server, &stream[..7]), Ok(FromServer::Forward(0)));
                let skip = notification.len();
                assert_eq!(handle(&mut server, &stream), Ok(FromServer::Splice { forward: 0, skip, insert: None }));
                assert_eq!(handle(&mut server, &stream[skip..]), Ok(FromServer::Ready(stream.len() - skip)));
            } else {
                assert_eq!(handle(&mut server, &stream), Ok(FromServer::Ready(stream.len())));
            }
            assert_eq!((server.is_idle(), server.is_spent()), (!shared, shared));
            let mut idle = new(&tracked).shared(shared);
            let expected = if shared { Err(Error::ServerListens) } else { Ok(notification.len()) };
            assert_eq!(idle.handle_idle_bytes(&notification, &tracked), expected);
        }
    }

    #[test]
    fn settling_behind_copy_data() {
        let mut server = new(&Tracked::new([]));
        assert_eq!(server.settling(), Settling::Now);
        server.handle_request(Request::Query);
        server.handle_request(Request::CopyEnd);
        assert_eq!(server.settling(), Settling::Soon);
        server.handle_request(Request::Parse);
        assert_eq!(server.settling(), Settling::Never);
    }

    #[test]
    fn broken_servers() {
        let tracked = Tracked::new([]);
        let check = |bytes: &[u8]| {
            let mut server = new(&tracked);
            server.handle_request(Request::Query);
            let result = server.handle_bytes(bytes, &tracked, |_, _| {});
            assert!(matches!(result, Err(Error::ServerProtocol(_))), "{bytes:?}: {result:?}");
        };
        check(b"Z\0\0\0\x05X");
        check(b"Z\0\0\0\x06II");
        check(b"Z\0\0\0\x03");
        check(b"S\0\0\0\x06ab");
        check(b"S\0\xff\0\x06ab");
        let mut server = new(&tracked);
        assert!(server.handle_bytes(b"Z\0\0\0\x05I", &tracked, |_, _| {}).is_err());
    }

    #[test]
    fn idle_bytes() {
        let tracked = Tracked::new([]);
        let mut server = new(&tracked);
        let mut bytes = Vec::new();
        backend::parameter_status(&mut bytes, "TimeZone", "CET");
        bytes.extend(b"A\0\0\0\x0a\0\0\0\0\0\0N\0\0\0\x05\0");
        assert_eq!(server.handle_idle_bytes(&bytes, &tracked), Ok(bytes.len()));
        assert_eq!(server.parameters().value(2), Some("CET"));
        // The rest of a message that has not come as a whole is for whoever is linked then.
        for end in 0..bytes.len() {
            let mut server = new(&tracked);
            let used = server.handle_idle_bytes(&bytes[..end], &tracked).unwrap();
            assert!(used <= end && server.is_idle());
            assert_eq!(server.handle_idle_bytes(&bytes[used..], &tracked), Ok(bytes.len() - used));
        }
        assert!(server.handle_idle_bytes(b"D\0\0\0\x06\0\0", &tracked).is_err());
        let mut bytes = Vec::new();
        crate::wire::error_response::write(&mut bytes, crate::wire::error_response::Severity::Fatal, "57P01", "bye");
        assert!(
            matches!(server.handle_idle_bytes(&bytes, &tracked), Err(Error::ServerRefused(f)) if f.sqlstate == "57P01")
        );
    }

    #[test]
    fn spent_servers() {
        let tracked = Tracked::new([]);
        let mut server = new(&tracked);
        let feed = |server: &mut Server, bytes: &[u8]| {
            server.handle_bytes(bytes, &tracked, |_, _| {}).unwrap();
        };
        // A COPY in the extended protocol with a Sync behind it, and CopyDone and another Sync behind that.
        for request in [Request::Execute, Request::Sync] {
            server.handle_request(request);
        }
        feed(&mut server, b"G\0\0\0\x07\0\0\0");
        for request in [Request::CopyEnd, Request::Sync] {
            server.handle_request(request);
        }
        feed(&mut server, b"E\0\0\0\x05\0");
        // One ReadyForQuery is sure, a second may follow.
        assert!(!server.is_idle() && !server.is_spent());
        feed(&mut server, b"Z\0\0\0\x05I");
        assert!(!server.is_idle() && server.is_spent());
        server.handle_terminate();
        assert!(!server.is_spent() && server.is_full() && server.is_ending() && server.has_ended());
        feed(&mut server, b"Z\0\0\0\x05I");
        assert!(!server.is_idle() && server.has_ended());
        // The rest of this reply is lost if it hangs up now.
        feed(&mut server, b"E\0\0\0\x05\0");
        assert!(!server.has_ended());
        feed(&mut server, b"Z\0\0\0\x05I");
        assert!(server.has_ended());
        feed(&mut server, b"Z\0\0\0\x05T");
        assert!(!server.has_ended());
    }

    #[test]
    fn an_error_that_nothing_asked_for() {
        let tracked = Tracked::new([]);
        let mut server = new(&tracked);
        let mut bytes = Vec::new();
        crate::wire::error_response::write(&mut bytes, crate::wire::error_response::Severity::Fatal, "57P01", "bye");
        server.handle_bytes(&bytes, &tracked, |_, _| {}).unwrap();
        assert!(!server.is_idle() && !server.is_spent());
    }

    #[test]
    fn own_queries_reach_no_client() {
        let tracked = Tracked::new([]);
        for (reply, failed) in [(b"C\0\0\0\x08SET\0".as_slice(), false), (b"E\0\0\0\x0dC22023\0\0\0", true)] {
            let mut server = new(&tracked);
            server.handle_own_query();
            let mut bytes = reply.to_vec();
            backend::parameter_status(&mut bytes, "TimeZone", "CET");
            backend::ready_for_query(&mut bytes);
            let mut failure = None;
            for end in 0..bytes.len() {
                let mut probe = new(&tracked);
                probe.handle_own_query();
                let used = probe.handle_own_reply(&bytes[..end], &tracked, &mut None).unwrap();
                assert!(matches!(used, OwnQuery::More(n) if n <= end));
            }
            match server.handle_own_reply(&bytes, &tracked, &mut failure).unwrap() {
                OwnQuery::Done(n) => assert!(!failed && n == bytes.len()),
                OwnQuery::Failed(n, fields) => assert!(failed && n == bytes.len() && fields.sqlstate == "22023"),
                OwnQuery::More(_) => panic!("not done"),
            }
            assert!(server.is_idle());
        }
    }
}
