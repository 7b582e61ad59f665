//! The limit on open files, which every client and server connection counts against.

use anyhow::{Context, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Raises our soft limit on open files to the hard limit and returns it. Programs started later inherit it.
pub fn raise_fd_limit() -> Result<u64> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).context("reading the limit on open files")?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).context("raising the limit on open files")?;
    Ok(hard)
}
