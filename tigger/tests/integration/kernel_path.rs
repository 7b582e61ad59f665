//! The kernel path: what it carries, what it leaves to the user path and why, and that nothing else changes. That both
//! paths understand the same bytes is tested in `bypass/host`.
//!
//! * `paths`: which path serves whom, by the console;
//! * `apart`: other processes, namespaces and proxies, and the end of ours;
//! * `hosts`: clients and servers on other hosts;
//! * `limits`: what is too much for it;
//! * `commands`: the console's commands and the life of servers while it carries load.

mod apart;
mod commands;
mod hosts;
mod limits;
mod paths;

use std::{collections::BTreeMap, thread};

use tigger_testkit::{Proxy, ProxyOptions, skipped};

use crate::support::{Console, proxy, until};
use crate::wire::Wire;

/// A proxy with a kernel path; `None`, and counted, where that cannot be had.
pub(crate) fn kernel_proxy(options: &ProxyOptions) -> Option<Proxy> {
    let proxy = proxy(&options.clone().default_setting("kernel_path", "auto"));
    let reason = figure(&mut Console::new(&proxy), "reason");
    if reason.is_empty() {
        return Some(proxy);
    }
    skipped(thread::current().name().unwrap_or("a test of the kernel path"), &reason);
    None
}

/// A value of SHOW KERNEL_PATH.
#[track_caller]
fn figure(console: &mut Console, name: &str) -> String {
    let table = console.table("SHOW KERNEL_PATH");
    table.find("name", name).unwrap_or_else(|| panic!("no {name} in {table:?}"))["value"].to_owned()
}

/// The counters of SHOW KERNEL_PATH.
#[derive(Clone, Debug)]
pub(crate) struct Counters(BTreeMap<String, u64>);

impl Counters {
    pub(crate) fn read(console: &mut Console) -> Self {
        let table = console.table("SHOW KERNEL_PATH");
        let counters = table.iter().filter_map(|row| Some((row["name"].to_owned(), row["value"].parse().ok()?)));
        Self(counters.collect())
    }

    #[track_caller]
    pub(crate) fn get(&self, name: &str) -> u64 {
        *self.0.get(name).unwrap_or_else(|| panic!("no {name} in {self:?}"))
    }

    /// What was counted since `before`.
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self(self.0.iter().map(|(name, count)| (name.clone(), count.saturating_sub(before.get(name)))).collect())
    }
}

/// Has the client ask until the kernel path carries it: the first request opens the server.
#[track_caller]
pub(crate) fn warm_up(console: &mut Console, client: &mut Wire) {
    let before = Counters::read(console);
    until("the kernel path carries", || {
        assert_eq!(client.value("select 'warm'"), "warm");
        Counters::read(console).since(&before).get("replies_kernel") > 0
    });
}

/// Asks so many queries, one after the other, each with an answer of its own.
#[track_caller]
fn ask(client: &mut Wire, queries: u64) {
    for number in 0..queries {
        assert_eq!(client.value(&format!("select {number}")), number.to_string());
    }
}

/// Microseconds of queries and of transactions so far.
#[track_caller]
fn times(console: &mut Console) -> [u64; 2] {
    let table = console.table("SHOW STATS");
    let row = table.find("database", "postgres").unwrap();
    ["total_query_time", "total_xact_time"].map(|name| row[name].parse().unwrap())
}

/// What the console says of the path of the only client of `database`.
#[track_caller]
fn path_of(console: &mut Console, database: &str) -> String {
    console.table("SHOW CLIENTS").find("database", database).unwrap()["path"].to_owned()
}

/// Asserts that of `all` replies nearly each was the kernel path's: it may leave one where the one before was still being
/// delivered.
#[track_caller]
pub(crate) fn assert_carried(counters: &Counters, all: u64) {
    let (kernel, user) = (counters.get("replies_kernel"), counters.get("replies_user"));
    assert_eq!(kernel + user, all, "{counters:?}");
    assert!(user * 20 <= all, "{user} of {all} replies were left to the user path: {counters:?}");
}
