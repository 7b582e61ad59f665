//! A server process of ours: started with its output in a log file, ended by pid on drop. A guardian does the same when
//! we die in a way that runs no destructor.

use std::{
    fs::{self, OpenOptions},
    path::{Path, PathBuf},
    process::{Command, ExitStatus, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use shared_child::{SharedChild, unix::SharedChildExt};

use crate::{guardian::Guardian, process_info::ProcessInfo};

/// A running server process, or one that ended and whose status is known.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: SharedChild,
    guardian: Guardian,
    end_with: Signal,
    log: PathBuf,
}

/// How a start went.
pub(crate) enum Startup {
    Ready,
    Exited(ExitStatus),
}

impl Daemon {
    /// Starts `command` with both outputs appended to `log`. `end_with` ends it quickly; `directory` is what the
    /// guardian removes.
    pub(crate) fn spawn(command: &mut Command, directory: &Path, log: &Path, end_with: Signal) -> Result<Self> {
        let output = OpenOptions::new().create(true).append(true).open(log).context("opening the log")?;
        command.stdin(Stdio::null()).stdout(output.try_clone().context("sharing the log")?).stderr(output);
        let name = command.get_program().to_string_lossy().into_owned();
        let child = SharedChild::spawn(command).with_context(|| format!("starting {name}"))?;
        let guardian = match guardian(child.id(), end_with, directory) {
            Ok(guardian) => guardian,
            Err(error) => {
                child.kill().context("killing a process without a guardian")?;
                return Err(error);
            }
        };
        Ok(Self { child, guardian, end_with, log: log.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn info(&self) -> ProcessInfo {
        ProcessInfo::new(self.pid())
    }

    pub(crate) fn log(&self) -> String {
        fs::read(&self.log).map(|text| String::from_utf8_lossy(&text).into_owned()).unwrap_or_default()
    }

    /// Does nothing to a process that has ended: its pid may be another's by now.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        self.child.send_signal(signal as i32).with_context(|| format!("sending {signal}"))
    }

    /// Its status, if it has ended.
    pub(crate) fn exited(&self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().context("asking whether the process ended")
    }

    /// Waits until it ends; after [`LIMIT`] that is an error which carries its log.
    pub(crate) fn wait(&self) -> Result<ExitStatus> {
        match self.child.wait_timeout(LIMIT).context("waiting for the end of the process")? {
            Some(status) => Ok(status),
            None => bail!("process {} did not end within {} s; its log:\n{}", self.pid(), LIMIT.as_secs(), self.log()),
        }
    }

    /// Waits until it is `ready` or has ended, whichever comes first.
    pub(crate) fn wait_ready(&self, ready: impl Fn() -> bool) -> Result<Startup> {
        let deadline = Instant::now() + LIMIT;
        while Instant::now() < deadline {
            if let Some(status) = self.child.wait_timeout(POLL).context("waiting for the start")? {
                return Ok(Startup::Exited(status));
            }
            if ready() {
                return Ok(Startup::Ready);
            }
        }
        bail!("process {} was not ready within {} s; its log:\n{}", self.pid(), LIMIT.as_secs(), self.log())
    }

    fn end(&self) -> Result<()> {
        // A stopped process would not take the signal.
        self.signal(Signal::SIGCONT)?;
        self.signal(self.end_with)?;
        if self.child.wait_timeout(LIMIT).context("waiting for the end")?.is_none() {
            self.child.kill().context("killing")?;
            self.child.wait().context("waiting for the end after a kill")?;
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("ending process {}: {error:#}", self.pid());
            return; // The guardian will try again when we end.
        }
        self.guardian.dismiss();
    }
}

/// Starts the guardian of `pid`, which ends the process and removes the directory.
fn guardian(pid: u32, end_with: Signal, directory: &Path) -> Result<Guardian> {
    let signal = end_with.as_str().trim_start_matches("SIG");
    let directory = directory.to_str().context("the directory's name is no text")?;
    Guardian::start(GUARDIAN, [&pid.to_string(), signal, directory])
}

const GUARDIAN: &str = r#"kill -s CONT "$1"; kill -s "$2" "$1"
i=0
while kill -0 "$1" && [ $i -lt 100 ]; do sleep 0.1; i=$((i + 1)); done
kill -s KILL "$1"
rm -rf -- "$3""#;

/// Longest wait for a server to start or to end before the harness gives up.
const LIMIT: Duration = Duration::from_secs(60);
/// Time between two looks at whether a server is ready.
const POLL: Duration = Duration::from_millis(5);
