//! Where the hosts of servers are: their names are looked up for new servers, and each `dns_zone_check_period`. Servers at
//! addresses that a name no longer has are replaced.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use tigger_proto::error::Error;
use tigger_proto::pool::ServerId;

use super::Pooler;
use super::pool::Pool;
use super::server_conn::ServerInfo;
use crate::config::{Config, Host};
use crate::net::connect::Place;
use crate::net::resolver::{Found, Lifetimes};

impl Pool {
    /// Where a new server on this host is.
    ///
    /// # Errors
    /// Its name cannot be resolved.
    pub(super) async fn place(&self, host: &Host, port: u16) -> Result<Place, Error> {
        match host {
            Host::Unix(_) => {
                Ok(Place::Unix(host.unix_socket(port).expect("a directory of a unix socket has one"), port))
            }
            Host::Tcp(name) => match name.parse() {
                Ok(ip) => Ok(Place::Tcp(vec![SocketAddr::new(ip, port)])),
                Err(_) => {
                    let mut addresses = self.pooler().ok_or(Error::ServerShuttingDown)?.resolve(name).await?;
                    addresses.iter_mut().for_each(|address| address.set_port(port));
                    Ok(Place::Tcp(addresses))
                }
            },
        }
    }

    /// The host of this name is at these addresses: servers that were connected to it elsewhere are replaced.
    fn replace_elsewhere(self: &Arc<Self>, name: &str, addresses: &[SocketAddr]) {
        let elsewhere = |server: &SocketAddr| addresses.iter().all(|known| known.ip().to_canonical() != server.ip());
        let is_elsewhere = |info: &ServerInfo| {
            matches!(&info.host, Host::Tcp(host) if host == name)
                && info.remote.socket_addr().is_some_and(|at| elsewhere(&at))
        };
        if self.listening_server().is_some_and(|info| is_elsewhere(&info)) {
            self.end_listening(&Error::DatabaseConfigChanged);
        }
        let servers: Vec<ServerId> = self.servers_of(is_elsewhere);
        if !servers.is_empty() {
            tracing::info!("{}/{}: {} servers are no longer at {name}", self.database, self.user, servers.len());
            self.run(|core| core.replace(Instant::now(), |id| servers.contains(&id), &Error::CloseNeeded));
        }
    }
}

impl Pooler {
    /// The addresses of a host, the one to be tried first in front.
    async fn resolve(&self, name: &str) -> Result<Vec<SocketAddr>, Error> {
        let found = self.resolver.resolve(name, lifetimes(&self.config()), Instant::now()).await;
        let Found { addresses, is_new } = found.map_err(|error| {
            tracing::warn!("DNS lookup failed: {name}: {error}");
            Error::DnsLookupFailed
        })?;
        if is_new {
            self.note_addresses(name, &addresses);
        }
        Ok(addresses)
    }

    /// Looks up all names of hosts again. Without an answer things stay as they are.
    pub(super) async fn check_host_names(&self) {
        let config = self.config();
        for name in host_names(&config) {
            match self.resolver.refresh(&name, lifetimes(&config), Instant::now()).await {
                Ok(found) => self.note_addresses(&name, &found.addresses),
                Err(error) => tracing::warn!("DNS lookup failed: {name}: {error}"),
            }
        }
    }

    /// The configuration has changed: forgets the names that it lacks.
    pub(super) fn forget_host_names(&self) {
        self.resolver.retain(&host_names(&self.config()));
    }

    fn note_addresses(&self, name: &str, addresses: &[SocketAddr]) {
        self.pools().iter().for_each(|pool| pool.replace_elsewhere(name, addresses));
    }
}

fn lifetimes(config: &Config) -> Lifetimes {
    Lifetimes { found: config.settings.dns_max_ttl, failed: config.settings.dns_nxdomain_ttl }
}

/// Names of hosts in the configuration; addresses are not looked up.
fn host_names(config: &Config) -> HashSet<String> {
    let hosts = config.lines().flat_map(|line| &line.hosts);
    let names = hosts.filter_map(|host| match host {
        Host::Tcp(name) if name.parse::<std::net::IpAddr>().is_err() => Some(name.clone()),
        _ => None,
    });
    names.collect()
}
