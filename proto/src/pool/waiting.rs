//! The waiting queue of a pool: first come, first served.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use super::ClientId;
use crate::client::startup::Startup;

/// Names a place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Ticket(u64);

/// What a client waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// The parameters that the pool's first server reports, to finish its login.
    Login,
    /// A server for a request.
    Server,
    /// A server of its own for a replication connection, logged in with what the client starts up with.
    Replication(Arc<Startup>),
}

/// A client in the queue.
#[derive(Debug)]
pub struct Waiting<W> {
    /// Who waits.
    pub client: ClientId,
    /// Since when.
    pub since: Instant,
    /// For what.
    pub purpose: Purpose,
    /// How to reach it.
    pub waiter: W,
}

/// The queue. Leaving from the middle leaves a hole, so that it costs no move of the others.
#[derive(Debug)]
pub(super) struct WaitingQueue<W> {
    /// Tickets ascend.
    places: VecDeque<(Ticket, Option<Waiting<W>>)>,
    next: u64,
    len: usize,
}

impl<W> WaitingQueue<W> {
    pub(super) fn new() -> Self {
        Self { places: VecDeque::new(), next: 0, len: 0 }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn push(&mut self, waiting: Waiting<W>) -> Ticket {
        let ticket = Ticket(self.next);
        self.next += 1;
        self.len += 1;
        self.places.push_back((ticket, Some(waiting)));
        ticket
    }

    /// Takes the first client that waits for `purpose`.
    pub(super) fn pop(&mut self, purpose: &Purpose) -> Option<Waiting<W>> {
        self.take_first(|waiting| waiting.purpose == *purpose)
    }

    /// Takes the first client.
    pub(super) fn pop_any(&mut self) -> Option<Waiting<W>> {
        self.take_first(|_| true)
    }

    /// Takes the first client that waits for a server, if it came at `latest` or before.
    pub(super) fn pop_overdue(&mut self, latest: Instant) -> Option<Waiting<W>> {
        let first = self.iter().find(|waiting| waiting.purpose == Purpose::Server)?;
        if first.since > latest { None } else { self.pop(&Purpose::Server) }
    }

    pub(super) fn leave(&mut self, ticket: Ticket) -> Option<Waiting<W>> {
        let place = self.places.binary_search_by_key(&ticket, |(ticket, _)| *ticket).ok()?;
        self.take(place)
    }

    pub(super) fn oldest(&self) -> Option<Instant> {
        self.iter().next().map(|waiting| waiting.since)
    }

    pub(super) fn first(&self) -> Option<(Ticket, &Waiting<W>)> {
        self.places.iter().find_map(|(ticket, waiting)| Some((*ticket, waiting.as_ref()?)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Waiting<W>> {
        self.places.iter().filter_map(|(_, waiting)| waiting.as_ref())
    }

    fn take_first(&mut self, is_wanted: impl Fn(&Waiting<W>) -> bool) -> Option<Waiting<W>> {
        let place = self.places.iter().position(|(_, waiting)| waiting.as_ref().is_some_and(&is_wanted))?;
        self.take(place)
    }

    fn take(&mut self, place: usize) -> Option<Waiting<W>> {
        let waiting = self.places[place].1.take()?;
        self.len -= 1;
        while matches!(self.places.front(), Some((_, None))) {
            self.places.pop_front();
        }
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_holes_and_purposes() {
        let mut queue = WaitingQueue::new();
        let now = Instant::now();
        let push = |queue: &mut WaitingQueue<u32>, waiter, purpose| {
            queue.push(Waiting { client: ClientId(u64::from(waiter)), since: now, purpose, waiter })
        };
        let tickets: Vec<Ticket> = (0..4).map(|n| push(&mut queue, n, Purpose::Server)).collect();
        push(&mut queue, 4, Purpose::Login);
        push(&mut queue, 5, Purpose::Server);
        assert_eq!(queue.leave(tickets[1]).unwrap().waiter, 1);
        assert!(queue.leave(tickets[1]).is_none());
        assert_eq!(queue.len(), 5);
        assert_eq!(queue.pop(&Purpose::Login).unwrap().waiter, 4);
        assert_eq!(queue.pop(&Purpose::Server).unwrap().waiter, 0);
        assert!(queue.leave(tickets[0]).is_none());
        let rest: Vec<u32> = std::iter::from_fn(|| queue.pop_any()).map(|w| w.waiter).collect();
        assert_eq!(rest, [2, 3, 5]);
        assert!(queue.is_empty() && queue.places.is_empty());
    }
}
