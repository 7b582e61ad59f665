//! Where programs run: on this host, or on another one that a network namespace stands for. Such hosts have an address
//! each and reach one another over veth pairs, and nothing else: no other program of the machine sees their traffic.
//! File systems, and so Unix sockets, are shared by all. It needs root, `ip` and `nsenter`.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::{self, Command},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, ensure};
use nix::{
    sched::{CloneFlags, setns},
    unistd::Uid,
};

use crate::{
    account::Account,
    guardian::Guardian,
    programs::on_path,
    run::{command, run},
};

/// Where a program runs.
#[derive(Clone, Debug, Default)]
pub struct Host {
    /// `None` is the network that we run in ourselves.
    namespace: Option<Arc<Namespace>>,
}

impl Host {
    /// Simulates `N` hosts, each connected with every other one. They are gone when the last clone of each and all that
    /// was started there is dropped, or when we are killed. An error also means that it cannot be done here.
    pub fn simulate<const N: usize>(names: [&str; N]) -> Result<[Self; N]> {
        ensure!(Uid::effective().is_root(), "network namespaces need root");
        for program in ["ip", "nsenter"] {
            ensure!(
                on_path(program).is_some(),
                "network namespaces need {program}: apt-get install iproute2 util-linux"
            );
        }
        let mut hosts: [Self; N] = std::array::from_fn(|_| Self::default());
        for ((host, name), number) in hosts.iter_mut().zip(names).zip(1..) {
            host.namespace = Some(Arc::new(Namespace::create(name, number)?));
        }
        let namespaces: Vec<&Namespace> = hosts.iter().filter_map(|host| host.namespace.as_deref()).collect();
        for (i, a) in namespaces.iter().enumerate() {
            for b in &namespaces[i + 1..] {
                a.connect(b)?;
            }
        }
        Ok(hosts)
    }

    /// The address under which programs on `from` reach this host.
    pub fn address_from(&self, from: &Self) -> String {
        match &self.namespace {
            Some(namespace) if !self.is(from) => namespace.address.clone(),
            _ => LOOPBACK.to_owned(),
        }
    }

    /// Runs `work` in a thread whose network is that of this host. Sockets that it makes belong to this host wherever they
    /// are used.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        let namespace = self.namespace.as_ref().map(|namespace| File::open(namespace.path())).transpose()?;
        thread::scope(|scope| {
            let thread = scope.spawn(|| {
                if let Some(namespace) = namespace {
                    setns(namespace, CloneFlags::CLONE_NEWNET).context("entering a network namespace")?;
                }
                Ok(work())
            });
            thread.join().map_err(|_| anyhow!("a thread on another host panicked"))?
        })
    }

    /// Loses one packet in a hundred that this host sends over TCP, and delays three, so that later ones overtake them.
    /// An error also means that it cannot be done here.
    pub fn disturb(&self) -> Result<()> {
        let namespace = self.namespace.as_ref().context("only a simulated host may be disturbed")?;
        for program in ["nft", "tc"] {
            ensure!(on_path(program).is_some(), "losing packets needs {program}: apt-get install nftables iproute2");
        }
        let run_inside = |program: &str, args: &[&str]| {
            let mut command = self.command(Path::new(program), Account::Ours);
            run(command.args(args), LIMIT)?.checked().with_context(|| format!("{program} {}", args.join(" ")))
        };
        for device in &namespace.devices()? {
            run_inside("tc", &["qdisc", "add", "dev", device, "root", "handle", "1:", "htb", "default", "10"])?;
            for (class, rate) in [("1:10", &["rate", "10gbit"][..]), ("1:20", &["rate", "20mbit", "burst", "2k"][..])] {
                let add = ["class", "add", "dev", device, "parent", "1:", "classid", class, "htb"];
                run_inside("tc", &[&add[..], rate].concat())?;
            }
        }
        run_inside(
            "nft",
            &["add table inet disturb; add chain inet disturb out { type filter hook output priority 0; }"],
        )?;
        let random = "add rule inet disturb out meta l4proto tcp numgen random mod 100";
        run_inside("nft", &[&format!("{random} < 1 drop")])?;
        run_inside("nft", &[&format!("{random} < 3 meta priority set 1:20")])?;
        Ok(())
    }

    /// Whether it is another host than ours.
    pub(crate) fn is_simulated(&self) -> bool {
        self.namespace.is_some()
    }

    /// Where servers listen that all hosts are to reach. What is open to all in a namespace is not so to the world.
    pub(crate) fn listen_address(&self) -> &'static str {
        if self.is_simulated() { "0.0.0.0" } else { LOOPBACK }
    }

    /// A command for `program` to run on this host under `account`; its process is the program itself, without another
    /// one between. The environment is that of [`command`].
    pub(crate) fn command(&self, program: &Path, account: Account) -> Command {
        let Some(namespace) = &self.namespace else {
            let mut command = command(program);
            account.apply(&mut command);
            return command;
        };
        // `ip netns exec` would hide /sys/fs/cgroup. Entering needs root, so nsenter changes the account afterwards.
        let mut command = command(Path::new("nsenter"));
        command.arg(format!("--net={}", namespace.path().display()));
        if let Account::Other { uid, gid } = account {
            command.arg(format!("--setuid={uid}")).arg(format!("--setgid={gid}"));
        }
        command.arg(program);
        command
    }

    fn is(&self, other: &Self) -> bool {
        match (&self.namespace, &other.namespace) {
            (None, None) => true,
            (Some(ours), Some(theirs)) => Arc::ptr_eq(ours, theirs),
            _ => false,
        }
    }
}

