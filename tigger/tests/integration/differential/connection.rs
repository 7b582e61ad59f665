//! One run of a script: a bare socket that does not block, what is sent to it in which pieces, and all that comes back.

use std::{
    collections::VecDeque,
    io::{ErrorKind, Read, Write},
    net::{SocketAddr, TcpStream},
};

use nix::poll::PollFlags;

use super::backend::{END, Message, NOTHING};
use super::script::{Script, Step, Until};
use crate::torture::random::Random;
use crate::wire::{non_blocking, startup, wait_for};

/// How the client's bytes are cut.
#[derive(Debug)]
pub(super) enum Cut {
    /// Into what is sent at once.
    Whole,
    /// Into pieces of any size.
    Pieces(Random),
}

/// A client that runs a script.
#[derive(Debug)]
pub(super) struct Connection {
    socket: TcpStream,
    cut: Cut,
    unsent: VecDeque<Vec<u8>>,
    /// The beginning of a message.
    unread: Vec<u8>,
    received: Vec<Message>,
    /// Messages up to what was waited for last.
    seen: usize,
    ended: bool,
}

impl Connection {
    /// Logs in with these start-up parameters.
    pub(super) fn login(port: u16, parameters: &[(&str, &str)], cut: Cut) -> Self {
        let (unsent, unread) = (VecDeque::new(), Vec::new());
        let socket = non_blocking(SocketAddr::from(([127, 0, 0, 1], port)));
        let mut connection = Self { socket, cut, unsent, unread, received: Vec::new(), seen: 0, ended: false };
        connection.step(&Step::Send(startup(3 << 16, parameters)));
        connection.wait(|messages| position(messages, b'Z', 1));
        connection
    }

    /// Runs a script to its end. `waited` is called after each wait.
    pub(super) fn run(mut self, script: &Script, mut waited: impl FnMut()) -> Vec<Message> {
        for step in &script.steps {
            self.step(step);
            if matches!(step, Step::Wait(_)) {
                waited();
            }
        }
        if self.ended {
            self.received.push(Message { kind: END, body: Vec::new() });
        } else {
            self.step(&Step::Send(b"X\0\0\0\x04".to_vec()));
            self.wait(|_| None);
        }
        self.received
    }

    fn step(&mut self, step: &Step) {
        match step {
            Step::Send(bytes) => {
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let (piece, after) = rest.split_at(self.cut.next(rest.len()));
                    self.unsent.push_back(piece.to_vec());
                    rest = after;
                }
            }
            // The first ReadyForQuery is the login's.
            Step::Wait(Until::Ready(count)) => self.wait(|messages| position(messages, b'Z', count + 1)),
            Step::Wait(Until::Kind(kind)) => {
                let seen = self.seen;
                self.wait(|messages| Some(seen + position(&messages[seen..], *kind, 1)?));
            }
        }
    }

    /// Sends and receives until `position` finds what is waited for, or the connection ends.
    fn wait(&mut self, position: impl Fn(&[Message]) -> Option<usize>) {
        loop {
            match position(&self.received) {
                Some(seen) if self.unsent.is_empty() => {
                    self.seen = seen;
                    return;
                }
                _ if self.ended => return,
                _ => self.turn(),
            }
        }
    }

    /// Waits for the socket, sends a piece and reads what is there.
    fn turn(&mut self) {
        let sends = if self.unsent.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        if wait_for(&self.socket, PollFlags::POLLIN | sends).is_err() {
            self.received.push(Message { kind: NOTHING, body: Vec::new() });
            self.ended = true;
            return;
        }
        self.send_piece();
        self.receive();
    }

    fn send_piece(&mut self) {
        let Some(mut piece) = self.unsent.pop_front() else { return };
        match self.socket.write(&piece) {
            Ok(sent) if sent == piece.len() => {}
            Ok(sent) => self.unsent.push_front(piece.split_off(sent)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.unsent.push_front(piece),
            // What the other side said before it hung up is still to be read.
            Err(_) => self.unsent.clear(),
        }
    }

    fn receive(&mut self) {
        let mut buf = vec![0; 64 * 1024];
        match self.socket.read(&mut buf) {
            Ok(0) => self.ended = true,
            Ok(len) => self.unread.extend_from_slice(&buf[..len]),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(_) => self.ended = true,
        }
        let mut at = 0;
        while let Some((message, len)) = Message::read(&self.unread[at..]) {
            self.received.push(message);
            at += len;
        }
        self.unread.drain(..at);
    }
}

impl Cut {
    /// The size of the next piece of `len` bytes.
    fn next(&mut self, len: usize) -> usize {
        match self {
            Self::Whole => len,
            // Up to the limit that a message of some MB does not take thousands of pieces.
            Self::Pieces(random) => random.logarithmic(1, (len / 64).max(16)).min(len),
        }
    }
}

/// The position behind the message of this type that is the `nth`, counted from 1.
fn position(messages: &[Message], kind: u8, nth: usize) -> Option<usize> {
    let mut of_kind = messages.iter().enumerate().filter(|(_, message)| message.kind == kind);
    of_kind.nth(nth - 1).map(|(position, _)| position + 1)
}
