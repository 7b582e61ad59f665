//! The configuration of a pooler under test: PgBouncer's ini format, with defaults that fit a test.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{account::Account, host::Host, postgres::Postgres};

/// What `proxy.ini` and the files beside it say. The defaults: transaction pooling, `auth_type = trust`, users
/// `postgres` (also admin) and `stats` in the userlist, 127.0.0.1 and a Unix socket on a free port.
#[derive(Clone, Debug)]
pub struct ProxyOptions {
    databases: Vec<String>,
    user_lines: Vec<String>,
    settings: BTreeMap<String, String>,
    userlist: BTreeMap<String, String>,
    files: BTreeMap<String, Vec<u8>>,
    raw: String,
    args: Vec<String>,
    env: BTreeMap<String, String>,
    port: Option<u16>,
    binary: Option<PathBuf>,
    host: Host,
}

impl ProxyOptions {
    /// The defaults, without any database.
    pub fn new() -> Self {
        let settings = DEFAULTS.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let userlist =
            [("postgres", ""), ("stats", "")].map(|(name, secret)| (name.to_owned(), secret.to_owned())).into();
        Self {
            databases: Vec::new(),
            user_lines: Vec::new(),
            settings,
            userlist,
            files: BTreeMap::new(),
            raw: String::new(),
            args: Vec::new(),
            env: BTreeMap::new(),
            port: None,
            binary: None,
            host: Host::default(),
        }
    }

    /// Adds a line to `[databases]`, such as `app = host=127.0.0.1 port=5432 pool_size=5`.
    #[must_use]
    pub fn database(mut self, line: &str) -> Self {
        self.databases.push(line.to_owned());
        self
    }

    /// Runs on `host` instead of ours, open to all the hosts that were simulated with it. To be called before
    /// [`Self::server`], whose address depends on it.
    #[must_use]
    pub fn on(mut self, host: &Host) -> Self {
        self.host = host.clone();
        self.setting("listen_addr", host.listen_address())
    }

    /// Adds the database `name` (or `*`) on `postgres` over TCP to `[databases]`.
    #[must_use]
    pub fn server(self, name: &str, postgres: &Postgres) -> Self {
        let address = postgres.address_from(&self.host);
        self.database(&format!("{name} = host={address} port={}", postgres.port()))
    }

    /// Adds the database `name` (or `*`) on `postgres` over its Unix socket to `[databases]`.
    #[must_use]
    pub fn server_over_socket(self, name: &str, postgres: &Postgres) -> Self {
        self.database(&format!("{name} = host={} port={}", postgres.socket_dir().display(), postgres.port()))
    }

    /// Sets `pool_mode`.
    #[must_use]
    pub fn pool_mode(self, mode: &str) -> Self {
        self.setting("pool_mode", mode)
    }

    /// Sets `default_pool_size`.
    #[must_use]
    pub fn pool_size(self, servers: u32) -> Self {
        self.setting("default_pool_size", &servers.to_string())
    }

    /// Sets `auth_type`.
    #[must_use]
    pub fn auth_type(self, auth_type: &str) -> Self {
        self.setting("auth_type", auth_type)
    }

    /// Sets any setting of `[pgbouncer]`; the last value counts. An empty `unix_socket_dir` means no Unix socket.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Sets any setting of `[pgbouncer]` unless it was set before.
    #[must_use]
    pub fn default_setting(mut self, name: &str, value: &str) -> Self {
        self.settings.entry(name.to_owned()).or_insert_with(|| value.to_owned());
        self
    }

