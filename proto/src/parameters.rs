//! Session parameters that follow a client from server to server.
//!
//! A client may set `TimeZone` on one server and have its next transaction on another. For the tracked parameters,
//! those that servers report by ParameterStatus, the proxy remembers what each client and each server has, and sends
//! one `SET` before it links two that differ. Parameters that are not tracked stay with the server (PgBouncer's
//! `track_extra_parameters` says the same), but for those that clients give at their start-up, where they may: these are
//! applied to each server that the client gets, and removed before another client gets it. Servers do not report them, so
//! that it is what the proxy has set that counts.

use std::collections::BTreeMap;
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

/// Values of the tracked parameters of one client or one server, and of those applied for the client. Cheap to clone and,
/// where nothing was set, to compare.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ParameterSet {
    values: Arc<Values>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Values {
    tracked: Box<[Option<Box<str>>]>,
    applied: Applied,
}

/// Parameters that are not tracked, by their names in small letters. The value of one on a server is `None` when it may be
/// that or the default. There are as many as fit into a start-up packet.
type Applied = BTreeMap<Box<str>, Option<Box<str>>>;

/// Who a session acts as decides what else it may set: given back first and set last.
const IDENTITY: [&str; 2] = ["session_authorization", "role"];

impl ParameterSet {
    /// A set without values.
    pub fn new(tracked: &Tracked) -> Self {
        Self { values: Arc::new(Values { tracked: vec![None; tracked.names.len()].into(), applied: Applied::new() }) }
    }

    /// The value at a position of [`Tracked`].
    pub fn value(&self, position: usize) -> Option<&str> {
        self.values.tracked.get(position)?.as_deref()
    }

    /// Sets one value.
    pub fn set(&mut self, position: usize, value: &str) {
        if self.value(position) != Some(value) {
            Arc::make_mut(&mut self.values).tracked[position] = Some(value.into());
        }
    }

    /// The value of a parameter that is not tracked.
    pub fn applied(&self, name: &str) -> Option<&str> {
        self.values.applied.get(name.to_ascii_lowercase().as_str())?.as_deref()
    }

    /// Names and values of those that are not tracked.
    pub fn all_applied(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.applied.iter().filter_map(|(name, value)| Some((&**name, value.as_deref()?)))
    }

    /// Sets one parameter that is not tracked.
    pub fn apply(&mut self, name: &str, value: &str) {
        let applied = &mut Arc::make_mut(&mut self.values).applied;
        applied.insert(name.to_ascii_lowercase().into(), Some(value.into()));
    }

    /// Of a server: somebody may have given what was applied its default. Until that is certain it fits no client.
    pub fn doubt_applied(&mut self) {
        if !self.values.applied.is_empty() {
            Arc::make_mut(&mut self.values).applied.values_mut().for_each(|value| *value = None);
        }
    }

    /// Of a server: what the query of [`Self::reset_query`] was for is done.
    pub(crate) fn reset_applied(&mut self, client: &Self) {
        let surplus: Vec<Box<str>> = client.surplus(self).map(Box::from).collect();
        let applied = &mut Arc::make_mut(&mut self.values).applied;
        surplus.iter().for_each(|name| drop(applied.remove(name)));
    }

    /// Of a server: what the query of [`Self::set_query`] was for is done.
    pub(crate) fn copy_applied(&mut self, client: &Self) {
        if self.values.applied != client.values.applied {
            Arc::make_mut(&mut self.values).applied.clone_from(&client.values.applied);
        }
    }

