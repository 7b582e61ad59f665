//! Replication connections: a client that starts up with the parameter `replication` talks to a WAL sender (manual, section
//! 55.4). It gets a server of its own, which is logged in with the same parameter and closed when the client leaves.

use crate::error::Error;

/// What a client says in the start-up parameter `replication`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replication {
    /// True: a WAL sender without a database, for physical replication.
    Physical,
    /// `database`: one in a database, for logical replication.
    Logical,
}

impl Replication {
    /// Reads the parameter as PostgreSQL does (`ProcessStartupPacket`): `database`, in lower case only, or a boolean; false
    /// is an ordinary connection.
    ///
    /// # Errors
    /// [`Error::ReplicationValue`] when it is neither.
    pub fn read(value: &str) -> Result<Option<Self>, Error> {
        if value == "database" {
            return Ok(Some(Self::Logical));
        }
        read_bool(value).map(|on| on.then_some(Self::Physical)).ok_or_else(|| Error::ReplicationValue(value.to_owned()))
    }

    /// The parameter's value for a server, also what the log shows.
    pub fn parameter(self) -> &'static str {
        match self {
            Self::Physical => "yes",
            Self::Logical => "database",
        }
    }

    /// Column `replication` of SHOW CLIENTS and SHOW SERVERS; for other connections it is `none`.
    pub fn word(self) -> &'static str {
        match self {
            Self::Physical => "physical",
            Self::Logical => "logical",
        }
    }
}

/// A boolean as PostgreSQL reads it (`parse_bool`): in any case, cut short as far as it is clear what is meant.
fn read_bool(text: &str) -> Option<bool> {
    let means = |(word, least, _): &&(&str, usize, bool)| {
        text.len() >= *least && word.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text))
    };
    BOOLEANS.iter().find(means).map(|(_, _, value)| *value)
}

/// Each word, how many of its letters there must be, and its meaning.
const BOOLEANS: [(&str, usize, bool); 8] = [
    ("true", 1, true),
    ("false", 1, false),
    ("yes", 1, true),
    ("no", 1, false),
    ("on", 2, true),
    ("off", 2, false),
    ("1", 1, true),
    ("0", 1, false),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values() {
        let check = |values: &[&str], expected: Result<Option<Replication>, fn(String) -> Error>| {
            for value in values {
                let expected = expected.map_err(|error| error((*value).to_owned()));
                assert_eq!(Replication::read(value), expected, "{value:?}");
            }
        };
        check(&["true", "TRUE", "t", "Tr", "yes", "y", "on", "oN", "1"], Ok(Some(Replication::Physical)));
        check(&["false", "F", "no", "n", "off", "OF", "0"], Ok(None));
        check(&["database"], Ok(Some(Replication::Logical)));
        check(&["", "o", "Database", "data", "2", "10", "truee", "yes ", "ü"], Err(Error::ReplicationValue));
    }
}
