//! What the process does with servers: replies to clients, the proxy's own queries, idle servers, cancel requests.

use super::driver::RESET_QUERY;
use super::world::{Cancel, Life, Link, Outcome, Phase, Test, World};
use crate::error::Error;
use crate::server::{FromServer, OwnQuery};
use crate::wire::frontend;

impl World {
    pub(super) fn read_server(&mut self, c: usize, most: usize) -> Outcome<bool> {
        let client = &mut self.clients[c];
        let link = match &mut client.phase {
            // What the client has not taken yet keeps the server from being read.
            Phase::Linked(link) if client.unsent.is_empty() => link,
            Phase::Setting(link, _) => link,
            _ => return Ok(false),
        };
        let output = &mut self.backends[link.server.backend].output;
        if output.is_over() {
            self.server_gone(c)?;
            self.advance(c)?;
            return Ok(true);
        }
        if output.read(&mut link.server.unread, most) == 0 {
            return Ok(false);
        }
        match client.phase {
            Phase::Setting(..) => self.own_reply(c)?,
            _ => self.replies(c)?,
        }
        self.advance(c)?;
        Ok(true)
    }

    fn server_gone(&mut self, c: usize) -> Outcome {
        let p = self.clients[c].pool;
        let client = &mut self.clients[c];
        let (Phase::Linked(mut link) | Phase::Setting(mut link, _)) =
            std::mem::replace(&mut client.phase, Phase::Closed)
        else {
            return Ok(());
        };
        client.core.as_mut().expect("it is linked").unlink(&mut link.server.core);
        // It cannot be told from a crash just then, which is excused.
        let over = self.backends[link.server.backend].model.over;
        if link.server.core.has_ended() && over {
            client.phase = Phase::Unlinked;
            self.close_server(p, &link);
            return self.act(p);
        }
        client.checker.killed = !over;
        let at_border = link.server.core.at_border();
        self.close_server(p, &link);
        if at_border {
            self.tell(c, &Error::ServerCrashed)?;
        }
        self.act(p)
    }

    /// Passes on what the server answers.
    fn replies(&mut self, c: usize) -> Outcome {
        loop {
            let client = &mut self.clients[c];
            let Phase::Linked(link) = &mut client.phase else { return Ok(()) };
            let server = &mut link.server;
            let core = client.core.as_mut().expect("it is linked");
            let parameters = &mut core.parameters;
            let said = server.core.handle_bytes(&server.unread, &self.tracked, |at, value| parameters.set(at, value));
            if said == Err(Error::PreparedBehindCopy) {
                client.checker.killed |= !self.backends[server.backend].alive;
                return self.refuse(c, &Error::PreparedBehindCopy);
            }
            let (n, ready, then) =
                match said.map_err(|error| format!("client {c}, backend {}: {error}", server.backend))? {
                    FromServer::Forward(n) => (n, false, None),
                    FromServer::Ready(n) => (n, true, None),
                    FromServer::Splice { forward, skip, insert } => (forward, false, Some((skip, insert))),
                };
            if !self.backends[server.backend].alive {
                client.checker.killed = true; // its last words may be among them
            }
            client.unsent.extend(server.unread.drain(..n));
            if let Some((skip, insert)) = then {
                client.unsent.extend(insert.into_iter().flatten());
                server.unread.drain(..skip);
                self.report.fakes += u64::from(insert.is_some());
                self.report.replies_swallowed += u64::from(skip > 0);
                self.settle(c, false)?;
                continue;
            }
            // Also the end of a notice may have been what kept the link.
            if n > 0 {
                self.settle(c, ready)?;
            }
            if !ready {
                return Ok(());
            }
        }
    }

    /// The answer to the proxy's SET.
    fn own_reply(&mut self, c: usize) -> Outcome {
        let client = &mut self.clients[c];
        let p = client.pool;
        let Phase::Setting(mut link, mut failure) = std::mem::replace(&mut client.phase, Phase::Closed) else {
            return Ok(());
        };
        let server = &mut link.server;
        let said = server.core.handle_own_reply(&server.unread, &self.tracked, &mut failure);
        match said.map_err(|error| format!("SET of client {c}, backend {}: {error}", server.backend))? {
            OwnQuery::More(n) => {
                server.unread.drain(..n);
                client.phase = Phase::Setting(link, failure);
            }
            OwnQuery::Done(n) => {
                server.unread.drain(..n);
                let own = &mut client.core.as_mut().expect("it is linked").parameters;
                if own.reset_query(server.core.parameters()).is_some() {
                    server.core.handle_reset(own);
                } else {
                    server.core.handle_applied(own);
                    own.clone_from(server.core.parameters());
                }
                self.set_parameters(c, link);
                self.replies(c)?;
            }
            OwnQuery::Failed(n, fields) => {
                server.unread.drain(..n);
                let own = &client.core.as_ref().expect("it is linked").parameters;
                if own.applies_to(server.core.parameters()) {
                    self.release(p, link)?;
                    self.tell(c, &Error::ParameterRefused(fields))?;
                } else {
                    self.close_server(p, &link);
                    self.tell(c, &Error::InvalidServerParameter)?;
                }
                self.report.sets_failed += 1;
                self.act(p)?;
            }
        }
        Ok(())
    }

