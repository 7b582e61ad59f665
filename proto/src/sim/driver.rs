//! What the process around the core does, without sockets: it moves bytes between clients and servers, links and
//! unlinks them, and carries out what pools ask for. Each function is one step; steps of different connections mix in
//! any order.

use std::sync::Arc;

use super::world::{Link, Outcome, Phase, SimServer, World};
use crate::client::{Client, ClientLimits, FromClient};
use crate::error::Error;
use crate::pool::{Claim, Grant, PoolMode, Purpose, ServerId};
use crate::wire::backend::TransactionStatus;
use crate::wire::frame::MESSAGE_LEN_MAX;
use crate::wire::frontend;

/// Most bytes read from a client before they are handled.
const UNREAD_MAX: usize = 16 * 1024;

pub(super) const RESET_QUERY: &str = "discard all";

pub(super) const CHECK_QUERY: &str = "";

impl World {
    // Clients.

    /// A client has proved who it is: it is welcomed, or waits for a server's parameters.
    pub(super) fn arrive(&mut self, c: usize) -> Outcome {
        let p = self.clients[c].pool;
        let pool = &mut self.pools[p].pool;
        if pool.is_welcoming() {
            self.welcome(c);
        } else if let Some(error) = pool.fail_fast(self.now) {
            self.tell(c, &error)?;
        } else {
            let ticket = pool.wait(self.now, Self::id(c), Purpose::Login, c);
            self.clients[c].phase = Phase::LoggingIn(ticket);
            self.report.welcome_waits += 1;
        }
        self.act(p)
    }

    fn welcome(&mut self, c: usize) {
        let client = &mut self.clients[c];
        let mut parameters = client.start_up.clone();
        parameters.fill_unset(&self.pools[client.pool].welcome);
        client.core = Some(Client::new(parameters).preparing(Arc::clone(&self.pools[client.pool].registry)));
        client.phase = Phase::Unlinked;
    }

    pub(super) fn read_client(&mut self, c: usize, most: usize) -> Outcome<bool> {
        let client = &mut self.clients[c];
        if matches!(client.phase, Phase::Absent | Phase::Closed) {
            return Ok(false);
        }
        if client.to_proxy.is_over() {
            self.end_client(c)?;
            return Ok(true);
        }
        let blocked = matches!(&client.phase, Phase::Linked(link) if !link.server.unsent.is_empty());
        if blocked || client.unread.len() >= UNREAD_MAX || client.core.is_none() {
            return Ok(false);
        }
        let read = client.to_proxy.read(&mut client.unread, most) > 0;
        self.advance(c)?;
        Ok(read)
    }

    /// Handles what was read from a client, as far as it goes.
    pub(super) fn advance(&mut self, c: usize) -> Outcome {
        loop {
            let client = &mut self.clients[c];
            let limits = ClientLimits {
                packet_len_max: MESSAGE_LEN_MAX,
                simple_query: true,
                prepared_max: self.pools[client.pool].prepared_max,
                // No schedule has commands.
                listens: false,
            };
            let Some(core) = client.core.as_mut() else { return Ok(()) };
            if client.unread.is_empty() && !core.is_held() {
                return Ok(());
            }
            let said = match &mut client.phase {
                Phase::Unlinked => core.handle_bytes_unlinked(&client.unread, limits),
                Phase::Linked(link) if link.server.unsent.is_empty() => {
                    core.handle_bytes(&client.unread, &mut link.server.core, limits)
                }
                _ => return Ok(()),
            };
            let said = match said {
                Ok(said) => said,
                Err(error @ (Error::PreparedMissing | Error::PreparedInUse | Error::PreparedBehindCopy)) => {
                    return self.refuse(c, &error);
                }
                Err(error) => return Err(format!("client {c} was refused: {error}")),
            };
            match said {
                FromClient::Discard(0) | FromClient::Forward(0) | FromClient::Full(0) => return Ok(()),
                FromClient::Discard(n) => drop(client.unread.drain(..n)),
                FromClient::NeedServer => self.claim(c)?,
                FromClient::Forward(n) | FromClient::Full(n) => self.forward(c, n)?,
                FromClient::Splice { forward, skip, insert } => self.splice(c, forward, skip, &insert)?,
                FromClient::Command(_) => return Err(format!("client {c} sent no command")),
                FromClient::Terminate(n) => {
                    self.forward(c, n)?;
                    return self.end_client(c);
                }
            }
        }
    }

