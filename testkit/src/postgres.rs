//! A throw-away PostgreSQL server in a temporary directory. It is fast and forgets: nothing is synced to disk.

mod template;

use std::{
    fs,
    io::Write,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::{
    account::Account,
    conninfo::Conninfo,
    daemon::{Daemon, Startup},
    host::Host,
    port::free_port,
    process_info::ProcessInfo,
    programs::postgres_program,
    psql::Psql,
    run::run,
};

/// How clients over TCP prove who they are (`pg_hba.conf`, PostgreSQL manual 21.1). Over the Unix socket it is `trust`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Auth {
    /// They need not.
    #[default]
    Trust,
    /// By an MD5 hash of the password; passwords are stored so, too.
    Md5,
    /// By SCRAM-SHA-256; passwords are stored so, too.
    ScramSha256,
}

impl Auth {
    fn method(self) -> &'static str {
        match self {
            Self::Trust => "trust",
            Self::Md5 => "md5",
            Self::ScramSha256 => "scram-sha-256",
        }
    }
}

/// What kind of server to start.
#[derive(Clone, Debug, Default)]
pub struct PostgresOptions {
    auth: Auth,
    host: Host,
    settings: Vec<(String, String)>,
    hba: Vec<String>,
    files: Vec<(String, Vec<u8>)>,
    programs: Option<PathBuf>,
}

impl PostgresOptions {
    /// Sets how TCP clients authenticate. With other than `Trust` the superuser's password is `postgres`.
    #[must_use]
    pub fn auth(mut self, auth: Auth) -> Self {
        self.auth = auth;
        self
    }

    /// Runs on `host` instead of ours, open to all the hosts that were simulated with it.
    #[must_use]
    pub fn on(mut self, host: &Host) -> Self {
        self.host = host.clone();
        self
    }

    /// Sets `max_connections` (default 100).
    #[must_use]
    pub fn max_connections(self, connections: u32) -> Self {
        self.setting("max_connections", &connections.to_string())
    }

    /// Sets any parameter of `postgresql.conf`.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Runs the programs in this directory instead of those that [`postgres_program`] finds.
    #[must_use]
    pub fn programs(mut self, directory: &Path) -> Self {
        self.programs = Some(directory.to_owned());
        self
    }

    /// Adds a line to `pg_hba.conf`, before the line that [`Self::auth`] makes for all of TCP.
    #[must_use]
    pub fn hba(mut self, line: &str) -> Self {
        self.hba.push(line.to_owned());
        self
    }

    /// Puts a file into the data directory, readable by the server alone, such as a TLS key.
    #[must_use]
    pub fn file(mut self, name: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.files.push((name.to_owned(), contents.into()));
        self
    }
}

/// A running PostgreSQL server, superuser and database `postgres`, listening on 127.0.0.1, on ::1 where that exists
/// (on a simulated host: on all its IPv4 addresses) and on a Unix socket. It is stopped and its directory removed on drop.
#[derive(Debug)]
pub struct Postgres {
    // Dropped in this order: the process before its directory and its host.
    daemon: Option<Daemon>,
    directory: TempDir,
    host: Host,
    account: Account,
    postgres: PathBuf,
    port: u16,
    auth: Auth,
}

