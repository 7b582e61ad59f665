//! Becoming the process that serves: background, user, pid file, and the check of a configuration.

use std::path::{Path, PathBuf};

use nix::unistd::{User, geteuid, initgroups, setgid, setuid};

use crate::config::{Config, Settings, Warning, auth_file};
use crate::log::Log;
use crate::pooler::Pooler;

/// `tigger --check`: prints warnings and a summary.
///
/// # Errors
/// What would keep the process from starting.
pub fn check(config: &Config, warnings: &[Warning]) -> Result<(), String> {
    for warning in warnings {
        println!("warning: {warning}");
    }
    let users = match &config.settings.auth_file {
        Some(path) => auth_file::load(path).map_err(|error| error.to_string())?.len(),
        None => 0,
    };
    println!("{}: {} databases, {users} users, good", config.conffile.display(), config.databases.len());
    Ok(())
}

/// Goes into the background and gives up root's rights, as asked for. Must come before any thread is started.
///
/// # Errors
/// It cannot be done: the process must not go on with more rights than it should have.
pub fn prepare(settings: &Settings, background: bool, user: Option<&str>) -> Result<(), String> {
    if background {
        if settings.logfile.is_none() || settings.pidfile.is_none() {
            return Err("daemon needs logfile and pidfile configured".into());
        }
        daemonize::Daemonize::new()
            .working_directory(".")
            .start()
            .map_err(|error| format!("cannot go into the background: {error}"))?;
    }
    match user.or(settings.user.as_deref()) {
        Some(name) => become_user(name),
        None => Ok(()),
    }
}

fn become_user(name: &str) -> Result<(), String> {
    let failed = |error: nix::Error| format!("cannot become user {name:?}: {error}");
    let user = User::from_name(name).map_err(failed)?.ok_or_else(|| format!("no such user: {name:?}"))?;
    if geteuid() == user.uid {
        return Ok(());
    }
    let c_name = std::ffi::CString::new(name).map_err(|_| format!("bad user name: {name:?}"))?;
    initgroups(&c_name, user.gid).map_err(failed)?;
    setgid(user.gid).map_err(failed)?;
    setuid(user.uid).map_err(failed)
}

/// Reads configuration and users again, and opens the log file again.
pub fn reload(pooler: &std::sync::Arc<Pooler>, log: &Log) {
    if let Err(error) = pooler.reload() {
        tracing::error!("reload failed: {error}");
    }
    if let Err(error) = log.reopen(pooler.config().settings.logfile.clone()) {
        tracing::error!("cannot open logfile: {error}");
    }
}

/// The file that holds the process id while the process runs.
#[derive(Debug)]
pub struct PidFile(Option<PathBuf>);

impl PidFile {
    /// Writes it, if one is configured.
    ///
    /// # Errors
    /// Another process that runs has it, or it cannot be written.
    pub fn create(path: Option<&Path>) -> Result<Self, String> {
        let Some(path) = path else { return Ok(Self(None)) };
        let failed = |error: std::io::Error| format!("pidfile {}: {error}", path.display());
        if let Ok(text) = std::fs::read_to_string(path)
            && let Ok(pid) = text.trim().parse::<u32>()
            && pid != std::process::id()
            && Path::new("/proc").join(pid.to_string()).exists()
        {
            return Err(format!("pidfile {} exists and process {pid} runs, exiting", path.display()));
        }
        std::fs::write(path, format!("{}\n", std::process::id())).map_err(failed)?;
        Ok(Self(Some(path.to_owned())))
    }
}

impl Drop for PidFile {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && let Err(error) = std::fs::remove_file(path)
        {
            tracing::warn!("could not remove {}: {error}", path.display());
        }
    }
}
