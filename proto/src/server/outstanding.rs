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
//! CopyIn, Normal --ErrorResponse instead of CommandComplete, requests in doubt--> Unknown --Terminate--> Ending
//! ```
//! A request is in doubt when it was sent into COPY-in mode: a COPY that fails on its data has ignored or swallowed it,
//! one that fails before it reads any (a COPY into a view) leaves it to be answered, and the error does not tell which.

use std::collections::VecDeque;

use super::effect::{Change, Effect};
use crate::wire::backend::kind;
use crate::wire::frontend::Request;

/// Most requests a server may owe replies for before its client is no longer read. The backend flushes its output at
/// 8 KiB (PQ_SEND_BUFFER_SIZE), about 1,600 of the smallest replies, so that a client which pipelines more than this
/// has replies to read.
pub const OUTSTANDING_MAX: usize = 65_536;

/// The queue of requests not answered yet.
#[derive(Debug, Default)]
pub struct Outstanding {
    queue: VecDeque<Owed>,
    /// How many of them are answered by ReadyForQuery.
    enders: usize,
    /// How many of them remove a prepared statement from the server.
    removals: usize,
    mode: Mode,
    /// An extended query was begun and its ReadyForQuery has not come: although every request may be answered (after a
    /// Flush), the backend is in an implicit transaction.
    begun: bool,
    /// Requests that the COPY at the front of the queue may have ignored are not in the queue; this is how they end.
    doubt: Option<Group>,
    /// What requests that were answered have done to prepared statements.
    done: Vec<Effect>,
    /// What requests would have done to them that an error has skipped.
    skipped: Vec<Effect>,
}

/// A request that was sent, or answered in the server's place, and whose reply has not come.
#[derive(Debug)]
struct Owed {
    request: Request,
    answer: Answer,
    effect: Option<Box<Effect>>,
}

/// Where the reply to a request comes from, and goes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// From the server to the client.
    Forward,
    /// From the server to nobody: the client knows nothing of the request.
    Swallow,
    /// From the proxy to the client, in its turn: the server knows nothing of the request.
    Fake,
}

impl Owed {
    /// Its reply is the client's, and nothing depends on whether it is heeded.
    fn is_plain(&self) -> bool {
        let is_close = |effect: &Effect| effect.change == Change::Removed && !effect.on_server;
        self.answer == Answer::Forward && self.effect.as_deref().is_none_or(is_close)
    }

    /// It removes a prepared statement from the server.
    fn removes(&self) -> bool {
        self.effect.as_ref().is_some_and(|effect| effect.on_server && effect.change == Change::Removed)
    }
}

impl From<Request> for Owed {
    fn from(request: Request) -> Self {
        Self { request, answer: Answer::Forward, effect: None }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Mode {
    #[default]
    Normal,
    /// The backend reads COPY data.
    CopyIn,
    /// The backend skips everything up to a Sync that was not sent yet.
    SkipToSync,
    /// What the backend owes cannot be known: the server must never be given to another client. It serves this one to
    /// the end of its transaction and is ended then.
    Unknown {
        /// Between a Sync and the next ReadyForQuery, when nothing more is sent.
        asked: bool,
        /// An open one must go on to this server up to its Sync.
        group: Group,
        /// No request was sent since the last ReadyForQuery.
        ready: bool,
        /// It reads COPY data, and ignores Syncs.
        copying: bool,
    },
    /// Terminate was sent: what comes before the server hangs up is the client's.
    Ending {
        /// A reply has begun whose ReadyForQuery has not come: a hang-up now loses the rest.
        answering: bool,
    },
}

/// Where requests stand that may or may not be answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Group {
    /// Nothing, or a Query or FunctionCall, is last.
    #[default]
    Closed,
    /// A Sync is last.
    Synced,
    /// Extended queries were begun, and their Sync was not sent.
    Open,
}

/// A reply that cannot be dealt with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bad {
    /// It cannot belong to any request: the server broke the protocol, or we lost track of it.
    Unexpected,
    /// It leaves requests in doubt whose replies are not simply the client's.
    Doubtful,
}

/// When a server owes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settling {
    /// Now.
    Now,
    /// When the replies have come that it owes.
    Soon,
    /// Not before it was sent more.
    Never,
}

