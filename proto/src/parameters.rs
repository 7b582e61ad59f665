//! Session parameters that follow a client from server to server.
//!
//! A client may set `TimeZone` on one server and have its next transaction on another. For the tracked parameters,
//! those that servers report by ParameterStatus, the proxy remembers what each client and each server has, and sends
//! one `SET` before it links two that differ. Parameters that are not tracked stay with the server (PgBouncer's
//! `track_extra_parameters` says the same).

use std::sync::Arc;

/// Parameters tracked always (PgBouncer's varcache).
const TRACKED_ALWAYS: [&str; 5] =
    ["client_encoding", "DateStyle", "TimeZone", "standard_conforming_strings", "application_name"];

/// Position of `application_name` in [`Tracked`].
pub const CLIENT_ENCODING: usize = 0;
/// Position of `application_name`.
pub const APPLICATION_NAME: usize = 4;

/// The names of the tracked parameters; every [`ParameterSet`] holds its values in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tracked {
    names: Vec<String>,
}

impl Tracked {
    /// The five that are always tracked and `extra` ones; doubles are dropped.
    pub fn new<'a>(extra: impl IntoIterator<Item = &'a str>) -> Self {
        let mut names: Vec<String> = TRACKED_ALWAYS.map(String::from).into();
        for name in extra {
            if !names.iter().any(|known| known.eq_ignore_ascii_case(name)) {
                names.push(name.to_owned());
            }
        }
        Self { names }
    }

    /// The position of a name, compared without case as PostgreSQL does.
    pub fn position(&self, name: &str) -> Option<usize> {
        self.names.iter().position(|known| known.eq_ignore_ascii_case(name))
    }

    /// Names in order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.iter().map(String::as_str)
    }
}

/// Values of the tracked parameters of one client or one server. Cheap to clone and, where nothing was set, to compare.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ParameterSet {
    values: Arc<[Option<Box<str>>]>,
}

impl ParameterSet {
    /// A set without values.
    pub fn new(tracked: &Tracked) -> Self {
        Self { values: vec![None; tracked.names.len()].into() }
    }

    /// The value at a position of [`Tracked`].
    pub fn value(&self, position: usize) -> Option<&str> {
        self.values.get(position)?.as_deref()
    }

    /// Sets one value.
    pub fn set(&mut self, position: usize, value: &str) {
        if self.value(position) != Some(value) {
            Arc::make_mut(&mut self.values)[position] = Some(value.into());
        }
    }

    /// True when both are copies of one set that nobody changed since. Cheaper than comparing, and may be false for
    /// equal sets.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.values, &other.values)
    }

    /// Takes over from `defaults` what has no value here.
    pub fn fill_unset(&mut self, defaults: &Self) {
        if self.values.iter().all(Option::is_none) {
            self.values = Arc::clone(&defaults.values);
            return;
        }
        for (position, default) in defaults.values.iter().enumerate() {
            if let (None, Some(default)) = (self.value(position), default) {
                self.set(position, default);
            }
        }
    }

    /// True when a server with the values `server` serves a client with these without a `SET`.
    #[inline]
    pub fn served_by(&self, server: &Self) -> bool {
        Arc::ptr_eq(&self.values, &server.values) || self.differing(server).next().is_none()
    }

    /// The query that gives a server with the values `server` the values of this set; `None` when nothing differs.
    ///
    /// A parameter that the server never reported is left out: it does not know it, or does not report it, so that its
    /// value could not be tracked.
    pub fn set_query(&self, server: &Self, tracked: &Tracked) -> Option<String> {
        let mut sql = String::new();
        for (position, value) in self.differing(server) {
            let name = &tracked.names[position];
            sql.push_str("SET ");
            sql.push_str(name);
            sql.push('=');
            // search_path is a list: quoted as one string it would name one schema.
            if name.eq_ignore_ascii_case("search_path") && !value.is_empty() {
                sql.push_str(value);
            } else {
                push_literal(&mut sql, value);
            }
            sql.push(';');
        }
        (!sql.is_empty()).then_some(sql)
    }

    fn differing<'a>(&'a self, server: &'a Self) -> impl Iterator<Item = (usize, &'a str)> {
        self.values.iter().zip(server.values.iter()).enumerate().filter_map(|(position, pair)| match pair {
            (Some(ours), Some(theirs)) if !ours.eq_ignore_ascii_case(theirs) => Some((position, &**ours)),
            _ => None,
        })
    }
}

/// Appends a string literal that means the same whatever `standard_conforming_strings` is (manual, section 4.1.2.2).
fn push_literal(sql: &mut String, text: &str) {
    if text.contains('\\') {
        sql.push('E');
    }
    sql.push('\'');
    for c in text.chars() {
        if c == '\'' || c == '\\' {
            sql.push(c);
        }
        sql.push(c);
    }
    sql.push('\'');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(tracked: &Tracked, values: &[(&str, &str)]) -> ParameterSet {
        let mut set = ParameterSet::new(tracked);
        for (name, value) in values {
            set.set(tracked.position(name).unwrap(), value);
        }
        set
    }

    #[test]
    fn set_queries() {
        let tracked = Tracked::new(["IntervalStyle", "search_path", "timezone"]);
        assert_eq!(tracked.names().count(), 7);
        let server = set(&tracked, &[("TimeZone", "UTC"), ("DateStyle", "ISO, MDY"), ("search_path", "public")]);
        let check = |client: &[(&str, &str)], expected: Option<&str>| {
            let client = set(&tracked, client);
            assert_eq!(client.set_query(&server, &tracked).as_deref(), expected);
            assert_eq!(client.served_by(&server), expected.is_none());
        };
        check(&[], None);
        check(&[("timezone", "utc")], None);
        check(&[("client_encoding", "LATIN1")], None); // the server does not report it
        check(&[("TimeZone", "Asia/Tokyo")], Some("SET TimeZone='Asia/Tokyo';"));
        check(
            &[("TimeZone", "a'b\\c"), ("DateStyle", "German")],
            Some("SET DateStyle='German';SET TimeZone=E'a''b\\\\c';"),
        );
        check(&[("search_path", "a, \"B\"")], Some("SET search_path=a, \"B\";"));
        check(&[("search_path", "")], Some("SET search_path='';"));
    }

    #[test]
    fn filling_keeps_what_is_set() {
        let tracked = Tracked::new([]);
        let defaults = set(&tracked, &[("TimeZone", "UTC"), ("application_name", "")]);
        let mut client = set(&tracked, &[("TimeZone", "CET")]);
        client.fill_unset(&defaults);
        assert_eq!(client, set(&tracked, &[("TimeZone", "CET"), ("application_name", "")]));
        let mut empty = ParameterSet::new(&tracked);
        empty.fill_unset(&defaults);
        assert!(Arc::ptr_eq(&empty.values, &defaults.values));
    }
}