    /// True when both are copies of one set that nobody changed since. Cheaper than comparing, and may be false for
    /// equal sets.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.values, &other.values)
    }

    /// Makes copies of one set of two that are equal, so that comparing them is cheap. In whatever pairs sets meet, all that
    /// are equal become copies of the same one.
    pub fn unite(&mut self, other: &mut Self) {
        if self.is_same(other) || self != other {
            return;
        }
        // Any order does in which no set comes before itself.
        if Arc::as_ptr(&self.values) < Arc::as_ptr(&other.values) {
            other.values = Arc::clone(&self.values);
        } else {
            self.values = Arc::clone(&other.values);
        }
    }

    /// Takes over from `defaults` what has no value here.
    pub fn fill_unset(&mut self, defaults: &Self) {
        if self.values.applied.is_empty() && self.values.tracked.iter().all(Option::is_none) {
            self.values = Arc::clone(&defaults.values);
            return;
        }
        for (position, default) in defaults.values.tracked.iter().enumerate() {
            if let (None, Some(default)) = (self.value(position), default) {
                self.set(position, default);
            }
        }
    }

    /// True when a server with the values `server` serves a client with these without a `SET`.
    #[inline]
    pub fn served_by(&self, server: &Self) -> bool {
        Arc::ptr_eq(&self.values, &server.values)
            || (self.differing(server).next().is_none() && self.values.applied == server.values.applied)
    }

    /// The query that removes from a server with the values `server` what was applied for another client; `None` when
    /// there is nothing. It comes before [`Self::set_query`].
    pub fn reset_query(&self, server: &Self) -> Option<String> {
        let mut sql = String::new();
        identity_first(self.surplus(server)).for_each(|name| push_set_config(&mut sql, name, None));
        (!sql.is_empty()).then_some(sql)
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
        let (identity, others): (Vec<_>, Vec<_>) = self.missing(server).partition(|(name, _)| IDENTITY.contains(name));
        others.iter().for_each(|(name, value)| push_set_config(&mut sql, name, Some(value)));
        // `role` is the last of the two, as in the alphabet it is the first.
        identity.iter().rev().for_each(|(name, value)| push_set_config(&mut sql, name, Some(value)));
        (!sql.is_empty()).then_some(sql)
    }

    /// True when this set holds parameters that are not tracked and that a server with the values `server` lacks: an error
    /// of the query that sets them may be about them.
    pub fn applies_to(&self, server: &Self) -> bool {
        self.missing(server).next().is_some()
    }

    fn differing<'a>(&'a self, server: &'a Self) -> impl Iterator<Item = (usize, &'a str)> {
        let pairs = self.values.tracked.iter().zip(server.values.tracked.iter());
        pairs.enumerate().filter_map(|(position, pair)| match pair {
            (Some(ours), Some(theirs)) if !ours.eq_ignore_ascii_case(theirs) => Some((position, &**ours)),
            _ => None,
        })
    }

    /// What is applied on a server that must not be there for a client with this set. Nothing of what others are may be
    /// kept by who has acted as somebody else.
    fn surplus<'a>(&'a self, server: &'a Self) -> impl Iterator<Item = &'a str> {
        let differs = self.values.applied != server.values.applied;
        let names = server.values.applied.iter().filter(move |(name, value)| {
            differs && (IDENTITY.contains(&&***name) || self.values.applied.get(*name) != Some(*value))
        });
        names.map(|(name, _)| &**name)
    }

    /// What is to be applied on a server for a client with this set.
    fn missing<'a>(&'a self, server: &'a Self) -> impl Iterator<Item = (&'a str, &'a str)> {
        let missing =
            self.values.applied.iter().filter(|(name, value)| server.values.applied.get(*name) != Some(*value));
        missing.filter_map(|(name, value)| Some((&**name, value.as_deref()?)))
    }
}

/// The names, those of [`IDENTITY`] in front.
fn identity_first<'a>(names: impl Iterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    let (identity, others): (Vec<_>, Vec<_>) = names.partition(|name| IDENTITY.contains(name));
    identity.into_iter().chain(others)
}

