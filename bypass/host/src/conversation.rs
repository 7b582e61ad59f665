//! Two streams, how they are cut, and the comparison of both paths after each cut.

use tigger_proto::client::{Client, ClientLimits, FromClient};
use tigger_proto::parameters::{ParameterSet, Tracked};
use tigger_proto::server::outstanding::Outstanding;
use tigger_proto::server::{FromServer, Server};
use tigger_proto::wire::frame::{HEADER_LEN, Header, MESSAGE_LEN_MAX, Walker};
use tigger_proto::wire::frontend::{Frontend, Request};

use crate::backend::Backend;
use crate::eligible::{ends_all, is_broken_reply, named, reply_refusal, request_refusal, statement};
use crate::taps::{LOG_MAX, OWNER_USER, Rules, Side, State, Taps, Verdict};

/// What a client and a server send, and in which pieces.
#[derive(Clone, Debug)]
pub struct Conversation<'a> {
    /// What holds for the pool.
    pub rules: Rules,
    /// All that the client sends.
    pub requests: &'a [u8],
    /// All that the server sends.
    pub replies: &'a [u8],
    /// In this order; what is beyond the end of a stream is nothing.
    pub pieces: &'a [Piece],
}

/// What comes at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// From whom.
    pub side: Side,
    /// How much.
    pub len: usize,
    /// It is another element of the send that the piece before began, if that is of the same side.
    pub joined: bool,
    /// The client has read all before it comes.
    pub all_read: bool,
}

/// How far the kernel path came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes from the client.
    pub received: usize,
    /// Bytes to the client.
    pub sent: usize,
    /// ReadyForQuery messages.
    pub readies: u64,
    /// Something was left to the user path.
    pub left: bool,
}

impl Conversation<'_> {
    /// Lets both paths have the conversation until the kernel path leaves something to the user path.
    ///
    /// # Panics
    /// They do not agree.
    pub fn check(&self) -> Carried {
        let mut taps = Taps::new(self.rules);
        let mut user = UserPath::new(self.rules);
        let (mut requests, mut replies) = (self.requests, self.replies);
        let mut pieces = self.pieces.iter().peekable();
        while let Some(piece) = pieces.next() {
            if piece.all_read {
                taps.client_reads();
                user.all_read = true;
                if self.rules.remote == Some(Side::Client) {
                    user.unread = 0;
                }
            }
            let stream = if piece.side == Side::Client { &mut requests } else { &mut replies };
            let mut elements = vec![take(stream, piece.len)];
            while let Some(next) = pieces.next_if(|next| next.joined && next.side == piece.side) {
                elements.push(take(stream, next.len));
            }
            elements.retain(|element| !element.is_empty());
            match send(&mut taps, &mut user, piece.side, &elements) {
                Sent::Carried => {}
                Sent::Left => {
                    assert_left(&mut taps, &user, [requests, replies]);
                    return Carried { left: true, ..user.carried };
                }
                Sent::Absurd => break,
            }
        }
        user.carried
    }
}

/// What became of a send.
enum Sent {
    /// The kernel path has carried it.
    Carried,
    /// It, or the end of it, was left to the user path.
    Left,
    /// No backend says that: from here on the paths need not agree.
    Absurd,
}

fn send(taps: &mut Taps, user: &mut UserPath, side: Side, elements: &[&[u8]]) -> Sent {
    let mut first = true;
    for (nth, element) in elements.iter().enumerate() {
        let more = elements[nth + 1..].iter().map(|element| element.len()).sum();
        let mut rest = *element;
        while !rest.is_empty() {
            let before = taps.state();
            match taps.run(side, rest, more, first) {
                Verdict::Wrong => panic!("dropped or sent astray: {rest:?} {:?}", taps.state()),
                Verdict::User => {
                    assert_eq!(taps.last, rest, "the user path must see what was sent");
                    let why = match side {
                        Side::Client => user.refused_request(rest),
                        Side::Server => user.refused_reply(rest),
                    };
                    // What an idle server says is nobody's, and says nothing about a client.
                    if let Some(why) = why {
                        assert_eq!(taps.state().reason(), why, "{rest:?} {before:?}");
                    }
                    return Sent::Left;
                }
                Verdict::Peer(len) => {
                    assert!(len <= rest.len(), "of a later element");
                    assert_eq!(taps.last, user.renamed(side, rest, len), "{before:?}");
                    user.carry(side, rest, len);
                    if user.backend.is_absurd {
                        return Sent::Absurd;
                    }
                    user.compare(&taps.state());
                    rest = &rest[len..];
                }
            }
            first = false;
        }
    }
    Sent::Carried
}

