//! Terminates backends behind the proxy's back, one at a time, at random.

use std::{
    sync::mpsc::{RecvTimeoutError, Sender, channel},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use tigger_testkit::Postgres;

use crate::support::join;
use crate::wire::Wire;

/// A thread that kills.
pub(super) struct Killer {
    stop: Sender<()>,
    thread: JoinHandle<usize>,
}

impl Killer {
    /// Terminates one backend, if there is one, in each `interval`, but not for longer than `time`: a client that hangs
    /// would be set free.
    pub(super) fn start(postgres: &Postgres, interval: Duration, time: Duration) -> Self {
        let mut wire = Wire::connect_unix(postgres.socket_dir(), postgres.port()).logs_in();
        let (stop, stopped) = channel();
        let thread = thread::spawn(move || {
            let mut kills = 0;
            let end = Instant::now() + time;
            while Instant::now() < end && stopped.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                kills += wire.value(KILL).parse::<usize>().unwrap();
            }
            kills
        });
        Self { stop, thread }
    }

    /// How many it has terminated.
    pub(super) fn stop(self) -> usize {
        drop(self.stop);
        join(self.thread)
    }
}

/// Not one that is about to log in: the proxy would take that for a server which refuses logins, and tell all that wait.
const KILL: &str = "select count(*) filter (where pg_terminate_backend(pid)) from (select pid from pg_stat_activity \
    where backend_type = 'client backend' and backend_start < clock_timestamp() - interval '100 ms' \
    and state is not null and query <> '' and pid <> pg_backend_pid() order by random() limit 1) a";
