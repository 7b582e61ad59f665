//! The prepared statements that a client has named, and the messages that name them.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::Error;
use crate::prepared::{Form, Registry, Statement};
use crate::server::Server;
use crate::server::effect::{Change, Correction, Effect};
use crate::wire::frame::{HEADER_LEN, Header};

/// Most prepared statements of a client. PostgreSQL has no such limit, but its backend's memory pays for them; here it is
/// that of all.
pub const STATEMENTS_MAX: usize = 65_536;

/// Longest names of a portal and a statement together, in bytes: they must be there as a whole.
const NAMES_LEN_MAX: usize = 16 * 1024;

/// The prepared statements of one client.
#[derive(Debug)]
pub struct ClientStatements {
    registry: Arc<Registry>,
    /// What names will stand for when all that was sent is done.
    known: HashMap<Arc<[u8]>, Named>,
    /// What they stand for, by what was answered.
    certain: HashMap<Arc<[u8]>, Arc<Statement>>,
    /// Of those that are LISTEN or UNLISTEN, the text. Some of those that are gone may still be here.
    listens: HashMap<Arc<[u8]>, Vec<u8>>,
    /// Those that were prepared with SQL, which is answered before anything else is sent.
    commanded: HashMap<Vec<u8>, Arc<Statement>>,
    /// Some of `known` stand for nothing.
    nothing: bool,
    /// Some of `known` were not told.
    untold: bool,
    /// Names that were told and do not stand for a statement any more.
    gone: Vec<Arc<[u8]>>,
    /// There was a DISCARD ALL.
    discarded: bool,
}

/// What a name stands for.
#[derive(Clone, Debug)]
enum Named {
    Statement {
        statement: Arc<Statement>,
        /// [`ClientStatements::take_changes`] has told it.
        told: bool,
        /// The Parse was sent to the server in this group, if it is not known to be done.
        pending: Option<u64>,
    },
    /// Nothing, because of an error that requests sent behind it may not know of yet: the server says so.
    Nothing,
}

/// What a name stands for, when it is used.
pub(super) enum Meaning {
    Statement(Arc<Statement>),
    /// The server is asked, which has none of that name.
    Nothing,
    /// That is known only when the server has answered what it was sent.
    NotYet,
}

/// A statement that a client is about to prepare.
pub(super) struct New {
    pub(super) name: Arc<[u8]>,
    pub(super) statement: Arc<Statement>,
}

/// How names have changed.
#[derive(Debug, Default)]
pub struct NameChanges {
    /// These stand for nothing any more.
    pub gone: Vec<Arc<[u8]>>,
    /// These stand for other statements than before.
    pub new: Vec<(Arc<[u8]>, Arc<Statement>)>,
}

impl ClientStatements {
    /// None, of a pool with these.
    pub fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            known: HashMap::new(),
            certain: HashMap::new(),
            listens: HashMap::new(),
            commanded: HashMap::new(),
            nothing: false,
            untold: false,
            gone: Vec::new(),
            discarded: false,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.known.len() + self.commanded.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What EXECUTE of `name` executes.
    pub fn commanded(&self, name: &[u8]) -> Option<Arc<Statement>> {
        self.commanded.get(name).cloned()
    }

    /// The statement that PREPARE with this definition prepares.
    ///
    /// # Errors
    /// [`Error::TooManyPrepared`]
    pub fn define(&self, definition: &[u8]) -> Result<Arc<Statement>, Error> {
        if self.len() >= STATEMENTS_MAX {
            return Err(Error::TooManyPrepared);
        }
        Ok(self.registry.intern(Form::Command, definition))
    }

    /// A PREPARE has succeeded.
    pub fn note_prepared(&mut self, name: Vec<u8>, statement: Arc<Statement>) {
        self.commanded.insert(name, statement);
    }

    /// DEALLOCATE, of whatever has this name; false if nothing has.
    pub fn deallocate(&mut self, name: &[u8]) -> bool {
        if self.commanded.remove(name).is_some() {
            return true;
        }
        let known = self.has(name);
        self.forget(name);
        known
    }

    /// The text of a statement that is LISTEN or UNLISTEN.
    pub(super) fn listen(&self, name: &[u8]) -> Option<&[u8]> {
        self.listens.get(name).map(Vec::as_slice)
    }