    /// The client names a prepared statement that it does not have, or has already: unlike a backend, the proxy ends it.
    pub(super) fn refuse(&mut self, c: usize, error: &Error) -> Outcome {
        let p = self.clients[c].pool;
        if let Phase::Linked(link) = std::mem::replace(&mut self.clients[c].phase, Phase::Closed) {
            self.close_server(p, &link);
            if link.server.core.at_border() {
                self.tell(c, error)?;
            } else {
                self.clients[c].checker.killed = true;
            }
        }
        self.report.statements_unknown += 1;
        self.act(p)
    }

    /// A message goes on as another, or is answered at once.
    fn splice(&mut self, c: usize, forward: usize, skip: usize, insert: &[u8]) -> Outcome {
        let client = &mut self.clients[c];
        let Phase::Linked(link) = &mut client.phase else { return Ok(()) };
        link.server.unsent.extend(client.unread.drain(..forward));
        link.server.unsent.extend(insert);
        client.unread.drain(..skip);
        while let Some(fake) = link.server.core.poll_fake() {
            client.unsent.extend(fake);
            self.report.fakes += 1;
        }
        let uses = client.core.as_mut().expect("it is linked").take_uses();
        self.report.parses_sent += uses.server_parses;
        self.forward(c, 0)
    }

    fn forward(&mut self, c: usize, n: usize) -> Outcome {
        let client = &mut self.clients[c];
        let Phase::Linked(link) = &mut client.phase else { return Ok(()) };
        link.server.unsent.extend(client.unread.drain(..n));
        let most = if self.random.chance(80) { usize::MAX } else { self.random.below(20) };
        self.write_to_server(c, most);
        self.settle(c, false)
    }

    /// Writes what waits for a client's server; false when there is nothing or no room.
    pub(super) fn flush_to_server(&mut self, c: usize, most: usize) -> Outcome<bool> {
        if !self.write_to_server(c, most) {
            return Ok(false);
        }
        self.settle(c, false)?;
        self.advance(c)?;
        Ok(true)
    }

    fn write_to_server(&mut self, c: usize, most: usize) -> bool {
        match &mut self.clients[c].phase {
            Phase::Linked(link) | Phase::Setting(link, _) => {
                let backend = &mut self.backends[link.server.backend];
                if !backend.alive {
                    backend.input.clear();
                }
                let wrote = backend.input.write(&mut link.server.unsent, most) > 0;
                if link.server.core.is_ending() && link.server.unsent.is_empty() {
                    backend.input.closed = true;
                }
                wrote
            }
            _ => false,
        }
    }

    pub(super) fn flush_to_client(&mut self, c: usize, most: usize) -> Outcome<bool> {
        let client = &mut self.clients[c];
        let wrote = client.from_proxy.write(&mut client.unsent, most) > 0;
        if client.unsent.is_empty() && matches!(client.phase, Phase::Closed) {
            client.from_proxy.closed = true;
        }
        Ok(wrote)
    }

