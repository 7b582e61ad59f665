//! RELOAD: what changed takes effect, what is broken changes nothing.

use tigger_testkit::{Proxy, ProxyOptions, Signal};

use crate::support::{Console, options, postgres, proxy, until, until_logged};
use crate::wire::{POSTGRES, Refusal, Wire};

fn reload(proxy: &Proxy, options: &ProxyOptions) {
    proxy.rewrite(options).unwrap();
    Console::new(proxy).table("RELOAD");
}

#[test]
fn a_larger_and_a_smaller_pool() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres);
    let proxy = proxy(&options.clone().pool_size(1));
    let mut clients: Vec<Wire> = (0..3).map(|_| Wire::new(&proxy)).collect();
    clients.iter_mut().for_each(|client| client.start("begin"));
    let mut console = Console::new(&proxy);
    console.until_pool("postgres", "cl_waiting", 2);
    reload(&proxy, &options.clone().pool_size(3));
    console.until_pool("postgres", "sv_active", 3);
    clients.iter_mut().for_each(|client| assert_eq!(client.reply().status, b'T'));
    reload(&proxy, &options.pool_size(1));
    assert_eq!(console.pool("postgres", "sv_active"), 3, "nobody is thrown out");
    clients.iter_mut().for_each(|client| assert_eq!(client.query("commit").status, b'I'));
    until("the pool is small again", || console.table("SHOW SERVERS").rows.len() == 1);
}

#[test]
fn a_client_that_is_idle_meanwhile_has_the_new_limits() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres).setting("max_packet_size", "65536");
    let proxy = proxy(&options);
    let mut client = Wire::new(&proxy);
    assert_eq!(client.value("select 1"), "1");
    reload(&proxy, &options.setting("max_packet_size", "1048576"));
    assert_eq!(client.value(&format!("select length('{}')", "x".repeat(100_000))), "100000");
}

#[test]
fn a_client_that_waits_meanwhile_has_the_new_pool_mode() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres).pool_size(1);
    let proxy = proxy(&options.clone().pool_mode("session"));
    let mut holder = Wire::new(&proxy);
    assert_eq!(holder.value("select 1"), "1");
    let mut waiting = Wire::new(&proxy);
    waiting.start("select 2");
    Console::new(&proxy).until_pool("postgres", "cl_waiting", 1);
    reload(&proxy, &options.pool_mode("transaction"));
    drop(holder);
    assert_eq!(waiting.reply().value(), "2");
    // It has given the server back although it stays.
    assert_eq!(Wire::new(&proxy).value("select 3"), "3");
}

#[test]
fn databases_come_and_go() {
    let Some(postgres) = postgres() else { return };
    let line = |name: &str| format!("{name} = host={} port={} dbname=postgres", postgres.host(), postgres.port());
    let base = ProxyOptions::new().database(&line("kept"));
    let proxy = proxy(&base.clone().database(&line("gone")));
    let login = |name: &'static str| Wire::try_login(&proxy, &[("user", "postgres"), ("database", name)]);
    let (mut kept, mut gone) = (login("kept").unwrap(), login("gone").unwrap());
    assert_eq!(login("new").unwrap_err(), Refusal::fatal("no such database: new"));
    gone.query("begin");
    let kept_pid = kept.value("select pg_backend_pid()");
    reload(&proxy, &base.clone().database(&line("new")));
    assert_eq!(gone.last_words(), Refusal::fatal("database removed"));
    assert_eq!(login("gone").unwrap_err(), Refusal::fatal("no such database: gone"));
    assert_eq!(login("new").unwrap().value("select 1"), "1");
    // What did not change is not disturbed.
    assert_eq!(kept.value("select pg_backend_pid()"), kept_pid);
    let mut console = Console::new(&proxy);
    assert!(console.table("SHOW DATABASES").find("name", "gone").is_none());
    until("its servers are closed", || console.table("SHOW SERVERS").find("database", "gone").is_none());
    // And back again.
    reload(&proxy, &base.database(&line("gone")));
    assert_eq!(login("gone").unwrap().value("select 1"), "1");
}

#[test]
fn a_database_that_moves_gets_new_servers() {
    let Some(postgres) = postgres() else { return };
    let line = |dbname: &str| format!("app = host={} port={} dbname={dbname}", postgres.host(), postgres.port());
    let proxy = proxy(&ProxyOptions::new().database(&line("postgres")));
    let mut client = Wire::login(&proxy, &[("user", "postgres"), ("database", "app")]);
    assert_eq!(client.value("select current_database()"), "postgres");
    reload(&proxy, &ProxyOptions::new().database(&line("template1")));
    assert_eq!(client.value("select current_database()"), "template1");
    until_logged(&proxy, "closing because: database configuration changed");
}

