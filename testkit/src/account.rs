//! The unprivileged account under which servers run when we are root: PostgreSQL and PgBouncer refuse to run as root.
//! It does not create accounts.

use std::{
    io,
    os::unix::{fs::chown, process::CommandExt},
    path::Path,
    process::Command,
};

use anyhow::{Context, Result};
use nix::unistd::{Uid, User};

/// Whom a server process runs as.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Account {
    /// We are not root: servers run as we do.
    Ours,
    /// We are root: servers run as this one.
    Other { uid: u32, gid: u32 },
}

impl Account {
    /// The account for servers: `postgres` if it exists, else `nobody`, when we are root.
    pub(crate) fn for_servers() -> Result<Self> {
        if !Uid::effective().is_root() {
            return Ok(Self::Ours);
        }
        for name in ["postgres", "nobody"] {
            if let Some(user) = User::from_name(name).with_context(|| format!("looking up the account {name}"))? {
                return Ok(Self::Other { uid: user.uid.as_raw(), gid: user.gid.as_raw() });
            }
        }
        anyhow::bail!("we are root and neither an account postgres nor nobody exists to run servers as")
    }

    /// Makes `command` run as this account. std drops the supplementary groups of root along with the user.
    pub(crate) fn apply(self, command: &mut Command) -> &mut Command {
        match self {
            Self::Ours => command,
            Self::Other { uid, gid } => command.uid(uid).gid(gid),
        }
    }

    /// Gives one file or directory to this account.
    pub(crate) fn own(self, path: &Path) -> io::Result<()> {
        match self {
            Self::Ours => Ok(()),
            Self::Other { uid, gid } => chown(path, Some(uid), Some(gid)),
        }
    }
}