/// The pair is the user path's, where both paths say it is, and nothing changes that any more.
fn assert_left(taps: &mut Taps, user: &UserPath, rest: [&[u8]; 2]) {
    let state = taps.state();
    user.compare(&state);
    if !user.linked && state.owner != OWNER_USER {
        return; // An idle server spoke.
    }
    assert_eq!(state.owner, OWNER_USER);
    assert_eq!(state.user != 0, user.linked, "{state:?}");
    for (side, bytes) in [Side::Client, Side::Server].into_iter().zip(rest) {
        if !bytes.is_empty() {
            assert_eq!(taps.run(side, bytes, 0, true), Verdict::User);
        }
    }
    assert_eq!(State { reason: state.reason, ..taps.state() }, state, "the programs changed what is not theirs");
}

/// The user path, had it carried what the kernel path has.
struct UserPath {
    rules: Rules,
    tracked: Tracked,
    client: Client,
    server: Server,
    outstanding: Outstanding,
    backend: Backend,
    request: Walker,
    reply: Walker,
    /// Of a reply's header.
    cut: Vec<u8>,
    /// The kernel path must have a link.
    linked: bool,
    /// Since it has, prepared statements were used by name.
    named: bool,
    owed: u32,
    open: bool,
    /// Requests and bytes since the server last owed nothing.
    pending: (usize, usize),
    all_read: bool,
    unread: usize,
    requests: u64,
    xacts: u64,
    carried: Carried,
}

impl UserPath {
    fn new(rules: Rules) -> Self {
        let tracked = Tracked::new([]);
        Self {
            rules,
            client: Client::new(ParameterSet::new(&tracked)),
            server: Server::new(ParameterSet::new(&tracked))
                .with_packet_len_max(rules.packet_len_max)
                .tracking(rules.prepared),
            tracked,
            outstanding: Outstanding::default(),
            backend: Backend::default(),
            request: Walker::default(),
            reply: Walker::default(),
            cut: Vec::new(),
            linked: false,
            named: false,
            owed: 0,
            open: false,
            pending: (0, 0),
            all_read: true,
            unread: 0,
            requests: 0,
            xacts: 0,
            carried: Carried::default(),
        }
    }

    /// `seen` with the servers' names of prepared statements in the first `len` bytes, which are redirected.
    fn renamed(&self, side: Side, seen: &[u8], len: usize) -> Vec<u8> {
        let mut renamed = seen.to_vec();
        if side == Side::Client && self.rules.prepared {
            for at in self.borders(&seen[..len]) {
                if let Some((name, on_server, has)) = named(&seen[at..], self.rules).and_then(statement) {
                    assert!(has, "the server does not have {name:?}");
                    renamed[at + 6..][..name.len()].copy_from_slice(on_server);
                }
            }
        }
        renamed
    }

    /// Where the client's messages begin in these bytes, as far as their headers are there.
    fn borders(&self, seen: &[u8]) -> Vec<usize> {
        let mut walker = self.request;
        let (mut at, mut borders) = (walker.pass(seen.len()), Vec::new());
        while let Ok(Some(header)) = Header::read(&seen[at..], MESSAGE_LEN_MAX) {
            borders.push(at);
            at += walker.enter(header, seen.len() - at);
        }
        borders
    }

    /// Whether one run of the program meets a prepared statement in these bytes that the server does not have.
    fn misses_statement(&self, seen: &[u8]) -> bool {
        let (mut open, mut requests, mut names) = (self.open, 0, 0);
        for at in self.borders(seen) {
            let seen = &seen[at..];
            let name = named(seen, self.rules);
            if request_refusal(seen, self.rules, open).is_some() || requests == RUN_REQUESTS {
                return false;
            }
            if let Some((_, _, has)) = name.and_then(statement) {
                if !has {
                    return names < RUN_NAMES;
                }
                names += 1;
            }
            if names > RUN_NAMES {
                return false;
            }
            if seen[0] != b'H' {
                requests += 1;
                open = !matches!(seen[0], b'Q' | b'S');
            }
        }
        false
    }

    /// The first `len` bytes of `seen`, which is the rest of an element, were redirected.
    fn carry(&mut self, side: Side, seen: &[u8], len: usize) {
        match side {
            Side::Client => self.carry_requests(seen, len),
            Side::Server => self.carry_replies(&seen[..len]),
        }
    }

