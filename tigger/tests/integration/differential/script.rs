//! Reads scripts: what a client sends, and what it waits for.
//!
//! ```text
//! # a comment
//! === title                            begins a script
//! only session, also statement         pool modes it can run in, unless session and transaction
//! prepared                             needs statements or portals that outlive a Sync
//! with TimeZone Asia/Tokyo             a start-up parameter
//! Query select 1                       the rest of the line as it is, or in quotes
//! Parse "s" "select $1" int4           statement, SQL, types by name or number
//! Bind "p" "s" [1 null 0x00ff] / text binary / binary
//!                                      portal, statement, values, their formats, the results' formats
//! Describe portal "p"                  or statement
//! Execute "p" 10                       at most so many rows
//! Extended "select $1" [1]             Parse, Bind, Describe and Execute, all unnamed
//! Close statement "s"                  or portal
//! Sync, Flush, CopyData "1\n", CopyDone, CopyFail "why"
//! FunctionCall 177 [1 2] / text / binary
//! Message "y" "\x00"                   any other: type, body
//! wait                                 until all is answered by ReadyForQuery that asks for it
//! wait 1                               until one more ReadyForQuery; no other is expected
//! wait CopyInResponse                  until one more of these messages
//! repeat 100                           the lines up to `end` so often; {i} counts from 0
//! end
//! ```
//! Texts are bare or in quotes, with `\n`, `\t`, `\"`, `\\` and `\xHH` in these. `{text*count}` repeats a text anywhere. What
//! stands between two waits is sent at once. Behind the last line is a `wait` if an answer is owed, and a Terminate.

use std::{collections::BTreeMap, fs, path::Path};

use super::{Mode, backend::kind_of, frontend, words::repeated};

/// One script.
#[derive(Clone, Debug, Default)]
pub(super) struct Script {
    pub(super) title: String,
    /// File and line.
    place: String,
    only_session: bool,
    also_statement: bool,
    /// Needs statements or portals that outlive a Sync.
    prepared: bool,
    /// Start-up parameters besides the usual ones.
    parameters: Vec<(String, String)>,
    pub(super) steps: Vec<Step>,
    /// ReadyForQuery messages asked for so far.
    asked: usize,
    /// Those waited for.
    awaited: usize,
}

/// What is sent at once, or waited for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Send(Vec<u8>),
    Wait(Until),
}

/// What ends a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Until {
    /// So many ReadyForQuery messages since the login.
    Ready(usize),
    /// A message of this type behind those that were waited for.
    Kind(u8),
}

impl Script {
    /// Whether it can run in this pool mode.
    pub(super) fn runs_in(&self, mode: Mode) -> bool {
        match mode {
            Mode::Session => true,
            Mode::Transaction => !self.only_session,
            Mode::Statement => self.also_statement,
        }
    }

    /// All start-up parameters: the script's, and user and database.
    pub(super) fn start_up<'a>(&'a self, database: &'a str) -> Vec<(&'a str, &'a str)> {
        let own = self.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
        let all: BTreeMap<_, _> = [("user", "postgres"), ("database", database)].into_iter().chain(own).collect();
        all.into_iter().collect()
    }

    fn line(&mut self, line: &str) -> Result<(), String> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match (word, rest) {
            ("only", "session") => self.only_session = true,
            ("also", "statement") => self.also_statement = true,
            ("prepared", "") => self.prepared = true,
            ("with", rest) => {
                let (name, value) = rest.split_once(' ').ok_or("a parameter has a name and a value")?;
                self.parameters.push((name.to_owned(), value.to_owned()));
            }
            ("wait", rest) => self.wait(rest)?,
            _ => self.send(&frontend::read(line)?),
        }
        Ok(())
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        while let [kind, a, b, c, d, ..] = rest {
            self.asked += usize::from(b"QSF".contains(kind));
            rest = &rest[1 + u32::from_be_bytes([*a, *b, *c, *d]) as usize..];
        }
        match self.steps.last_mut() {
            Some(Step::Send(before)) => before.extend_from_slice(bytes),
            _ => self.steps.push(Step::Send(bytes.to_vec())),
        }
    }

    fn wait(&mut self, what: &str) -> Result<(), String> {
        let until = match (what, what.parse::<usize>()) {
            ("", _) => self.wait_ready(),
            (_, Ok(count)) => {
                self.asked = self.awaited + count;
                self.wait_ready()
            }
            _ => Until::Kind(kind_of(what).ok_or_else(|| format!("no such message: {what}"))?),
        };
        self.steps.push(Step::Wait(until));
        Ok(())
    }

    fn wait_ready(&mut self) -> Until {
        self.awaited = self.asked;
        Until::Ready(self.asked)
    }

    fn end(mut self) -> Self {
        if self.awaited < self.asked {
            let until = self.wait_ready();
            self.steps.push(Step::Wait(until));
        }
        self
    }
}

