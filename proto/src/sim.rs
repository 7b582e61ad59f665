//! A simulator of whole poolers: clients, pools and servers with seeded faults and a simulated clock.
//!
//! Everything here but [`run`] is private. A schedule is a seed: the same seed gives the same events. After each event
//! the invariants are checked, and every byte that a client receives is compared with what a PostgreSQL backend of its
//! own would have answered. It needs no socket and is not a load test.

mod administration;
mod backend;
mod checker;
mod driver;
mod events;
mod pipe;
mod random;
mod script;
mod servers;
mod sql;
mod world;

use world::World;

/// What a schedule is like.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Most clients.
    pub clients: usize,
    /// Random events before everything is brought to its end.
    pub steps: usize,
    /// Kills, hang-ups, failed logins, cancel requests, administration.
    pub faults: bool,
    /// Writes what happens to stderr.
    pub trace: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { clients: 8, steps: 3000, faults: true, trace: false }
    }
}

/// An invariant that did not hold.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Repeats it.
    pub seed: u64,
    /// After so many events.
    pub step: usize,
    /// What did not hold.
    pub text: String,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "SEED={} step {}: {}", self.seed, self.step, self.text)
    }
}

impl std::error::Error for Failure {}

macro_rules! report {
    ($($name:ident)*) => {
        /// How often what happened.
        #[derive(Clone, Copy, Debug, Default)]
        #[allow(missing_docs, reason = "the names say it")]
        pub struct Report {
            $(pub $name: u64,)*
        }

        impl Report {
            /// Adds another report to this one.
            pub fn add(&mut self, other: &Self) {
                $(self.$name += other.$name;)*
            }

            /// Each count with its name.
            pub fn counts(&self) -> impl Iterator<Item = (&'static str, u64)> {
                [$((stringify!($name), self.$name),)*].into_iter()
            }
        }
    };
}

report! {
    replies commits rollbacks failed_transactions errors copies_in copies_out copies_failed copies_failed_early notices
    parameters_reported portals_suspended
    links releases waits grants sets sets_failed parameter_resets resets resets_failed checks servers_spent clients_excused statements_refused
    welcome_waits waiters_left grants_returned clients_served clients_told
    logins login_failures evictions reserve_uses lifetimes_over idle_timeouts idle_servers_lost
    parses_sent fakes replies_swallowed statements_unknown
    cancels cancels_hit kills hang_ups noises pauses reconnects limit_changes
}

/// Runs one schedule.
///
/// # Errors
/// The first invariant that does not hold.
pub fn run(seed: u64, options: &Options) -> Result<Report, Failure> {
    let mut world = World::new(seed, options);
    for step in 0..options.steps {
        world.event().and_then(|()| world.check()).map_err(|text| Failure { seed, step, text })?;
    }
    world.drain().map_err(|text| Failure { seed, step: options.steps, text })?;
    Ok(world.report)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Schedules of one run of the tests; SIM_SCHEDULES sets another number, SEED runs one schedule.
    const SCHEDULES: u64 = 5000;

    #[test]
    fn schedules() {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
        let options = Options { trace: number("SEED").is_some(), ..Options::default() };
        if let Some(seed) = number("SEED") {
            let report = run(seed, &options).unwrap_or_else(|failure| panic!("{failure}"));
            eprintln!("{report:#?}");
            return;
        }
        let mut total = Report::default();
        let mut failures = Vec::new();
        let count = number("SIM_SCHEDULES").unwrap_or(SCHEDULES);
        for seed in 0..count {
            match run(seed, &options) {
                Ok(report) => total.add(&report),
                Err(failure) => failures.push(failure.to_string()),
            }
        }
        assert!(
            failures.is_empty(),
            "{} of {count} schedules fail, such as {:#?}",
            failures.len(),
            &failures[..failures.len().min(12)]
        );
        eprintln!("{total:#?}");
        let never: Vec<&str> = total.counts().filter(|(_, count)| *count == 0).map(|(name, _)| name).collect();
        assert!(never.is_empty(), "never happened: {never:?}");
    }
}