/// Appends what sets a parameter as a start-up packet does, whatever its name and its value are: `SET` takes a list apart
/// and would need the name quoted. Without a value: gives it its default.
fn push_set_config(sql: &mut String, name: &str, value: Option<&str>) {
    sql.push_str("SELECT pg_catalog.set_config(");
    push_literal(sql, name);
    sql.push(',');
    match value {
        Some(value) => push_literal(sql, value),
        None => sql.push_str("NULL"),
    }
    sql.push_str(",false);");
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
        let mut applied = ParameterSet::new(&tracked);
        applied.apply("Work_Mem", "1MB");
        applied.fill_unset(&defaults);
        assert_eq!((applied.value(2), applied.applied("WORK_MEM")), (Some("UTC"), Some("1MB")));
    }

    #[test]
    fn equal_sets_unite_and_stay_so() {
        let tracked = Tracked::new([]);
        let mut sets: Vec<ParameterSet> = (0..5).map(|_| set(&tracked, &[("TimeZone", "UTC")])).collect();
        let other = set(&tracked, &[("TimeZone", "utc")]);
        for (a, b) in [(0, 1), (2, 3), (4, 3), (1, 2), (0, 4), (1, 3), (0, 2), (3, 0), (1, 0), (4, 0), (2, 0)] {
            let mut one = sets[a].clone();
            one.unite(&mut sets[b]);
            assert!(one.is_same(&sets[b]));
            sets[a] = one;
        }
        assert!(sets.iter().all(|set| set.is_same(&sets[0])));
        // Those who only fit each other stay apart.
        let mut apart = other.clone();
        apart.unite(&mut sets[0]);
        assert!(apart.is_same(&other) && apart.served_by(&sets[0]) && sets[0].is_same(&sets[1]));
    }

    /// A set with applied parameters only.
    fn applied(values: &[(&str, &str)]) -> ParameterSet {
        let mut set = ParameterSet::new(&Tracked::new([]));
        values.iter().for_each(|(name, value)| set.apply(name, value));
        set
    }

    #[test]
    fn applied_parameters_change_with_the_client() {
        let tracked = Tracked::new([]);
        let check = |server: &[(&str, &str)], client: &[(&str, &str)], reset: Option<&str>, set: Option<&str>| {
            let (mut server, client) = (applied(server), applied(client));
            assert_eq!(client.served_by(&server), reset.is_none() && set.is_none());
            assert_eq!(client.reset_query(&server).as_deref(), reset);
            server.reset_applied(&client);
            assert_eq!(client.reset_query(&server), None);
            assert_eq!(client.applies_to(&server), set.is_some());
            assert_eq!(client.set_query(&server, &tracked).as_deref(), set);
            server.copy_applied(&client);
            assert!(client.served_by(&server) && client == server);
        };
        let mem = "SELECT pg_catalog.set_config('work_mem',NULL,false);";
        check(&[], &[], None, None);
        check(&[("a", "1")], &[("A", "1")], None, None);
        check(&[("Work_Mem", "1MB")], &[], Some(mem), None);
        check(
            &[("work_mem", "1MB"), ("a", "1")],
            &[("work_mem", "1mb"), ("a", "1")],
            Some(mem),
            Some("SELECT pg_catalog.set_config('work_mem','1mb',false);"),
        );
        check(
            &[],
            &[("it's", "a, \"B\""), ("b", "\\")],
            None,
            Some(
                "SELECT pg_catalog.set_config('b',E'\\\\',false);SELECT pg_catalog.set_config('it''s','a, \"B\"',false);",
            ),
        );
        // An equal role is given back as well: whoever has it may not be allowed to change the rest.
        check(
            &[("a", "1"), ("role", "r"), ("session_authorization", "s")],
            &[("a", "2"), ("role", "r"), ("session_authorization", "s")],
            Some(
                "SELECT pg_catalog.set_config('role',NULL,false);\
                 SELECT pg_catalog.set_config('session_authorization',NULL,false);\
                 SELECT pg_catalog.set_config('a',NULL,false);",
            ),
            Some(
                "SELECT pg_catalog.set_config('a','2',false);\
                 SELECT pg_catalog.set_config('session_authorization','s',false);\
                 SELECT pg_catalog.set_config('role','r',false);",
            ),
        );
        let same = [("role", "r")];
        check(&same, &same, None, None);
    }

    #[test]
    fn what_is_in_doubt_fits_nobody() {
        let mut server = applied(&[("a", "1")]);
        server.doubt_applied();
        for client in [applied(&[]), applied(&[("a", "1")])] {
            assert!(!client.served_by(&server));
            assert_eq!(client.reset_query(&server).unwrap(), "SELECT pg_catalog.set_config('a',NULL,false);");
        }
        let mut untouched = applied(&[]);
        let same = untouched.clone();
        untouched.doubt_applied();
        assert!(untouched.is_same(&same));
    }
}