    fn carry_requests(&mut self, seen: &[u8], len: usize) {
        if self.all_read && (!self.linked || self.unread > self.rules.reply_limit as usize / 4) {
            self.unread = 0;
        }
        self.named &= self.linked;
        self.linked = true;
        for at in self.borders(&seen[..len]) {
            self.named |= named(&seen[at..], self.rules).and_then(statement).is_some();
        }
        if self.owed == 0 && !self.open {
            self.pending = (0, 0);
        }
        let Rules { packet_len_max, simple_query, .. } = self.rules;
        let limits = ClientLimits { packet_len_max, simple_query, prepared_max: 0, listens: false };
        let handled = self.client.handle_bytes(&seen[..len], &mut self.server, limits);
        assert_eq!(handled, Ok(FromClient::Forward(len)), "the user path would not have sent it: {seen:?}");
        let mut at = self.request.pass(len);
        while at < len {
            assert_eq!(request_refusal(&seen[at..], self.rules, self.open), None, "{:?}", &seen[at..]);
            let header = Header::read(&seen[at..], MESSAGE_LEN_MAX).expect("a good header").expect("a whole header");
            if let Some(Frontend::Request(request)) = Frontend::from_kind(header.kind) {
                self.asked(request);
            }
            at += self.request.enter(header, len - at);
        }
        self.pending.1 += len;
        self.carried.received += len;
    }

    fn asked(&mut self, request: Request) {
        self.outstanding.handle_request(request);
        self.backend.asked(request);
        self.pending.0 += 1;
        self.open = !matches!(request, Request::Query | Request::Sync);
        if !self.open {
            self.owed += 1;
            self.requests += 1;
        }
    }

    fn carry_replies(&mut self, bytes: &[u8]) {
        let from = self.cut.len();
        let mut buf = std::mem::take(&mut self.cut);
        buf.extend(bytes);
        let (mut at, mut readies) = (0, 0);
        loop {
            match self.server.handle_bytes(&buf[at..], &self.tracked, |_, _| panic!("a parameter")) {
                Ok(FromServer::Ready(n)) => (at, readies) = (at + n, readies + 1),
                Ok(FromServer::Forward(n)) => break at += n,
                // What is behind it is an error.
                Ok(FromServer::Splice { forward, .. }) => at += forward,
                // The programs judge ReadyForQuery when its status is there, this path when its length is.
                Err(_) if ends_with_ready(&buf) => break self.backend.is_absurd = true,
                Err(error) => panic!("the user path would not have sent it: {error} {buf:?}"),
            }
        }
        self.walk_replies(&buf[..at]);
        self.cut = buf.split_off(at);
        self.carried.sent += bytes.len();
        self.carried.readies += readies;
        self.unread += bytes.len();
        self.all_read = false;
        assert!(self.unread <= self.rules.reply_limit as usize, "{} bytes to read, {from} before", self.unread);
        if readies > 0 && self.server.is_idle() && !self.rules.session {
            self.linked = false;
        }
    }

    /// Whole headers.
    fn walk_replies(&mut self, buf: &[u8]) {
        let mut at = self.reply.pass(buf.len());
        while at < buf.len() {
            let header = Header::read(&buf[at..], MESSAGE_LEN_MAX).expect("a good header").expect("a whole header");
            assert_eq!(reply_refusal(header.kind, self.rules), None);
            assert!(!ends_all(&buf[at..], self.rules), "{buf:?}");
            assert!(header.kind != b'E' || !self.named, "{buf:?}");
            self.backend.said(header.kind, !self.request.at_border());
            self.outstanding.handle_reply(header.kind).expect("the server took it");
            if header.kind == b'Z' {
                self.owed -= 1;
                self.xacts += u64::from(buf[at + HEADER_LEN] == b'I');
            }
            at += self.reply.enter(header, buf.len() - at);
        }
    }

    /// Asserts that the programs stand where this path does.
    fn compare(&self, taps: &State) {
        let rest = |mut walker: Walker| walker.pass(usize::MAX) as u32;
        let ours =
            (self.carried.received as u64, self.requests, self.carried.sent as u64, self.carried.readies, self.xacts);
        assert_eq!((taps.received, taps.requests, taps.sent, taps.queries, taps.xacts), ours, "{taps:?}");
        assert_eq!((taps.linked != 0, taps.idle == 0), (self.linked, self.linked), "{taps:?} {:?}", self.outstanding);
        if !self.linked {
            assert!(self.client.at_border() && self.cut.is_empty(), "released in the middle: {taps:?}");
            return;
        }
        assert_eq!((taps.owed, taps.open != 0), (self.owed, self.open), "{taps:?}");
        assert_eq!((taps.request.rest, taps.reply.rest), (rest(self.request), rest(self.reply)), "{taps:?}");
        assert_eq!(taps.header(), self.cut, "{taps:?}");
        assert_eq!(taps.reply.status, self.server.status().byte(), "{taps:?}");
        let log = taps.requests_sent();
        let requests = unanswered(&log, taps.owed as usize).iter().map(|&kind| match Frontend::from_kind(kind) {
            Some(Frontend::Request(request)) => request,
            other => panic!("{other:?} in the log"),
        });
        let resumed = Outstanding::resume(&requests.collect::<Vec<_>>(), taps.reply.answers, taps.reply.failed != 0);
        assert_eq!(format!("{resumed:?}"), format!("{:?}", self.outstanding), "{taps:?}");
    }