#[test]
fn settings_and_users_take_effect() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres);
    let proxy = proxy(&options);
    let mut client = Wire::new(&proxy);
    client.query("begin");
    assert!(Wire::try_login(&proxy, &[("user", "postgres"), ("database", "postgres"), ("geqo", "on")]).is_err());
    reload(
        &proxy,
        &options.clone().setting("ignore_startup_parameters", "geqo").pool_mode("statement").user("new", ""),
    );
    Wire::login(&proxy, &[("user", "postgres"), ("database", "postgres"), ("geqo", "on")]);
    let console = Wire::login(&proxy, &[("user", "stats"), ("database", "pgbouncer")]).value("show version");
    assert!(console.starts_with("PgBouncer"));
    let refused = Wire::try_login(&proxy, &[("user", "new"), ("database", "postgres")]).unwrap_err();
    assert_eq!(refused.text, "role \"new\" does not exist", "known to the proxy now");
    let pools = Console::new(&proxy).table("SHOW POOLS");
    assert_eq!(&pools.find("database", "postgres").unwrap()["pool_mode"], "statement");
    // The transaction from before may end.
    assert_eq!(client.query("commit").status, b'I');
}

#[test]
fn query_wait_timeout_holds_for_clients_that_are_connected() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres).pool_size(1);
    let proxy = proxy(&options);
    let [mut holder, mut waiting] = [(); 2].map(|()| Wire::new(&proxy));
    holder.query("begin");
    reload(&proxy, &options.setting("query_wait_timeout", "0.5"));
    waiting.start("select 1");
    assert_eq!(waiting.last_words().text, "query_wait_timeout");
}

#[test]
fn a_broken_file_changes_nothing() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres).pool_size(7);
    let proxy = proxy(&options);
    let mut client = Wire::new(&proxy);
    let mut console = Console::new(&proxy);
    let before = console.table("SHOW CONFIG");
    let broken = [
        options.clone().pool_size(8).setting("pool_mode", "swimming"),
        options.clone().pool_size(8).raw("this is no line\n"),
        options.clone().pool_size(8).setting("no_such_setting_at_all", "1").raw("%include missing.ini\n"),
        options.clone().pool_size(8).setting("auth_file", "missing.txt"),
        options.clone().pool_size(8).file("userlist.txt", "\"unfinished\n"),
    ];
    for (nth, broken) in broken.iter().enumerate() {
        proxy.rewrite(broken).unwrap();
        let refusal = console.refused("RELOAD");
        assert_eq!(refusal.text, "RELOAD failed, see logs for additional details", "file {nth}");
        until("it is logged", || proxy.log().matches("reload failed").count() == nth + 1);
        assert_eq!(console.table("SHOW CONFIG"), before, "file {nth}");
        assert_eq!(client.value("select 1"), "1");
        assert_eq!(Wire::try_login(&proxy, POSTGRES).unwrap().value("select 1"), "1");
    }
    // SIGHUP survives it, too.
    proxy.signal(Signal::SIGHUP).unwrap();
    until("it is logged", || proxy.log().matches("reload failed").count() == broken.len() + 1);
    assert_eq!(client.value("select 1"), "1");
    reload(&proxy, &options.pool_size(8));
    assert_ne!(console.table("SHOW CONFIG"), before);
}

#[test]
fn the_error_code_of_a_failed_reload() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres);
    let proxy = proxy(&options);
    proxy.rewrite(&options.setting("pool_mode", "swimming")).unwrap();
    let refusal = Console::new(&proxy).refused("RELOAD");
    assert_eq!((refusal.severity.as_str(), refusal.sqlstate.as_str()), ("ERROR", "F0000"));
}

#[test]
fn timeouts_hold_for_those_who_are_here() {
    let Some(postgres) = postgres() else { return };
    let options = options(postgres);
    let proxy = proxy(&options.clone().setting("client_idle_timeout", "3600").setting("query_timeout", "3600"));
    let (mut idle, mut busy) = (Wire::new(&proxy), Wire::new(&proxy));
    idle.value("select 1");
    busy.start("select pg_sleep(1000)");
    let mut console = Console::new(&proxy);
    console.until_pool("postgres", "sv_active", 1);
    reload(&proxy, &options.clone().setting("client_idle_timeout", "1").setting("query_timeout", "3600"));
    assert_eq!(idle.last_words(), Refusal::fatal("client_idle_timeout"));
    reload(&proxy, &options.setting("query_timeout", "1"));
    assert_eq!(busy.last_words(), Refusal::fatal("query timeout"));
}