/// A named network namespace, removed on drop. Removing it removes its ends of the veth pairs, and so the pairs.
#[derive(Debug)]
struct Namespace {
    name: String,
    /// What others call their devices to this one.
    host: String,
    address: String,
    guardian: Guardian,
}

impl Namespace {
    fn create(host: &str, number: u8) -> Result<Self> {
        // Unique among processes and within this one.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tigger-{}-{}-{host}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let guardian = Guardian::start("ip netns delete \"$1\"", [&name])?;
        let namespace = Self { name, host: host.to_owned(), address: format!("{NETWORK}.{number}"), guardian };
        ip(&["netns", "add", &namespace.name])?;
        ip(&["-netns", &namespace.name, "link", "set", "lo", "up"])?;
        Ok(namespace)
    }

    /// Joins two namespaces by a veth pair made in them, so that this machine's own network never has it.
    fn connect(&self, other: &Self) -> Result<()> {
        let (here, there) = (format!("to-{}", other.host), format!("to-{}", self.host));
        ip(&["link", "add", &here, "netns", &self.name, "type", "veth", "peer", &there, "netns", &other.name])?;
        for (from, device, to) in [(self, &here, other), (other, &there, self)] {
            let in_namespace = ["-netns", &from.name];
            let address = ["address", "add", &from.address, "peer", &to.address, "dev", device];
            ip(&[&in_namespace[..], &address].concat())?;
            ip(&[&in_namespace[..], &["link", "set", device, "up"]].concat())?;
        }
        Ok(())
    }

    /// Its ends of veth pairs.
    fn devices(&self) -> Result<Vec<String>> {
        let shown = run(
            command(Path::new("ip")).args(["-netns", &self.name, "-brief", "link", "show", "type", "veth"]),
            LIMIT,
        )?;
        // Each line begins with the device, `@` and its peer.
        Ok(shown.checked()?.stdout.lines().filter_map(|line| Some(line.split_once('@')?.0.to_owned())).collect())
    }

    /// Where `ip netns` keeps it (ip-netns(8)).
    fn path(&self) -> PathBuf {
        Path::new("/var/run/netns").join(&self.name)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if self.path().exists()
            && let Err(error) = ip(&["netns", "delete", &self.name])
        {
            eprintln!("removing a network namespace: {error:#}");
            return; // The guardian will try again when we end.
        }
        self.guardian.dismiss();
    }
}

fn ip(args: &[&str]) -> Result<()> {
    run(command(Path::new("ip")).args(args), LIMIT)?.checked().with_context(|| format!("ip {}", args.join(" ")))?;
    Ok(())
}

const LOOPBACK: &str = "127.0.0.1";
/// Addresses that no real host has: they are for documentation (RFC 5737, TEST-NET-1).
const NETWORK: &str = "192.0.2";
const LIMIT: Duration = Duration::from_secs(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_host_is_reached_over_loopback() {
        let ours = Host::default();
        assert_eq!((ours.address_from(&Host::default()).as_str(), ours.listen_address()), (LOOPBACK, LOOPBACK));
        assert_eq!(ours.command(Path::new("true"), Account::Ours).get_program(), "true");
    }
}
