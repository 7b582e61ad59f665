//! Reads PgBouncer's ini dialect into a flat list of `section, key, value` with the place of each line.
//!
//! It knows sections, comments, quoted keys and `%include`. It does not know which keys exist or what their
//! values mean: that is `settings`, `database`, `user` and `peer`.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::{ConfigError, Place};

/// Gives the text of a file named in `%include`, or of the configuration file itself.
///
/// A relative name is relative to the working directory of the process, as in PgBouncer.
pub type ReadFile<'a> = &'a dyn Fn(&Path) -> io::Result<String>;

/// Section of the file in which a line stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Section {
    /// `[pgbouncer]`: the settings.
    Pgbouncer,
    /// `[databases]`: where clients are routed.
    Databases,
    /// `[users]`: settings of single users.
    Users,
    /// `[peers]`: other poolers to which cancel requests are passed.
    Peers,
}

/// One `key = value` line.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Entry {
    /// Where the line stands.
    pub place: Place,
    /// Section above the line.
    pub section: Section,
    /// Text before `=`, unquoted.
    pub key: String,
    /// Text after `=` without the surrounding white space. It may hold a password, so an entry has no `Debug`.
    pub value: String,
}

/// Reads the text of `file`, and of all files it includes.
///
/// # Errors
/// The first line that is not understood, an include that cannot be read or is nested more than [`INCLUDE_DEPTH_MAX`]
/// deep, or a missing `[pgbouncer]` section.
pub(super) fn parse(file: &str, text: &str, read_file: ReadFile<'_>) -> Result<Vec<Entry>, ConfigError> {
    let mut parser = Parser { read_file, section: None, has_settings: false, entries: Vec::new() };
    parser.file(file, text, 0)?;
    if !parser.has_settings {
        return Err(ConfigError::new(Place::file(file), "section [pgbouncer] is missing"));
    }
    Ok(parser.entries)
}

/// Deepest nesting of `%include`, PgBouncer's own. It also ends a file that includes itself.
const INCLUDE_DEPTH_MAX: usize = 10;

struct Parser<'a> {
    read_file: ReadFile<'a>,
    /// Stays in force across the borders of included files, in both directions.
    section: Option<Section>,
    has_settings: bool,
    entries: Vec<Entry>,
}

impl Parser<'_> {
    fn file(&mut self, file: &str, text: &str, depth: usize) -> Result<(), ConfigError> {
        let file: Arc<str> = file.into();
        for (index, line) in text.split('\n').enumerate() {
            let place = Place { file: Arc::clone(&file), line: index + 1 };
            self.line(place, line.trim(), depth)?;
        }
        Ok(())
    }

    fn line(&mut self, place: Place, line: &str, depth: usize) -> Result<(), ConfigError> {
        if line.contains('\0') {
            return Err(ConfigError::new(place, "syntax error: NUL character"));
        }
        let mut line = line;
        // What follows the bracket of a section is read like a line of its own, as PgBouncer does.
        while let Some(rest) = line.strip_prefix('[') {
            let (name, rest) = rest.split_once(']').ok_or_else(|| {
                ConfigError::new(place.clone(), "syntax error: \"]\" is missing after a section name")
            })?;
            self.enter(&place, name)?;
            line = rest.trim_start();
        }
        if line.is_empty() || line.starts_with([';', '#']) {
            return Ok(());
        }
        match line.strip_prefix("%include").filter(|rest| rest.starts_with(BLANK)) {
            Some(name) => self.include(place, name.trim(), depth),
            None => self.entry(place, line),
        }
    }

    fn enter(&mut self, place: &Place, name: &str) -> Result<(), ConfigError> {
        let section = match name {
            "pgbouncer" => Section::Pgbouncer,
            "databases" => Section::Databases,
            "users" => Section::Users,
            "peers" => Section::Peers,
            _ => return Err(ConfigError::new(place.clone(), format!("unknown section {name:?}"))),
        };
        self.has_settings |= section == Section::Pgbouncer;
        self.section = Some(section);
        Ok(())
    }

    fn include(&mut self, place: Place, name: &str, depth: usize) -> Result<(), ConfigError> {
        if depth >= INCLUDE_DEPTH_MAX {
            return Err(ConfigError::new(place, "include nesting level too deep"));
        }
        let text = (self.read_file)(Path::new(name))
            .map_err(|error| ConfigError::new(place, format!("cannot read included file {name:?}: {error}")))?;
        self.file(name, &text, depth + 1)
    }

    fn entry(&mut self, place: Place, line: &str) -> Result<(), ConfigError> {
        let split = if line.starts_with('"') { quoted_key(line) } else { plain_key(line) };
        // The text is left out of the error: the line may hold a password.
        let (key, rest) = split.ok_or_else(|| ConfigError::new(place.clone(), "syntax error: expected key = value"))?;
        let value = rest
            .trim_start_matches(BLANK)
            .strip_prefix('=')
            .ok_or_else(|| ConfigError::new(place.clone(), "syntax error: expected \"=\" after the key"))?;
        let Some(section) = self.section else {
            return Err(ConfigError::new(place, format!("value without section: {key}")));
        };
        self.entries.push(Entry { place, section, key, value: value.trim().to_owned() });
        Ok(())
    }
}

/// Splits off a key of ASCII letters, digits and `_.-*`; an empty one is none.
fn plain_key(line: &str) -> Option<(String, &str)> {
    let end = line.find(|c: char| !(c.is_ascii_alphanumeric() || "_.-*".contains(c))).unwrap_or(line.len());
    let (key, rest) = line.split_at(end);
    (!key.is_empty()).then(|| (key.to_owned(), rest))
}

/// Splits off a key in double quotes, in which `""` stands for one quote (an SQL identifier).
fn quoted_key(line: &str) -> Option<(String, &str)> {
    let mut rest = line.strip_prefix('"')?;
    let mut key = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        key.push_str(part);
        rest = after;
        match rest.strip_prefix('"') {
            Some(after) => {
                key.push('"');
                rest = after;
            }
            None => return (!key.is_empty()).then_some((key, rest)),
        }
    }
}

/// White space inside a line.
const BLANK: [char; 2] = [' ', '\t'];
