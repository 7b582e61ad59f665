//! What belongs to the process as a whole: its clock, its random bytes, its limits.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tigger_proto::error::Error;

/// Microseconds since 1970.
pub fn unix_micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// The same for an instant of the past.
pub fn unix_micros_of(instant: Instant) -> u64 {
    unix_micros().saturating_sub(instant.elapsed().as_micros() as u64)
}

/// An instant that others may read while it changes.
#[derive(Debug)]
pub struct AtomicInstant(AtomicU64);

/// What [`AtomicInstant`] counts nanoseconds from: before all that is ever stored.
static BASE: LazyLock<Instant> = LazyLock::new(|| {
    let now = Instant::now();
    now.checked_sub(Duration::from_secs(3600)).unwrap_or(now)
});

impl AtomicInstant {
    /// Holds this instant.
    pub fn new(instant: Instant) -> Self {
        Self(AtomicU64::new(nanos(instant)))
    }

    /// What it holds.
    pub fn load(&self) -> Instant {
        *BASE + Duration::from_nanos(self.0.load(Ordering::Relaxed))
    }

    /// Holds another one.
    pub fn store(&self, instant: Instant) {
        self.0.store(nanos(instant), Ordering::Relaxed);
    }

    /// True when `now` is not before it.
    pub fn is_past(&self, now: Instant) -> bool {
        nanos(now) >= self.0.load(Ordering::Relaxed)
    }
}

fn nanos(instant: Instant) -> u64 {
    instant.saturating_duration_since(*BASE).as_nanos() as u64
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