/// What becomes of a request that is sent now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Prospect {
    /// It is answered, unless one before it fails.
    Answered,
    /// It is skipped, up to a Sync.
    Skipped,
    /// The server reads COPY data: it swallows the request.
    Swallowed,
    /// Nobody can tell.
    Unknown,
}

impl Outstanding {
    /// What a server owes that was sent `requests` since its last ReadyForQuery, of which it has answered the first
    /// `answers`, or has reported an error.
    pub fn resume(requests: &[Request], answers: u32, failed: bool) -> Self {
        let mut outstanding = Self::default();
        requests.iter().for_each(|&request| outstanding.handle_request(request));
        for _ in 0..answers {
            match outstanding.queue.front().map(|owed| owed.request) {
                // The rows of a Query, and its tag, are not its end.
                None | Some(Request::Query | Request::FunctionCall | Request::Sync) => break,
                Some(_) => drop(outstanding.queue.pop_front()),
            }
        }
        if failed {
            outstanding.error().expect("nothing is in doubt: the kernel path has no COPY");
        }
        outstanding
    }

    /// True when the server owes nothing, not even the ReadyForQuery after a Sync that was not sent yet.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.mode == Mode::Normal && !self.begun
    }

    /// True when nobody can tell what the server owes, and this is the moment to end it if it is in no transaction.
    pub fn is_spent(&self) -> bool {
        matches!(self.mode, Mode::Unknown { asked: false, group: Group::Closed | Group::Synced, ready: true, .. })
    }

    /// True after [`Self::handle_terminate`].
    pub fn is_ending(&self) -> bool {
        matches!(self.mode, Mode::Ending { .. })
    }

    /// True when a server that hangs up after [`Self::handle_terminate`] leaves no reply half given. An error with which it
    /// ends counts as half a reply: the ReadyForQuery that its client waits for will not come.
    pub fn has_ended(&self) -> bool {
        self.mode == Mode::Ending { answering: false }
    }

    /// True when no more requests should be sent until replies come.
    pub fn is_full(&self) -> bool {
        self.queue.len() >= OUTSTANDING_MAX
            || matches!(self.mode, Mode::Ending { .. } | Mode::Unknown { asked: true, .. })
    }

    /// Whether everything that was sent is answered, or will be without anything more.
    pub fn settling(&self) -> Settling {
        // Behind the end of COPY data, which nothing answers.
        let mut last = self.queue.iter().rev().filter(|owed| owed.request != Request::CopyEnd);
        match (self.mode, last.next()) {
            (Mode::Normal, None) if !self.begun => Settling::Now,
            (Mode::Normal, Some(last)) if ends(last.request) => Settling::Soon,
            _ => Settling::Never,
        }
    }

    /// Takes note of a Terminate that is sent to the server.
    pub fn handle_terminate(&mut self) {
        self.mode = Mode::Ending { answering: false };
    }

    /// Takes note of a request that is sent to the server.
    pub fn handle_request(&mut self, request: Request) {
        match (&mut self.mode, request) {
            (Mode::Normal, Request::CopyEnd) if self.queue.is_empty() => {}
            (Mode::Normal, _) => {
                self.begun |= begins(request);
                self.push(request.into());
            }
            (Mode::SkipToSync, Request::Sync) => {
                self.mode = Mode::Normal;
                self.push(request.into());
            }
            (Mode::CopyIn, _) => {
                if self.ignored(request) {
                    self.mode = Mode::Normal;
                }
            }
            (Mode::SkipToSync | Mode::Ending { .. }, _) => {}
            (Mode::Unknown { copying: true, .. }, Request::Sync) => {}
            (Mode::Unknown { asked, group, ready, copying }, _) => {
                // A Query may be skipped, so that only a Sync is sure to be answered.
                *asked |= request == Request::Sync;
                *group = group.then(request);
                *ready &= request == Request::CopyEnd;
                *copying = false;
            }
        }
    }

    /// What becomes of a request that is sent now.
    pub fn prospect(&self) -> Prospect {
        match self.mode {
            Mode::Normal => Prospect::Answered,
            Mode::SkipToSync => Prospect::Skipped,
            Mode::CopyIn => Prospect::Swallowed,
            Mode::Unknown { .. } | Mode::Ending { .. } => Prospect::Unknown,
        }
    }

    /// True when the server was told to remove prepared statements and has not answered: it may skip that.
    pub fn is_removing(&self) -> bool {
        self.removals > 0
    }

    /// True when a ReadyForQuery is owed, so that the transaction status may be another than the last one said.
    pub fn owes_status(&self) -> bool {
        self.enders > 0
    }

    /// Takes note of a Parse or Close that changes what statements there are. Only while requests are
    /// [answered](Prospect::Answered).
    pub fn handle_prepared(&mut self, request: Request, answer: Answer, effect: Effect) {
        debug_assert_eq!(self.prospect(), Prospect::Answered);
        self.begun |= answer != Answer::Fake;
        self.push(Owed { request, answer, effect: Some(Box::new(effect)) });
    }

    /// True when the server is ended as soon as it is in no transaction, and that without anything more from its client.
    pub fn will_end(&self) -> bool {
        matches!(self.mode, Mode::Unknown { group: Group::Closed | Group::Synced, .. })
    }

    /// True when a ParseComplete is due in the server's place. It is to be sent to the client before anything else.
    pub fn poll_fake(&mut self) -> bool {
        let Some(fake) = self.queue.pop_front_if(|owed| owed.answer == Answer::Fake) else { return false };
        self.done.extend(fake.effect.map(|effect| *effect));
        self.drop_ignored();
        true
    }

    /// What replies say was done to prepared statements.
    pub fn take_done(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.done)
    }

    /// What was not done to them because of an error.
    pub fn take_skipped(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.skipped)
    }

    /// What requests without an answer yet do to prepared statements, in their order.
    pub fn effects(&self) -> impl Iterator<Item = &Effect> {
        self.queue.iter().filter_map(|owed| owed.effect.as_deref())
    }

    /// A request that a backend in COPY-in mode ignores or swallows, if it gets so far; true if it ends the mode.
    fn ignored(&mut self, request: Request) -> bool {
        let sync = request == Request::Sync;
        // After the error of an Execute everything up to a Sync is skipped anyway.
        let skipped = self.doubt.is_none() && self.first() != Some(Request::Query);
        if sync || (!skipped && request != Request::CopyEnd) {
            self.doubt = Some(self.doubt.unwrap_or_default().then(request));
        }
        !sync
    }

    /// Takes note of a reply of type `reply`, and tells whether it is for the client ([`Answer::Forward`]) or for nobody.
    ///
    /// # Errors
    /// [`Bad::Unexpected`] for a ReadyForQuery that nothing asked for, [`Bad::Doubtful`] for the error of a COPY with prepared
    /// statements behind it.
    pub fn handle_reply(&mut self, reply: u8) -> Result<Answer, Bad> {
        if let Mode::Ending { answering } = &mut self.mode
            && !matches!(reply, kind::NOTICE_RESPONSE | kind::NOTIFICATION_RESPONSE)
        {
            *answering = reply != kind::READY_FOR_QUERY;
        }
        match reply {
            kind::READY_FOR_QUERY => self.ready()?,
            kind::ERROR_RESPONSE => self.error()?,
            kind::COPY_IN_RESPONSE | kind::COPY_BOTH_RESPONSE => self.copy_in(),
            kind::PARSE_COMPLETE => return Ok(self.answered(Request::Parse)),
            kind::BIND_COMPLETE => return Ok(self.answered(Request::Bind)),
            kind::CLOSE_COMPLETE => return Ok(self.answered(Request::Close)),
            kind::ROW_DESCRIPTION | kind::NO_DATA => return Ok(self.answered(Request::Describe)),
            kind::COMMAND_COMPLETE | kind::EMPTY_QUERY_RESPONSE | kind::PORTAL_SUSPENDED => {
                self.doubt = None;
                self.copied();
                return Ok(self.answered(Request::Execute));
            }
            _ => {}
        }
        Ok(Answer::Forward)
    }

    fn push(&mut self, owed: Owed) {
        self.enders += usize::from(ends(owed.request));
        self.removals += usize::from(owed.removes());
        self.queue.push_back(owed);
    }

    fn first(&self) -> Option<Request> {
        self.queue.front().map(|owed| owed.request)
    }

    /// Forgets the requests before the one at `position`, which an error has skipped.
    fn skip(&mut self, position: usize) {
        for owed in self.queue.drain(..position) {
            self.enders -= usize::from(ends(owed.request));
            self.removals -= usize::from(owed.removes());
            self.skipped.extend(owed.effect.map(|effect| *effect));
        }
    }

    fn skip_all(&mut self) {
        self.skip(self.queue.len());
    }

    fn copied(&mut self) {
        if let Mode::Unknown { copying, .. } = &mut self.mode {
            *copying = false;
        }
    }

    fn answered(&mut self, request: Request) -> Answer {
        let Some(owed) = self.queue.pop_front_if(|owed| owed.request == request) else { return Answer::Forward };
        debug_assert!(owed.answer != Answer::Fake, "it was to be polled before");
        self.removals -= usize::from(owed.removes());
        self.done.extend(owed.effect.map(|effect| *effect));
        self.drop_ignored();
        owed.answer
    }

    /// CopyDone and CopyFail at the front met a backend that was not in COPY-in mode.
    fn drop_ignored(&mut self) {
        while self.first() == Some(Request::CopyEnd) {
            self.queue.pop_front();
        }
    }

    fn ready(&mut self) -> Result<(), Bad> {
        match &mut self.mode {
            Mode::Ending { .. } => return Ok(()),
            Mode::Unknown { asked, ready, .. } => {
                (*asked, *ready) = (false, true);
                return Ok(());
            }
            Mode::CopyIn => self.mode = Mode::Normal,
            Mode::Normal | Mode::SkipToSync => {}
        }
        let position = self.queue.iter().position(|owed| ends(owed.request)).ok_or(Bad::Unexpected)?;
        self.skip(position + 1);
        self.begun = self.queue.iter().any(|owed| begins(owed.request) && owed.answer != Answer::Fake);
        self.doubt = None;
        self.drop_ignored();
        Ok(())
    }

    fn error(&mut self) -> Result<(), Bad> {
        if self.doubt.is_some() && !self.queue.iter().all(Owed::is_plain) {
            return Err(Bad::Doubtful);
        }
        if let Some(group) = self.doubt.take() {
            let group = self.queue.iter().skip(1).fold(group, |group, owed| group.then(owed.request));
            let rest_asks = self.queue.iter().skip(1).any(|owed| owed.request == Request::Sync);
            let asked = rest_asks || self.first() == Some(Request::Query);
            // A Close is heeded whatever became of the COPY.
            for owed in self.queue.drain(..) {
                self.done.extend(owed.effect.map(|effect| *effect));
            }
            self.enders = 0;
            self.mode = Mode::Unknown { asked, group, ready: false, copying: false };
            return Ok(());
        }
        self.copied();
        if self.mode == Mode::CopyIn {
            self.mode = Mode::Normal;
        }
        match self.first() {
            // A Flush was bad, or the server is about to hang up.
            None if self.mode == Mode::Normal => self.mode = Mode::SkipToSync,
            None | Some(Request::Sync | Request::Query | Request::FunctionCall) => {}
            Some(_) => match self.queue.iter().position(|owed| owed.request == Request::Sync) {
                Some(sync) => self.skip(sync),
                None => {
                    self.skip_all();
                    self.mode = Mode::SkipToSync;
                }
            },
        }
        Ok(())
    }

    /// The request at the front put the backend into COPY-in mode: find what it does with the requests already sent.
    fn copy_in(&mut self) {
        match &mut self.mode {
            Mode::Normal => {}
            // A Sync that was sent is ignored; the data and another must come.
            Mode::Unknown { asked, group, ready, copying } => {
                if *group == Group::Synced {
                    *group = Group::Open;
                }
                (*asked, *ready, *copying) = (false, false, true);
                return;
            }
            _ => return,
        }
        while let Some(next) = self.queue.remove(1) {
            self.enders -= usize::from(ends(next.request));
            self.removals -= usize::from(next.removes());
            self.skipped.extend(next.effect.map(|effect| *effect));
            if next.answer != Answer::Fake && self.ignored(next.request) {
                return;
            }
        }
        self.mode = Mode::CopyIn;
    }
}

