//! What happens outside the proxy: applications write and read, backends run, time passes, things break.

use std::time::Duration;

use super::checker::NOISE;
use super::script::Then;
use super::world::{Life, Outcome, Phase, World};
use crate::error::Error;
use crate::wire::backend::message;
use crate::wire::error_response::{self, Severity};

impl World {
    // The applications.

    pub(super) fn client_writes(&mut self, c: usize, most: usize) -> Outcome<bool> {
        if matches!(self.clients[c].phase, Phase::Absent) {
            self.arrive(c)?;
            return Ok(true);
        }
        let settled = self.is_settled(c);
        let client = &mut self.clients[c];
        if client.core.is_none() || matches!(client.life, Life::Leaving | Life::Gone) {
            return Ok(false);
        }
        if client.life == Life::Expecting {
            if !settled {
                return Ok(false);
            }
            client.checker.check_complete(&self.hits)?;
            client.life = Life::Talking;
            self.check_kept(c)?;
        }
        let client = &mut self.clients[c];
        if client.unwritten.is_empty() {
            match client.script.pop_front() {
                Some(segment) => (client.unwritten, client.then) = (segment.bytes, segment.then),
                None if settled => {
                    client.checker.check_complete(&self.hits)?;
                    client.life = Life::Leaving;
                    client.to_proxy.closed = true;
                    self.report.clients_served += 1;
                    return Ok(true);
                }
                None => return Ok(false),
            }
        }
        let start = client.unwritten[..most.min(client.unwritten.len())].to_vec();
        let n = client.to_proxy.write(&mut client.unwritten, most);
        client.checker.handle_written(&start[..n]);
        if client.unwritten.is_empty() {
            client.life = match client.then {
                Then::GoOn => Life::Talking,
                Then::Wait => Life::Expecting,
                Then::Leave => Life::Leaving,
            };
        }
        Ok(n > 0)
    }

    pub(super) fn client_reads(&mut self, c: usize, most: usize) -> Outcome<bool> {
        let client = &mut self.clients[c];
        let mut bytes = Vec::new();
        if client.life == Life::Gone {
            return Ok(false);
        }
        if client.from_proxy.read(&mut bytes, most) > 0 {
            client.checker.handle_received(&bytes, &self.hits, &mut self.report)?;
            return Ok(true);
        }
        if !client.from_proxy.is_over() {
            return Ok(false);
        }
        let expected = client.life == Life::Leaving || client.checker.killed || client.checker.told.is_some();
        client.checker.check_end(expected, &self.hits)?;
        client.life = Life::Gone;
        Ok(true)
    }

    // The backends.

    pub(super) fn backend_runs(&mut self, b: usize, most: usize) -> bool {
        let backend = &mut self.backends[b];
        if !backend.alive {
            return false;
        }
        let mut bytes = Vec::new();
        backend.input.read(&mut bytes, most);
        backend.model.feed(&bytes);
        // A backend that cannot write does not go on.
        let blocked = backend.model.flushed() > 0;
        let hung_up = !blocked && backend.input.is_over() && backend.model.is_quiet();
        let ends = !blocked && (hung_up || backend.model.meets_terminate());
        let cut_off = ends && backend.model.is_cut_off();
        let ran = !blocked && backend.model.step(&self.hits);
        let wrote = backend.send(most);
        backend.model.over |= hung_up;
        if backend.model.over {
            backend.alive = false;
            backend.output.closed = true;
        }
        if cut_off {
            self.excuse(b);
        }
        ran || wrote || !bytes.is_empty()
    }

    /// A server was ended in doubt while its client had begun a transaction or a COPY. It is told, but not byte for byte
    /// what it would be without a proxy.
    fn excuse(&mut self, b: usize) {
        for client in &mut self.clients {
            if matches!(&client.phase, Phase::Linked(link) if link.server.backend == b) && !client.checker.excused {
                client.checker.excused = true;
                self.report.clients_excused += 1;
            }
        }
    }

    pub(super) fn time_passes(&mut self) -> Outcome {
        let millis = self.random.size(2000) as u64;
        self.advance_time(Duration::from_millis(millis))
    }

    pub(super) fn advance_time(&mut self, by: Duration) -> Outcome {
        self.now += by;
        for p in 0..self.pools.len() {
            self.pools[p].pool.handle_tick(self.now);
            self.act(p)?;
        }
        Ok(())
    }

    // Faults.

    pub(super) fn fault(&mut self, c: usize) -> Outcome {
        let p = self.random.below(self.pools.len());
        match self.random.below(24) {
            0 => {
                let client = &mut self.clients[c];
                if self.random.chance(30) && client.life != Life::Gone && !matches!(client.phase, Phase::Absent) {
                    client.life = Life::Leaving;
                    client.to_proxy.closed = true;
                    self.report.hang_ups += 1;
                }
            }
            1 if self.random.chance(50) => self.kill(),
            2 | 3 => self.make_noise(),
            4 if self.random.chance(50) => {
                self.pools[p].pool.pause();
                self.report.pauses += 1;
            }
            5..=7 => self.pools[p].pool.resume(self.now),
            8 if self.random.chance(30) => {
                self.pools[p].pool.reconnect(self.now, &Error::CloseNeeded);
                self.report.reconnects += 1;
            }
            9 if self.random.chance(50) => {
                let limits = self.limits();
                self.pools[p].limits = limits;
                self.pools[p].pool.set_limits(self.now, limits);
                self.report.limit_changes += 1;
            }
            10.. => self.begin_cancel(c),
            _ => {}
        }
        self.act(p)
    }

    fn kill(&mut self) {
        if self.backends.is_empty() {
            return;
        }
        let b = self.random.below(self.backends.len());
        let speaks = self.random.chance(50);
        let backend = &mut self.backends[b];
        if !backend.alive {
            return;
        }
        backend.alive = false;
        if speaks && backend.model.flushed() == 0 {
            let mut last = Vec::new();
            error_response::write(&mut last, Severity::Fatal, "57P01", "terminating connection");
            let len = last.len();
            backend.output.write(&mut last, len);
        }
        backend.output.closed = true;
        self.report.kills += 1;
        if self.trace {
            eprintln!("kill backend {b}");
        }
    }

    /// An idle backend says something unasked.
    fn make_noise(&mut self) {
        if self.backends.is_empty() {
            return;
        }
        let b = self.random.below(self.backends.len());
        let backend = &mut self.backends[b];
        if !backend.alive || !backend.open || backend.model.soiled().is_some() || !backend.input.is_empty() {
            return;
        }
        let mut noise = Vec::new();
        if self.random.chance(50) {
            message(&mut noise, b'A', |out| out.extend_from_slice(format!("\0\0\0\x01{NOISE}\0\0").as_bytes()));
        } else {
            error_response::write(&mut noise, Severity::Notice, "00000", NOISE);
        }
        backend.model.say(&noise);
        self.report.noises += 1;
    }
}
