//! Counters of SHOW STATS: counted per pool, shown per database, averaged over `stats_period`.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Declares the counters once: their order is that of the columns of SHOW STATS.
macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Shared counters of one pool.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* $name: AtomicU64,)* }

        /// Values of the counters, or what one client adds to them at once.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct Tally { $($(#[$doc])* pub $name: u64,)* }

        impl Counters {
            /// Adds what a client counted.
            pub fn add(&self, tally: &Tally) {
                $(if tally.$name != 0 { self.$name.fetch_add(tally.$name, Ordering::Relaxed); })*
            }

            /// The values now.
            pub fn read(&self) -> Tally {
                Tally { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }

        impl Tally {
            /// Names of the counters, in the order of the columns.
            pub const NAMES: &'static [&'static str] = &[$(stringify!($name),)*];

            /// Values in the order of [`Self::NAMES`].
            pub fn values(&self) -> impl Iterator<Item = u64> {
                [$(self.$name,)*].into_iter()
            }

            fn combine(&self, other: &Self, f: impl Fn(u64, u64) -> u64) -> Self {
                Self { $($name: f(self.$name, other.$name),)* }
            }
        }
    };
}

counters! {
    /// Times a client was linked to a server.
    server_assignment_count,
    /// Transactions.
    xact_count,
    /// Queries: replies that ended with ReadyForQuery.
    query_count,
    /// Bytes received from clients.
    bytes_received,
    /// Bytes sent to clients.
    bytes_sent,
    /// Microseconds that clients were in a transaction.
    xact_time,
    /// Microseconds that servers worked on queries.
    query_time,
    /// Microseconds that clients waited for a server.
    wait_time,
    /// Prepared statements that clients created, where they are tracked.
    client_parse_count,
    /// Prepared statements created on servers by the proxy.
    server_parse_count,
    /// Prepared statements that were bound, where they are tracked.
    bind_count,
    /// Logins of clients.
    client_login_count,
}

impl Counters {
    /// Adds bytes that went to a client while it was not linked.
    pub fn add_sent(&self, bytes: u64) {
        self.bytes_sent.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds bytes that came from a client while it was not linked.
    pub fn add_received(&self, bytes: u64) {
        self.bytes_received.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Adds a client's wait for a server.
    pub fn add_wait(&self, time: Duration) {
        self.wait_time.fetch_add(time.as_micros() as u64, Ordering::Relaxed);
    }
}

impl Tally {
    /// The sum of both.
    pub fn plus(&self, other: &Self) -> Self {
        self.combine(other, u64::saturating_add)
    }

    fn minus(&self, other: &Self) -> Self {
        self.combine(other, u64::saturating_sub)
    }

    /// Averages over `elapsed`: counts and bytes per second, times per transaction, query or assignment (as PgBouncer).
    fn averages(&self, elapsed: Duration) -> Self {
        let micros = elapsed.as_micros().max(1) as u64;
        let per_second = |n: u64| (u128::from(n) * 1_000_000 / u128::from(micros)) as u64;
        let per = |time: u64, count: u64| time.checked_div(count).unwrap_or(0);
        Self {
            xact_time: per(self.xact_time, self.xact_count),
            query_time: per(self.query_time, self.query_count),
            wait_time: per(self.wait_time, self.server_assignment_count),
            server_assignment_count: per_second(self.server_assignment_count),
            xact_count: per_second(self.xact_count),
            query_count: per_second(self.query_count),
            bytes_received: per_second(self.bytes_received),
            bytes_sent: per_second(self.bytes_sent),
            client_parse_count: per_second(self.client_parse_count),
            server_parse_count: per_second(self.server_parse_count),
            bind_count: per_second(self.bind_count),
            client_login_count: per_second(self.client_login_count),
        }
    }
}

/// Totals of each database at the start of the current period, and the averages of the last one.
#[derive(Debug)]
pub struct Periods {
    since: Instant,
    databases: BTreeMap<String, Period>,
}

#[derive(Debug, Default)]
struct Period {
    start: Tally,
    averages: Tally,
}

impl Periods {
    /// Starts the first period.
    pub fn new(now: Instant) -> Self {
        Self { since: now, databases: BTreeMap::new() }
    }

    /// Ends a period in which the totals became `totals`; returns the averages over all databases.
    pub fn turn(&mut self, now: Instant, totals: &BTreeMap<String, Tally>) -> Tally {
        let elapsed = now.saturating_duration_since(self.since);
        self.since = now;
        self.databases.retain(|name, _| totals.contains_key(name));
        let mut all = Tally::default();
        for (name, total) in totals {
            let period = self.databases.entry(name.clone()).or_default();
            let grown = total.minus(&period.start);
            period.averages = grown.averages(elapsed);
            period.start = *total;
            all = all.plus(&grown);
        }
        all.averages(elapsed)
    }

    /// Averages of a database over the last full period.
    pub fn averages(&self, database: &str) -> Tally {
        self.databases.get(database).map(|period| period.averages).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn averages_over_a_period() {
        let start = Instant::now();
        let mut periods = Periods::new(start);
        let tally = Tally { xact_count: 100, xact_time: 5000, bytes_sent: 20_000, ..Tally::default() };
        let totals = BTreeMap::from([("a".to_owned(), tally), ("b".to_owned(), Tally::default())]);
        let all = periods.turn(start + Duration::from_secs(10), &totals);
        let expected = Tally { xact_count: 10, xact_time: 50, bytes_sent: 2000, ..Tally::default() };
        assert_eq!((all, periods.averages("a"), periods.averages("b")), (expected, expected, Tally::default()));
        periods.turn(start + Duration::from_secs(20), &totals);
        assert_eq!(periods.averages("a"), Tally::default());
        assert_eq!(Tally::NAMES.len(), tally.values().count());
    }
}