/// True for requests that are answered by ReadyForQuery.
pub(super) fn ends(request: Request) -> bool {
    matches!(request, Request::Sync | Request::Query | Request::FunctionCall)
}

/// True for the requests of an extended query up to its Sync.
fn begins(request: Request) -> bool {
    !ends(request) && request != Request::CopyEnd
}

impl Group {
    fn then(self, request: Request) -> Self {
        match request {
            Request::Sync => Self::Synced,
            Request::Query | Request::FunctionCall => Self::Closed,
            // Of a COPY that ignored the Sync: another follows.
            Request::CopyEnd if self == Self::Synced => Self::Open,
            Request::CopyEnd => self,
            _ => Self::Open,
        }
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
                [b'<', reply] => drop(outstanding.handle_reply(*reply).unwrap()),
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
        // Answered after a Flush, but in an implicit transaction.
        check("P ! <1 ! D ! <t <n ! S ! <Z .");
        check("P B E S P B E S <1 <2 <C <Z ! <1 <2 <C <Z .");
        check("P B E E <1 <2 <s <C ! S <Z .");
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
        // An error that no request is to blame for: a bad Flush, or the server hangs up next.
        check("<E ! S <Z .");
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
        // A message that has no place in COPY-in mode is swallowed and fails it.
        check("P B E <1 <2 <G P <E ! S <Z .");
        // A Sync inside COPY-in mode and an error of the data: unknowable, so never idle again.
        check("P B E S <1 <2 <G <E ! S ! <Z ! <Z !");
        check("P B E S <1 <2 <G c S <E ! <Z ! <Z !");
        check("Q <G S c <E ! <Z !");
        check("Q <G Q <E ! <Z !");
        // But not if the COPY succeeds.
        check("P B E S <1 <2 <G c S <C <Z . B <E ! S <Z .");
        // CopyDone is sent without its Sync: that must still reach this server, whatever ReadyForQuery came before.
        check("P B E S <1 <2 <G c <E ! <Z ! S ! <Z !");
    }