    /// The client hung up or said goodbye.
    fn end_client(&mut self, c: usize) -> Outcome {
        let (p, now) = (self.clients[c].pool, self.now);
        let client = &mut self.clients[c];
        let at_border = client.core.as_ref().is_none_or(Client::is_whole);
        match std::mem::replace(&mut client.phase, Phase::Closed) {
            Phase::LoggingIn(ticket) | Phase::Waiting(ticket) => {
                if self.pools[p].pool.leave(ticket) {
                    self.pools[p].queue.retain(|&waiting| waiting != c);
                    self.report.waiters_left += 1;
                } else if let Some(Grant::Server(id, server)) = client.grant.take() {
                    self.pools[p].pool.handle_release(now, id, server);
                    self.report.grants_returned += 1;
                }
            }
            Phase::Linked(mut link) => {
                client.core.as_mut().expect("it is linked").unlink(&mut link.server.core);
                let idle = link.server.core.is_idle() && at_border && link.server.unsent.is_empty();
                match self.pools[p].mode {
                    PoolMode::Session if idle => self.begin_test(p, link),
                    _ if idle => self.release(p, link)?,
                    _ => self.close_server(p, &link),
                }
            }
            Phase::Setting(link, _) => self.close_server(p, &link),
            Phase::Absent | Phase::Unlinked | Phase::Closed => {}
        }
        self.act(p)
    }

    /// Ends a client with an error, if its server left it at a message border (`at_border`).
    pub(super) fn tell(&mut self, c: usize, error: &Error) -> Outcome {
        let client = &mut self.clients[c];
        let pool = &self.pools[client.pool];
        let cause = match error {
            Error::ServerCrashed => client.checker.killed || client.checker.excused,
            Error::StatementPooling => pool.mode == PoolMode::Statement,
            Error::InvalidServerParameter | Error::ParameterRefused(_) => client.bad_start_up,
            // Or another error comes first, which the proxy does not know of yet.
            Error::PreparedMissing | Error::PreparedInUse => client.checker.expects_error("", &self.hits),
            // The COPY has failed, or is about to fail.
            Error::PreparedBehindCopy => {
                let fails = ["22P04", "57014", "42809", "08P01"];
                client.checker.killed
                    || client.checker.in_doubt
                    || fails.iter().any(|code| client.checker.expects_error(code, &self.hits))
            }
            Error::ServerLoginFailing(_) | Error::ServerRefused(_) => self.report.login_failures > 0,
            _ => false,
        };
        if !cause {
            return Err(format!("client {c} is told without a cause: {error}"));
        }
        if self.trace {
            eprintln!("client {c} is told {error}");
        }
        client.phase = Phase::Closed;
        client.checker.told = Some(error.response());
        client.unsent.extend(error.response());
        self.report.clients_told += 1;
        Ok(())
    }

    // Linking.

    fn claim(&mut self, c: usize) -> Outcome {
        let p = self.clients[c].pool;
        let pool = &mut self.pools[p];
        match pool.pool.claim(self.now, Self::id(c)) {
            Claim::Linked(id, server) => {
                if !pool.queue.is_empty() {
                    return Err(format!("client {c} was linked before {:?}", pool.queue));
                }
                if pool.pool.is_paused() {
                    return Err(format!("client {c} was linked in a paused pool"));
                }
                self.link(c, id, server)?;
            }
            Claim::MustWait => {
                pool.queue.push_back(c);
                let ticket = pool.pool.wait(self.now, Self::id(c), Purpose::Server, c);
                self.clients[c].phase = Phase::Waiting(ticket);
                self.report.waits += 1;
            }
            Claim::Failed(error) => self.tell(c, &error)?,
        }
        self.act(p)
    }

    /// A waiting client learns what it got.
    pub(super) fn take_grant(&mut self, c: usize) -> Outcome<bool> {
        let Some(grant) = self.clients[c].grant.take() else { return Ok(false) };
        match grant {
            Grant::Welcome => self.welcome(c),
            Grant::Failed(error) => self.tell(c, &error)?,
            Grant::Server(id, server) => {
                self.link(c, id, server)?;
                self.advance(c)?;
            }
        }
        Ok(true)
    }

    fn link(&mut self, c: usize, id: ServerId, mut server: SimServer) -> Outcome {
        self.check_link(c, id, &server)?;
        self.report.links += 1;
        if server.core.take_corrections().next().is_some() {
            return Err(format!("client {c} gets a server that has news for another"));
        }
        let client = &mut self.clients[c];
        let core = client.core.as_ref().expect("a client that claims is welcomed");
        if self.trace {
            eprintln!("client {c} linked to backend {} as {id:?}", server.backend);
        }
        if core.parameters.served_by(server.core.parameters()) {
            self.pools[client.pool].pool.set_cancelable(id, true);
            client.phase = Phase::Linked(Link { id, server });
            return Ok(());
        }
        self.pools[client.pool].pool.set_cancelable(id, false);
        self.set_parameters(c, Link { id, server });
        Ok(())
    }

