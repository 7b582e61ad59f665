//! The configuration: PgBouncer's ini file and `auth_file`, read once into a checked value that never changes.
//!
//! A reload makes a new [`Config`]; the old one stays valid for whoever still holds it. Nothing here is global, and
//! nothing here opens a socket or logs: warnings are returned.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub mod auth_file;
mod choice;
mod connection_string;
mod database;
mod docs;
mod ini;
mod kind;
mod peer;
mod secret;
mod settings;
mod user;

pub use choice::{AuthType, Choice, KernelPath, LoadBalanceHosts, PoolMode, SslMode, StartupParameters};
pub use database::{ADMIN_DATABASE, Database, Host};
pub use docs::config_markdown;
pub use ini::ReadFile;
pub use secret::Secret;
pub use settings::Settings;
pub use user::User;

use ini::{Entry, Section};
use settings::Setting;

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// File it was read from.
    pub conffile: PathBuf,
    /// Section `[pgbouncer]`.
    pub settings: Settings,
    /// Section `[databases]` without the fallback entry, by name.
    pub databases: BTreeMap<String, Arc<Database>>,
    /// The entry `*`, which serves every database without an entry of its own.
    pub fallback: Option<Arc<Database>>,
    /// Section `[users]`, by name.
    pub users: BTreeMap<String, Arc<User>>,
    /// Values that were given, as `SHOW CONFIG` shows them.
    given: BTreeMap<&'static str, String>,
}

impl Config {
    /// Reads the file at `path` and all it includes.
    ///
    /// # Errors
    /// The first thing in the files that is wrong, or that a file cannot be read.
    pub fn load(path: &Path) -> Result<(Self, Vec<Warning>), ConfigError> {
        Self::load_over(path, None)
    }

    /// Reads the same file again. Settings that cannot change while the process runs keep their values, with a warning.
    ///
    /// # Errors
    /// As [`Config::load`]; the caller then goes on with `self`.
    pub fn reload(&self) -> Result<(Self, Vec<Warning>), ConfigError> {
        Self::load_over(&self.conffile, Some(self))
    }

