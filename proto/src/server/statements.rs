//! The prepared statements that a server has, of which at most `max_prepared_statements` are kept: those used last.

use std::collections::HashMap;
use std::sync::Arc;

use super::effect::{Change, Effect};
use crate::prepared::Statement;

/// The prepared statements of one server.
#[derive(Debug, Default)]
pub struct ServerStatements {
    /// What there will be when all that was sent is done.
    known: HashMap<u32, Known>,
    /// What there is, by what was answered.
    certain: HashMap<u32, Arc<Statement>>,
    /// Counts uses, to tell which was the last.
    uses: u64,
    /// They are others than when [`Self::take_changed`] was last called.
    changed: bool,
}

#[derive(Debug)]
struct Known {
    statement: Arc<Statement>,
    used: u64,
    /// Its [epoch](Statement::epoch) when it was created.
    epoch: u64,
    /// Its Parse is not answered, and was sent in this [group](super::effect::Effect::group).
    pending: Option<u64>,
}

/// Whether a server has a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Presence {
    Present,
    Absent,
    /// It has, but a table has changed since.
    Stale,
    /// It has, unless the Parse that was sent in an earlier group is skipped.
    Doubtful,
}

impl ServerStatements {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// Whether the server has one, without using it.
    pub fn has(&self, id: u32) -> bool {
        self.known.contains_key(&id)
    }

    /// The one with this name on servers.
    pub(super) fn named(&self, name: &[u8]) -> Option<Arc<Statement>> {
        let found = self.known.values().find(|known| known.statement.name().as_bytes() == name);
        found.map(|known| Arc::clone(&known.statement))
    }

    /// Uses one; false if the server does not have it.
    pub fn touch(&mut self, id: u32) -> bool {
        self.uses += 1;
        let known = self.known.get_mut(&id);
        known.map(|known| known.used = self.uses).is_some()
    }

    /// Whether what is sent in this group finds the statement.
    pub(super) fn find(&self, id: u32, group: u64) -> Presence {
        match self.known.get(&id) {
            None => Presence::Absent,
            Some(Known { statement, epoch, .. }) if *epoch != statement.epoch() => Presence::Stale,
            Some(Known { pending: Some(sent), .. }) if *sent != group => Presence::Doubtful,
            Some(_) => Presence::Present,
        }
    }

    /// An error has skipped something: what there is, and will be when these are done.
    pub(super) fn restore<'a>(&mut self, pending: impl Iterator<Item = &'a Effect>) {
        let old = std::mem::take(&mut self.known);
        self.changed = true;
        for (id, statement) in &self.certain {
            // Of one that was to be removed it is not known how old it is.
            let (used, epoch) = old.get(id).map_or((0, u64::MAX), |known| (known.used, known.epoch));
            self.known.insert(*id, Known { statement: Arc::clone(statement), used, epoch, pending: None });
        }
        for effect in pending.filter(|effect| effect.on_server) {
            match effect.change {
                Change::Created => self.insert(Arc::clone(&effect.statement), Some(effect.group)),
                Change::Removed => drop(self.remove(&effect.statement)),
            }
        }
    }

    /// Takes note of one that is about to be created.
    pub(super) fn insert(&mut self, statement: Arc<Statement>, pending: Option<u64>) {
        self.uses += 1;
        self.changed = true;
        let (used, epoch) = (self.uses, statement.epoch());
        self.known.insert(statement.id(), Known { statement, used, epoch, pending });
    }

    /// A request that was sent is answered; what is sent behind it creates the statement no further time if it `is_last`.
    pub(super) fn confirm(&mut self, effect: &Effect, is_last: bool) {
        let id = effect.statement.id();
        match effect.change {
            Change::Created => {
                self.certain.insert(id, Arc::clone(&effect.statement));
                if let Some(known) = self.known.get_mut(&id).filter(|_| is_last) {
                    known.pending = None;
                }
            }
            Change::Removed => drop(self.certain.remove(&id)),
        }
    }

    /// Takes note of one that is about to be removed; false if there is none.
    pub(super) fn remove(&mut self, statement: &Statement) -> bool {
        let removed = self.known.remove(&statement.id()).is_some();
        self.changed |= removed;
        removed
    }

    /// One was created, and the server has said so.
    pub fn note_created(&mut self, statement: &Arc<Statement>) {
        self.insert(Arc::clone(statement), None);
        self.certain.insert(statement.id(), Arc::clone(statement));
    }

    /// One was removed, and the server has said so.
    pub fn note_removed(&mut self, statement: &Statement) {
        self.remove(statement);
        self.certain.remove(&statement.id());
    }

    /// The one that was not used for longest, if there are more than `most`.
    pub fn surplus(&self, most: usize) -> Option<Arc<Statement>> {
        if self.known.len() <= most {
            return None;
        }
        let oldest = self.known.values().min_by_key(|known| known.used);
        oldest.map(|known| Arc::clone(&known.statement))
    }

    /// All are gone, but for those that are created after that.
    pub(super) fn clear<'a>(&mut self, pending: impl Iterator<Item = &'a Effect>) {
        self.certain.clear();
        self.restore(pending);
    }

    /// The ids of those that are up to date, in no order.
    pub fn ids(&self) -> impl Iterator<Item = u32> {
        self.known.values().filter(|known| known.epoch == known.statement.epoch()).map(|known| known.statement.id())
    }

    /// The server has refused to execute one of them because a table has changed.
    pub(super) fn retire(&mut self) {
        self.changed = true;
        if let Some(known) = self.known.values().next() {
            known.statement.retire();
        }
    }

    /// Whether they have changed since this was asked for.
    pub fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prepared::{Form, Registry};

    #[test]
    fn those_used_last_are_kept() {
        let registry = Arc::new(Registry::default());
        let all: Vec<_> = (0..4u8).map(|n| registry.intern(Form::Parse(3), &[b'a' + n, 0, 0, 0])).collect();
        let mut statements = ServerStatements::default();
        all.iter().for_each(|statement| statements.insert(Arc::clone(statement), None));
        assert!(statements.take_changed() && !statements.take_changed());
        assert!(statements.touch(0) && statements.touch(2) && !statements.touch(9));
        assert!(!statements.take_changed() && statements.surplus(4).is_none());
        for expected in [1, 3] {
            let surplus = statements.surplus(2).unwrap();
            assert!(surplus.id() == expected && statements.remove(&surplus) && !statements.remove(&surplus));
        }
        assert!(statements.surplus(2).is_none() && statements.touch(0) && statements.take_changed());
        statements.remove(&all[1]);
        assert!(!statements.take_changed());
        statements.clear([].iter());
        assert!(statements.is_empty() && statements.take_changed());
    }
}
