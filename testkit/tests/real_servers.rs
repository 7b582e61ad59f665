//! The kit against real programs: PostgreSQL starts, answers, restarts and leaves nothing behind; so does a pooler.

use std::{
    env,
    io::{BufRead, BufReader, Read},
    path::Path,
    process::{Command, Stdio},
    thread,
    time::Duration,
};

use tigger_testkit::{
    Auth, Conninfo, Host, Pgbench, Postgres, PostgresOptions, Proxy, ProxyKind, ProxyOptions, Psql, Signal, free_port,
    have_pgbouncer, have_postgres, skipped,
};

/// Whether the named test can run; if not, says why and counts it.
fn can_run(test: &str, needs_pgbouncer: bool) -> bool {
    match (have_postgres(), needs_pgbouncer && !have_pgbouncer()) {
        (true, false) => true,
        (false, _) => {
            skipped(test, "PostgreSQL is not installed");
            false
        }
        (true, true) => {
            skipped(test, "PgBouncer is not installed");
            false
        }
    }
}

fn process_exists(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn postgres_starts_answers_restarts_and_leaves_nothing_behind() {
    if !can_run("postgres_starts_answers_restarts_and_leaves_nothing_behind", false) {
        return;
    }
    let mut postgres = Postgres::start(&PostgresOptions::default().max_connections(30)).unwrap();
    assert_eq!(postgres.psql("show max_connections").unwrap(), "30");
    postgres.psql("create table kept as select 1 as a").unwrap();
    let (port, first_pid) = (postgres.port(), postgres.pid().unwrap());
    postgres.restart().unwrap();
    assert_eq!(postgres.port(), port);
    assert_ne!(postgres.pid(), Some(first_pid));
    assert_eq!(Psql::new(postgres.conninfo()).text("select a from kept").unwrap(), "1");
    postgres.stop_immediate().unwrap();
    assert_eq!(postgres.pid(), None);
    assert_eq!(Psql::new(postgres.conninfo()).run(&["select 1"]).unwrap().status.code(), Some(2));
    postgres.restart().unwrap();
    assert_eq!(postgres.psql("select a from kept").unwrap(), "1");
    assert!(postgres.log().contains("ready to accept connections"));

    let (pid, directory) = (postgres.pid().unwrap(), postgres.socket_dir().to_owned());
    drop(postgres);
    assert!(!process_exists(pid));
    assert!(!directory.exists());
}

#[test]
fn passwords_are_asked_for_over_tcp() {
    if !can_run("passwords_are_asked_for_over_tcp", false) {
        return;
    }
    for (auth, stored_as) in [(Auth::Md5, "md5"), (Auth::ScramSha256, "SCRAM-SHA-256")] {
        let postgres = Postgres::start(&PostgresOptions::default().auth(auth)).unwrap();
        assert_eq!(Psql::new(postgres.conninfo()).text("select 1").unwrap(), "1");
        let wrong =
            Psql::new(Conninfo::new(postgres.host(), postgres.port()).password("wrong")).run(&["select 1"]).unwrap();
        assert_eq!(wrong.status.code(), Some(2), "{wrong}");
        let secret = postgres.psql("select rolpassword from pg_authid where rolname = 'postgres'").unwrap();
        assert!(secret.starts_with(stored_as), "{secret}");
    }
}

#[test]
fn a_proxy_serves_and_leaves_nothing_behind() {
    if !can_run("a_proxy_serves_and_leaves_nothing_behind", true) {
        return;
    }
    let postgres = Postgres::start(&PostgresOptions::default()).unwrap();
    Pgbench::init(&postgres.conninfo(), 1).unwrap();
    let options = ProxyOptions::new().server("*", &postgres).pool_size(3);
    let proxy = Proxy::start(ProxyKind::PgBouncer, &options).unwrap();
    let report = Pgbench::new(proxy.conninfo()).clients(5).seconds(1).rate(200).log_latencies().run().unwrap();
    assert_eq!((report.failures(), report.latencies_us.len() as u64), (0, report.transactions), "{report:?}");
    let pools = proxy.admin("show pools").unwrap();
    let servers: u32 = pools.find("database", "postgres").unwrap()["sv_idle"].parse().unwrap();
    assert!((1..=3).contains(&servers), "{pools:?}");
    assert!(proxy.rss_kib().unwrap() > 0);

    proxy.rewrite(&options.clone().pool_size(4)).unwrap();
    proxy.admin("reload").unwrap();
    assert_eq!(&proxy.admin("show config").unwrap().find("key", "default_pool_size").unwrap()["value"], "4");

    proxy.signal(Signal::SIGTERM).unwrap();
    let status = proxy.wait_exit().unwrap();
    assert_eq!(proxy.exited().unwrap(), Some(status));
    let directory = proxy.socket_dir().to_owned();
    drop(proxy);
    assert!(!directory.exists());
}

#[test]
fn servers_on_simulated_hosts_are_reached_from_the_others() {
    const TEST: &str = "servers_on_simulated_hosts_are_reached_from_the_others";
    if !can_run(TEST, true) {
        return;
    }
    let [client, server] = match Host::simulate(["client", "server"]) {
        Ok(hosts) => hosts,
        Err(error) => return skipped(TEST, &format!("{error:#}")),
    };
    let postgres = Postgres::start(&PostgresOptions::default().on(&server)).unwrap();
    let proxy = Proxy::start(ProxyKind::PgBouncer, &ProxyOptions::new().on(&server).server("*", &postgres)).unwrap();
    let query = "select inet_client_addr(), inet_server_addr()";
    let seen = |conninfo, host: &Host| Psql::new(conninfo).on(host).text(query).unwrap();
    assert_eq!(seen(postgres.conninfo_from(&client), &client), "192.0.2.1|192.0.2.2");
    assert_eq!(seen(proxy.conninfo_from(&client), &client), "127.0.0.1|127.0.0.1");
    assert_eq!(proxy.psql("select 1").unwrap(), "1");
    assert_eq!(Psql::new(postgres.conninfo()).run(&["select 1"]).unwrap().status.code(), Some(2), "not from our host");
    let namespaces = || {
        let ours = format!("tigger-{}-", std::process::id());
        let names = std::fs::read_dir("/var/run/netns").unwrap().flatten().map(|entry| entry.file_name());
        names.filter(|name| name.to_string_lossy().starts_with(&ours)).count()
    };
    assert_eq!(namespaces(), 2);
    drop((client, server, proxy));
    assert_eq!(namespaces(), 1, "where PostgreSQL still runs");
    drop(postgres);
    assert_eq!(namespaces(), 0);
}

#[test]
fn a_proxy_that_cannot_start_shows_its_log() {
    if !can_run("a_proxy_that_cannot_start_shows_its_log", true) {
        return;
    }
    let options = ProxyOptions::new().setting("pool_mode", "nonsense").port(free_port());
    let error = Proxy::start(ProxyKind::PgBouncer, &options).unwrap_err();
    assert!(format!("{error:#}").contains("nonsense"), "{error:#}");
}

/// Runs this test program again, only for the test below, which starts a server; kills it without mercy and waits for
/// the guardian to clean up.
#[test]
fn a_killed_test_process_leaves_nothing_behind() {
    if !can_run("a_killed_test_process_leaves_nothing_behind", false) {
        return;
    }
    let mut child = Command::new(env::current_exe().unwrap())
        .args(["--exact", "victim", "--nocapture"])
        .env(VICTIM, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains(VICTIM) {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "the victim ended");
    }
    let mut words = line.split_ascii_whitespace().skip_while(|word| *word != VICTIM).skip(1);
    let (pid, directory): (u32, &str) = (words.next().unwrap().parse().unwrap(), words.next().unwrap());
    assert!(process_exists(pid));
    child.kill().unwrap();
    child.wait().unwrap();
    while Path::new(directory).exists() {
        thread::park_timeout(Duration::from_millis(5));
    }
    drop(output.read_to_string(&mut line));
}

#[test]
fn victim() {
    if env::var_os(VICTIM).is_none() {
        return; // Not a test of its own.
    }
    let postgres = Postgres::start(&PostgresOptions::default()).unwrap();
    println!("{VICTIM} {} {}", postgres.pid().unwrap(), postgres.socket_dir().display());
    loop {
        thread::park();
    }
}

const VICTIM: &str = "TIGGER_TESTKIT_VICTIM";