    /// Reads a configuration from `text`; `file` is its name in messages and `read_file` gives included files.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse_str(file: &str, text: &str, read_file: ReadFile<'_>) -> Result<(Self, Vec<Warning>), ConfigError> {
        Self::build(file, text, read_file, None)
    }

    /// A copy in which one setting has another value, as the admin command `SET` asks.
    ///
    /// # Errors
    /// The setting is unknown, cannot change while the process runs, or refuses the value.
    pub fn with_setting(&self, name: &str, value: &str) -> Result<Self, String> {
        let setting = settings::find(name).ok_or_else(|| format!("unknown parameter: {name}"))?;
        if !setting.is_changeable() {
            return Err(format!("parameter {name} cannot be changed while running"));
        }
        let mut config = self.clone();
        let shown = setting.apply(value, &mut config.settings)?;
        config.given.insert(setting.name, shown);
        Ok(config)
    }

    /// The database a client asked for: its entry, or one made from the fallback entry. `None`: no such database.
    ///
    /// The admin console is not among them.
    pub fn database(&self, name: &str) -> Option<Arc<Database>> {
        match self.databases.get(name) {
            Some(database) => Some(Arc::clone(database)),
            None => self.fallback.as_ref().map(|fallback| Arc::new(fallback.for_name(name))),
        }
    }

    /// All lines of `[databases]`, the fallback entry among them.
    pub fn lines(&self) -> impl Iterator<Item = &Database> {
        self.databases.values().map(AsRef::as_ref).chain(self.fallback.as_deref())
    }

    /// What applies to the pool of `database` and `user`; the user is the database's forced one, if it has one.
    ///
    /// As in PgBouncer, the line of the user wins over that of the database, and both over the settings.
    pub fn pool_settings(&self, database: &Database, user: &str) -> PoolSettings {
        let settings = &self.settings;
        let no_line = User::default();
        let user = self.users.get(user).map_or(&no_line, AsRef::as_ref);
        let pool_size = user.pool_size.or(database.pool_size).unwrap_or(settings.default_pool_size);
        PoolSettings {
            pool_mode: user.pool_mode.or(database.pool_mode).unwrap_or(settings.pool_mode),
            pool_size,
            min_pool_size: database.min_pool_size.unwrap_or(settings.min_pool_size).min(pool_size),
            reserve_pool_size: user
                .reserve_pool_size
                .or(database.reserve_pool_size)
                .unwrap_or(settings.reserve_pool_size),
            reserve_pool_timeout: settings.reserve_pool_timeout,
            max_db_connections: database.max_db_connections.or(settings.max_db_connections),
            max_user_connections: user.max_user_connections.or(settings.max_user_connections),
            server_lifetime: database.server_lifetime.unwrap_or(settings.server_lifetime),
            query_wait_timeout: user
                .query_wait_timeout
                .or(database.query_wait_timeout)
                .or(settings.query_wait_timeout)
                .filter(|time| !time.is_zero()),
            kernel_path: user.kernel_path.or(database.kernel_path).unwrap_or(settings.kernel_path),
            kernel_path_reply_limit: user
                .kernel_path_reply_limit
                .or(database.kernel_path_reply_limit)
                .unwrap_or(settings.kernel_path_reply_limit),
        }
    }

    /// Most clients of a database; `None` = not limited.
    pub fn db_client_limit(&self, database: &Database) -> Option<u32> {
        database.max_db_client_connections.or(self.settings.max_db_client_connections)
    }

    /// Most clients of a user, over all databases; `None` = not limited.
    pub fn user_client_limit(&self, user: &str) -> Option<u32> {
        let own = self.users.get(user).and_then(|user| user.max_user_client_connections);
        own.or(self.settings.max_user_client_connections)
    }

    /// Rows of `SHOW CONFIG`, by name.
    pub fn rows(&self) -> impl Iterator<Item = ConfigRow> {
        let mut settings: Vec<&'static Setting> = settings::all().collect();
        settings.sort_by_key(|setting| setting.name);
        settings.into_iter().map(move |setting| ConfigRow {
            key: setting.name,
            value: self.shown(setting),
            default: setting.default,
            changeable: setting.is_changeable(),
        })
    }

    fn load_over(path: &Path, running: Option<&Self>) -> Result<(Self, Vec<Warning>), ConfigError> {
        let file = path.display().to_string();
        let text = std::fs::read_to_string(path)
            .map_err(|error| ConfigError::new(Place::file(&file), format!("cannot read: {error}")))?;
        Self::build(&file, &text, &|name| std::fs::read_to_string(name), running)
    }

    fn build(
        file: &str,
        text: &str,
        read_file: ReadFile<'_>,
        running: Option<&Self>,
    ) -> Result<(Self, Vec<Warning>), ConfigError> {
        let entries = ini::parse(file, text, read_file)?;
        let mut warnings = Vec::new();
        let mut config = Self {
            conffile: PathBuf::from(file),
            settings: Settings::default(),
            databases: BTreeMap::new(),
            fallback: None,
            users: BTreeMap::new(),
            given: BTreeMap::new(),
        };
        // Settings first, wherever their section stands: the other lines depend on some of them.
        let (settings, lines): (Vec<_>, Vec<_>) =
            entries.into_iter().partition(|entry| entry.section == Section::Pgbouncer);
        if let Some(running) = running {
            config.keep_fixed(running);
        }
        for entry in &settings {
            config.add_setting(entry, running, &mut warnings)?;
        }
        for entry in &lines {
            config.add_line(entry, &mut warnings)?;
        }
        Ok((config, warnings))
    }

    /// Takes the settings that only a start reads from the `running` configuration.
    fn keep_fixed(&mut self, running: &Self) {
        for setting in settings::all().filter(|setting| !setting.reloadable) {
            if let Some(text) = running.given.get(setting.name) {
                setting.apply(text, &mut self.settings).expect("the running configuration was checked");
                self.given.insert(setting.name, text.clone());
            }
        }
    }

    fn add_setting(
        &mut self,
        entry: &Entry,
        running: Option<&Self>,
        warnings: &mut Vec<Warning>,
    ) -> Result<(), ConfigError> {
        let Entry { place, key, value, .. } = entry;
        let setting =
            settings::find(key).ok_or_else(|| ConfigError::new(place.clone(), format!("unknown parameter: {key}")))?;
        let kept = running.filter(|_| !setting.reloadable).map(|running| running.shown(setting).unwrap_or_default());
        let mut unused = Settings::default();
        let target = if kept.is_some() { &mut unused } else { &mut self.settings };
        let shown = setting.apply(value, target).map_err(|reason| {
            ConfigError::new(place.clone(), format!("invalid value {value:?} for parameter {key}: {reason}"))
        })?;
        if !setting.kind.is_built() && setting.differs_from_default(&shown) {
            warnings.push(Warning::not_built(place.clone(), setting.name));
        }
        match kept {
            None => {
                self.given.insert(setting.name, shown);
            }
            Some(kept) if kept == shown => {}
            Some(_) => {
                let message = format!("setting {key:?} cannot change while running: the old value stays");
                warnings.push(Warning { place: place.clone(), message });
            }
        }
        Ok(())
    }

    /// Value in force, as `SHOW CONFIG` shows it.
    fn shown(&self, setting: &Setting) -> Option<String> {
        match setting.name {
            "conffile" => Some(self.conffile.display().to_string()),
            name => self.given.get(name).cloned().or_else(|| setting.shown_default()),
        }
    }

    fn add_line(&mut self, entry: &Entry, warnings: &mut Vec<Warning>) -> Result<(), ConfigError> {
        match entry.section {
            Section::Pgbouncer => {}
            Section::Databases => {
                let dir = self.settings.unix_socket_dir.as_deref();
                let database = Arc::new(Database::parse(entry, dir, warnings)?);
                if entry.key == database::FALLBACK {
                    self.fallback = Some(database);
                } else {
                    self.databases.insert(entry.key.clone(), database);
                }
            }
            Section::Users => {
                self.users.insert(entry.key.clone(), Arc::new(User::parse(entry, warnings)?));
            }
            Section::Peers => peer::Peer::check(entry, warnings)?,
        }
        Ok(())
    }
}