    pub(super) fn has_listens(&self) -> bool {
        !self.listens.is_empty()
    }

    /// What is prepared as `name` is this LISTEN or UNLISTEN, or neither.
    pub(super) fn set_listen(&mut self, name: &Arc<[u8]>, sql: Option<&[u8]>) {
        match sql {
            Some(sql) => {
                self.listens.insert(Arc::clone(name), sql.to_vec());
                if self.listens.len() > self.known.len() + self.certain.len() + 2 {
                    let (known, certain) = (&self.known, &self.certain);
                    let is_there = |other: &Arc<[u8]>| known.contains_key(other) || certain.contains_key(other);
                    self.listens.retain(|other, _| other.is_empty() || other == name || is_there(other));
                }
            }
            None if self.listens.is_empty() => {}
            None => drop(self.listens.remove(name)),
        }
    }

    /// The same for the unnamed statement.
    pub(super) fn set_unnamed(&mut self, sql: Option<&[u8]>) {
        if sql.is_some() || !self.listens.is_empty() {
            self.set_listen(&Arc::from(b"".as_slice()), sql);
        }
    }

    /// Whether a statement has this name, however it was prepared.
    pub(super) fn has_any(&self, name: &[u8]) -> bool {
        self.has(name) || self.commanded.contains_key(name)
    }

    pub(super) fn has(&self, name: &[u8]) -> bool {
        self.known.contains_key(name)
    }

    /// What has changed since this was last asked.
    pub fn take_changes(&mut self) -> NameChanges {
        let mut changes = NameChanges { gone: std::mem::take(&mut self.gone), new: Vec::new() };
        if std::mem::take(&mut self.untold) {
            for (name, named) in &mut self.known {
                // The kernel path must not bind these.
                if self.listens.contains_key(name) {
                    continue;
                }
                if let Named::Statement { statement, told: told @ false, .. } = named {
                    *told = true;
                    changes.new.push((name.clone(), Arc::clone(statement)));
                }
            }
        }
        changes
    }

    /// The client prepares `body` as `name`; `None`: whether it can is not known yet.
    pub(super) fn create(&mut self, name: &[u8], body: &[u8], server: &Server) -> Result<Option<New>, Error> {
        match self.known.get(name) {
            Some(Named::Statement { .. }) if server.owes_status() => return Ok(None),
            Some(Named::Statement { .. }) => return Err(Error::PreparedInUse),
            None if self.len() >= STATEMENTS_MAX => return Err(Error::TooManyPrepared),
            _ => {}
        }
        Ok(Some(New { name: Arc::from(name), statement: self.registry.intern(Form::Parse(name.len()), body) }))
    }

    /// The Parse of a new one was sent.
    pub(super) fn enter(&mut self, new: New, server: &Server) {
        self.insert(new.name, new.statement, Some(server.group()));
    }

    /// What `name` stands for.
    pub(super) fn find(&self, name: &[u8], server: &Server) -> Result<Meaning, Error> {
        match self.known.get(name) {
            // Its Parse may have failed.
            Some(Named::Statement { pending: Some(group), .. }) if *group != server.group() => Ok(Meaning::NotYet),
            Some(Named::Statement { statement, .. }) => Ok(Meaning::Statement(Arc::clone(statement))),
            Some(Named::Nothing) => Ok(Meaning::Nothing),
            // Its Close may have been skipped.
            None if server.owes_status() => Ok(Meaning::NotYet),
            None => Err(Error::PreparedMissing),
        }
    }

    /// The client closes `name`.
    pub(super) fn remove(&mut self, name: &[u8]) -> Option<(Arc<[u8]>, Arc<Statement>)> {
        let (name, named) = self.known.remove_entry(name)?;
        let Named::Statement { statement, told, .. } = named else { return None };
        if told {
            self.gone.push(Arc::clone(&name));
        }
        Some((name, statement))
    }

    /// The client closes `name` where nothing can be taken back.
    pub(super) fn forget(&mut self, name: &[u8]) {
        self.remove(name);
        self.certain.remove(name);
    }

    /// True once after a DISCARD ALL, which ends LISTEN as well.
    pub fn take_discarded(&mut self) -> bool {
        std::mem::take(&mut self.discarded)
    }