impl Postgres {
    /// Starts a server and returns when it accepts connections. As root it runs under an unprivileged account.
    pub fn start(options: &PostgresOptions) -> Result<Self> {
        let account = Account::for_servers()?;
        // A short path: a socket's name has 107 bytes at most. And one that the other account can reach.
        let directory =
            tempfile::Builder::new().prefix("tigger-pg-").tempdir_in("/tmp").context("temporary directory")?;
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).context("opening the directory")?;
        account.own(directory.path()).context("giving the directory to the server's account")?;
        let data = directory.path().join(DATA);
        let programs = match &options.programs {
            Some(programs) => Some(within_reach(programs, directory.path(), account)?),
            None => None,
        };
        let program = |name| programs.as_ref().map_or_else(|| postgres_program(name), |at| Ok(at.join(name)));
        template::copy_to(&data, &program("initdb")?, account)?;
        configure(&data, account, options)?;
        let (host, auth) = (options.host.clone(), options.auth);
        let mut postgres =
            Self { daemon: None, directory, host, account, postgres: program("postgres")?, port: 0, auth };
        postgres.launch_on_free_port()?;
        postgres.set_superuser_password()?;
        Ok(postgres)
    }

    /// The TCP port, also the number in the Unix socket's name. It stays over [`Self::restart`].
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The IPv4 address it listens on, on its own host.
    pub fn host(&self) -> &'static str {
        "127.0.0.1"
    }

    /// The directory of the Unix socket, fit for a `host` parameter.
    pub fn socket_dir(&self) -> &Path {
        self.directory.path()
    }

    /// The postmaster's pid, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.daemon.as_ref().map(Daemon::pid)
    }

    /// The postmaster's figures in `/proc`, while it runs.
    pub fn info(&self) -> Option<ProcessInfo> {
        self.daemon.as_ref().map(Daemon::info)
    }

    /// All that the server logged since [`Self::start`].
    pub fn log(&self) -> String {
        fs::read(self.log_file()).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    /// The address under which programs on `host` reach it.
    pub fn address_from(&self, host: &Host) -> String {
        self.host.address_from(host)
    }

    /// How the superuser connects over TCP, on the server's own host.
    pub fn conninfo(&self) -> Conninfo {
        self.conninfo_from(&self.host)
    }

    /// How the superuser connects over TCP from `host`.
    pub fn conninfo_from(&self, host: &Host) -> Conninfo {
        let conninfo = Conninfo::new(&self.address_from(host), self.port);
        if self.auth == Auth::Trust { conninfo } else { conninfo.password(SUPERUSER_PASSWORD) }
    }

    /// How the superuser connects over the Unix socket, from any host.
    pub fn socket_conninfo(&self) -> Conninfo {
        Conninfo::new(&self.socket_dir().to_string_lossy(), self.port)
    }

    /// Runs a query as superuser over the Unix socket: see [`Psql::text`].
    pub fn psql(&self, query: &str) -> Result<String> {
        Psql::new(self.socket_conninfo()).text(query)
    }

    /// Sends a signal to the postmaster.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        self.daemon.as_ref().context("the server is stopped")?.signal(signal)
    }

    /// Stops at once, as after a crash (immediate shutdown, PostgreSQL manual 19.5). Nothing to do when stopped.
    pub fn stop_immediate(&mut self) -> Result<()> {
        self.stop(Signal::SIGQUIT)
    }

    /// Ends all sessions with an error to the clients and stops (fast shutdown). Nothing to do when stopped.
    pub fn stop_fast(&mut self) -> Result<()> {
        self.stop(Signal::SIGINT)
    }

    /// Stops with [`Self::stop_fast`] if it runs, then starts again on the same port with the same data.
    pub fn restart(&mut self) -> Result<()> {
        self.stop_fast()?;
        match self.launch()? {
            Startup::Ready => Ok(()),
            Startup::Exited(status) => bail!("postgres ended at restart with {status}; its log:\n{}", self.log()),
        }
    }

    fn stop(&mut self, signal: Signal) -> Result<()> {
        if let Some(daemon) = &self.daemon {
            daemon.signal(signal)?;
            daemon.wait()?;
            self.daemon = None;
        }
        Ok(())
    }

    fn launch_on_free_port(&mut self) -> Result<()> {
        for _ in 0..PORT_ATTEMPTS {
            self.port = free_port();
            let startup = self.launch()?;
            // With one of two addresses taken PostgreSQL only warns.
            let conflict = self.log().contains("Address already in use");
            match startup {
                Startup::Ready if !conflict => return Ok(()),
                Startup::Exited(status) if !conflict => bail!("postgres ended with {status}; its log:\n{}", self.log()),
                Startup::Ready | Startup::Exited(_) => {
                    self.daemon = None;
                    fs::remove_file(self.log_file()).context("removing the log of a port conflict")?;
                }
            }
        }
        bail!("found no free port in {PORT_ATTEMPTS} attempts")
    }

    fn launch(&mut self) -> Result<Startup> {
        let directory = self.directory.path();
        let mut command = self.host.command(&self.postgres, self.account);
        command.current_dir(directory).arg("-D").arg(self.data()).args(["-p", &self.port.to_string()]).arg("-k");
        command.arg(directory);
        let daemon = Daemon::spawn(&mut command, directory, &self.log_file(), Signal::SIGQUIT)?;
        let (pid_file, pid) = (self.data().join("postmaster.pid"), daemon.pid());
        let startup = daemon.wait_ready(|| fs::read_to_string(&pid_file).is_ok_and(|text| is_ready(&text, pid)))?;
        self.daemon = Some(daemon);
        Ok(startup)
    }

    fn set_superuser_password(&self) -> Result<()> {
        if self.auth != Auth::Trust {
            self.psql(&format!("alter role postgres password '{SUPERUSER_PASSWORD}'"))?;
        }
        Ok(())
    }

    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.directory.path().join(DATA)
    }

    fn log_file(&self) -> PathBuf {
        self.directory.path().join("postgres.log")
    }
}