    /// Takes from the server what was applied for others, or gives it what this client has; links it when it has that.
    pub(super) fn set_parameters(&mut self, c: usize, mut link: Link) {
        let client = &mut self.clients[c];
        let core = client.core.as_mut().expect("a client that claims is welcomed");
        let server = &mut link.server;
        let theirs = server.core.parameters();
        let reset = core.parameters.reset_query(theirs);
        self.report.parameter_resets += u64::from(reset.is_some());
        let Some(sql) = reset.or_else(|| core.parameters.set_query(theirs, &self.tracked)) else {
            core.parameters = theirs.clone();
            self.pools[client.pool].pool.set_cancelable(link.id, true);
            client.phase = Phase::Linked(link);
            return;
        };
        server.core.handle_own_query();
        frontend::query(&mut server.unsent, &sql);
        client.phase = Phase::Setting(link, None);
        self.report.sets += 1;
    }

    /// Gives the server back, or ends it, where the client and the server stand for that.
    pub(super) fn settle(&mut self, c: usize, ready: bool) -> Outcome {
        let client = &mut self.clients[c];
        let p = client.pool;
        let at_border = client.core.as_ref().is_some_and(Client::is_whole);
        let Phase::Linked(link) = &client.phase else { return Ok(()) };
        let server = &link.server.core;
        let mode = self.pools[p].mode;
        if mode == PoolMode::Session || !link.server.unsent.is_empty() {
            return Ok(());
        }
        let refused = mode == PoolMode::Statement && ready && server.status() != TransactionStatus::Idle;
        let (idle, spent) = (server.is_idle() && at_border, server.is_spent() && at_border);
        if !refused && !idle && !spent {
            return Ok(());
        }
        if spent && let Phase::Linked(link) = &mut client.phase {
            link.server.core.handle_terminate();
            link.server.unsent.extend(frontend::TERMINATE);
            self.report.servers_spent += 1;
            self.write_to_server(c, usize::MAX);
            return Ok(());
        }
        let Phase::Linked(mut link) = std::mem::replace(&mut client.phase, Phase::Unlinked) else { return Ok(()) };
        client.core.as_mut().expect("it is linked").unlink(&mut link.server.core);
        if refused {
            self.report.statements_refused += 1;
            self.close_server(p, &link);
            self.tell(c, &Error::StatementPooling)?;
        } else {
            self.release(p, link)?;
        }
        self.act(p)
    }

    pub(super) fn release(&mut self, p: usize, mut link: Link) -> Outcome {
        self.report.releases += 1;
        let server = &mut link.server;
        match server.core.handle_idle_bytes(&server.unread, &self.tracked) {
            Ok(n) => {
                server.unread.drain(..n);
                self.pools[p].pool.handle_release(self.now, link.id, link.server);
            }
            Err(error) => self.idle_failed(p, &link, &error)?,
        }
        Ok(())
    }

    /// An idle server is closed because of what it said: only a killed one may say so.
    fn idle_failed(&mut self, p: usize, link: &Link, error: &Error) -> Outcome {
        if !matches!(error, Error::ServerRefused(_)) || self.backends[link.server.backend].alive {
            return Err(format!("idle backend {}: {error}", link.server.backend));
        }
        self.close_server(p, link);
        Ok(())
    }

    pub(super) fn close_server(&mut self, p: usize, link: &Link) {
        self.hang_up(link.server.backend);
        self.pools[p].pool.handle_closed(self.now, link.id);
    }

    pub(super) fn hang_up(&mut self, b: usize) {
        let backend = &mut self.backends[b];
        backend.open = false;
        backend.alive = false;
        if self.trace {
            eprintln!("backend {b} closed");
        }
    }
}