/// All scripts in the files of a directory, in the order of the files' names.
pub(super) fn read_all(directory: &Path) -> Vec<Script> {
    let mut files: Vec<_> = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    files
        .iter()
        .flat_map(|file| {
            let name = file.file_name().unwrap().to_string_lossy();
            read(&name, &fs::read_to_string(file).unwrap()).unwrap_or_else(|problem| panic!("{problem}"))
        })
        .collect()
}

/// The scripts of one file.
fn read(file: &str, text: &str) -> Result<Vec<Script>, String> {
    let lines = text.lines().enumerate().map(|(number, line)| (format!("{file}:{}", number + 1), line.trim()));
    let lines: Vec<_> = lines.filter(|(_, line)| !line.is_empty() && !line.starts_with('#')).collect();
    let mut scripts: Vec<Script> = Vec::new();
    for (place, line) in unrolled(&lines) {
        match (line.strip_prefix("=== "), scripts.last_mut()) {
            (Some(title), _) => {
                scripts.push(Script { title: title.to_owned(), place, ..Script::default() });
            }
            (None, Some(script)) => script.line(&repeated(&line)).map_err(|problem| format!("{place}: {problem}"))?,
            (None, None) => return Err(format!("{place}: no title")),
        }
    }
    Ok(scripts.into_iter().map(Script::end).collect())
}

/// Lines between `repeat` and `end` as often as it says.
fn unrolled(lines: &[(String, &str)]) -> Vec<(String, String)> {
    let mut all = Vec::new();
    let mut lines = lines.iter();
    while let Some((place, line)) = lines.next() {
        let Some(count) = line.strip_prefix("repeat ").and_then(|count| count.parse::<usize>().ok()) else {
            all.push((place.clone(), (*line).to_owned()));
            continue;
        };
        let inside: Vec<_> = lines.by_ref().take_while(|(_, line)| *line != "end").collect();
        for i in 0..count {
            all.extend(inside.iter().map(|(place, line)| (place.clone(), line.replace("{i}", &i.to_string()))));
        }
    }
    all
}

impl std::fmt::Display for Script {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.title, self.place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_what_is_sent_and_what_is_waited_for() {
        let text = "=== one\nonly session\nwith a b c\nQuery select 1\nSync\nwait\nFlush\nwait CopyInResponse\nSync\n\
            wait 2\nSync\n=== two\nalso statement\nrepeat 2\nQuery {i}\nend";
        let [one, two] = &read("f", text).unwrap()[..] else { panic!("not two scripts") };
        assert_eq!(one.start_up("d"), [("a", "b c"), ("database", "d"), ("user", "postgres")]);
        let waits = |script: &Script| -> Vec<_> {
            script
                .steps
                .iter()
                .filter_map(|step| if let Step::Wait(until) = step { Some(*until) } else { None })
                .collect()
        };
        assert_eq!(waits(one), [Until::Ready(2), Until::Kind(b'G'), Until::Ready(4), Until::Ready(5)]);
        assert_eq!(two.steps, [Step::Send(b"Q\0\0\0\x060\0Q\0\0\0\x061\0".to_vec()), Step::Wait(Until::Ready(2))]);
        assert!(one.runs_in(Mode::Session) && !one.runs_in(Mode::Transaction) && two.runs_in(Mode::Statement));
        assert_eq!(two.to_string(), "two (f:12)");
        assert_eq!(read("f", "=== a\nQuery 1\nNo").unwrap_err(), "f:3: no such message: No");
    }
}
