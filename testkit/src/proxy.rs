//! A pooler in front of a server: Tigger, or PgBouncer as the reference, from the same ini file and arguments.

mod options;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, ExitStatus},
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tempfile::TempDir;

pub use self::options::ProxyOptions;
use crate::{
    account::Account,
    conninfo::Conninfo,
    daemon::{Daemon, Startup},
    host::Host,
    port::free_port,
    process_info::ProcessInfo,
    programs::{pgbouncer_binary, tigger_binary},
    psql::Psql,
    table::Table,
};

/// Which pooler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ProxyKind {
    /// The one of this project; runs as whoever we are.
    Tigger,
    /// The one it replaces; as root it runs under an unprivileged account, because it refuses to run as root.
    PgBouncer,
}

/// A running pooler on 127.0.0.1, or on a simulated host. It is ended and its directory removed on drop.
#[derive(Debug)]
pub struct Proxy {
    // Dropped in this order: the process before its directory and its host.
    daemon: Daemon,
    directory: TempDir,
    host: Host,
    account: Account,
    kind: ProxyKind,
    port: u16,
}

impl Proxy {
    /// Writes the configuration into a new directory, starts the pooler there and returns when it listens. If it ends
    /// instead, the error has its log.
    pub fn start(kind: ProxyKind, options: &ProxyOptions) -> Result<Self> {
        let account = Account::for_servers()?;
        // A short path: a socket's name has 107 bytes at most. And one that the other account can reach.
        let directory =
            tempfile::Builder::new().prefix("tigger-px-").tempdir_in("/tmp").context("temporary directory")?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).context("opening the directory")?;
        account.own(directory.path()).context("giving the directory to the pooler's account")?;
        for _ in 0..PORT_ATTEMPTS {
            let port = options.fixed_port().unwrap_or_else(free_port);
            options.write(directory.path(), port, account)?;
            let daemon = launch(kind, options, directory.path(), account)?;
            let (info, socket) = (daemon.info(), directory.path().join(format!(".s.PGSQL.{port}")));
            let listens =
                || (!options.listens_on_tcp() || info.listens_on(port)) && (!options.has_socket() || socket.exists());
            match daemon.wait_ready(listens)? {
                Startup::Ready => {
                    let host = options.host().clone();
                    return Ok(Self { daemon, directory, host, account, kind, port });
                }
                Startup::Exited(_) if options.fixed_port().is_none() && daemon.log().contains("in use") => {}
                Startup::Exited(status) => bail!("{kind:?} ended with {status}; its log:\n{}", daemon.log()),
            }
        }
        bail!("found no free port in {PORT_ATTEMPTS} attempts")
    }

    /// Which pooler it is.
    pub fn kind(&self) -> ProxyKind {
        self.kind
    }

    /// The TCP port, also the number in the Unix socket's name.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the Unix socket and of the configuration: `proxy.ini`, `userlist.txt` and the files of
    /// [`ProxyOptions::file`]. It is also the working directory, so settings can name files in it without a path.
    pub fn socket_dir(&self) -> &Path {
        self.directory.path()
    }

    /// The pid of the pooler.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Its figures in `/proc`.
    pub fn info(&self) -> ProcessInfo {
        self.daemon.info()
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> Result<u64> {
        self.info().rss_kib()
    }

    /// CPU time used so far, in ticks of 1/[`ticks_per_second`](crate::ticks_per_second) s.
    pub fn cpu_ticks(&self) -> Result<u64> {
        self.info().cpu_ticks()
    }

    /// All that it logged.
    pub fn log(&self) -> String {
        self.daemon.log()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.daemon.signal(signal)
    }

    /// Its status, if it has ended.
    pub fn exited(&self) -> Result<Option<ExitStatus>> {
        self.daemon.exited()
    }

    /// Waits until it ends. A pooler that does not end within a minute is an error.
    pub fn wait_exit(&self) -> Result<ExitStatus> {
        self.daemon.wait()
    }

    /// Writes the configuration and its files anew for the port of the start. The pooler reads them when told to, with
    /// SIGHUP or RELOAD.
    pub fn rewrite(&self, options: &ProxyOptions) -> Result<()> {
        options.write(self.directory.path(), self.port, self.account)
    }

    /// Where it runs.
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The address under which programs on `host` reach it.
    pub fn address_from(&self, host: &Host) -> String {
        self.host.address_from(host)
    }

    /// How user `postgres` connects to database `postgres` over TCP, on the pooler's own host.
    pub fn conninfo(&self) -> Conninfo {
        self.conninfo_from(&self.host)
    }

    /// How user `postgres` connects to database `postgres` over TCP from `host`.
    pub fn conninfo_from(&self, host: &Host) -> Conninfo {
        Conninfo::new(&self.host.address_from(host), self.port)
    }

    /// Runs a query as `postgres` on `postgres`: see [`Psql::text`].
    pub fn psql(&self, query: &str) -> Result<String> {
        Psql::new(self.conninfo()).on(&self.host).text(query)
    }

    /// Runs a command on the admin console as `postgres`: see [`Psql::table`].
    pub fn admin(&self, query: &str) -> Result<Table> {
        Psql::new(self.conninfo().dbname("pgbouncer")).on(&self.host).table(query)
    }
}

fn launch(kind: ProxyKind, options: &ProxyOptions, directory: &Path, account: Account) -> Result<Daemon> {
    let (program, account) = match kind {
        ProxyKind::Tigger => {
            (options.fixed_binary().map_or_else(tigger_binary, |path| Ok(path.to_owned()))?, Account::Ours)
        }
        ProxyKind::PgBouncer => (pgbouncer_binary()?, account),
    };
    let mut command = options.host().command(&program, account);
    options.apply(&mut command);
    start_in(directory, &mut command)
}

fn start_in(directory: &Path, command: &mut Command) -> Result<Daemon> {
    let log = directory.join("proxy.log");
    drop(fs::remove_file(&log)); // Of an attempt on a port that was taken.
    command.current_dir(directory).arg(options::INI);
    // At once for every version: SIGTERM waits for clients since PgBouncer 1.23, and where SIGQUIT is not handled it kills.
    Daemon::spawn(command, directory, &log, Signal::SIGQUIT)
}

const PORT_ATTEMPTS: u32 = 10;