/// What applies to one pool, after all overrides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolSettings {
    /// When a server goes back to the pool.
    pub pool_mode: PoolMode,
    /// Most servers of the pool.
    pub pool_size: u32,
    /// Servers kept open; never more than `pool_size`.
    pub min_pool_size: u32,
    /// Servers beyond `pool_size` when clients wait.
    pub reserve_pool_size: u32,
    /// Wait after which the reserve is used; `None` = never.
    pub reserve_pool_timeout: Option<Duration>,
    /// Most servers of all pools of the database; `None` = not limited.
    pub max_db_connections: Option<u32>,
    /// Most servers of all pools of the user; `None` = not limited.
    pub max_user_connections: Option<u32>,
    /// Age at which an unused server is closed; zero = after one use.
    pub server_lifetime: Duration,
    /// Longest wait for a server; `None` = not limited.
    pub query_wait_timeout: Option<Duration>,
    /// Whether queries and results may move inside the kernel.
    pub kernel_path: KernelPath,
    /// Bytes of replies that the kernel path may have queued for a client.
    pub kernel_path_reply_limit: u32,
}

/// One row of `SHOW CONFIG`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigRow {
    /// Name of the setting.
    pub key: &'static str,
    /// Value in force; `None` = unset.
    pub value: Option<String>,
    /// Value without a line in the file; `None` = unset.
    pub default: Option<&'static str>,
    /// Whether `SET` and a reload can change it.
    pub changeable: bool,
}

/// A line of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the file, as it was given.
    pub file: Arc<str>,
    /// Number of the line from 1 on; 0 stands for the whole file.
    pub line: usize,
}

impl Place {
    fn file(file: &str) -> Self {
        Self { file: file.into(), line: 0 }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}", self.file),
            line => write!(f, "{}:{line}", self.file),
        }
    }
}

/// Why a file is refused. Its text is `file:line: reason` and never holds a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// Where it is wrong.
    pub place: Place,
    /// What is wrong.
    pub message: String,
}

impl ConfigError {
    fn new(place: Place, message: impl Into<String>) -> Self {
        Self { place, message: message.into() }
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

impl std::error::Error for ConfigError {}

/// Something in a file that is accepted but should be looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Which line it is about.
    pub place: Place,
    /// What is the matter.
    pub message: String,
}

impl Warning {
    fn not_built(place: Place, name: &str) -> Self {
        Self { place, message: format!("setting {name:?} is accepted but not built yet: ignored") }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.message)
    }
}

#[cfg(test)]
mod tests;