    /// What the server's replies have shown.
    pub(super) fn correct(&mut self, corrections: impl Iterator<Item = Correction>) {
        for correction in corrections {
            match correction {
                Correction::Done(Effect { change: Change::Created, statement, name: Some(name), group, .. }) => {
                    if let Some(Named::Statement { pending, .. }) = self.known.get_mut(&name)
                        && *pending == Some(group)
                    {
                        *pending = None;
                    }
                    self.certain.insert(name, statement);
                }
                Correction::Done(Effect { name, .. }) => drop(name.and_then(|name| self.certain.remove(&name))),
                Correction::AllGone | Correction::Discarded => {
                    self.discarded |= matches!(correction, Correction::Discarded);
                    self.certain.clear();
                    self.commanded.clear();
                }
                Correction::Skipped { names, pending } => {
                    self.restore(pending);
                    for name in names {
                        self.nothing = true;
                        self.known.entry(name).or_insert(Named::Nothing);
                    }
                }
            }
        }
    }

    /// An error has skipped something: what names stand for, and will stand for when these are done.
    fn restore(&mut self, pending: Vec<Effect>) {
        let certain = self.certain.iter().map(|(name, statement)| (Arc::clone(name), (Arc::clone(statement), None)));
        let mut names: HashMap<_, _> = certain.collect();
        for Effect { change, statement, name, group, .. } in pending {
            match (change, name) {
                (Change::Created, Some(name)) => drop(names.insert(name, (statement, Some(group)))),
                (Change::Removed, Some(name)) => drop(names.remove(&name)),
                (_, None) => {}
            }
        }
        let mut old = std::mem::take(&mut self.known);
        for (name, (statement, pending)) in names {
            match old.remove(&name) {
                Some(Named::Statement { statement: before, told, .. }) if Arc::ptr_eq(&before, &statement) => {
                    self.known.insert(name, Named::Statement { statement, told, pending });
                }
                _ => self.insert(name, statement, pending),
            }
        }
        let told = old.into_iter().filter(|(_, named)| matches!(named, Named::Statement { told: true, .. }));
        self.gone.extend(told.map(|(name, _)| name));
    }

    /// Every request is answered: the client knows of each error.
    pub(super) fn settle(&mut self) {
        if std::mem::take(&mut self.nothing) {
            self.known.retain(|_, named| matches!(named, Named::Statement { .. }));
        }
    }

    fn insert(&mut self, name: Arc<[u8]>, statement: Arc<Statement>, pending: Option<u64>) {
        self.untold = true;
        self.known.insert(name, Named::Statement { statement, told: false, pending });
    }
}

/// The statement that a message names, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Name<'a> {
    /// The name; empty for the unnamed statement, and for messages that name none.
    pub(super) name: &'a [u8],
    /// Where it begins in the message.
    pub(super) at: usize,
}

impl<'a> Name<'a> {
    /// Reads a Parse, Bind, Describe or Close at the start of `buf`; `None` when its names are not there as a whole.
    pub(super) fn read(header: Header, buf: &'a [u8]) -> Result<Option<Self>, Error> {
        let message = &buf[..buf.len().min(header.total())];
        let broken = || Error::BrokenPacket(packet_name(header.kind));
        // The end of a name that is not there yet, or cannot come.
        let missing = |from: usize| match () {
            () if message.len() == header.total() || message.len() - from > NAMES_LEN_MAX => Err(broken()),
            () => Ok(None),
        };
        let mut at = HEADER_LEN;
        match header.kind {
            b'B' => match cstr_len(&message[at..]) {
                Some(len) => at += len + 1,
                None => return missing(at),
            },
            b'D' | b'C' => match message.get(at) {
                Some(b'S') => at += 1,
                Some(_) => return Ok(Some(Self { name: b"", at })),
                None => return missing(at),
            },
            _ => {}
        }
        match cstr_len(&message[at..]) {
            Some(len) if at + len > NAMES_LEN_MAX => Err(broken()),
            Some(len) => Ok(Some(Self { name: &message[at..at + len], at })),
            None => missing(at),
        }
    }
}

fn cstr_len(bytes: &[u8]) -> Option<usize> {
    bytes.iter().position(|&byte| byte == 0)
}

fn packet_name(kind: u8) -> &'static str {
    match kind {
        b'P' => "broken Parse packet",
        b'B' => "broken Bind packet",
        b'D' => "broken Describe packet",
        _ => "broken Close packet",
    }
}
