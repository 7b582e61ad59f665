//! One connection to the proxy: a login, conversations, an end. It moves bytes; what they must be the checker knows.

use std::{
    io::{self, ErrorKind},
    net::SocketAddr,
    time::Duration,
};

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::checker::{Checker, Report};
use super::expect::Expect;
use super::manner::{Manner, Part, READ_SIZE_MAX, Wait};
use super::random::Random;
use super::script::Script;
use crate::wire::{CANCEL_REQUEST, packet, startup};

/// How a conversation went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Every reply came.
    Answered,
    /// The other side closed the connection. All that came before was right.
    Ended,
}

/// A connection that has logged in.
#[derive(Debug)]
pub(super) struct Session {
    stream: TcpStream,
    address: SocketAddr,
    checker: Checker,
    buffer: Vec<u8>,
    /// Whoever waits longer hangs.
    deadline: Instant,
}

impl Session {
    /// Connects and sends nothing.
    ///
    /// # Errors
    /// No connection before the deadline.
    pub(super) async fn connect(address: SocketAddr, own: String, deadline: Instant) -> Result<Self, String> {
        let stream = match timeout_at(deadline, TcpStream::connect(address)).await {
            Ok(connected) => connected.map_err(|error| format!("connecting: {error}"))?,
            Err(_) => return Err("hangs while it connects".into()),
        };
        stream.set_nodelay(true).map_err(|error| format!("TCP_NODELAY: {error}"))?;
        Ok(Self { stream, address, checker: Checker::new(own), buffer: vec![0; READ_SIZE_MAX], deadline })
    }

    /// Logs in.
    ///
    /// # Errors
    /// As [`Self::converse`].
    pub(super) async fn login(
        &mut self,
        parameters: &[(&str, String)],
        random: &mut Random,
    ) -> Result<Outcome, String> {
        let mut script = Script::new();
        let parameters: Vec<_> = parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
        script.bytes = startup(3 << 16, &parameters);
        script.expect(Expect::Message { kind: b'R', body: vec![0; 4] });
        script.expect(Expect::Key);
        script.ready();
        let manner = Manner::choose(random, &script);
        self.converse(script, manner).await
    }

    /// Sends a script and compares what comes back, in this manner.
    ///
    /// # Errors
    /// Says which byte was wrong, or what is missing at the deadline.
    pub(super) async fn converse(&mut self, script: Script, mut manner: Manner) -> Result<Outcome, String> {
        self.checker.begin(script.expects, script.ending, script.notifications);
        let mut sending = Sending { bytes: &script.bytes, parts: &manner.parts, sent: 0, not_before: None };
        let mut read_from = Instant::now();
        if manner.reads_late {
            read_from += LATE;
        }
        loop {
            if self.checker.is_satisfied() && sending.is_done() {
                return Ok(Outcome::Answered);
            }
            let now = Instant::now();
            let turn = sending.turn(self.checker.messages, now);
            let reads = now >= read_from || (manner.reads_late && sending.is_done());
            let wake = if reads { None } else { Some(read_from) }.into_iter().chain(turn.wake()).min();
            tokio::select! {
                writable = self.stream.writable(), if turn == Turn::Send => {
                    writable.map_err(|error| format!("waiting to send: {error}"))?;
                    sending.send(&self.stream)?;
                }
                readable = self.stream.readable(), if reads => {
                    readable.map_err(|error| format!("waiting to read: {error}"))?;
                    if self.read(manner.read_size)? == Outcome::Ended {
                        return Ok(Outcome::Ended);
                    }
                    if manner.pauses > 0 {
                        manner.pauses -= 1;
                        read_from = now + PAUSE;
                    }
                }
                () = sleep_until(wake.unwrap_or(now)), if wake.is_some() => {}
                () = sleep_until(self.deadline) => {
                    let (sent, len) = (sending.sent, script.bytes.len());
                    return Err(format!("hangs: {sent} of {len} bytes sent, {}", self.checker.instead_of()));
                }
            }
        }
    }

    /// Reads once. That nothing was there after all is no end.
    fn read(&mut self, most: usize) -> Result<Outcome, String> {
        match self.stream.try_read(&mut self.buffer[..most]) {
            Ok(0) => Ok(Outcome::Ended),
            Ok(len) => self.checker.feed(&self.buffer[..len]).map(|()| Outcome::Answered),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(Outcome::Answered),
            Err(error) if is_gone(&error) => Ok(Outcome::Ended),
            Err(error) => Err(format!("reading: {error}")),
        }
    }

