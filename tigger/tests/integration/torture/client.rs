//! One client: it logs in, does random things, and logs in again when its connection ended, until the time is over.

use std::{
    collections::{BTreeMap, VecDeque},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep, timeout};

use super::checker::{SERVER_LOST, TERMINATED};
use super::manner::Manner;
use super::pieces::{Composer, PIECES, Sizes};
use super::random::Random;
use super::script::{Ending, Script};
use super::session::{Outcome, Session};

/// What a client does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    /// A pipeline, or a single piece.
    Talk,
    /// This row of [`PIECES`].
    Piece(usize),
    /// A large reply.
    Huge,
    /// A query that it cancels.
    Cancel,
    /// Half a script, then it hangs up.
    HangUp,
    /// It has its backend terminated.
    Terminate,
}

const ACTS: &[(&str, Act, usize)] = &[
    ("talk", Act::Talk, 300),
    ("huge reply", Act::Huge, 1),
    ("cancel", Act::Cancel, 20),
    ("hang up", Act::HangUp, 9),
    ("terminate itself", Act::Terminate, 3),
];

/// What all clients share.
#[derive(Debug)]
pub(super) struct Common {
    pub(super) address: SocketAddr,
    pub(super) seed: u64,
    pub(super) sizes: Sizes,
    /// Most things done in one login.
    pub(super) acts_per_login: usize,
    /// No backend is killed later.
    pub(super) calm: Instant,
    /// No new thing is begun later.
    pub(super) end: Instant,
    /// Who is not done then hangs.
    pub(super) deadline: Instant,
    /// Somebody failed: nothing more is worth doing.
    pub(super) failed: AtomicBool,
}

/// How often each thing was done.
pub(super) type Counts = BTreeMap<&'static str, usize>;

/// All names that must have been counted at the end.
pub(super) fn all_names() -> impl Iterator<Item = &'static str> {
    let acts = ACTS.iter().map(|act| act.0);
    acts.chain(PIECES.iter().map(|piece| piece.name)).chain(Manner::all_names()).chain([PIPELINE, CANCELLED])
}

/// A client between two things it does.
pub(super) struct Client {
    common: Arc<Common>,
    composer: Composer,
    counts: Counts,
    /// What it did last, for the message of a failure.
    history: VecDeque<String>,
    first: Act,
    /// It may be listening: then it loses its connection with the server that listens for all.
    may_listen: bool,
}

impl Client {
    pub(super) fn new(common: Arc<Common>, number: usize) -> Self {
        let composer = Composer::new(number, Random::new(common.seed, number as u64), common.sizes);
        // So that everything is done at least once.
        let nth = number % (PIECES.len() + ACTS.len());
        let first = nth.checked_sub(PIECES.len()).map_or(Act::Piece(nth), |act| ACTS[act].1);
        Self { common, composer, counts: Counts::new(), history: VecDeque::new(), first, may_listen: false }
    }

    /// Runs until the time is over.
    ///
    /// # Errors
    /// Everything that must not happen, with what led to it.
    pub(super) async fn run(mut self) -> Result<Counts, String> {
        let result = self.logins().await;
        result.map(|()| self.counts).map_err(|error| {
            self.common.failed.store(true, Ordering::Relaxed);
            let history: Vec<_> = self.history.into();
            format!("client {} {error}\n  after: {}", self.composer.own(), history.join("\n         "))
        })
    }

    async fn logins(&mut self) -> Result<(), String> {
        let mut next = Some(self.first);
        while next.is_some() || !self.is_over() {
            let Some(mut session) = self.login().await? else { continue };
            let mut left = self.composer.random.range(1, self.common.acts_per_login);
            loop {
                let act = next.take().unwrap_or_else(|| self.composer.random.weighted(ACTS, |act| act.2).1);
                let Some(going_on) = self.act(session, act).await? else { break };
                session = going_on;
                left -= 1;
                if left == 0 || self.is_over() {
                    session.goodbye().await?;
                    break;
                }
            }
        }
        Ok(())
    }

    fn is_over(&self) -> bool {
        Instant::now() >= self.common.end || self.common.failed.load(Ordering::Relaxed)
    }

    fn count(&mut self, name: &'static str, times: usize) {
        *self.counts.entry(name).or_default() += times;
    }

    fn note(&mut self, what: String) {
        if self.history.len() == HISTORY_MAX {
            self.history.pop_front();
        }
        self.history.push_back(what);
    }

    async fn login(&mut self) -> Result<Option<Session>, String> {
        let parameters = self.composer.startup();
        self.note(format!("login with {parameters:?}"));
        self.may_listen = false;
        let mut session = Session::connect(self.common.address, self.composer.own(), self.common.deadline).await?;
        let outcome = session.login(&parameters, &mut self.composer.random).await?;
        self.after(session, outcome)
    }

