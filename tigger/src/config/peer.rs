//! One line of `[peers]`. The lines are checked, so that a file of PgBouncer is accepted, but nothing uses them yet.

use super::connection_string::{self, Key};
use super::ini::Entry;
use super::kind::Kind;
use super::{ConfigError, Host, Warning};

/// Another pooler of the same group, as its line gives it.
#[derive(Default)]
pub(super) struct Peer {
    hosts: Vec<Host>,
}

impl Peer {
    /// Checks one line and warns that it is not used.
    pub(super) fn check(entry: &Entry, warnings: &mut Vec<Warning>) -> Result<(), ConfigError> {
        let error = |message: String| ConfigError::new(entry.place.clone(), message);
        if !entry.key.parse::<u16>().is_ok_and(|id| (1..=PEER_ID_MAX).contains(&id)) {
            return Err(error(format!("peer id {:?} is not a number from 1 to {PEER_ID_MAX}", entry.key)));
        }
        let mut peer = Self::default();
        // One warning for the line says enough.
        connection_string::fill(KEYS, &entry.value, &entry.place, &mut peer, &mut Vec::new())?;
        if peer.hosts.is_empty() {
            return Err(error(format!("host was not provided for peer {}", entry.key)));
        }
        warnings.push(Warning {
            place: entry.place.clone(),
            message: format!("peer {} is accepted but not built yet: ignored", entry.key),
        });
        Ok(())
    }
}

/// Highest peer id: 14 bits of the cancel key carry it.
pub(super) const PEER_ID_MAX: u16 = 16383;

/// All keys of a line in `[peers]`.
pub(super) const KEYS: &[Key<Peer>] = &[
    Key {
        name: "host",
        kind: Kind::Hosts(Some(|p| &mut p.hosts)),
        doc: "Name, address or unix socket directory of the peer. It must be given.",
    },
    Key { name: "port", kind: Kind::Port(None), doc: "Port of the peer, 6432 if not given." },
    Key {
        name: "pool_size",
        kind: Kind::CountOverride(None),
        doc: "Most cancel requests under way to the peer at the same time, instead of `default_pool_size`.",
    },
];
