//! What a server is sent so that it has the prepared statements that its client names.

use std::sync::Arc;

use super::Server;
use super::effect::{Change, Correction, Effect};
use super::outstanding::{Answer, Prospect};
use super::retry::Retry;
use super::statements::{Presence, ServerStatements};
use crate::prepared::Statement;
use crate::wire::backend::{TransactionStatus, kind};
use crate::wire::frame::{HEADER_LEN, Header};
use crate::wire::frontend::Request;

/// What a server is sent so that it has a statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It has it.
    Nothing,
    /// A Parse.
    Parse,
    /// Whether it has it is known only when it has answered what it was sent.
    NotYet,
}

impl Server {
    /// From now on its clients' prepared statements are looked after.
    pub fn track(&mut self) {
        self.tracks = true;
    }

    /// Those that the server has.
    pub fn statements(&mut self) -> &mut ServerStatements {
        &mut self.statements
    }

    /// What becomes of a request that is sent now: it can be replaced only where it is answered.
    pub fn prospect(&self) -> Prospect {
        self.outstanding.prospect()
    }

    /// Whether requests of earlier groups are unanswered: what they do to names, and to the transaction, is not known.
    /// It will be, as the server has all that it needs to answer them.
    pub fn owes_status(&self) -> bool {
        self.outstanding.owes_status()
    }

    /// Which of the groups of requests that end with a ReadyForQuery is being sent.
    pub fn group(&self) -> u64 {
        self.group
    }

    /// The client prepares a statement under `name`. Appends to `out` what the server must be sent instead: nothing, if it
    /// has the statement.
    pub fn handle_parse(
        &mut self,
        name: Arc<[u8]>,
        statement: &Arc<Statement>,
        most: usize,
        out: &mut Vec<u8>,
    ) -> Sent {
        let presence = self.presence(statement);
        match presence {
            Presence::Doubtful => return Sent::NotYet,
            Presence::Stale => self.remove(statement, out),
            // In a failed transaction the server refuses a Parse, and so it must be asked.
            Presence::Present if self.status == TransactionStatus::Failed => self.remove(statement, out),
            Presence::Present if self.owes_status() => return Sent::NotYet,
            Presence::Present => {
                self.retry.forget();
                let effect = self.effect(Change::Created, statement, false, Some(name));
                self.outstanding.handle_prepared(Request::Parse, Answer::Fake, effect);
                return Sent::Nothing;
            }
            Presence::Absent => {}
        }
        self.create(statement, Some(name), most, out);
        Sent::Parse
    }

    /// The client is about to use a statement. Appends to `out` what the server must be sent before.
    pub fn handle_use(&mut self, statement: &Arc<Statement>, most: usize, out: &mut Vec<u8>) -> Sent {
        match self.presence(statement) {
            Presence::Doubtful => Sent::NotYet,
            Presence::Present => {
                if self.is_idle() {
                    self.retry = Retry::Kept(Vec::new());
                }
                Sent::Nothing
            }
            Presence::Stale => {
                self.remove(statement, out);
                self.create(statement, None, most, out);
                Sent::Parse
            }
            Presence::Absent => {
                self.create(statement, None, most, out);
                Sent::Parse
            }
        }
    }

    /// Whether the server, which owes nothing, has the statement; if so, it is used.
    pub fn has_statement(&mut self, statement: &Statement) -> bool {
        self.presence(statement) == Presence::Present
    }

    /// Whether what is sent now finds the statement; if so, it is used.
    fn presence(&mut self, statement: &Statement) -> Presence {
        let id = statement.id();
        if self.outstanding.is_removing() {
            let is_removal =
                |effect: &Effect| effect.change == Change::Removed && effect.on_server && effect.statement.id() == id;
            if self.outstanding.effects().any(|effect| is_removal(effect) && effect.group != self.group) {
                return Presence::Doubtful;
            }
        }
        self.statements.touch(id);
        self.statements.find(id, self.group)
    }

    /// The client closes a statement. The server keeps it, for others: it is sent [`CLOSE_OF_NONE`].
    pub fn handle_close(&mut self, name: Arc<[u8]>, statement: &Arc<Statement>) {
        let effect = self.effect(Change::Removed, statement, false, Some(name));
        self.outstanding.handle_prepared(Request::Close, Answer::Forward, effect);
        self.tail = false;
    }

    /// True when the server, of which nobody can tell what it does, is about to be ended, and its client gets another.
    pub fn will_end(&self) -> bool {
        self.status == TransactionStatus::Idle && self.outstanding.will_end()
    }

    /// Appends a Parse for the client that calls the statement `name`, or for nobody.
    fn create(&mut self, statement: &Arc<Statement>, name: Option<Arc<[u8]>>, most: usize, out: &mut Vec<u8>) {
        let answer = if name.is_some() { Answer::Forward } else { Answer::Swallow };
        let effect = self.effect(Change::Created, statement, true, name);
        self.statements.insert(Arc::clone(statement), Some(effect.group));
        self.outstanding.handle_prepared(Request::Parse, answer, effect);
        statement.parse(out);
        self.tail = false;
        while let Some(surplus) = self.statements.surplus(most.max(1)) {
            self.remove(&surplus, out);
        }
    }

