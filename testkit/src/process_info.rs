//! What `/proc` tells of a process and of the machine: memory, CPU time, open files, listening sockets (proc(5)).

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};

/// A running process, looked at through `/proc`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessInfo {
    pid: u32,
}

impl ProcessInfo {
    /// The process with this pid, which may or may not run.
    pub fn new(pid: u32) -> Self {
        Self { pid }
    }

    /// Resident memory (`VmRSS`) in KiB.
    pub fn rss_kib(self) -> Result<u64> {
        parse_rss_kib(&self.read("status")?).with_context(|| format!("no VmRSS for process {}", self.pid))
    }

    /// CPU time used so far by all threads, user and system, in ticks: see [`ticks_per_second`].
    pub fn cpu_ticks(self) -> Result<u64> {
        parse_cpu_ticks(&self.read("stat")?).with_context(|| format!("no CPU times for process {}", self.pid))
    }

    /// How many files it has open.
    pub fn fd_count(self) -> Result<usize> {
        Ok(fs::read_dir(self.path("fd")).context("reading open files")?.count())
    }

    /// Whether it has a TCP socket listening on `port`. Asking makes no connection, so no counter of the process moves.
    pub(crate) fn listens_on(self, port: u16) -> bool {
        let tables = ["net/tcp", "net/tcp6"].map(|table| self.read(table).unwrap_or_default());
        let inodes: Vec<String> = tables.iter().flat_map(|table| listening_inodes(table, port)).collect();
        let files = fs::read_dir(self.path("fd")).into_iter().flatten().flatten();
        files.filter_map(|file| fs::read_link(file.path()).ok()).any(|link| {
            let inode = link.to_str().and_then(|link| link.strip_prefix("socket:[")?.strip_suffix(']'));
            inode.is_some_and(|inode| inodes.iter().any(|listening| listening == inode))
        })
    }

    fn read(self, name: &str) -> Result<String> {
        let path = self.path(name);
        fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
    }

    fn path(self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/{name}", self.pid))
    }
}

/// CPU time used by the whole machine since boot, in ticks: user, nice, system, irq and softirq of `/proc/stat`.
pub fn machine_cpu_ticks() -> Result<u64> {
    let text = fs::read_to_string("/proc/stat").context("reading /proc/stat")?;
    parse_machine_cpu_ticks(&text).context("no line of CPU times in /proc/stat")
}

/// How many ticks of CPU time make a second (`USER_HZ`). Linux's interface to user space has it at 100 on every
/// architecture that PostgreSQL is packaged for.
pub const fn ticks_per_second() -> u64 {
    100
}

fn parse_rss_kib(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix(" kB")?.parse().ok()
}

/// Fields 14 and 15 of `/proc/PID/stat`. The name in field 2 may hold blanks and parentheses, so count from its end.
fn parse_cpu_ticks(stat: &str) -> Option<u64> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let (user, system): (u64, u64) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    Some(user + system)
}

/// The first line is `cpu user nice system idle iowait irq softirq …`.
fn parse_machine_cpu_ticks(stat: &str) -> Option<u64> {
    let fields = stat.lines().next()?.strip_prefix("cpu ")?.split_ascii_whitespace();
    let ticks: Vec<u64> = fields.map(str::parse).collect::<Result<_, _>>().ok()?;
    let [user, nice, system, _idle, _iowait, irq, softirq, ..] = ticks[..] else { return None };
    Some(user + nice + system + irq + softirq)
}

/// Inodes of the sockets of `/proc/net/tcp` in state LISTEN (0A) on `port`.
fn listening_inodes(table: &str, port: u16) -> impl Iterator<Item = String> {
    table.lines().skip(1).filter_map(move |line| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
        let listens = *fields.get(3)? == "0A" && u16::from_str_radix(local_port, 16) == Ok(port);
        listens.then(|| fields.get(9).map(|inode| (*inode).to_owned()))?
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn our_own_figures_can_be_read() {
        let ours = ProcessInfo::new(std::process::id());
        assert!(ours.rss_kib().unwrap() > 100);
        assert!(ours.fd_count().unwrap() >= 3);
        ours.cpu_ticks().unwrap();
        assert!(machine_cpu_ticks().unwrap() > 0);
    }

    #[test]
    fn fields_are_counted_after_the_name() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 1 0 30 12 0 0 20 0 1 0 5 1000 10";
        assert_eq!(parse_cpu_ticks(stat), Some(42));
        assert_eq!(parse_machine_cpu_ticks("cpu  1 2 4 1000 1000 8 16 0 0 0\ncpu0 1\n"), Some(31));
        assert_eq!(parse_rss_kib("Name:\tx\nVmRSS:\t    5124 kB\n"), Some(5124));
    }

    #[test]
    fn a_listening_socket_is_seen_while_open() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (ours, port) = (ProcessInfo::new(std::process::id()), listener.local_addr().unwrap().port());
        assert!(ours.listens_on(port));
        drop(listener);
        assert!(!ours.listens_on(port));
    }
}
