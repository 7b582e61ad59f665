//! Histograms of how long servers worked on queries, with buckets that double: what SHOW LATENCIES shows.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tigger_bypass::LATENCY_BUCKETS;

/// A histogram that clients' tasks add to. The kernel path has one of its own, with the same buckets.
#[derive(Debug, Default)]
pub struct Histogram([AtomicU64; LATENCY_BUCKETS]);

impl Histogram {
    /// Adds so many queries that took this long.
    pub fn add(&self, time: Duration, queries: u64) {
        self.0[bucket(time)].fetch_add(queries, Ordering::Relaxed);
    }

    /// The counts now.
    pub fn read(&self) -> Latencies {
        Latencies(std::array::from_fn(|bucket| self.0[bucket].load(Ordering::Relaxed)))
    }
}

/// Counts of a histogram; see [`LATENCY_BUCKETS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Latencies(pub [u64; LATENCY_BUCKETS]);

impl Latencies {
    /// The sum of both.
    #[must_use]
    pub fn plus(&self, other: &Self) -> Self {
        Self(std::array::from_fn(|bucket| self.0[bucket] + other.0[bucket]))
    }

    /// Queries.
    pub fn count(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Microseconds within which so many of a hundred queries were done: an upper limit, at most twice as much as it was.
    /// `None` without queries.
    pub fn percentile(&self, percent: u64) -> Option<u64> {
        // Rounded up, so that the 100th is the slowest.
        let wanted = (u128::from(self.count()) * u128::from(percent)).div_ceil(100);
        let mut sum = 0;
        let bucket = self.0.iter().position(|count| {
            sum += u128::from(*count);
            sum >= wanted && sum > 0
        })?;
        Some(limit(bucket).as_micros() as u64)
    }
}

/// Where a time belongs; as in `bypass/src/bpf/replies.bpf.h`.
fn bucket(time: Duration) -> usize {
    let units = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX) >> 10;
    (units.checked_ilog2().map_or(0, |n| n as usize + 1)).min(LATENCY_BUCKETS - 1)
}

/// What all times in a bucket are below.
fn limit(bucket: usize) -> Duration {
    Duration::from_nanos(1024 << bucket)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_below_the_limit_of_their_bucket() {
        for nanos in [0, 1, 1023, 1024, 2047, 2048, 1_000_000, 1_000_000_000, 1_000_000_000_000] {
            let time = Duration::from_nanos(nanos);
            let bucket = bucket(time);
            assert!(time < limit(bucket), "{time:?} {bucket}");
            assert!(bucket == 0 || time >= limit(bucket - 1), "{time:?} {bucket}");
        }
        assert_eq!(bucket(Duration::from_secs(1 << 30)), LATENCY_BUCKETS - 1);
    }

    #[test]
    fn percentiles() {
        let histogram = Histogram::default();
        assert_eq!(histogram.read().percentile(50), None);
        let check = |percent, expected| assert_eq!(histogram.read().percentile(percent), Some(expected), "{percent}");
        histogram.add(Duration::from_micros(100), 1);
        check(1, 131);
        check(100, 131);
        histogram.add(Duration::from_micros(3), 98);
        histogram.add(Duration::from_millis(100), 1);
        check(50, 4);
        check(98, 4);
        check(99, 131);
        check(100, 134_217);
        let twice = histogram.read().plus(&histogram.read());
        assert_eq!((twice.count(), twice.percentile(99)), (200, Some(131)));
    }
}
