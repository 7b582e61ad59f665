//! Named prepared statements in transaction and statement pooling: what a client has prepared on one server is there on
//! whichever it gets next.
//!
//! Clients that prepare the same text with the same parameter types share one [`Statement`], which has a name of its own
//! on servers. Where it can, that name is as long as the client's, so that the kernel path can write it over the other
//! in place: clients with names of different lengths do not share. What is prepared with SQL is executed with SQL, where names
//! may have any length.

use std::collections::{BTreeSet, HashMap};
use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use crate::wire::backend::message;

/// What a prepared statement is, whoever has prepared it.
#[derive(Debug)]
pub struct Statement {
    id: u32,
    name: Box<str>,
    /// What follows the name: in a Parse message the text, and the types of parameters.
    body: Box<[u8]>,
    form: Form,
    registry: Arc<Registry>,
}

/// How a statement is prepared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Form {
    /// With a Parse message, by clients whose names for it have so many bytes.
    Parse(usize),
    /// With the SQL command PREPARE.
    Command,
}

impl Statement {
    /// Names it among the statements of its pool; given again when nobody has the statement any more. Low numbers first.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Its name on servers.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// True if its name on servers is as long as the client's.
    pub fn is_in_place(&self) -> bool {
        self.form == Form::Parse(self.name.len())
    }

    /// Which plans of it are up to date: those of servers that were made since [`Self::retire`] was last called.
    pub fn epoch(&self) -> u64 {
        self.registry.epoch.load(Ordering::Acquire)
    }

    /// A table has changed, so that a server refuses to execute it: it, and all others of the pool, must be created again.
    pub fn retire(&self) {
        self.registry.epoch.fetch_add(1, Ordering::AcqRel);
    }

    /// Appends the Parse message that creates it on a server.
    pub fn parse(&self, out: &mut Vec<u8>) {
        debug_assert_ne!(self.form, Form::Command);
        message(out, b'P', |out| {
            out.extend_from_slice(self.name.as_bytes());
            out.push(0);
            out.extend_from_slice(&self.body);
        });
    }

    /// Appends the Query message that creates it on a server, if it [is prepared with SQL](Form::Command).
    pub fn prepare(&self, out: &mut Vec<u8>) {
        debug_assert_eq!(self.form, Form::Command);
        message(out, b'Q', |out| {
            out.extend_from_slice(self.head().as_bytes());
            out.extend_from_slice(&self.body);
            out.push(0);
        });
    }

    /// What is before its definition in the query that creates it. It is ASCII.
    pub fn head(&self) -> String {
        format!("PREPARE {}", self.identifier())
    }

    /// Its name on servers, for SQL.
    pub fn identifier(&self) -> String {
        format!("\"{}\"", self.name)
    }

    /// Appends the Close message that removes it from a server.
    pub fn close(&self, out: &mut Vec<u8>) {
        message(out, b'C', |out| {
            out.push(b'S');
            out.extend_from_slice(self.name.as_bytes());
            out.push(0);
        });
    }
}

impl Drop for Statement {
    fn drop(&mut self) {
        self.registry.forget(self);
    }
}

/// The statements of one pool that a client or a server has.
#[derive(Debug, Default)]
pub struct Registry {
    statements: Mutex<Statements>,
    hasher: RandomState,
    /// How often what servers have was found to be out of date.
    epoch: AtomicU64,
}

#[derive(Debug, Default)]
struct Statements {
    /// By the hash of what they are.
    known: HashMap<u64, Vec<Weak<Statement>>>,
    /// Ids below `next` that nobody has.
    free: BTreeSet<u32>,
    next: u32,
}