    /// Something arrived on a server that nobody is linked to.
    pub(super) fn idle_server(&mut self, b: usize, most: usize) -> Outcome<bool> {
        let backend = &mut self.backends[b];
        let (p, id) = (backend.pool, backend.id);
        if !backend.open || (backend.output.is_empty() && !backend.output.closed) {
            return Ok(false);
        }
        let Some(mut server) = self.pools[p].pool.take_idle(id) else { return Ok(false) };
        if backend.output.is_over() {
            self.close_server(p, &Link { id, server });
            self.report.idle_servers_lost += 1;
        } else {
            backend.output.read(&mut server.unread, most);
            self.release(p, Link { id, server })?;
        }
        self.act(p)?;
        Ok(true)
    }

    // The reset query of session pooling, and the check query.

    pub(super) fn begin_test(&mut self, p: usize, link: Link) {
        self.pools[p].pool.begin_test(link.id);
        self.begin_own(p, link, RESET_QUERY);
        self.report.resets += 1;
    }

    /// Sends a query whose replies go to nobody to a server that is out for it.
    pub(super) fn begin_own(&mut self, p: usize, mut link: Link, sql: &str) {
        link.server.core.handle_own_query();
        frontend::query(&mut link.server.unsent, sql);
        self.tests.push(Test { pool: p, link, failure: None });
    }

    pub(super) fn run_tests(&mut self, most: usize) -> Outcome<bool> {
        if self.tests.is_empty() {
            return Ok(false);
        }
        let at = self.random.below(self.tests.len());
        let mut test = self.tests.swap_remove(at);
        let (p, server) = (test.pool, &mut test.link.server);
        let backend = &mut self.backends[server.backend];
        if backend.input.write(&mut server.unsent, most) > 0 {
            self.tests.push(test);
            return Ok(true);
        }
        if backend.output.is_over() {
            self.close_server(p, &test.link);
            self.act(p)?;
            return Ok(true);
        }
        let read = backend.output.read(&mut server.unread, most) > 0;
        let said = server.core.handle_own_reply(&server.unread, &self.tracked, &mut test.failure);
        match said.map_err(|error| format!("reset of backend {}: {error}", server.backend))? {
            OwnQuery::More(n) => {
                server.unread.drain(..n);
                self.tests.push(test);
            }
            OwnQuery::Done(n) => {
                server.unread.drain(..n);
                server.core.doubt_applied();
                self.release(p, test.link)?;
            }
            OwnQuery::Failed(..) => {
                self.close_server(p, &test.link);
                self.report.resets_failed += 1;
            }
        }
        self.act(p)?;
        Ok(read)
    }

    /// True when the client has everything that its requests so far will bring.
    pub(super) fn is_settled(&self, c: usize) -> bool {
        let client = &self.clients[c];
        let empty = client.unwritten.is_empty()
            && client.unread.is_empty()
            && client.unsent.is_empty()
            && client.to_proxy.is_empty()
            && client.from_proxy.is_empty();
        empty
            && match &client.phase {
                Phase::Unlinked => true,
                Phase::Linked(link) => {
                    let backend = &self.backends[link.server.backend];
                    link.server.unsent.is_empty()
                        && link.server.unread.is_empty()
                        && backend.alive
                        && backend.input.is_empty()
                        && backend.output.is_empty()
                        && backend.model.is_quiet()
                        && backend.model.flushed() == 0
                }
                _ => false,
            }
    }

    // Cancel requests.

    pub(super) fn begin_cancel(&mut self, c: usize) {
        let p = self.clients[c].pool;
        let Some((id, key)) = self.pools[p].pool.begin_cancel(Self::id(c)) else { return };
        let backend = u64::from_be_bytes(*key.first_chunk().expect("keys are eight bytes")) as usize;
        self.cancels.push(Cancel { pool: p, id, backend, client: c, delivered: false });
        self.report.cancels += 1;
    }

    /// A cancel request reaches its backend, or, later, is known to have reached it.
    pub(super) fn run_cancel(&mut self) -> Outcome<bool> {
        if self.cancels.is_empty() {
            return Ok(false);
        }
        let at = self.random.below(self.cancels.len());
        let cancel = &mut self.cancels[at];
        if cancel.delivered {
            let (p, id) = (cancel.pool, cancel.id);
            self.cancels.swap_remove(at);
            self.pools[p].pool.end_cancel(self.now, id);
            self.act(p)?;
            return Ok(true);
        }
        cancel.delivered = true;
        let backend = &mut self.backends[cancel.backend];
        if !backend.alive {
            return Ok(true);
        }
        match backend.model.running() {
            None => {}
            Some((Some(token), step)) if token.client as usize == cancel.client => {
                self.hits.insert((token, step));
                self.report.cancels_hit += 1;
            }
            Some((None, _)) if self.tests.iter().any(|test| test.link.server.backend == cancel.backend) => {
                backend.model.cancel_own();
            }
            Some((victim, _)) => {
                return Err(format!("a cancel request of client {} hit {victim:?}", cancel.client));
            }
        }
        Ok(true)
    }

    /// True while the application may still act.
    pub(super) fn is_present(&self, c: usize) -> bool {
        self.clients[c].life != Life::Gone
    }
}
