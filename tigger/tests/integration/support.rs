//! What every test needs: the shared PostgreSQL, a proxy in front of it, and waiting for what must come.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Output},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use tigger_testkit::{Postgres, PostgresOptions, Proxy, ProxyKind, ProxyOptions, Run, Table, have_postgres, skipped};

use crate::wire::{Refusal, Wire};

/// The server that all tests share which do it no harm. It ends with the test process.
pub(crate) fn postgres() -> Option<&'static Postgres> {
    static SHARED: OnceLock<Postgres> = OnceLock::new();
    can_run().then(|| {
        SHARED.get_or_init(|| {
            // Roles that must prove themselves; everybody else is trusted.
            let options = ["password", "md5", "scram-sha-256"]
                .into_iter()
                .fold(PostgresOptions::default().max_connections(300), |options, method| {
                    options.hba(&format!("host all {method} all {method}"))
                });
            let postgres = Postgres::start(&options).unwrap();
            for role in ["alice", "bob"] {
                postgres.psql(&format!("create role {role} login")).unwrap();
            }
            postgres
        })
    })
}

/// A server for one test, which may stop or kill it.
pub(crate) fn own_postgres() -> Option<Postgres> {
    can_run().then(|| Postgres::start(&PostgresOptions::default()).unwrap())
}

/// False, and counted, where PostgreSQL is not installed.
pub(crate) fn can_run() -> bool {
    let can = have_postgres();
    if !can {
        let thread = thread::current();
        skipped(thread.name().unwrap_or("an integration test"), "PostgreSQL is not installed");
    }
    can
}

/// The configuration most tests start from: transaction pooling, all databases of the server, all users trusted.
pub(crate) fn options(postgres: &Postgres) -> ProxyOptions {
    let options = ProxyOptions::new().server("postgres", postgres).server("*", postgres);
    ["alice", "bob"].into_iter().fold(options, |options, user| options.user(user, ""))
}

/// Starts the Tigger that cargo built for these tests. The only place that does, so that all tests can run another way:
/// the environment variable `TIGGER_KERNEL_PATH` is the setting `kernel_path` of those that do not set it themselves.
pub(crate) fn proxy(options: &ProxyOptions) -> Proxy {
    proxy_by(Path::new(env!("CARGO_BIN_EXE_tigger")), options)
}

/// The same with a program that becomes Tigger.
pub(crate) fn proxy_by(program: &Path, options: &ProxyOptions) -> Proxy {
    let options = match std::env::var("TIGGER_KERNEL_PATH") {
        Ok(choice) => options.clone().default_setting("kernel_path", &choice),
        Err(_) => options.clone(),
    };
    Proxy::start(ProxyKind::Tigger, &options.binary(program)).unwrap()
}

/// Writes a shell script that becomes Tigger, and gives what it says to `-V`. While a file is written, a process that another
/// test starts may have it open for a moment, and then it cannot be run (ETXTBSY).
pub(crate) fn script(path: &Path, text: &str) -> Output {
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    let deadline = Instant::now() + DEADLINE;
    loop {
        match Command::new(path).arg("-V").output() {
            Err(error) if error.kind() == ErrorKind::ExecutableFileBusy && Instant::now() < deadline => {
                thread::sleep(POLL);
            }
            output => return output.unwrap(),
        }
    }
}

/// Waits until `condition` holds. There is no event to wait for in another process, so it is asked again and again.
#[track_caller]
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        thread::sleep(POLL);
    }
}

/// Waits until the log of `proxy` has `text`.
#[track_caller]
pub(crate) fn until_logged(proxy: &Proxy, text: &str) {
    let deadline = Instant::now() + DEADLINE;
    while !proxy.log().contains(text) {
        assert!(Instant::now() < deadline, "never logged: {text}\n{}", proxy.log());
        thread::sleep(POLL);
    }
}

/// Waits for a thread, at most as long as for anything else.
#[track_caller]
pub(crate) fn join<T>(thread: thread::JoinHandle<T>) -> T {
    until("a thread ends", || thread.is_finished());
    thread.join().unwrap()
}

/// An admin console that stays connected, so that looking does not change what is looked at.
pub(crate) struct Console {
    wire: Wire,
}

impl Console {
    pub(crate) fn new(proxy: &Proxy) -> Self {
        Self { wire: Wire::login(proxy, &[("user", "postgres"), ("database", "pgbouncer")]) }
    }

    /// The result of a command that must succeed.
    #[track_caller]
    pub(crate) fn table(&mut self, command: &str) -> Table {
        let reply = self.wire.query(command);
        assert_eq!(reply.refusal, None, "{command}");
        reply.table()
    }

    /// The error of a command that must fail.
    #[track_caller]
    pub(crate) fn refused(&mut self, command: &str) -> Refusal {
        self.wire.query(command).refusal.unwrap_or_else(|| panic!("{command} did not fail"))
    }

    /// A number from SHOW POOLS, added up over the pools of `database`.
    #[track_caller]
    pub(crate) fn pool(&mut self, database: &str, column: &str) -> u64 {
        let pools = self.table("SHOW POOLS");
        pools.iter().filter(|row| &row["database"] == database).map(|row| row[column].parse::<u64>().unwrap()).sum()
    }

    /// Waits until a number in SHOW POOLS is `expected`.
    #[track_caller]
    pub(crate) fn until_pool(&mut self, database: &str, column: &str, expected: u64) {
        let deadline = Instant::now() + DEADLINE;
        while self.pool(database, column) != expected {
            assert!(Instant::now() < deadline, "{column} is never {expected}: {:?}", self.table("SHOW POOLS"));
            thread::sleep(POLL);
        }
    }

    /// Waits until nobody uses or waits for a server of `database`: nothing was leaked.
    #[track_caller]
    pub(crate) fn until_quiet(&mut self, database: &str) {
        for column in ["cl_waiting", "sv_active", "sv_tested", "sv_being_canceled", "sv_login"] {
            self.until_pool(database, column, 0);
        }
    }

    /// The wire under it, for what is not a plain command.
    pub(crate) fn wire(&mut self) -> &mut Wire {
        &mut self.wire
    }
}

/// Asserts that the kernel path had its share of the traffic, where there is one; none where there is none.
#[track_caller]
pub(crate) fn assert_kernel_path_used(console: &mut Console) {
    let table = console.table("SHOW KERNEL_PATH");
    let figure = |name: &str| table.find("name", name).map(|row| row["value"].to_owned()).unwrap();
    let is_used = figure("replies_kernel") != "0" || figure("requests_kernel") != "0";
    assert_eq!(is_used, figure("enabled") == "yes", "{table:?}");
}

/// Asserts that a program failed and said `text`.
#[track_caller]
pub(crate) fn assert_failed(run: &Run, text: &str) {
    assert!(!run.status.success() && run.stderr.contains(text), "expected {text:?}, got {run}");
}

/// Longest wait for something that comes within seconds on an idle machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// Time between two looks.
const POLL: Duration = Duration::from_millis(10);
