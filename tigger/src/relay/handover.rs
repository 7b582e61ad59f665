//! Where a client goes from one path to the other (the states are drawn in [`crate::kernel_path`]).

use std::os::fd::AsRawFd;
use std::time::Instant;

use nix::sys::socket::{self, MsgFlags};
use tigger_proto::client::WholeRequests;
use tigger_proto::error::Error;
use tigger_proto::pool::PoolMode;

use super::client::{ClientConn, Farewell};
use super::link::{Link, LinkEnd};
use crate::kernel_path::{KernelServer, Reclaimed};
use crate::pooler::pool::LinkRules;
use crate::pooler::server_conn::ServerConn;
use crate::pooler::stats::Tally;

impl ClientConn {
    /// Leaves an idle client to the kernel path, if nothing of it is half done here.
    pub(super) fn hand_over(&mut self) {
        if let (Some(kernel), Some(shared)) = (&mut self.kernel, self.pool.shared())
            && !kernel.is_handed_over()
            && self.carry.is_empty()
            && self.client.at_border()
            && self.to_client.is_empty()
        {
            kernel.hand_over(shared, &self.client.parameters, &self.stream);
        }
    }

    /// Sends the requests in `carry` and leaves the pair to the kernel path, if it can have it: it left the client here
    /// only for want of a server.
    pub(super) fn push(
        &mut self,
        mut server: Box<ServerConn>,
        rules: LinkRules,
        asked: Instant,
    ) -> Result<Option<Link>, Farewell> {
        let refused = |server| Ok(Some(Link::new(server, rules, asked)));
        let (Some(client), Some(shared)) = (&mut self.kernel, self.pool.shared()) else { return refused(server) };
        let may_push = rules.mode == PoolMode::Transaction
            && server.kernel.is_some()
            && self.to_client.is_empty()
            && self.carry.len() <= PUSH_LEN_MAX
            && client.may_push(&self.stream);
        if !may_push {
            return refused(server);
        }
        let Some(requests) = WholeRequests::read(&self.carry, rules.limits) else { return refused(server) };
        if !server.watch_linked() {
            return refused(server);
        }
        let id = server.id;
        let gate = self.pool.run(|core| {
            // Under the pool's lock: nobody looks for the server in between.
            let parameters = server.server.parameters();
            let gate = server.kernel.as_mut().map(|kernel| kernel.push(client, &requests, parameters));
            core.hand_over(Instant::now(), id, server);
            gate
        });
        client.push(shared, &self.client.parameters, &self.stream);
        self.pool.counters.add(&Tally { server_assignment_count: 1, ..Tally::default() });
        let flags = MsgFlags::MSG_DONTWAIT | MsgFlags::MSG_NOSIGNAL;
        let sent = gate.and_then(|gate| socket::send(gate.as_raw_fd(), &self.carry, flags).ok()).unwrap_or(0);
        self.guard.info.set_server(0);
        let rest = self.carry.split_off(sent);
        self.carry.clear();
        if rest.is_empty() {
            return Ok(None);
        }
        // The socket took only a part, or is broken: the user path sends the rest, or learns why it cannot.
        let server = self.take_back().ok_or(Farewell::Told(Error::ServerCrashed))?;
        Ok(Some(Link::resumed(server, rules, asked).sending(rest)))
    }

    /// The kernel path left bytes to the user path: gets the client back, and its server if it is linked.
    pub(super) async fn reclaim(&mut self) -> Option<Box<ServerConn>> {
        let kernel = self.kernel.as_mut()?;
        if kernel.reclaim() == Reclaimed::Kept {
            return None;
        }
        let unfit = kernel.is_unfit();
        let server = self.take_back();
        if server.is_none()
            && let Some(kernel) = &self.kernel
        {
            // What another server says must not overtake the end of the last reply. In this order: a server that was
            // released before it could be taken back is known as the last one by then.
            kernel.landed().await;
        }
        if unfit {
            self.kernel = None;
        }
        server
    }

    /// Takes the pair back that the kernel path has linked, if it has.
    pub(super) fn take_back(&mut self) -> Option<Box<ServerConn>> {
        let kernel = self.kernel.as_mut()?;
        let (id, mut server) = self.pool.run(|core| core.take_back(self.guard.info.id))?;
        kernel.reclaim();
        debug_assert_eq!(id, server.id);
        let request_rest = server.resume();
        self.client.resume(request_rest);
        self.guard.info.set_server(server.info.serial);
        Some(server)
    }

    /// The client leaves, or must: what the kernel path has linked to it is let go first. An error must not be sent
    /// into the middle of a reply.
    pub(super) fn part(&mut self, farewell: Farewell) -> Farewell {
        let Some(kernel) = &mut self.kernel else { return farewell };
        if kernel.reclaim() == Reclaimed::Kept {
            return farewell;
        }
        let Some(server) = self.take_back() else {
            let in_flight = self.kernel.as_ref().is_some_and(|kernel| kernel.is_in_flight());
            return if in_flight { farewell.without_words() } else { farewell };
        };
        let is_amid = !server.at_border() || server.kernel.as_ref().is_some_and(KernelServer::is_in_flight);
        let link = Link::resumed(server, self.pool.link_rules(), Instant::now());
        // The farewell is known already, and the server goes where it belongs.
        drop(self.unlink(link, LinkEnd::ClientLeft(Error::ClientUnexpectedEof)));
        if is_amid { farewell.without_words() } else { farewell }
    }

    /// Leaves the client and its server, between two requests, to the kernel path.
    pub(super) fn hand_over_pair(&mut self, server: Box<ServerConn>) {
        let (Some(kernel), Some(shared)) = (&mut self.kernel, self.pool.shared()) else {
            unreachable!("only pairs of far ends are handed over")
        };
        let (id, status) = (server.id, server.server.status());
        self.pool.run(|core| {
            // Under the pool's lock: nobody looks for the server in between.
            if let Some(other) = &server.kernel {
                other.hand_over(kernel, status);
            }
            core.hand_over(Instant::now(), id, server);
        });
        kernel.hand_over(shared, &self.client.parameters, &self.stream);
    }
}

/// Longest requests that are sent with one call while the pool has the server: the socket's buffer is empty, and takes
/// them.
const PUSH_LEN_MAX: usize = 4096;
