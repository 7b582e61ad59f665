//! What belongs to the process as a whole: its clock, its random bytes, its limits.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tigger_proto::error::Error;

/// Microseconds since 1970.
pub fn unix_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// Random bytes from the operating system.
///
/// # Errors
/// It has none: the connection that needs them is refused.
pub fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| {
        tracing::warn!("no random bytes: {error}");
        Error::ConfigError
    })?;
    Ok(bytes)
}

/// A number that no other connection of this process has; the console shows it in place of PgBouncer's pointers.
pub fn next_serial() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0x1000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Raises the limit on open files as far as it may be raised; returns the limit.
pub fn raise_file_limit() -> u64 {
    match getrlimit(Resource::RLIMIT_NOFILE) {
        Ok((soft, hard)) if soft < hard => match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
            Ok(()) => hard,
            Err(error) => {
                tracing::warn!("could not raise the limit on open files from {soft}: {error}");
                soft
            }
        },
        Ok((soft, _)) => soft,
        Err(error) => {
            tracing::warn!("limit on open files is not known: {error}");
            u64::MAX
        }
    }
}