    /// Why nothing of these bytes of the client is for the kernel path.
    fn refused_request(&self, seen: &[u8]) -> Option<&'static str> {
        if !self.request.at_border() && self.linked && self.misses_statement(seen) {
            return Some("statement");
        }
        assert!(self.request.at_border() || !self.linked || self.pending.1 + seen.len() > self.longest(), "{seen:?}");
        if self.request.at_border() {
            let first = if self.linked { seen } else { behind_flushes(seen, self.rules) };
            if first.is_empty() {
                return Some("request");
            }
            if let Some(why) = request_refusal(first, self.rules, self.open) {
                return Some(why);
            }
        }
        if self.rules.prepared && self.misses_statement(seen) {
            return Some("statement");
        }
        assert!(self.linked, "it could be linked: {seen:?}");
        if self.pending.1 + seen.len() > self.longest() { Some("request_long") } else { self.refused_pipeline(seen) }
    }

    fn refused_pipeline(&self, seen: &[u8]) -> Option<&'static str> {
        // Each request has a header.
        let most = (seen.len() / HEADER_LEN).min(RUN_REQUESTS);
        assert!(self.pending.0 + most > LOG_MAX, "refused: {seen:?}");
        Some("pipeline")
    }

    /// Why nothing of these bytes of the server is for the kernel path; `None` when no client is there to tell.
    fn refused_reply(&self, seen: &[u8]) -> Option<&'static str> {
        if !self.linked {
            return None;
        }
        if self.unread >= self.rules.reply_limit as usize {
            return Some("reply_long");
        }
        assert!(self.reply.at_border(), "the rest of a reply: {seen:?}");
        let buf = [&self.cut[..], seen].concat();
        if self.named && buf[0] == b'E' {
            return Some("reply");
        }
        let why = if self.cut.is_empty() { reply_refusal(buf[0], self.rules) } else { None };
        why.or_else(|| {
            // Where the programs go byte by byte, a header is judged before the tag behind it is seen.
            let is_by_bytes = !self.cut.is_empty() || self.rules.reply_limit as usize - self.unread <= HEADER_LEN;
            let judged = if is_by_bytes && buf[0] == b'C' { &buf[..buf.len().min(HEADER_LEN)] } else { &buf };
            // An answer to half a request, with which the server would be released, is refused, too.
            assert!(
                self.owed == 0 || is_broken_reply(judged, self.rules) || !self.request.at_border(),
                "refused: {buf:?}"
            );
            Some("reply")
        })
    }

    /// Most bytes of requests that may be unanswered.
    fn longest(&self) -> usize {
        self.rules.packet_len_max.min(self.rules.reply_limit) as usize
    }
}

/// True when a header of ReadyForQuery is last, without the status.
fn ends_with_ready(buf: &[u8]) -> bool {
    buf.last_chunk::<HEADER_LEN>().is_some_and(|header| header[0] == b'Z')
}

/// The same bytes without the Flush messages they begin with: those alone do not make a link.
fn behind_flushes(mut seen: &[u8], rules: Rules) -> &[u8] {
    for _ in 0..RUN_MESSAGES {
        match seen.strip_prefix(b"H\0\0\0\x04") {
            Some(rest) if request_refusal(seen, rules, false).is_none() => seen = rest,
            _ => return seen,
        }
    }
    &[]
}

/// As the function of this name in `bypass/src/kernel/servers.rs`: requests behind the last answered ReadyForQuery.
fn unanswered(log: &[u8], owed: usize) -> &[u8] {
    let enders: Vec<usize> = (0..log.len()).filter(|&at| matches!(log[at], b'Q' | b'S')).collect();
    match enders.len().saturating_sub(owed) {
        0 => log,
        answered => &log[enders[answered - 1] + 1..],
    }
}

fn take<'a>(stream: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, rest) = stream.split_at(len.min(stream.len()));
    *stream = rest;
    taken
}

/// `RUN_REQUESTS` of `intf.h`.
const RUN_REQUESTS: usize = 32;
/// Named prepared statements walked in one run.
const RUN_NAMES: usize = 8;
/// `RUN_MESSAGES` of `intf.h`.
const RUN_MESSAGES: usize = 256;