    /// Removes a statement from the server, which nobody is told. It is no error if there is none.
    fn remove(&mut self, statement: &Arc<Statement>, out: &mut Vec<u8>) {
        statement.close(out);
        self.statements.remove(statement);
        let effect = self.effect(Change::Removed, statement, true, None);
        self.outstanding.handle_prepared(Request::Close, Answer::Swallow, effect);
    }

    fn effect(&self, change: Change, statement: &Arc<Statement>, on_server: bool, name: Option<Arc<[u8]>>) -> Effect {
        Effect { change, statement: Arc::clone(statement), on_server, name, group: self.group }
    }

    /// A message that is due to the client in the server's place, where nothing else is to be sent to it before.
    pub fn poll_fake(&mut self) -> Option<[u8; HEADER_LEN]> {
        if !self.walker.at_border() {
            return None;
        }
        if !self.outstanding.poll_fake() {
            return None;
        }
        self.learn();
        Some([kind::PARSE_COMPLETE, 0, 0, 0, 4])
    }

    /// What the client must know of its prepared statements.
    pub fn take_corrections(&mut self) -> impl Iterator<Item = Correction> {
        self.corrections.drain(..)
    }

    /// A reply came: what it says of prepared statements.
    pub(super) fn learn(&mut self) {
        for effect in self.outstanding.take_done() {
            if effect.on_server {
                let is_last = !self.is_created_again(&effect);
                self.statements.confirm(&effect, is_last);
            }
            if effect.name.is_some() {
                self.corrections.push(Correction::Done(effect));
            }
        }
        let skipped = self.outstanding.take_skipped();
        if !skipped.is_empty() {
            self.statements.restore(self.outstanding.effects());
            let created = skipped.into_iter().filter(|effect| effect.change == Change::Created);
            self.tell_skipped(created.filter_map(|effect| effect.name).collect());
        }
    }

    /// True when a Parse creates a statement once more that was removed in between: an error may skip it. There is one only
    /// behind a removal.
    fn is_created_again(&self, effect: &Effect) -> bool {
        let (id, outstanding) = (effect.statement.id(), &self.outstanding);
        let creates = |later: &Effect| later.on_server && later.change == Change::Created && later.statement.id() == id;
        outstanding.is_removing() && outstanding.effects().any(creates)
    }

    fn tell_skipped(&mut self, names: Vec<Arc<[u8]>>) {
        let pending = self.outstanding.effects().filter(|effect| effect.name.is_some()).cloned().collect();
        self.corrections.push(Correction::Skipped { names, pending });
    }

    /// True once after prepared statements of the whole pool have turned out to be out of date.
    pub fn take_retired(&mut self) -> bool {
        std::mem::take(&mut self.retired)
    }

    /// A command is complete that may have removed all prepared statements.
    pub(super) fn completed(&mut self, tag: &[u8]) {
        if ENDS_ALL.contains(&tag) {
            // At least by the first of the two.
            self.parameters.doubt_applied();
            self.statements.clear(self.outstanding.effects());
            self.corrections.push(if tag == DISCARD_ALL { Correction::Discarded } else { Correction::AllGone });
            self.tell_skipped(Vec::new());
        }
    }
}

/// A Close of a statement that no server has: servers' names of statements have more than `~`.
pub const CLOSE_OF_NONE: [u8; 8] = *b"C\0\0\0\x07S~\0";

/// Tags of the commands that remove all prepared statements.
const ENDS_ALL: [&[u8]; 2] = [DISCARD_ALL, b"DEALLOCATE ALL\0"];
const DISCARD_ALL: &[u8] = b"DISCARD ALL\0";

/// True if the tag in this message may be one of [`ENDS_ALL`], of which only the start may be there.
pub(super) fn ends_all(header: Header, buf: &[u8]) -> bool {
    let is_as_long = ENDS_ALL.iter().any(|tag| header.len as usize == tag.len() + 4);
    is_as_long && buf.get(HEADER_LEN).is_none_or(|&first| first == b'D')
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parameters::{ParameterSet, Tracked};
    use crate::prepared::{Form, Registry};

    #[test]
    fn a_statement_created_twice_in_a_pipeline_is_certain_when_both_are_answered() {
        let tracked = Tracked::new([]);
        let mut server = Server::new(ParameterSet::new(&tracked)).tracking(true);
        let registry = Arc::new(Registry::default());
        let [first, other] = [b'a', b'b'].map(|text| registry.intern(Form::Parse(1), &[text, 0, 0, 0]));
        let mut out = Vec::new();
        assert_eq!(server.handle_parse(b"s"[..].into(), &first, 1, &mut out), Sent::Parse);
        assert_eq!(server.handle_use(&other, 1, &mut out), Sent::Parse, "removes the first");
        assert_eq!(server.handle_use(&first, 1, &mut out), Sent::Parse, "and creates it again");
        server.handle_request(Request::Sync);
        let parsed = [kind::PARSE_COMPLETE, 0, 0, 0, 4];
        let closed = [kind::CLOSE_COMPLETE, 0, 0, 0, 4];
        for reply in [parsed, parsed, closed] {
            server.handle_bytes(&reply, &tracked, |_, _| {}).unwrap();
            assert_eq!(server.handle_use(&first, 1, &mut out), Sent::NotYet);
        }
        server.handle_bytes(&parsed, &tracked, |_, _| {}).unwrap();
        assert_eq!(server.handle_use(&first, 1, &mut out), Sent::Nothing);
    }
}
