//! Cross-wire torture: hundreds of clients over a few servers do everything that could make the proxy lose track of who
//! asked what, and each compares every byte it gets with what PostgreSQL must have answered to it and nobody else, in the
//! order in which it asked (invariant 2 of ARCHITECTURE.md). Every request carries a token that no other one has.
//!
//! * `pieces`, `copies`: what is asked, and the replies to it; `script`, `expect`: how both are written down;
//! * `manner`: how it is sent and read: cut, pipelined, slowly;
//! * `client`: what else happens: cancel requests, hang-ups, terminated backends; `killer` terminates others;
//! * `session`, `checker`: the bytes.
//!
//! `SEED=n` draws the same steps again (though not in the same order: the clients race), `TORTURE_SECONDS=n` sets the
//! time, `TORTURE=soak` takes the larger plan (`make soak`).

mod checker;
mod client;
mod copies;
mod expect;
mod killer;
mod manner;
mod pieces;
pub(crate) mod random;
mod script;
mod session;

use std::{
    env,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use tigger_testkit::{Host, Postgres, PostgresOptions, Proxy, ProxyOptions, have_postgres, raise_fd_limit, skipped};
use tokio::time::Instant;

use self::client::{Client, Common, Counts, KILLED};
use self::killer::Killer;
use self::pieces::Sizes;
use crate::support::{Console, assert_kernel_path_used, options, own_postgres, proxy};

#[test]
fn torture_in_transaction_mode() {
    variant("transaction", None, Crowd::Large);
}

#[test]
fn torture_in_transaction_mode_without_the_kernel_path() {
    variant("transaction", Some("off"), Crowd::Large);
}

#[test]
fn torture_in_session_mode() {
    variant("session", None, Crowd::Large);
}

#[test]
fn torture_in_session_mode_without_the_kernel_path() {
    variant("session", Some("off"), Crowd::Large);
}

/// As many servers as clients: nobody waits, so that the kernel path, where there is one, has requests and replies.
#[test]
fn torture_without_waiting() {
    variant("transaction", None, Crowd::Small);
}

/// Requests through user space, replies through the kernel path.
#[test]
fn torture_beside_postgres() {
    on_hosts("torture_beside_postgres", Network::Calm, |_, server| server);
}

/// Requests through the kernel path, replies through user space.
#[test]
fn torture_beside_the_application() {
    on_hosts("torture_beside_the_application", Network::Calm, |application, _| application);
}

#[test]
fn torture_beside_postgres_with_losses() {
    on_hosts("torture_beside_postgres_with_losses", Network::Lossy, |_, server| server);
}

#[test]
fn torture_beside_the_application_with_losses() {
    on_hosts("torture_beside_the_application_with_losses", Network::Lossy, |application, _| application);
}

/// What is between two hosts.
#[derive(Clone, Copy)]
enum Network {
    Calm,
    /// Packets are lost and overtake one another.
    Lossy,
}

/// The application on one host, PostgreSQL on another, the proxy on that which `choose` says.
fn on_hosts(test: &str, network: Network, choose: for<'a> fn(&'a Host, &'a Host) -> &'a Host) {
    let _one = one_at_a_time();
    if !have_postgres() {
        return skipped(test, "PostgreSQL is not installed");
    }
    let [application, server] = match Host::simulate(["application", "server"]) {
        Ok(hosts) => hosts,
        Err(reason) => return skipped(test, &format!("{reason:#}")),
    };
    if let Network::Lossy = network
        && let Err(reason) = application.disturb().and_then(|()| server.disturb())
    {
        return skipped(test, &format!("{reason:#}"));
    }
    let postgres = Postgres::start(&PostgresOptions::default().on(&server)).unwrap();
    // The reset of a connection is not sent again when it is lost: only a probe shows then that the other end is gone.
    let probes = [("tcp_keepidle", "3"), ("tcp_keepintvl", "1"), ("tcp_keepcnt", "10")];
    let options = ProxyOptions::new().on(choose(&application, &server)).server("*", &postgres);
    let options = probes.iter().fold(options, |options, (name, value)| options.setting(name, value));
    // Nobody waits: what waits is mostly the user path's.
    let plan = Plan { clients: 30, servers: 30, ..Plan::of_environment() };
    torture(&postgres, options.pool_mode("transaction"), plan, &application);
}

/// Each takes all the processors there are.
fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One at a time and with a PostgreSQL of its own: each kills.
fn variant(pool_mode: &str, kernel_path: Option<&str>, crowd: Crowd) {
    let _one = one_at_a_time();
    let Some(postgres) = own_postgres() else { return };
    let options = options(&postgres).pool_mode(pool_mode);
    let options = kernel_path.into_iter().fold(options, |options, value| options.setting("kernel_path", value));
    let plan = match crowd {
        Crowd::Large => Plan::of_environment(),
        Crowd::Small => Plan { clients: 20, servers: 20, ..Plan::of_environment() },
    };
    // A session keeps its server: it must end soon for the others to have their turn.
    let acts_per_login = if pool_mode == "session" { 20 } else { plan.acts_per_login };
    torture(&postgres, options, Plan { acts_per_login, ..plan }, &Host::default());
}

/// How many clients.
#[derive(Clone, Copy)]
enum Crowd {
    /// As many as the plan says, which most of the time wait for a server.
    Large,
    /// No more than there are servers.
    Small,
}

/// How much of everything.
#[derive(Clone, Copy, Debug)]
struct Plan {
    clients: usize,
    servers: u32,
    /// For how long new things are begun.
    time: Duration,
    sizes: Sizes,
    /// Most things a client does in one login.
    acts_per_login: usize,
    /// From one killed backend to the next, in the first half of the time.
    kill_interval: Duration,
}

impl Plan {
    /// What takes seconds and is run with all tests, or with `TORTURE=soak` what takes its time.
    fn of_environment() -> Self {
        let test = Self {
            clients: 100,
            servers: 10,
            time: Duration::from_secs(5),
            sizes: Sizes { common: 1 << 20, rare: 20 << 20 },
            acts_per_login: 200,
            kill_interval: Duration::from_millis(150),
        };
        let soak = Self {
            clients: 400,
            servers: 20,
            time: Duration::from_secs(60),
            sizes: Sizes { rare: 100 << 20, ..test.sizes },
            ..test
        };
        let plan = if env::var("TORTURE").is_ok_and(|plan| plan == "soak") { soak } else { test };
        Self { time: number("TORTURE_SECONDS").map_or(plan.time, Duration::from_secs), ..plan }
    }
}

/// The whole test with these options and clients on `application`, whatever path the bytes take.
fn torture(postgres: &Postgres, options: ProxyOptions, plan: Plan, application: &Host) {
    let seed = number("SEED").unwrap_or_else(clock);
    println!("SEED={seed} {plan:?}");
    raise_fd_limit().unwrap();
    postgres.psql(copies::CREATE_TABLE).unwrap();
    let options = options.pool_size(plan.servers).setting("max_client_conn", "2000");
    let proxy = proxy(&options.setting("log_connections", "0").setting("log_disconnections", "0"));
    let mut console = Console::new(&proxy);
    let killer = Killer::start(postgres, plan.kill_interval, plan.time / 2);
    let address = SocketAddr::new(proxy.address_from(application).parse().unwrap(), proxy.port());
    let results = application.inside(|| run(address, seed, plan)).unwrap();
    let kills = killer.stop();

    let (done, failures): (Vec<_>, Vec<_>) = results.into_iter().partition(Result::is_ok);
    let failures: Vec<String> = failures.into_iter().filter_map(Result::err).collect();
    let first = failures.iter().take(FAILURES_SHOWN).map(String::as_str).collect::<Vec<_>>().join("\n");
    assert!(failures.is_empty(), "SEED={seed}: {} clients failed\n{first}\n{}", failures.len(), tail(&proxy.log()));
    let counts = sum(done.into_iter().flatten());
    println!("{kills} backends killed; {counts:#?}");
    for name in client::all_names() {
        assert!(counts.contains_key(name), "SEED={seed}: never done: {name}");
    }
    let lost = counts.get(KILLED).copied().unwrap_or_default();
    assert!(lost <= kills, "SEED={seed}: {lost} connections ended with {kills} backends killed");
    assert_well(&proxy, &mut console, plan, seed);
}

/// All clients at once, to their end.
fn run(address: SocketAddr, seed: u64, plan: Plan) -> Vec<Result<Counts, String>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let end = Instant::now() + plan.time;
        let common = Arc::new(Common {
            address,
            seed,
            sizes: plan.sizes,
            acts_per_login: plan.acts_per_login,
            calm: end - plan.time / 2 + CALM,
            end,
            deadline: end + HANG,
            failed: AtomicBool::new(false),
        });
        let clients: Vec<_> =
            (0..plan.clients).map(|number| tokio::spawn(Client::new(Arc::clone(&common), number).run())).collect();
        let mut results = Vec::new();
        for client in clients {
            results.push(client.await.unwrap());
        }
        results
    })
}