/// The programs where the account can run them: it may have no way to where they are, so that it gets a copy.
fn within_reach(programs: &Path, directory: &Path, account: Account) -> Result<PathBuf> {
    if matches!(account, Account::Ours) {
        return Ok(programs.to_owned());
    }
    let installation = programs.parent().context("programs without their libraries")?;
    let copy = directory.join("programs");
    run(Command::new("cp").arg("-a").args([installation, &copy]), COPY_LIMIT)?.checked()?;
    Ok(copy.join("bin"))
}

fn configure(data: &Path, account: Account, options: &PostgresOptions) -> Result<()> {
    // Of two lines that set the same parameter the last counts. A simulated host has no ::1 to listen on.
    let listen =
        options.host.is_simulated().then(|| format!("listen_addresses = '{}'\n", options.host.listen_address()));
    let mut conf = String::from(SETTINGS) + &listen.unwrap_or_default();
    if options.auth == Auth::Md5 {
        conf += "password_encryption = md5\n";
    }
    for (name, value) in &options.settings {
        conf += &format!("{name} = '{}'\n", value.replace('\'', "''"));
    }
    let mut file = fs::OpenOptions::new().append(true).open(data.join("postgresql.conf")).context("postgresql.conf")?;
    file.write_all(conf.as_bytes()).context("writing postgresql.conf")?;
    let mut hba: String = options.hba.iter().map(|line| format!("{line}\n")).collect();
    hba += "local all all trust\nlocal replication all trust\n";
    hba += &format!("host all all all {method}\nhost replication all all {method}\n", method = options.auth.method());
    fs::write(data.join("pg_hba.conf"), hba).context("writing pg_hba.conf")?;
    for (name, contents) in &options.files {
        let path = data.join(name);
        fs::write(&path, contents).with_context(|| format!("writing {name}"))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).with_context(|| format!("protecting {name}"))?;
        account.own(&path).with_context(|| format!("giving {name} to the server's account"))?;
    }
    Ok(())
}

/// Whether `postmaster.pid` says that our postmaster accepts connections: the pid is in line 1, the status in line 8
/// (`miscadmin.h`, LOCK_FILE_LINE_PM_STATUS). The file of an earlier, killed one may still be there.
fn is_ready(pid_file: &str, pid: u32) -> bool {
    let mut lines = pid_file.lines();
    lines.next().is_some_and(|line| line.trim().parse() == Ok(pid))
        && lines.nth(6).is_some_and(|line| line.trim() == "ready")
}

const DATA: &str = "data";
const COPY_LIMIT: Duration = Duration::from_secs(120);
const SUPERUSER_PASSWORD: &str = "postgres";
const PORT_ATTEMPTS: u32 = 10;
const SETTINGS: &str = "
listen_addresses = '127.0.0.1,::1'
fsync = off
synchronous_commit = off
full_page_writes = off
autovacuum = off
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_is_told_from_starting_and_from_a_predecessor() {
        let file =
            |pid: u32, status: &str| format!("{pid}\n/data\n1700000000\n5432\n/tmp\n127.0.0.1\n 1 2\n{status}\n");
        assert!(is_ready(&file(7, "ready   "), 7));
        assert!(!is_ready(&file(7, "starting"), 7));
        assert!(!is_ready(&file(8, "ready   "), 7));
        assert!(!is_ready("7\n/data\n", 7));
    }
}
