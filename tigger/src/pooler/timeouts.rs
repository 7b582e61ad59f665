//! Who takes too long: queries, transactions, idleness in and out of them, on both paths.
//!
//! The janitor looks twenty times a second at the clients that may be overdue and ends those that are; their tasks tell them
//! and close their servers. At most clients it looks rarely: none can be overdue before the shortest of its limits has passed.

use std::time::{Duration, Instant};

use tigger_bypass::Service;
use tigger_proto::error::Error;
use tigger_proto::pool::Purpose;

use super::Pooler;
use super::activity::Activity;
use super::clients::ClientInfo;
use crate::config::Config;

/// How long a client may take for what; `None` = for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Timeouts {
    /// `query_timeout`: from a query's start.
    query: Option<Duration>,
    /// `transaction_timeout`: from a transaction's start.
    transaction: Option<Duration>,
    /// `idle_transaction_timeout`: from the last reply in a transaction.
    idle_transaction: Option<Duration>,
    /// `client_idle_timeout`: from when the client got its last reply, or logged in.
    client_idle: Option<Duration>,
}

impl Timeouts {
    /// Those of a client that logged in as `user`.
    fn of(config: &Config, user: &str) -> Self {
        let settings = &config.settings;
        let user = config.users.get(user);
        let own = |value: fn(&crate::config::User) -> Option<Duration>| user.and_then(|user| value(user));
        Self {
            query: own(|user| user.query_timeout).or(settings.query_timeout),
            transaction: own(|user| user.transaction_timeout).or(settings.transaction_timeout),
            idle_transaction: own(|user| user.idle_transaction_timeout).or(settings.idle_transaction_timeout),
            client_idle: own(|user| user.client_idle_timeout).or(settings.client_idle_timeout),
        }
    }

    fn any(config: &Config) -> bool {
        let nobody = Self::default();
        Self::of(config, "") != nobody || config.users.keys().any(|user| Self::of(config, user) != nobody)
    }

    /// What holds for a client that does this, each with its start.
    fn running(&self, activity: Activity) -> [Option<(Instant, Duration, Error)>; 2] {
        let limited = |since, limit: Option<Duration>, error| limit.map(|limit| (since, limit, error));
        match activity {
            Activity::Idle { since } => [limited(since, self.client_idle, Error::ClientIdleTimeout), None],
            Activity::Waiting { since } => [limited(since, self.query, Error::QueryTimeoutWaiting), None],
            Activity::Linked => [None, None],
            Activity::Query { since, transaction } => [
                limited(since, self.query, Error::QueryTimeout),
                limited(transaction, self.transaction, Error::TransactionTimeout),
            ],
            Activity::InTransaction { since, transaction } => [
                limited(since, self.idle_transaction, Error::IdleTransactionTimeout),
                limited(transaction, self.transaction, Error::TransactionTimeout),
            ],
        }
    }

    /// Why a client that does this must end, or when it must be looked at again.
    fn look(&self, activity: Activity, now: Instant) -> Look {
        let running = self.running(activity);
        let is_over = |(since, limit, _): &&(Instant, Duration, Error)| now.saturating_duration_since(*since) >= *limit;
        if let Some((_, _, reason)) = running.iter().flatten().find(is_over) {
            return Look::Overdue(reason.clone());
        }
        // One that is beyond what a clock can show never passes.
        let own = running.iter().flatten().filter_map(|(since, limit, _)| since.checked_add(*limit));
        // What it does next begins after now.
        let all = [self.query, self.transaction, self.idle_transaction, self.client_idle];
        let next = all.into_iter().flatten().filter_map(|limit| now.checked_add(limit));
        Look::Again(own.chain(next).min().unwrap_or(now + LOOK_MAX))
    }
}

/// What a look at a client has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Look {
    /// It must end.
    Overdue(Error),
    /// Not before then.
    Again(Instant),
}

/// Time after which a client is looked at again that has no limits.
const LOOK_MAX: Duration = Duration::from_secs(3600);

impl Pooler {
    /// Ends the clients that are overdue, and tells those that wait for long that they do.
    pub(super) fn look_at_clients(&self, now: Instant) {
        let config = self.config();
        if let Some(limit) = config.settings.query_wait_notify {
            self.notify_waiting(now, limit);
        }
        if !Timeouts::any(&config) {
            return;
        }
        for info in self.clients.due(now) {
            let Some(user) = info.limited_user() else { continue };
            match Timeouts::of(&config, &user).look(activity(&info), now) {
                Look::Overdue(reason) => info.end(reason),
                Look::Again(next) => info.set_next_look(next),
            }
        }
    }

    fn notify_waiting(&self, now: Instant, limit: Duration) {
        for pool in self.pools() {
            let overdue = pool.run(|core| {
                let long = core.waiting().take_while(|waiting| now.saturating_duration_since(waiting.since) >= limit);
                long.filter(|waiting| waiting.purpose == Purpose::Server)
                    .map(|waiting| waiting.client)
                    .collect::<Vec<_>>()
            });
            overdue.iter().filter_map(|id| self.clients.by_id(*id)).for_each(|info| info.ask_notice());
        }
    }
}

/// What a client does, on whichever path it is.
fn activity(info: &ClientInfo) -> Activity {
    let here = info.activity();
    match (here, info.kernel().and_then(|kernel| kernel.service())) {
        // What the user path last knew of it is older.
        (_, Some(Service::Query { since, transaction })) => Activity::Query { since, transaction },
        (_, Some(Service::InTransaction { since, transaction })) => Activity::InTransaction { since, transaction },
        (_, Some(Service::Linked)) => Activity::Linked,
        (Activity::Idle { since }, Some(Service::Idle(Some(last)))) => Activity::Idle { since: since.max(last) },
        (here, _) => here,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_for_what_it_is_for() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let now = start + 5 * second;
        let timeouts = Timeouts {
            query: Some(4 * second),
            transaction: Some(3 * second),
            idle_transaction: Some(2 * second),
            client_idle: Some(5 * second),
        };
        let check = |activity: Activity, expected: Look| {
            assert_eq!(timeouts.look(activity, now), expected, "{activity:?}");
            assert_eq!(Timeouts::default().look(activity, now), Look::Again(now + LOOK_MAX));
        };
        let at = |seconds: u32| start + seconds * second;
        let again = |seconds: u32| Look::Again(at(seconds));
        check(Activity::Idle { since: start }, Look::Overdue(Error::ClientIdleTimeout));
        check(Activity::Idle { since: at(1) }, again(6));
        // It may begin a transaction now.
        check(Activity::Idle { since: at(4) }, again(7));
        check(Activity::Waiting { since: at(1) }, Look::Overdue(Error::QueryTimeoutWaiting));
        check(Activity::Linked, again(7));
        check(Activity::Query { since: at(1), transaction: at(1) }, Look::Overdue(Error::QueryTimeout));
        check(Activity::Query { since: at(2), transaction: at(2) }, Look::Overdue(Error::TransactionTimeout));
        check(Activity::Query { since: at(3), transaction: at(3) }, again(6));
        let idle = |since, transaction| Activity::InTransaction { since: at(since), transaction: at(transaction) };
        check(idle(3, 3), Look::Overdue(Error::IdleTransactionTimeout));
        check(idle(4, 2), Look::Overdue(Error::TransactionTimeout));
        check(idle(4, 3), again(6));
    }
}
