//! What time brings: the tasks that look at all pools and clients again and again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Pooler;

impl Pooler {
    /// Ticks the pools and turns the periods of the statistics, for ever.
    pub async fn run_janitor(&self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut period_start = Instant::now();
        let mut config = self.config();
        loop {
            tick.tick().await;
            let now = Instant::now();
            if !Arc::ptr_eq(&config, &self.config()) {
                // It may have other time-outs.
                config = self.config();
                self.clients.set_all_due(now);
            }
            if self.suspension.current().is_none() {
                self.look_after_all(now);
            }
            if now.duration_since(period_start) >= self.config().settings.stats_period {
                period_start = now;
                self.turn_period(now);
            }
        }
    }

    fn look_after_all(&self, now: Instant) {
        self.pools().iter().for_each(|pool| pool.run(|core| core.handle_tick(now)));
        if self.config().settings.server_fast_close {
            self.pools().iter().for_each(|pool| pool.part_from_replaced(&self.clients));
        }
        self.look_at_clients(now);
        self.forget_unused(now);
    }

    /// Looks up the names of hosts each `dns_zone_check_period`, for ever.
    pub async fn run_name_checks(&self) {
        let mut last = Instant::now();
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            let due = self.config().settings.dns_zone_check_period.is_some_and(|period| last.elapsed() >= period);
            if due {
                self.check_host_names().await;
                last = Instant::now();
            }
        }
    }

    /// Serves waiting clients when the kernel path has released servers, for ever.
    pub async fn run_wakes(&self) {
        let failed = |error| tracing::warn!("kernel path: waiting clients are looked after more slowly: {error}");
        let Some(wakes) = self.kernel_path.wakes().map_err(failed).unwrap_or_default() else { return };
        while self.kernel_path.woken(&wakes).await.map_err(failed).is_ok() {
            let now = Instant::now();
            self.pools().iter().for_each(|pool| pool.run(|core| core.handle_wake(now)));
        }
    }

    fn turn_period(&self, now: Instant) {
        let all = self.periods.lock().expect("nobody panics with this lock").turn(now, &self.totals());
        if self.config().settings.log_stats {
            tracing::info!(
                "stats: {} xacts/s, {} queries/s, in {} B/s, out {} B/s, xact {} us, query {} us, wait {} us",
                all.xact_count,
                all.query_count,
                all.bytes_received,
                all.bytes_sent,
                all.xact_time,
                all.query_time,
                all.wait_time
            );
        }
    }
}

/// How often pools and clients are looked at; PgBouncer does three times a second. Twice as often as time-outs must be exact:
/// with 10,000 clients it takes some ms until the last of those that are due is told.
const TICK: Duration = Duration::from_millis(50);