    /// Leaves a setting out, also one of the defaults.
    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.settings.remove(name);
        self
    }

    /// Adds a user with a password, or the secret made from one, to the userlist.
    #[must_use]
    pub fn user(mut self, name: &str, secret: &str) -> Self {
        self.userlist.insert(name.to_owned(), secret.to_owned());
        self
    }

    /// Adds a line to `[users]`, such as `alice = pool_mode=session`.
    #[must_use]
    pub fn user_line(mut self, line: &str) -> Self {
        self.user_lines.push(line.to_owned());
        self
    }

    /// Adds text at the end of the ini file as it is.
    #[must_use]
    pub fn raw(mut self, text: &str) -> Self {
        self.raw.push_str(text);
        self
    }

    /// Puts a file beside the ini file, such as a certificate. Settings can name it without a path.
    #[must_use]
    pub fn file(mut self, name: &str, contents: impl Into<Vec<u8>>) -> Self {
        self.files.insert(name.to_owned(), contents.into());
        self
    }

    /// Adds a command line argument before the name of the ini file.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Listens on this port instead of a free one.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Runs this program as Tigger instead of the one that [`tigger_binary`](crate::tigger_binary) finds.
    #[must_use]
    pub fn binary(mut self, path: impl Into<PathBuf>) -> Self {
        self.binary = Some(path.into());
        self
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn fixed_port(&self) -> Option<u16> {
        self.port
    }

    pub(super) fn fixed_binary(&self) -> Option<&Path> {
        self.binary.as_deref()
    }

    pub(super) fn listens_on_tcp(&self) -> bool {
        self.settings.get("listen_addr").is_some_and(|address| !address.is_empty())
    }

    pub(super) fn has_socket(&self) -> bool {
        self.settings.get("unix_socket_dir").is_some_and(|directory| directory == ".")
    }

    /// Adds the arguments and environment variables.
    pub(super) fn apply(&self, command: &mut Command) {
        command.args(&self.args).envs(&self.env);
    }

    /// Writes the ini file and all files beside it, readable by the account.
    pub(super) fn write(&self, directory: &Path, port: u16, account: Account) -> Result<()> {
        let own = [(INI, self.ini(directory, port)), (USERLIST, self.userlist())];
        let own = own.iter().map(|(name, text)| (*name, text.as_bytes()));
        let files = self.files.iter().map(|(name, contents)| (name.as_str(), contents.as_slice()));
        for (name, contents) in own.chain(files) {
            let path = directory.join(name);
            fs::write(&path, contents).with_context(|| format!("writing {name}"))?;
            account.own(&path).with_context(|| format!("giving {name} to the pooler's account"))?;
        }
        Ok(())
    }

    fn ini(&self, directory: &Path, port: u16) -> String {
        let mut text = String::new();
        let mut section = |name: &str, lines: &[String]| {
            if !lines.is_empty() {
                // Writing to a String cannot fail.
                let _ = writeln!(text, "[{name}]\n{}\n", lines.join("\n"));
            }
        };
        section("databases", &self.databases);
        section("users", &self.user_lines);
        let listen_port = [("listen_port".to_owned(), port.to_string())];
        let settings = self.settings.iter().map(|(name, value)| match (name.as_str(), value.as_str()) {
            ("unix_socket_dir", ".") => (name.clone(), directory.to_string_lossy().into_owned()),
            _ => (name.clone(), value.clone()),
        });
        let lines: Vec<_> =
            listen_port.into_iter().chain(settings).map(|(name, value)| format!("{name} = {value}")).collect();
        section("pgbouncer", &lines);
        text + &self.raw
    }

    /// `auth_file`: names and secrets in double quotes, a quote inside doubled.
    fn userlist(&self) -> String {
        let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
        self.userlist.iter().map(|(name, secret)| format!("{} {}\n", quoted(name), quoted(secret))).collect()
    }
}

impl Default for ProxyOptions {
    fn default() -> Self {
        Self::new()
    }
}

pub(super) const INI: &str = "proxy.ini";
const USERLIST: &str = "userlist.txt";
const DEFAULTS: [(&str, &str); 8] = [
    ("listen_addr", "127.0.0.1"),
    // Stands for the directory of the ini file: see `ini`.
    ("unix_socket_dir", "."),
    ("auth_type", "trust"),
    ("auth_file", USERLIST),
    ("admin_users", "postgres"),
    ("stats_users", "stats"),
    ("pool_mode", "transaction"),
    ("ignore_startup_parameters", "extra_float_digits"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ini_file_has_sections_and_the_last_value_of_a_setting() {
        let options = ProxyOptions::new()
            .database("app = host=127.0.0.1 port=1")
            .user_line("alice = pool_mode=session")
            .pool_size(5)
            .pool_size(7)
            .without("stats_users")
            .raw("%include x\n");
        let ini = options.ini(Path::new("/tmp/d"), 6432);
        let expected = "[databases]\napp = host=127.0.0.1 port=1\n\n[users]\nalice = pool_mode=session\n\n\
            [pgbouncer]\nlisten_port = 6432\nadmin_users = postgres\nauth_file = userlist.txt\nauth_type = trust\n\
            default_pool_size = 7\nignore_startup_parameters = extra_float_digits\nlisten_addr = 127.0.0.1\n\
            pool_mode = transaction\nunix_socket_dir = /tmp/d\n\n%include x\n";
        assert_eq!(ini, expected);
    }

    #[test]
    fn quotes_in_the_userlist_are_doubled() {
        let userlist = ProxyOptions::new().user("o\"dd", "s").userlist();
        assert_eq!(userlist, "\"o\"\"dd\" \"s\"\n\"postgres\" \"\"\n\"stats\" \"\"\n");
    }
}
