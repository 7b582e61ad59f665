//! The log: one line an event, in PgBouncer's form, because tools read it:
//! `2026-01-31 12:00:00.123 UTC [4711] LOG listening on 127.0.0.1:6432`.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tracing::{Event, Level, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields, MakeWriter};
use tracing_subscriber::registry::LookupSpan;

/// Where log lines go.
#[derive(Clone, Debug)]
pub struct Log {
    targets: Arc<Mutex<Targets>>,
}

#[derive(Debug)]
struct Targets {
    stderr: bool,
    path: Option<PathBuf>,
    file: Option<File>,
}

impl Log {
    /// Starts logging. `verbose` 0 shows notices, 1 adds debug lines, 2 and more everything; `stderr` is off with `-q`
    /// and in the background.
    ///
    /// # Errors
    /// `logfile` cannot be opened.
    pub fn start(path: Option<PathBuf>, stderr: bool, verbose: u32) -> io::Result<Self> {
        let file = path.as_ref().map(open).transpose()?;
        let log = Self { targets: Arc::new(Mutex::new(Targets { stderr, path, file })) };
        let level = match verbose {
            0 => Level::INFO,
            1 => Level::DEBUG,
            _ => Level::TRACE,
        };
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(level)
            .event_format(PgBouncerLines)
            .with_writer(log.clone())
            .finish();
        if tracing::subscriber::set_global_default(subscriber).is_err() {
            tracing::debug!("logging was already started");
        }
        Ok(log)
    }

    /// Opens the log file again, after it was rotated or the setting changed.
    ///
    /// # Errors
    /// It cannot be opened: the old one stays.
    pub fn reopen(&self, path: Option<PathBuf>) -> io::Result<()> {
        let file = path.as_ref().map(open).transpose()?;
        let mut targets = self.targets.lock().expect("nobody panics with this lock");
        targets.path = path;
        targets.file = file;
        Ok(())
    }
}

fn open(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Line;

    fn make_writer(&'a self) -> Line {
        Line { log: self.clone(), bytes: Vec::new() }
    }
}

/// One line, written at once.
#[derive(Debug)]
pub struct Line {
    log: Log,
    bytes: Vec<u8>,
}

impl Write for Line {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.bytes.extend_from_slice(buf);
        Ok(buf.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        let mut targets = self.log.targets.lock().expect("nobody panics with this lock");
        // There is nowhere to report that the log cannot be written.
        if let Some(file) = &mut targets.file {
            drop(file.write_all(&self.bytes));
        }
        if targets.stderr {
            drop(io::stderr().write_all(&self.bytes));
        }
    }
}

struct PgBouncerLines;

impl<S, N> FormatEvent<S, N> for PgBouncerLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, ctx: &FmtContext<'_, S, N>, mut writer: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "LOG",
            Level::DEBUG => "DEBUG",
            Level::TRACE => "NOISE",
        };
        let now = jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M:%S%.3f UTC");
        write!(writer, "{now} [{}] {level} ", std::process::id())?;
        let mut text = String::new();
        ctx.format_fields(Writer::new(&mut text), event)?;
        // Names come from clients: a line break in one must not make up a line of its own.
        for c in text.chars() {
            if c.is_control() { write!(writer, "{}", c.escape_default())? } else { writer.write_char(c)? }
        }
        writeln!(writer)
    }
}
