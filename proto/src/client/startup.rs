//! What a client asks for in its StartupMessage, checked as PgBouncer does: a parameter that is neither tracked nor
//! ignored is refused, because the servers of a pool are shared, unless it is to be applied to each server of the client.

use crate::error::Error;
use crate::parameters::{APPLICATION_NAME, ParameterSet, Tracked};
use crate::replication::Replication;

/// Longest user and database names, in bytes (PgBouncer's MAX_USERNAME and MAX_DBNAME; PostgreSQL cuts at 63).
const NAME_LEN_MAX: usize = 127;

/// A checked start-up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Startup {
    /// Who logs in.
    pub user: String,
    /// Where to; the user's name if the client did not say.
    pub database: String,
    /// Values for tracked parameters, and for those that are applied.
    pub parameters: ParameterSet,
    /// Set for a replication connection.
    pub replication: Option<Replication>,
    /// Parameter `options` of a replication connection, as it came: it goes to the server that the client gets for itself. Of
    /// other connections it is read, see `parameters`.
    pub options: Option<String>,
}

impl Startup {
    /// Adds the client's address to its `application_name` (PgBouncer's `application_name_add_host`).
    pub fn add_host(&mut self, address: &str) {
        let name = self.parameters.value(APPLICATION_NAME).unwrap_or("app");
        let name = format!("{name} - {address}");
        self.parameters.set(APPLICATION_NAME, &name);
    }
}

/// What becomes of start-up parameters that are not tracked.
#[derive(Clone, Copy, Debug)]
pub struct Untracked<'a> {
    /// Names of those that are dropped.
    pub ignored: &'a [String],
    /// The others are applied to the client's servers; else they are refused.
    pub apply: bool,
}

impl Untracked<'_> {
    fn is_ignored(&self, name: &str) -> bool {
        self.ignored.iter().any(|ignored| ignored.eq_ignore_ascii_case(name))
    }

    /// Takes over a parameter; false if it must be refused.
    fn take(&self, name: &str, value: &str, tracked: &Tracked, values: &mut ParameterSet) -> bool {
        match tracked.position(name) {
            Some(position) => values.set(position, value),
            None if self.is_ignored(name) => {}
            None if self.apply => values.apply(name, value),
            None => return false,
        }
        true
    }
}

/// Checks the parameters of a StartupMessage.
///
/// # Errors
/// What the client is told: a missing user, a name that is too long, a parameter nobody may set here.
pub fn check(parameters: &[(String, String)], tracked: &Tracked, untracked: Untracked<'_>) -> Result<Startup, Error> {
    let (mut user, mut database, mut options) = (None, None, None);
    let replication = read_replication(parameters)?;
    let mut values = ParameterSet::new(tracked);
    for (name, value) in parameters {
        match name.as_str() {
            "user" => user = Some(value.clone()),
            "database" => database = Some(value.clone()),
            "replication" => {}
            name if untracked.is_ignored(name) || name.starts_with("_pq_.") => {}
            "options" if replication.is_some() => options = Some(value.clone()),
            "options" => {
                for (name, value) in read_options(value)? {
                    if !untracked.take(&name, &value, tracked, &mut values) {
                        return Err(Error::UnsupportedOption(name));
                    }
                }
            }
            name if !untracked.take(name, value, tracked, &mut values) => {
                return Err(Error::UnsupportedParameter(name.to_owned()));
            }
            _ => {}
        }
    }
    let user = user.filter(|user| !user.is_empty()).ok_or(Error::NoUserName)?;
    let database = database.filter(|database| !database.is_empty()).unwrap_or_else(|| user.clone());
    if user.len() > NAME_LEN_MAX {
        return Err(Error::UserNameTooLong);
    }
    if database.len() > NAME_LEN_MAX {
        return Err(Error::DatabaseNameTooLong);
    }
    Ok(Startup { user, database, parameters: values, replication, options })
}

/// The last value of `replication`; looked for first, because it says what `options` may be.
fn read_replication(parameters: &[(String, String)]) -> Result<Option<Replication>, Error> {
    let mut values = parameters.iter().filter(|(name, _)| name == "replication");
    values.try_fold(None, |_, (_, value)| Replication::read(value))
}

