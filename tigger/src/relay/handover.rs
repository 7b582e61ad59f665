//! Where a client goes from one path to the other (the states are drawn in [`crate::kernel_path`]).

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tigger_proto::client::WholeRequests;
use tigger_proto::error::Error;
use tigger_proto::pool::PoolMode;

use super::client::{ClientConn, Farewell};
use super::link::{Link, LinkEnd};
use crate::kernel_path::{CutShort, KernelClient, KernelServer, Reclaimed};
use crate::pooler::server_conn::ServerConn;

impl ClientConn {
    /// Leaves an idle client to the kernel path, if nothing of it is half done here.
    pub(super) fn hand_over(&mut self) {
        if let (Some(kernel), Some(shared)) = (&mut self.kernel, self.pool.shared())
            && !kernel.is_handed_over()
            && !kernel.is_remote()
            && self.listening.is_none()
            && self.carry.is_empty()
            && self.client.at_border()
        {
            kernel.rename(self.client.statements().take_changes());
            kernel.hand_over(shared, &self.client.parameters, &self.stream, self.to_client.as_slice().len());
        }
    }

    /// Sends what is pending, in the kernel path's way if it can go it.
    pub(super) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(kernel) = &mut self.kernel
            && !self.to_client.is_empty()
        {
            let n = kernel.push_pending(&mut self.stream, self.to_client.as_slice())?;
            self.to_client.advance(n);
        }
        if !self.to_client.is_empty() {
            ready!(self.poll_drained(cx));
        }
        self.to_client.poll_flush(&mut self.stream, cx)
    }

    /// Sends the requests in `carry` over the link and leaves the pair to the kernel path, if it can have it. Gives the link
    /// back if it cannot.
    pub(super) fn push(&mut self, mut link: Link) -> Result<Option<Link>, Farewell> {
        if self.pooler.suspension.current().is_some() {
            return Ok(Some(link));
        }
        let Some(requests) = self.pushable(&mut link) else { return Ok(Some(link)) };
        let (Some(client), Some(shared)) = (&mut self.kernel, self.pool.shared()) else { return Ok(Some(link)) };
        let id = link.server.id;
        link.tally.bind_count += self.client.take_uses().binds;
        self.pool.counters.add(&std::mem::take(&mut link.tally));
        let gate = self.pool.run(|core| {
            // Under the pool's lock: nobody looks for the server in between.
            let ServerConn { kernel, server, .. } = &mut *link.server;
            let gate =
                kernel.as_mut().map(|kernel| kernel.push(client, (&requests, &self.carry), server, link.xact_start));
            core.hand_over(Instant::now(), id, link.server);
            gate
        });
        if !client.is_remote() {
            client.rename(self.client.statements().take_changes());
        }
        client.push(shared, &self.client.parameters, &self.stream);
        let sent = gate.map_or(0, |gate| gate.push(&self.carry));
        self.guard.info.set_server(0);
        let rest = self.carry.split_off(sent);
        self.carry.clear();
        if rest.is_empty() {
            return Ok(None);
        }
        // The socket took only a part, or is broken: the user path sends the rest, or learns why it cannot.
        let link = self.take_back().ok_or(Farewell::Told(Error::ServerCrashed))?;
        Ok(Some(link.sending(rest)))
    }

    /// Sends replies, in the kernel path's way if they can go it. Keeps what the client does not take at once.
    pub(super) fn send_replies(&mut self, cx: &mut Context<'_>, mut replies: &[u8]) -> io::Result<()> {
        if let Some(kernel) = &mut self.kernel
            && self.to_client.is_empty()
        {
            replies = &replies[kernel.push_replies(&mut self.stream, replies)?..];
        }
        if replies.is_empty() {
            return Ok(());
        }
        match self.poll_drained(cx) {
            Poll::Ready(()) => self.to_client.send(&mut self.stream, cx, replies),
            Poll::Pending => {
                self.to_client.keep(replies);
                Ok(())
            }
        }
    }

    /// Ready when the client notices what is sent to it over TCP.
    pub(super) fn poll_drained(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(kernel) = &mut self.kernel else { return Poll::Ready(()) };
        self.drain_timer.poll(cx, || kernel.has_drained())
    }

    /// What is in `carry`, if it may be pushed over this link.
    fn pushable(&mut self, link: &mut Link) -> Option<WholeRequests> {
        let (client, server) = (self.kernel.as_ref()?, &mut link.server);
        let may_push = match link.rules.mode {
            PoolMode::Transaction => client.may_push(&self.stream),
            // What is captured is handed over as a pair.
            PoolMode::Session => client.is_remote(),
            PoolMode::Statement => false,
        };
        let may_push = may_push
            && self.listening.is_none()
            && server.kernel.as_ref().is_some_and(|kernel| !kernel.is_remote())
            && server.server.is_between_requests()
            && self.to_client.is_empty()
            && self.client.at_border()
            && self.carry.len() <= PUSH_LEN_MAX;
        if !may_push {
            return None;
        }
        let limits = link.rules.limits;
        let requests = WholeRequests::read(&self.carry, limits).filter(|_| server.watch_linked())?;
        // Last of all: nobody else may see them under these names.
        let names = self.client.rename_whole(&mut self.carry, &mut server.server, limits)?;
        Some(WholeRequests { named: names > 0, ..requests })
    }

    /// The kernel path left bytes to the user path: gets the client back, and its server if it is linked.
    pub(super) async fn reclaim(&mut self) -> Result<Option<Link>, Farewell> {
        let Some(kernel) = &mut self.kernel else { return Ok(None) };
        if kernel.is_remote() {
            // Whether its last reply has landed matters only if the next one is the user path's.
            return Ok(if kernel.linked().is_some() { self.take_back() } else { None });
        }
        if kernel.reclaim() == Reclaimed::Kept {
            return Ok(None);
        }
        let unfit = kernel.is_unfit();
        let link = self.take_back();
        if link.is_none() {
            // In this order: a server that was released before it could be taken back is known as the last one by then.
            self.landed().await?;
        }
        if unfit {
            self.kernel = None;
        }
        Ok(link)
    }

    /// What another server says must not overtake the end of the last reply.
    pub(super) async fn landed(&mut self) -> Result<(), Farewell> {
        let Some(kernel) = &self.kernel else { return Ok(()) };
        kernel.landed().await.map_err(|CutShort| {
            self.pool.end_cut_short();
            Farewell::Cut(Error::ServerCrashed)
        })
    }

    /// Takes the pair back that the kernel path has linked, if it has.
    pub(super) fn take_back(&mut self) -> Option<Link> {
        let kernel = self.kernel.as_mut()?;
        let hint = kernel.linked();
        let (id, mut server) = self.pool.run(|core| core.take_back(self.guard.info.id, hint))?;
        kernel.reclaim();
        debug_assert_eq!(id, server.id);
        let resumed = server.resume();
        self.client.resume(resumed.request_rest);
        self.guard.info.set_server(server.info.serial);
        Some(Link::resumed(server, self.pool.link_rules(), resumed))
    }

    /// Where one of both was captured, the kernel path can bring it what the other says: it is told of the other.
    pub(super) fn introduce(&mut self, server: &mut ServerConn) {
        let Some(shared) = self.pool.shared() else { return };
        if let Some(kernel) = &server.kernel {
            kernel.note_used(&mut server.server);
        }
        let (path, info) = (self.pool.kernel_path(), &self.guard.info);
        match (&self.kernel, &server.kernel) {
            (None, Some(captured)) if !captured.is_remote() && info.remote.socket_addr().is_some() => {
                self.kernel = KernelClient::enter_remote(path, &self.stream, info.id.0).map(Box::new);
                if let Some(kernel) = &self.kernel {
                    info.set_kernel(kernel.watch());
                }
            }
            (Some(captured), None) if !captured.is_remote() && server.info.remote.socket_addr().is_some() => {
                server.kernel = KernelServer::enter_remote(path, shared, server.id.slot, &server.stream);
                if let Some(kernel) = &server.kernel {
                    server.info.set_kernel(kernel.watch());
                }
            }
            _ => {}
        }
    }

    /// The client leaves, or must: what the kernel path has linked to it is let go first. An error must not be sent
    /// into the middle of a reply.
    pub(super) async fn part(&mut self, farewell: Farewell) -> Farewell {
        let Some(kernel) = &mut self.kernel else { return farewell };
        if kernel.reclaim() == Reclaimed::Kept {
            return farewell;
        }
        let Some(link) = self.take_back() else {
            return if self.landed().await.is_ok() { farewell } else { farewell.without_words() };
        };
        let has_landed = match &link.server.kernel {
            Some(kernel) => kernel.landed().await.is_ok(),
            None => true,
        };
        if !has_landed {
            self.pool.close(link.server, &Error::ServerCrashed);
            return farewell.without_words();
        }
        let is_amid = !link.server.at_border();
        // The farewell is known already, and the server goes where it belongs.
        let end = match &farewell {
            Farewell::Silent(reason) => LinkEnd::ClientLeft(reason.clone()),
            Farewell::Told(reason) | Farewell::Cut(reason) => LinkEnd::ClientFails(reason.clone()),
        };
        drop(self.unlink(link, end));
        if is_amid { farewell.without_words() } else { farewell }
    }

    /// Leaves the client and its server, between two requests, to the kernel path.
    pub(super) fn hand_over_pair(&mut self, mut server: Box<ServerConn>, xact_start: Instant) {
        let (Some(kernel), Some(shared)) = (&mut self.kernel, self.pool.shared()) else {
            unreachable!("only pairs of far ends are handed over")
        };
        let id = server.id;
        self.pool.run(|core| {
            // Under the pool's lock: nobody looks for the server in between.
            let ServerConn { kernel: other, server: state, .. } = &mut *server;
            if let Some(other) = other {
                other.hand_over(kernel, state, xact_start);
            }
            core.hand_over(Instant::now(), id, server);
        });
        if !kernel.is_remote() {
            kernel.rename(self.client.statements().take_changes());
        }
        kernel.hand_over(shared, &self.client.parameters, &self.stream, self.to_client.as_slice().len());
    }
}

/// Longest requests that are sent with one call while the pool has the server: the socket's buffer is empty, and takes
/// them.
const PUSH_LEN_MAX: usize = 4096;