    #[test]
    fn copy_both() {
        // Each side ends its own half.
        check("Q <W ! <d c ! <d <c <C <C <Z .");
        check("Q <W <c ! c <C <Z .");
        // The next timeline comes as a result.
        check("Q <W <c c <T <D <C <C <Z .");
        check("Q <W c Q <c <C <Z ! <C <Z .");
        check("Q <W <E c <Z . Q <C <Z .");
        // Refused, or a command without a stream, as IDENTIFY_SYSTEM.
        check("Q <E <Z . Q <T <D <C <Z .");
    }

    /// What `Outstanding::resume` makes of the requests and replies of `script`, and what handling each in turn makes of
    /// them, must go on alike: the kernel path counts only.
    #[track_caller]
    fn check_resume(script: &str) {
        let (mut requests, mut answers, mut failed) = (Vec::new(), 0, false);
        let mut handled = Outstanding::default();
        for word in script.split_whitespace() {
            match word.as_bytes() {
                [b'<', b'E'] => {
                    failed = true;
                    handled.handle_reply(b'E').unwrap();
                }
                [b'<', reply] => {
                    answers += 1;
                    handled.handle_reply(*reply).unwrap();
                }
                [kind] => match crate::wire::frontend::Frontend::from_kind(*kind) {
                    Some(crate::wire::frontend::Frontend::Request(request)) => {
                        requests.push(request);
                        handled.handle_request(request);
                    }
                    other => panic!("{script}: {other:?}"),
                },
                _ => panic!("{script}: {word}"),
            }
        }
        let resumed = Outstanding::resume(&requests, answers, failed);
        let requests =
            |outstanding: &Outstanding| -> Vec<Request> { outstanding.queue.iter().map(|owed| owed.request).collect() };
        assert_eq!(
            (requests(&resumed), resumed.mode, resumed.begun),
            (requests(&handled), handled.mode, handled.begun),
            "{script}"
        );
    }

    #[test]
    fn resuming_is_as_if_each_was_handled() {
        for script in [
            "",
            "Q",
            "Q <T <C",
            "Q Q <T <C",
            "P",
            "P <1",
            "P B D E S",
            "P B D E S <1 <2 <T",
            "P B D E S <1 <2 <n <C",
            "P B E S P B E S <1 <2 <C",
            "P B E S <E",
            "P B E S P B E S <1 <E",
            "P <E",
            "P B <1 <E",
            "P B <E E",
            "Q <E",
            "C S <3",
            "B E E <2 <s",
            "E S <C <E",
            "S",
            "Q S <C",
        ] {
            check_resume(script);
        }
    }

    #[test]
    fn a_ready_that_nothing_asked_for() {
        assert_eq!(Outstanding::default().handle_reply(b'Z'), Err(Bad::Unexpected));
        let mut outstanding = Outstanding::default();
        outstanding.handle_request(Request::Parse);
        assert_eq!(outstanding.handle_reply(b'Z'), Err(Bad::Unexpected));
    }
}