    /// Does one thing; `None` when the connection is over.
    async fn act(&mut self, session: Session, act: Act) -> Result<Option<Session>, String> {
        ACTS.iter().filter(|row| row.1 == act).for_each(|row| self.count(row.0, 1));
        self.composer.calm = Instant::now() > self.common.calm;
        let (script, names) = match act {
            Act::HangUp => return self.hang_up(session).await,
            Act::Talk => self.composer.conversation(),
            Act::Piece(row) => (self.composer.only(&PIECES[row]), vec![PIECES[row].name]),
            Act::Huge => (self.composer.huge(), Vec::new()),
            Act::Cancel => (self.composer.cancelled(), Vec::new()),
            Act::Terminate => (self.composer.terminated(), Vec::new()),
        };
        self.may_listen |= !script.notifications.is_empty();
        let manner = Manner::choose(&mut self.composer.random, &script);
        self.note(format!("{act:?}: {names:?}, {:?}", manner.names));
        manner.names.iter().chain(&names).for_each(|name| self.count(name, 1));
        self.count(PIPELINE, usize::from(names.len() > 1));
        let ending = script.ending;
        let mut session = session;
        let outcome = match ending {
            Ending::MayBeCancelled => self.cancel(&mut session, script, manner).await?,
            Ending::Answered | Ending::Terminated => session.converse(script, manner).await?,
        };
        match (ending, outcome) {
            (Ending::Terminated, Outcome::Answered) => Err("is answered although its backend was terminated".into()),
            (Ending::Terminated, Outcome::Ended) => check_end(&session).map(|()| None),
            _ => self.after(session, outcome),
        }
    }

    /// The session, if it goes on. An end that this client did not ask for must be due to the killer: they are counted.
    fn after(&mut self, session: Session, outcome: Outcome) -> Result<Option<Session>, String> {
        if outcome == Outcome::Answered {
            self.may_listen = self.composer.listens;
            return Ok(Some(session));
        }
        check_end(&session)?;
        self.count(if self.may_listen { LISTENER_LOST } else { KILLED }, 1);
        Ok(None)
    }

    /// Sends a part of the script, perhaps reads a part of the reply, and is gone.
    async fn hang_up(&mut self, mut session: Session) -> Result<Option<Session>, String> {
        let (mut script, names) = self.composer.conversation();
        let random = &mut self.composer.random;
        script.bytes.truncate(random.range(1, script.bytes.len()));
        script.borders.retain(|border| border.bytes <= script.bytes.len());
        let manner = Manner::choose(random, &script);
        let time = Duration::from_micros(random.pick(&[0, 100, 1_000, 10_000]));
        let abrupt = random.one_in(2);
        self.note(format!("hangs up after {time:?} in {names:?}, {:?}", manner.names));
        if let Ok(result) = timeout(time, session.converse(script, manner)).await {
            result?;
        }
        session.hang_up(abrupt);
        Ok(None)
    }

    /// Cancels the conversation again and again until it is over, and sometimes once more, when another client may have
    /// the server.
    async fn cancel(&mut self, session: &mut Session, script: Script, manner: Manner) -> Result<Outcome, String> {
        let canceler = session.canceler();
        let over = AtomicBool::new(false);
        let pause = Duration::from_millis(self.composer.random.range(1, 20) as u64);
        let late = self.composer.random.one_in(2);
        let before = session.cancelled();
        let talk = async {
            let outcome = session.converse(script, manner).await;
            over.store(true, Ordering::Relaxed);
            outcome
        };
        let cancel = async {
            loop {
                sleep(pause).await;
                if over.load(Ordering::Relaxed) && !late {
                    return Ok(());
                }
                canceler.cancel().await?;
                if over.load(Ordering::Relaxed) {
                    return Ok(());
                }
            }
        };
        let (outcome, cancelling) = tokio::join!(talk, cancel);
        let outcome = outcome?;
        cancelling.map_err(|error: String| format!("sends a cancel request and {error}"))?;
        let cancelled = session.cancelled() - before;
        self.count(CANCELLED, cancelled);
        Ok(outcome)
    }
}

/// The last word of a connection that was ended must be about that.
fn check_end(session: &Session) -> Result<(), String> {
    match session.fatal() {
        None => Ok(()),
        Some(fatal) if fatal.is(TERMINATED) || fatal.is(SERVER_LOST) => Ok(()),
        Some(fatal) => Err(format!("was disconnected with {fatal:?}")),
    }
}

/// How much is told about a client that failed.
const HISTORY_MAX: usize = 6;
/// Counted beside the names in the tables: a pipeline, a query that was cancelled, a connection lost to the killer.
const PIPELINE: &str = "pipeline";
const CANCELLED: &str = "cancelled query";
pub(super) const KILLED: &str = "killed by another";
/// The same of one that may have listened, whose server or that which listens was killed.
const LISTENER_LOST: &str = "killed while listening";