/// Reads `-c name=value` and `--name=value` switches; a backslash protects a space (manual, section 55.2.1 and
/// `pg_split_opts`).
fn read_options(text: &str) -> Result<Vec<(String, String)>, Error> {
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    loop {
        while chars.next_if(char::is_ascii_whitespace).is_some() {}
        if chars.peek().is_none() {
            break;
        }
        let mut word = String::new();
        while let Some(c) = chars.next_if(|c| !c.is_ascii_whitespace()) {
            word.extend(if c == '\\' { chars.next() } else { Some(c) });
        }
        words.push(word);
    }
    let mut options = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--") {
            Some(setting) => setting.to_owned(),
            None if word == "-c" => words.next().ok_or(Error::OptionsForm)?,
            None => word.strip_prefix("-c").ok_or(Error::OptionsForm)?.to_owned(),
        };
        let (name, value) = setting.split_once('=').ok_or(Error::OptionsForm)?;
        options.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn startup(pairs: &[(&str, &str)]) -> Result<Startup, Error> {
        started(pairs, false)
    }

    fn started(pairs: &[(&str, &str)], apply: bool) -> Result<Startup, Error> {
        let parameters: Vec<_> = pairs.iter().map(|&(a, b)| (a.to_owned(), b.to_owned())).collect();
        let ignored = ["extra_float_digits".into(), "geqo".into()];
        check(&parameters, &Tracked::new(["IntervalStyle"]), Untracked { ignored: &ignored, apply })
    }

    #[test]
    fn applied() {
        let options = "-c timezone=CET --Statement-Timeout=1s -c geqo=off";
        let startup = started(&[("user", "u"), ("search_path", "a, b"), ("geqo", "x"), ("options", options)], true);
        let parameters = startup.unwrap().parameters;
        let got = |name| parameters.applied(name);
        assert_eq!((got("search_path"), got("statement_timeout"), got("geqo")), (Some("a, b"), Some("1s"), None));
        assert_eq!((parameters.value(2), got("timezone")), (Some("CET"), None));
        assert_eq!(started(&[("user", "u"), ("options", "-d 3")], true), Err(Error::OptionsForm));
    }

    #[test]
    fn names() {
        let ok = startup(&[("user", "u"), ("database", "d")]).unwrap();
        assert_eq!((ok.user.as_str(), ok.database.as_str()), ("u", "d"));
        assert_eq!(startup(&[("user", "u")]).unwrap().database, "u");
        assert_eq!(startup(&[("database", "d")]), Err(Error::NoUserName));
        assert_eq!(startup(&[("user", "")]), Err(Error::NoUserName));
        assert_eq!(startup(&[("user", &"u".repeat(128))]), Err(Error::UserNameTooLong));
        assert_eq!(startup(&[("user", "u"), ("database", &"d".repeat(128))]), Err(Error::DatabaseNameTooLong));
    }

    #[test]
    fn hosts() {
        let check = |name: Option<&str>, expected: &str| {
            let pairs: Vec<_> =
                [("user", "u")].into_iter().chain(name.map(|name| ("application_name", name))).collect();
            let mut startup = startup(&pairs).unwrap();
            startup.add_host("192.0.2.7:5");
            assert_eq!(startup.parameters.value(APPLICATION_NAME), Some(expected));
        };
        check(None, "app - 192.0.2.7:5");
        check(Some("psql"), "psql - 192.0.2.7:5");
        check(Some(""), " - 192.0.2.7:5");
    }

    #[test]
    fn parameters() {
        let check = |name: &str, value: &str, expected: Result<&[(usize, &str)], Error>| {
            let got = startup(&[("user", "u"), (name, value)]);
            match (got, expected) {
                (Ok(startup), Ok(values)) => {
                    for &(position, value) in values {
                        assert_eq!(startup.parameters.value(position), Some(value));
                    }
                }
                (got, expected) => assert_eq!(got.err(), expected.err(), "{name}={value}"),
            }
        };
        check("TIMEZONE", "CET", Ok(&[(2, "CET")]));
        check("application_name", "app", Ok(&[(4, "app")]));
        check("intervalstyle", "iso_8601", Ok(&[(5, "iso_8601")]));
        check("extra_float_digits", "3", Ok(&[]));
        check("_pq_.anything", "3", Ok(&[]));
        check("search_path", "x", Err(Error::UnsupportedParameter("search_path".into())));
        check("replication", "false", Ok(&[]));
        check("replication", "maybe", Err(Error::ReplicationValue("maybe".into())));
        check("options", "-c timezone=CET --date-style=x", Err(Error::UnsupportedOption("date_style".into())));
        check("options", " -c timezone=CET --DateStyle=ISO,\\ DMY -cgeqo=off ", Ok(&[(2, "CET"), (1, "ISO, DMY")]));
        check("options", "-c statement_timeout=1", Err(Error::UnsupportedOption("statement_timeout".into())));
        check("options", "-d 3", Err(Error::OptionsForm));
        check("options", "-c", Err(Error::OptionsForm));
        check("options", "--timezone", Err(Error::OptionsForm));
    }

    #[test]
    fn replication() {
        let options = "-c statement_timeout=1 -d 3";
        for (value, expected) in [("true", Replication::Physical), ("database", Replication::Logical)] {
            // In any order: `options` is for the client's own server.
            let pairs = [("user", "u"), ("options", options), ("TimeZone", "CET"), ("replication", value)];
            let ok = startup(&pairs).unwrap();
            assert_eq!((ok.replication, ok.options.as_deref()), (Some(expected), Some(options)));
            assert_eq!(ok.parameters.value(2), Some("CET"));
        }
        let ok =
            startup(&[("user", "u"), ("replication", "on"), ("replication", "off"), ("options", "-c geqo=1")]).unwrap();
        assert_eq!((ok.replication, ok.options), (None, None));
        let refused = startup(&[("user", "u"), ("replication", "on"), ("search_path", "x")]);
        assert_eq!(refused, Err(Error::UnsupportedParameter("search_path".into())));
    }
}
