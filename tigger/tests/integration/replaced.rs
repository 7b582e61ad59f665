//! Servers that must be replaced, and the clients that have them: `server_fast_close`. On both paths.

use tigger_testkit::{Proxy, ProxyOptions};

use crate::support::{Console, assert_kernel_path_used, options, postgres, proxy};
use crate::wire::{Refusal, Wire};

const CHANGED: &str = "database configuration changed";

/// Runs a test on the user path, and with a kernel path that must have had its share.
fn on_both_paths(change: impl Fn(ProxyOptions) -> ProxyOptions, test: impl Fn(&Proxy, &mut Console)) {
    let Some(postgres) = postgres() else { return };
    for path in ["off", "auto"] {
        let options = options(postgres).setting("server_fast_close", "1").setting("kernel_path", path);
        let proxy = proxy(&change(options));
        let mut console = Console::new(&proxy);
        test(&proxy, &mut console);
        assert_kernel_path_used(&mut console);
    }
}

/// A client that has been carried by whichever path there is.
fn client(proxy: &Proxy) -> (Wire, String) {
    let mut client = Wire::new(proxy);
    let pid = (0..5).map(|_| client.value("select pg_backend_pid()")).last().unwrap();
    (client, pid)
}

#[test]
fn sessions_end_between_transactions() {
    on_both_paths(
        |options| options.pool_mode("session"),
        |proxy, console| {
            let ((mut idle, idle_pid), (mut busy, busy_pid)) = (client(proxy), client(proxy));
            busy.query("begin");
            busy.value("select 1");
            console.table("RECONNECT");
            assert_eq!(idle.last_words(), Refusal::fatal(CHANGED));
            // No transaction is lost; its end is.
            for _ in 0..3 {
                assert_eq!(busy.value("select pg_backend_pid()"), busy_pid);
            }
            assert_eq!(busy.query("commit").tags, ["COMMIT"]);
            assert_eq!(busy.last_words(), Refusal::fatal(CHANGED));
            console.until_quiet("postgres");
            assert!(proxy.log().contains("closing because: database configuration changed"), "{}", proxy.log());
            // Who comes later has nothing to do with it.
            let (mut later, pid) = client(proxy);
            assert!(pid != idle_pid && pid != busy_pid);
            for _ in 0..30 {
                assert_eq!(later.value("select pg_backend_pid()"), pid);
            }
        },
    );
}

#[test]
fn a_query_that_runs_is_answered() {
    on_both_paths(
        |options| options.pool_mode("session"),
        |proxy, console| {
            let (mut client, _) = client(proxy);
            client.start("select pg_sleep(1), 'done'");
            console.until_pool("postgres", "sv_active", 1);
            console.table("RECONNECT");
            assert_eq!(client.reply().rows, [[Some(String::new()), Some("done".into())]]);
            assert_eq!(client.last_words(), Refusal::fatal(CHANGED));
        },
    );
}

#[test]
fn in_transaction_mode_clients_notice_nothing() {
    on_both_paths(
        |options| options.pool_size(1),
        |proxy, console| {
            let (mut client, pid) = client(proxy);
            client.query("begin");
            console.table("RECONNECT");
            assert_eq!(client.value("select pg_backend_pid()"), pid);
            client.query("commit");
            assert_ne!(client.value("select pg_backend_pid()"), pid);
        },
    );
}

#[test]
fn without_it_a_session_keeps_its_server() {
    on_both_paths(
        |options| options.pool_mode("session").setting("server_fast_close", "0"),
        |proxy, console| {
            let (mut client, pid) = client(proxy);
            console.table("RECONNECT");
            let start = std::time::Instant::now();
            while start.elapsed() < std::time::Duration::from_millis(500) {
                assert_eq!(client.value("select pg_backend_pid()"), pid);
            }
        },
    );
}

#[test]
fn a_reload_that_changes_the_database() {
    let Some(postgres) = postgres() else { return };
    for path in ["off", "auto"] {
        let line = |name: &str| {
            let (host, port) = (postgres.host(), postgres.port());
            let line = format!("postgres = host={host} port={port} application_name={name}");
            let options = ProxyOptions::new().database(&line).pool_mode("session").setting("kernel_path", path);
            options.setting("server_fast_close", "1")
        };
        let proxy = proxy(&line("old"));
        let (mut client, _) = client(&proxy);
        proxy.rewrite(&line("new")).unwrap();
        Console::new(&proxy).table("RELOAD");
        assert_eq!(client.last_words(), Refusal::fatal(CHANGED));
        assert_eq!(Wire::new(&proxy).value("show application_name"), "new");
    }
}