/// Nothing is left over, and the proxy noticed nothing wrong either.
fn assert_well(proxy: &Proxy, console: &mut Console, plan: Plan, seed: u64) {
    console.until_pool("postgres", "cl_active", 0);
    console.until_quiet("postgres");
    let servers: u64 = ["sv_idle", "sv_used"].iter().map(|column| console.pool("postgres", column)).sum();
    assert!(servers <= u64::from(plan.servers), "SEED={seed}: {servers} servers");
    assert_eq!(proxy.exited().unwrap(), None, "SEED={seed}: the proxy has ended");
    let log = proxy.log();
    for text in ["nothing asked for", "broke the protocol", "panicked"] {
        assert!(!log.contains(text), "SEED={seed}: the log has {text:?}\n{}", tail(&log));
    }
    assert_eq!(proxy.psql("select 1").unwrap(), "1", "SEED={seed}");
    let path = console.table("SHOW KERNEL_PATH");
    let figure = |name: &str| path.find("name", name).map(|row| row["value"].to_owned()).unwrap();
    let (by_kernel, by_user) = (figure("replies_kernel"), figure("replies_user"));
    println!("replies: {by_kernel} on the kernel path, {by_user} on the user path; {:?}", path.rows);
    assert_kernel_path_used(console);
}

fn sum(all: impl Iterator<Item = Counts>) -> Counts {
    all.fold(Counts::new(), |mut sum, counts| {
        counts
            .into_iter()
            .filter(|(_, times)| *times > 0)
            .for_each(|(name, times)| *sum.entry(name).or_default() += times);
        sum
    })
}

/// The end of a log.
fn tail(log: &str) -> String {
    let lines: Vec<_> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..].join("\n")
}

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// A seed where none is given: each run looks elsewhere.
fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros() as u64
}

/// A kill takes no longer than this.
const CALM: Duration = Duration::from_secs(1);
/// A client that is not done so long after the last one was to begin something hangs.
const HANG: Duration = Duration::from_secs(60);
const FAILURES_SHOWN: usize = 20;
const LOG_LINES_SHOWN: usize = 40;
