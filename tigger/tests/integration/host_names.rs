//! Hosts by name: what is kept of their addresses, and what happens when these change. The proxy runs in a mount namespace
//! in which `/etc/hosts` is a file of the test, and nobody else is asked.

use std::{
    fs,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use tigger_testkit::{Postgres, Proxy, ProxyOptions, skipped};

use crate::support::{self, Console, assert_kernel_path_used, postgres, proxy_by, until};
use crate::wire::{POSTGRES, Refusal, Wire};

/// A directory with the names that a proxy knows, and the program that becomes it.
struct Names(PathBuf);

impl Names {
    /// Names with this content of `/etc/hosts`; `None`, and counted, where namespaces cannot be made.
    fn new(hosts: &str) -> Option<Self> {
        static NTH: AtomicU32 = AtomicU32::new(0);
        let nth = NTH.fetch_add(1, Ordering::Relaxed);
        let names = Self(std::env::temp_dir().join(format!("tigger-it-names-{}-{nth}", std::process::id())));
        fs::create_dir_all(&names.0).unwrap();
        names.set(hosts);
        let (directory, tigger) = (names.0.display(), env!("CARGO_BIN_EXE_tigger"));
        fs::write(names.0.join("nsswitch.conf"), "hosts: files\n").unwrap();
        let mount = format!(
            "mount --bind {directory}/hosts /etc/hosts && mount --bind {directory}/nsswitch.conf /etc/nsswitch.conf"
        );
        let script =
            format!("#!/bin/sh\nexec unshare --mount -- sh -c '{mount} && exec \"$0\" \"$@\"' {tigger} \"$@\"\n");
        let tried = support::script(&names.program(), &script);
        if !tried.status.success() {
            let reason = String::from_utf8_lossy(&tried.stderr).into_owned();
            skipped(thread::current().name().unwrap_or("a test of host names"), reason.trim());
            return None;
        }
        Some(names)
    }

    fn program(&self) -> PathBuf {
        self.0.join("tigger")
    }

    /// Changes what the names stand for: in the same file, which is what is mounted.
    fn set(&self, hosts: &str) {
        fs::write(self.0.join("hosts"), hosts).unwrap();
    }

    /// A proxy for a database on the host `db.test`.
    fn proxy(&self, postgres: &Postgres, change: impl FnOnce(ProxyOptions) -> ProxyOptions) -> Proxy {
        let line = format!("postgres = host=db.test port={}", postgres.port());
        let options = ProxyOptions::new().database(&line).setting("server_login_retry", "0.1");
        proxy_by(&self.program(), &change(options))
    }
}

impl Drop for Names {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

const FIRST: &str = "127.0.0.1 db.test\n";
const SECOND: &str = "::1 db.test\n";
const ADDRESS: &str = "select host(inet_server_addr())";

fn addresses(console: &mut Console) -> Vec<String> {
    console.table("SHOW SERVERS").column("addr").iter().map(|addr| (*addr).to_owned()).collect()
}

#[test]
fn a_new_server_finds_the_new_address_and_the_others_are_replaced() {
    let (Some(postgres), Some(names)) = (postgres(), Names::new(FIRST)) else { return };
    let proxy = names.proxy(postgres, |options| options.pool_size(2).setting("dns_max_ttl", "0"));
    let mut console = Console::new(&proxy);
    let (mut first, mut second) = (Wire::new(&proxy), Wire::new(&proxy));
    first.query("begin");
    assert_eq!(first.value(ADDRESS), "127.0.0.1");
    names.set(SECOND);
    second.query("begin");
    assert_eq!(second.value(ADDRESS), "::1");
    // Whoever has a server goes on with it.
    assert_eq!(first.value(ADDRESS), "127.0.0.1");
    let servers = console.table("SHOW SERVERS");
    assert_eq!(&servers.find("addr", "127.0.0.1").unwrap()["close_needed"], "1");
    assert_eq!(&servers.find("addr", "::1").unwrap()["close_needed"], "0");
    first.query("commit");
    until("it is closed", || addresses(&mut console) == ["::1"]);
    assert_eq!(first.value(ADDRESS), "::1");
    assert_eq!(second.query("commit").status, b'I');
}

#[test]
fn an_address_is_kept_for_dns_max_ttl() {
    let (Some(postgres), Some(names)) = (postgres(), Names::new(FIRST)) else { return };
    let proxy = names.proxy(postgres, |options| options.pool_size(2).setting("dns_max_ttl", "3600"));
    let mut console = Console::new(&proxy);
    let (mut first, mut second) = (Wire::new(&proxy), Wire::new(&proxy));
    first.query("begin");
    names.set(SECOND);
    second.query("begin");
    assert_eq!(second.value(ADDRESS), "127.0.0.1");
    let hosts = console.table("SHOW DNS_HOSTS");
    let row = hosts.find("hostname", "db.test").unwrap();
    assert_eq!(&row["addrs"], "127.0.0.1");
    let ttl: u64 = row["ttl"].parse().unwrap();
    assert!((3000..3600).contains(&ttl), "{ttl}");
    assert_eq!(&console.table("SHOW LISTS").find("list", "dns_names").unwrap()["items"], "1");
    assert!(console.table("SHOW DNS_ZONES").rows.is_empty());
}

#[test]
fn all_addresses_of_a_name_are_used_in_turn_and_tried() {
    // Nobody listens on the third; it is of the kind that the system puts first.
    let (Some(postgres), Some(names)) = (postgres(), Names::new("127.0.0.1 db.test\n127.9.9.9 db.test\n")) else {
        return;
    };
    let proxy = names.proxy(postgres, |options| options.pool_size(4));
    let mut wires: Vec<Wire> = (0..4).map(|_| Wire::new(&proxy)).collect();
    for wire in &mut wires {
        wire.query("begin");
        assert_eq!(wire.value(ADDRESS), "127.0.0.1");
    }
    let hosts = Console::new(&proxy).table("SHOW DNS_HOSTS");
    assert_eq!(&hosts.find("hostname", "db.test").unwrap()["addrs"], "127.0.0.1,127.9.9.9");
}

#[test]
fn dns_zone_check_period_finds_a_change_without_a_new_server() {
    let (Some(postgres), Some(names)) = (postgres(), Names::new(FIRST)) else { return };
    for path in ["off", "auto"] {
        names.set(FIRST);
        let proxy = names.proxy(postgres, |options| {
            options.pool_size(1).setting("dns_zone_check_period", "0.1").setting("kernel_path", path)
        });
        let mut wire = Wire::new(&proxy);
        for _ in 0..5 {
            assert_eq!(wire.value(ADDRESS), "127.0.0.1");
        }
        names.set(SECOND);
        until("the idle server is replaced", || wire.value(ADDRESS) == "::1");
        // A name that is lost for a while disturbs nobody.
        names.set("");
        until("it is noticed", || proxy.log().contains("DNS lookup failed: db.test"));
        assert_eq!(wire.value(ADDRESS), "::1");
        assert_kernel_path_used(&mut Console::new(&proxy));
    }
}

#[test]
fn a_session_ends_for_it_where_servers_are_closed_fast() {
    let (Some(postgres), Some(names)) = (postgres(), Names::new(FIRST)) else { return };
    let proxy = names.proxy(postgres, |options| {
        options.pool_mode("session").setting("dns_zone_check_period", "0.1").setting("server_fast_close", "1")
    });
    let mut wire = Wire::new(&proxy);
    assert_eq!(wire.value(ADDRESS), "127.0.0.1");
    names.set(SECOND);
    assert_eq!(wire.last_words(), Refusal::fatal("database configuration changed"));
    assert_eq!(Wire::new(&proxy).value(ADDRESS), "::1");
}

#[test]
fn a_name_without_address() {
    let (Some(postgres), Some(names)) = (postgres(), Names::new("")) else { return };
    let proxy = names.proxy(postgres, |options| options.setting("dns_nxdomain_ttl", "0.3"));
    let told = "server login has been failing, cached error: server DNS lookup failed (server_login_retry)";
    let mut console = Console::new(&proxy);
    until("the failure is known", || {
        // The first one waits for the server that is never opened.
        let mut wire = Wire::connect(&proxy);
        wire.send_raw(&crate::wire::startup(3 << 16, POSTGRES));
        proxy.log().contains("login failed: server DNS lookup failed")
    });
    assert_eq!(Wire::try_login(&proxy, POSTGRES).err(), Some(Refusal::fatal(told)));
    let hosts = console.table("SHOW DNS_HOSTS");
    assert_eq!(&hosts.find("hostname", "db.test").unwrap()["addrs"], "");
    names.set(FIRST);
    // As soon as the failure has expired.
    until("the name is found", || match Wire::try_login(&proxy, POSTGRES) {
        Ok(mut wire) => wire.value(ADDRESS) == "127.0.0.1",
        Err(refusal) => {
            assert_eq!(refusal, Refusal::fatal(told));
            false
        }
    });
}
