//! Memory of idle clients: opens thousands of connections through a fresh pooler, then proves on some that they work.
//! It speaks just enough of the protocol (PostgreSQL manual 55.2.1 and 55.2.3) for a login with `trust` and one query.

use std::{
    io::{self, Read, Write},
    net::TcpStream,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    report::{Idle, Outcome},
    rig::Rig,
    scenario::Rival,
};

/// Opens `clients` connections and looks at the pooler's memory before and after.
pub(crate) fn measure(rig: &Rig, rival: Rival, clients: u32, fd_limit: u64) -> Result<Outcome> {
    if let Some(skipped) = too_few_files(clients, fd_limit) {
        return Ok(skipped);
    }
    let pooler = rig.fresh_pooler(rival)?;
    // The first client makes the pooler connect to the server, which is not a cost per client.
    let mut failures = u64::from(Client::connect(pooler.port()).and_then(|mut client| client.query()).is_err());
    let before_kib = pooler.rss_kib()?;
    let mut connected = Vec::with_capacity(clients as usize);
    let mut error = None;
    for _ in 0..clients {
        match Client::connect(pooler.port()) {
            Ok(client) => connected.push(client),
            Err(failure) => {
                failures += 1;
                error = Some(failure);
                // With a pooler that is stuck each would wait for its time-out.
                if failures >= FAILURES_MAX {
                    break;
                }
            }
        }
    }
    let after_kib = pooler.rss_kib().context("the pooler after all logins")?;
    let sample = connected.len().min(QUERIES);
    for index in spread_indices(connected.len()).take(sample) {
        if let Err(failure) = connected[index].query() {
            failures += 1;
            error = Some(failure);
        }
    }
    let error = error.map(|error| error.to_string());
    Ok(Outcome::Idle(Idle {
        clients: connected.len() as u64,
        before_kib,
        after_kib,
        queries: sample as u64,
        failures,
        error,
    }))
}

/// The outcome where so many clients cannot be had.
pub(crate) fn too_few_files(clients: u32, fd_limit: u64) -> Option<Outcome> {
    let fds_wanted = u64::from(clients) + FDS_SPARE;
    let why = || format!("needs {fds_wanted} open files, the hard limit is {fd_limit}");
    (fd_limit < fds_wanted).then(|| Outcome::Skipped { why: why() })
}

/// A client that is logged in and idle.
pub(crate) struct Client {
    stream: TcpStream,
}

impl Client {
    pub(crate) fn connect(port: u16) -> io::Result<Self> {
        let stream = TcpStream::connect(("127.0.0.1", port))?;
        stream.set_read_timeout(Some(TIMEOUT))?;
        let mut client = Self { stream };
        client
            .send(b"", &[&PROTOCOL_3_0.to_be_bytes(), b"user\0postgres\0database\0postgres\0\0".as_slice()].concat())?;
        client.read_until_ready()?;
        Ok(client)
    }

    /// Waits until the pooler says a last word, at most so long; gives its text.
    pub(crate) fn last_words(&mut self, limit: Duration) -> io::Result<String> {
        self.stream.set_read_timeout(Some(limit))?;
        match self.read_until_ready() {
            Ok(_) => Err(io::Error::other("it is told something else")),
            Err(error) if error.kind() == io::ErrorKind::Other => Ok(error.to_string()),
            Err(error) => Err(error),
        }
    }

    /// Asks for one row and wants it.
    fn query(&mut self) -> io::Result<()> {
        self.send(b"Q", b"select 1\0")?;
        if self.read_until_ready()? == 1 { Ok(()) } else { Err(io::Error::other("the query gave no row")) }
    }

    /// Sends the kind, which a startup message lacks, the length, which counts itself, and the body.
    fn send(&mut self, kind: &[u8], body: &[u8]) -> io::Result<()> {
        let length = (body.len() + 4) as u32;
        self.stream.write_all(&[kind, &length.to_be_bytes(), body].concat())
    }

    /// Reads up to ReadyForQuery and counts the rows on the way.
    fn read_until_ready(&mut self) -> io::Result<u32> {
        let mut rows = 0;
        loop {
            let mut header = [0; 5];
            self.stream.read_exact(&mut header)?;
            let [kind, length @ ..] = header;
            let length = u32::from_be_bytes(length).saturating_sub(4);
            let mut body = Vec::new();
            (&self.stream).take(length.into()).read_to_end(&mut body)?;
            match kind {
                b'Z' => return Ok(rows),
                b'D' => rows += 1,
                b'E' => return Err(io::Error::other(String::from_utf8_lossy(&body).replace('\0', " "))),
                _ => {}
            }
        }
    }
}

/// Indices below `count`, scattered, each of the first few different: steps by a prime that divides no such count.
fn spread_indices(count: usize) -> impl Iterator<Item = usize> {
    (0..count).map(move |i| (i * 7919 + 13) % count)
}

const PROTOCOL_3_0: u32 = 3 << 16;
const TIMEOUT: Duration = Duration::from_secs(20);
/// Connections that are asked a query after all are open.
const QUERIES: usize = 100;
/// Past so many failed logins the rest is not tried.
const FAILURES_MAX: u64 = 10;
/// Files beside the clients' sockets that we and the pooler have open.
const FDS_SPARE: u64 = 200;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn the_clients_asked_differ() {
        let indices: HashSet<usize> = spread_indices(10_000).take(QUERIES).collect();
        assert_eq!(indices.len(), QUERIES);
        assert!(indices.iter().all(|&index| index < 10_000));
        assert_eq!(spread_indices(0).next(), None);
    }
}