impl Registry {
    /// The statement with this `body`: what follows the name in a Parse message, text and types, or in the command PREPARE.
    pub fn intern(self: &Arc<Self>, form: Form, body: &[u8]) -> Arc<Statement> {
        let hash = self.hasher.hash_one((form, body));
        let mut statements = self.statements.lock().expect("nobody panics with this lock");
        // One that is not this one must not be dropped under the lock, which its end takes.
        let met: Vec<Arc<Statement>> =
            statements.known.get(&hash).into_iter().flatten().filter_map(Weak::upgrade).collect();
        if let Some(known) = met.iter().find(|known| known.form == form && *known.body == *body) {
            let known = Arc::clone(known);
            drop(statements);
            return known;
        }
        let id = statements.free.pop_first().unwrap_or_else(|| {
            statements.next += 1;
            statements.next - 1
        });
        let name_len = if let Form::Parse(len) = form { len } else { 0 };
        let statement = Arc::new(Statement {
            id,
            name: server_name(id, name_len).into(),
            body: body.into(),
            form,
            registry: Arc::clone(self),
        });
        statements.known.entry(hash).or_default().push(Arc::downgrade(&statement));
        drop(statements);
        statement
    }

    /// How many statements there are.
    pub fn len(&self) -> usize {
        let statements = self.statements.lock().expect("nobody panics with this lock");
        statements.next as usize - statements.free.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn forget(&self, gone: &Statement) {
        let hash = self.hasher.hash_one((gone.form, &*gone.body));
        let mut statements = self.statements.lock().expect("nobody panics with this lock");
        if let Some(same) = statements.known.get_mut(&hash) {
            // Another with the same hash may be going as well: only its own end removes it.
            same.retain(|known| !std::ptr::eq(known.as_ptr(), gone));
            if same.is_empty() {
                statements.known.remove(&hash);
            }
        }
        statements.free.insert(gone.id);
    }
}

/// Longest name that PostgreSQL tells from others (`NAMEDATALEN` - 1, as its hash table of statements cuts them).
const NAME_LEN_MAX: usize = 63;

const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// `~` and the id in so many digits that the name gets this length. Where that cannot be, a name of any length: it ends
/// with `~`, which the others do not.
fn server_name(id: u32, len: usize) -> String {
    let mut digits = Vec::new();
    let mut rest = id;
    while rest > 0 || digits.is_empty() {
        digits.push(DIGITS[(rest % 62) as usize]);
        rest /= 62;
    }
    let in_place = len > digits.len() && len <= NAME_LEN_MAX;
    if in_place {
        digits.resize(len - 1, b'0');
    }
    let mut name = String::with_capacity(digits.len() + 2);
    name.push('~');
    name.extend(digits.iter().rev().map(|&digit| char::from(digit)));
    if !in_place {
        name.push('~');
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |id, len, expected: &str| assert_eq!(server_name(id, len), expected);
        check(0, 3, "~00");
        check(61, 3, "~0z");
        check(62, 3, "~10");
        check(62 * 62 - 1, 3, "~zz");
        check(62 * 62, 3, "~100~");
        check(7, 1, "~7~");
        check(7, 2, "~7");
        check(7, 63, &format!("~{}7", "0".repeat(61)));
        check(7, 64, "~7~");
    }

    #[test]
    fn the_same_is_shared_as_long_as_somebody_has_it() {
        let registry = Arc::new(Registry::default());
        let first = registry.intern(Form::Parse(3), b"select 1\0\0\0");
        assert!(Arc::ptr_eq(&first, &registry.intern(Form::Parse(3), b"select 1\0\0\0")));
        let longer = registry.intern(Form::Parse(4), b"select 1\0\0\0");
        let other = registry.intern(Form::Parse(3), b"select 2\0\0\0");
        assert_eq!([first.id(), longer.id(), other.id()], [0, 1, 2]);
        assert_eq!((registry.len(), longer.name(), longer.is_in_place()), (3, "~001", true));
        drop(longer);
        assert_eq!((registry.len(), registry.intern(Form::Parse(9), b"x").id()), (2, 1));
        let mut out = Vec::new();
        first.parse(&mut out);
        first.close(&mut out);
        assert_eq!(out, b"P\0\0\0\x13~00\0select 1\0\0\0C\0\0\0\x09S~00\0");
        let sql = registry.intern(Form::Command, b" AS select 1");
        assert!(Arc::ptr_eq(&sql, &registry.intern(Form::Command, b" AS select 1")) && !sql.is_in_place());
        out.clear();
        sql.prepare(&mut out);
        assert_eq!(out, b"Q\0\0\0\x1ePREPARE \"~1~\" AS select 1\0");
        drop((first, other, sql));
        assert!(registry.is_empty() && registry.statements.lock().unwrap().known.is_empty());
    }
}
