//! Runs a program to its end with a hard bound in time. It does not start servers: `daemon` does.

use std::{
    env, fmt,
    path::Path,
    process::{Command, ExitStatus, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

/// What a program printed and how it ended.
#[derive(Clone, Debug)]
pub struct Run {
    /// Standard output; bytes that are not UTF-8 are replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
    /// Exit status or ending signal.
    pub status: ExitStatus,
}

impl Run {
    /// Itself if the program succeeded, else an error with all that it printed.
    pub fn checked(self) -> Result<Self> {
        if self.status.success() { Ok(self) } else { bail!("{self}") }
    }
}

impl fmt::Display for Run {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}{}", self.status, self.stderr, self.stdout)
    }
}

/// Runs `command` with no standard input and captured output. Past `limit` it is killed, which is an error; an exit
/// status other than 0 is not: see [`Run::checked`].
pub fn run(command: &mut Command, limit: Duration) -> Result<Run> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let (sender, outcome) = mpsc::channel();
    let waiter = thread::spawn(move || sender.send(child.wait_with_output()));
    let output = match outcome.recv_timeout(limit) {
        Ok(output) => output.with_context(|| format!("waiting for {name}"))?,
        Err(_) => {
            kill(pid, Signal::SIGKILL).with_context(|| format!("killing {name}"))?;
            drop(waiter.join());
            bail!("{name} did not end within {} s and was killed", limit.as_secs());
        }
    };
    Ok(Run {
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        status: output.status,
    })
}

/// A command for `program` that nobody's `PG*` environment variables or locale can influence.
pub(crate) fn command(program: &Path) -> Command {
    let mut command = Command::new(program);
    for (name, _) in env::vars_os().filter(|(name, _)| name.as_encoded_bytes().starts_with(b"PG")) {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C.UTF-8");
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_and_status_are_captured() {
        let run =
            run(Command::new("sh").args(["-c", "echo out; echo err >&2; exit 3"]), Duration::from_secs(60)).unwrap();
        assert_eq!((run.stdout.as_str(), run.stderr.as_str(), run.status.code()), ("out\n", "err\n", Some(3)));
        assert!(run.checked().unwrap_err().to_string().contains("err"));
    }

    #[test]
    fn a_program_that_hangs_is_killed() {
        let error = run(Command::new("sleep").arg("1000"), Duration::from_millis(1)).unwrap_err();
        assert!(error.to_string().contains("was killed"), "{error}");
    }
}
