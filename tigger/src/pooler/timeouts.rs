//! Who takes too long: queries, transactions, idleness in and out of them, on both paths.
//!
//! The janitor looks at all clients twenty times a second and ends those that are overdue; their tasks tell them and close
//! their servers. It looks only where something is limited.

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

    /// Why a client that does this must end, if it must.
    fn overdue(&self, activity: Activity, now: Instant) -> Option<Error> {
        let is_over = |since: Instant, limit: Option<Duration>| {
            limit.is_some_and(|limit| now.saturating_duration_since(since) >= limit)
        };
        match activity {
            Activity::Idle { since } => is_over(since, self.client_idle).then_some(Error::ClientIdleTimeout),
            Activity::Waiting { since } => is_over(since, self.query).then_some(Error::QueryTimeoutWaiting),
            Activity::Linked => None,
            Activity::Query { since, transaction } => match () {
                () if is_over(since, self.query) => Some(Error::QueryTimeout),
                () => is_over(transaction, self.transaction).then_some(Error::TransactionTimeout),
            },
            Activity::InTransaction { since, transaction } => match () {
                () if is_over(since, self.idle_transaction) => Some(Error::IdleTransactionTimeout),
                () => is_over(transaction, self.transaction).then_some(Error::TransactionTimeout),
            },
        }
    }
}

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
        for info in self.clients.unordered() {
            let Some(user) = info.limited_user() else { continue };
            let timeouts = Timeouts::of(&config, &user);
            if let Some(reason) = timeouts.overdue(activity(&info), now) {
                info.end(reason);
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
        let (start, now) = (Instant::now(), Instant::now() + 5 * second);
        let timeouts = Timeouts {
            query: Some(4 * second),
            transaction: Some(3 * second),
            idle_transaction: Some(2 * second),
            client_idle: Some(5 * second),
        };
        let check = |activity: Activity, expected: Option<Error>| {
            assert_eq!(timeouts.overdue(activity, now), expected, "{activity:?}");
            assert_eq!(Timeouts::default().overdue(activity, now), None);
        };
        let at = |seconds: u32| start + seconds * second;
        check(Activity::Idle { since: start }, Some(Error::ClientIdleTimeout));
        check(Activity::Idle { since: at(1) }, None);
        check(Activity::Waiting { since: at(1) }, Some(Error::QueryTimeoutWaiting));
        check(Activity::Linked, None);
        check(Activity::Query { since: at(1), transaction: at(1) }, Some(Error::QueryTimeout));
        check(Activity::Query { since: at(2), transaction: at(2) }, Some(Error::TransactionTimeout));
        check(Activity::Query { since: at(3), transaction: at(3) }, None);
        check(Activity::InTransaction { since: at(3), transaction: at(3) }, Some(Error::IdleTransactionTimeout));
        check(Activity::InTransaction { since: at(4), transaction: at(2) }, Some(Error::TransactionTimeout));
        check(Activity::InTransaction { since: at(4), transaction: at(3) }, None);
    }
}
