//! A small shell process that cleans up when we die in a way that runs no destructor (Ctrl-C, `abort`, SIGKILL, statics
//! at exit). What it does then is a script of whoever started it.

use std::{
    io::Write,
    os::unix::process::CommandExt,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};

/// A running guardian. It acts when we die before [`Self::dismiss`]; dropped, it keeps watching.
#[derive(Debug)]
pub(crate) struct Guardian {
    shell: Child,
}

impl Guardian {
    /// Starts one that will run `script` with `args` as `$1`, `$2` and so on.
    pub(crate) fn start<const N: usize>(script: &str, args: [&str; N]) -> Result<Self> {
        let shell = Command::new("sh")
            .args(["-c", &format!("{WAIT}{script}"), "tigger-guardian"])
            .args(args)
            .current_dir("/")
            .process_group(0) // Ctrl-C at the terminal must not reach it.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("starting a guardian")?;
        Ok(Self { shell })
    }

    /// Ends it: there is nothing left to clean up.
    pub(crate) fn dismiss(&mut self) {
        if let Some(mut stdin) = self.shell.stdin.take() {
            // It fails only when the guardian is gone already.
            drop(stdin.write_all(b"dismissed\n"));
        }
        drop(self.shell.wait());
    }
}

/// A line on the standard input dismisses the guardian. When the input ends without one, we have died.
const WAIT: &str = "trap '' HUP INT TERM\nread -r _ && exit\n";