    /// Says goodbye and reads to the end: nothing more may come.
    ///
    /// # Errors
    /// As [`Self::converse`].
    pub(super) async fn goodbye(mut self) -> Result<(), String> {
        let mut script = Script::new();
        script.send(b'X', &[]);
        let manner = Manner::plain(&script);
        let mut outcome = self.converse(script, manner).await?;
        while outcome == Outcome::Answered {
            if timeout_at(self.deadline, self.stream.readable()).await.is_err() {
                return Err("hangs: its connection is not closed after Terminate".into());
            }
            outcome = self.read(READ_SIZE_MAX)?;
        }
        Ok(())
    }

    /// Hangs up without a word, with a reset if it is `abrupt`.
    pub(super) fn hang_up(self, abrupt: bool) {
        if abrupt {
            // If it fails there is no reset, which is allowed as well.
            drop(socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO)));
        }
    }

    /// The error that ended the connection, if one came.
    pub(super) fn fatal(&self) -> Option<&Report> {
        self.checker.fatal.as_ref()
    }

    /// How many queries were cancelled.
    pub(super) fn cancelled(&self) -> usize {
        self.checker.cancelled
    }

    /// What is needed to cancel this client's queries.
    pub(super) fn canceler(&self) -> Canceler {
        Canceler { address: self.address, key: self.checker.key.clone(), deadline: self.deadline }
    }
}

/// Can cancel the queries of one client.
pub(super) struct Canceler {
    address: SocketAddr,
    key: Vec<u8>,
    deadline: Instant,
}

impl Canceler {
    /// Sends a cancel request and waits until the proxy closes its connection: later it has no effect any more.
    ///
    /// # Errors
    /// The proxy answered, or did not close the connection.
    pub(super) async fn cancel(&self) -> Result<(), String> {
        let mut canceler = Session::connect(self.address, String::new(), self.deadline).await?;
        let mut script = Script::new();
        script.bytes = packet(CANCEL_REQUEST, &self.key);
        // Nothing but the end may come.
        script.expect(Expect::Message { kind: 0, body: Vec::new() });
        let manner = Manner::plain(&script);
        canceler.converse(script, manner).await.map(drop)
    }
}

/// How far a script has been sent.
struct Sending<'a> {
    bytes: &'a [u8],
    parts: &'a [Part],
    sent: usize,
    /// The pause before the next part ends then.
    not_before: Option<Instant>,
}

/// What the sending side waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Turn {
    /// The socket.
    Send,
    /// The end of a pause.
    Pause(Instant),
    /// Replies, or nothing more to send.
    Read,
}

impl Turn {
    fn wake(self) -> Option<Instant> {
        if let Self::Pause(until) = self { Some(until) } else { None }
    }
}

impl Sending<'_> {
    fn is_done(&self) -> bool {
        self.sent == self.bytes.len()
    }

    /// What must happen before the next part is sent, when so many messages have come.
    fn turn(&mut self, messages: usize, now: Instant) -> Turn {
        match self.parts.first().map(|part| part.after) {
            None => Turn::Read,
            Some(Wait::Messages(least)) if messages < least => Turn::Read,
            Some(Wait::Pause(pause)) => {
                let until = *self.not_before.get_or_insert(now + pause);
                if now < until { Turn::Pause(until) } else { Turn::Send }
            }
            Some(Wait::Nothing | Wait::Messages(_)) => Turn::Send,
        }
    }

    /// Writes once. To a connection that was closed nothing more is sent: what it said is read.
    fn send(&mut self, stream: &TcpStream) -> Result<(), String> {
        let Some(part) = self.parts.first() else { return Ok(()) };
        match stream.try_write(&self.bytes[self.sent..part.end]) {
            Ok(len) => self.sent += len,
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if is_gone(&error) => (self.sent, self.parts) = (self.bytes.len(), &[]),
            Err(error) => return Err(format!("sending: {error}")),
        }
        while self.parts.first().is_some_and(|part| part.end <= self.sent) {
            self.parts = &self.parts[1..];
            self.not_before = None;
        }
        Ok(())
    }
}

fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset)
}

/// When a client that reads late reads although not all is sent: the rest waits for room.
const LATE: Duration = Duration::from_millis(50);
/// A pause of a client that reads slowly.
const PAUSE: Duration = Duration::from_millis(8);
