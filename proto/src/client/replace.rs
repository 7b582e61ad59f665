//! What a server is sent instead of a message that names a prepared statement.
//!
//! | client's message | the server has the statement | it does not |
//! |---|---|---|
//! | Parse | nothing; ParseComplete is ours | Parse under the server's name |
//! | Bind, Describe | the same under the server's name | before it a Parse, whose ParseComplete is for nobody |
//! | Close | Close of one that does not exist | the same |
//! | EXECUTE | the same under the server's name | nothing: the driver first has it prepared |

use std::sync::Arc;

use super::command::{COMMAND_LEN_MAX, Command, Look, NO_COMMAND};
use super::statements::{Meaning, Name};
use super::{Client, ClientLimits, FromClient};
use crate::error::Error;
use crate::prepared::Statement;
use crate::server::Server;
use crate::server::outstanding::{Prospect, Settling};
use crate::server::prepared::{CLOSE_OF_NONE, Sent};
use crate::wire::backend::{TransactionStatus, message};
use crate::wire::frame::{HEADER_LEN, Header, MESSAGE_LEN_MAX, Walker};
use crate::wire::frontend::Request;

/// Longest Parse of a named statement, in bytes: it is kept as long as a client or server has the statement.
const PARSE_LEN_MAX: usize = 16 << 20;

/// The beginning of a Parse.
#[derive(Debug)]
pub(super) struct Collecting {
    bytes: Vec<u8>,
    header: Header,
}

impl Collecting {
    fn is_whole(&self) -> bool {
        self.bytes.len() == self.header.total()
    }
}

/// What is to be done about a message.
pub(super) enum Replaced {
    /// It goes on as it is.
    No,
    /// Too little of it is there to know.
    Later,
    /// It must wait until the server has answered what it was sent.
    Hold,
    /// These bytes go on instead of the next `skip` ones.
    With { skip: usize, insert: Vec<u8> },
    /// The driver carries it out.
    ByDriver,
}

impl Client {
    /// True when a message that has come as a whole waits for the server's answers: [`Self::handle_bytes`] is to be called
    /// when some have come, also without bytes.
    pub fn is_held(&self) -> bool {
        self.collecting.as_ref().is_some_and(|collecting| collecting.is_whole())
    }

    /// Writes the server's names of prepared statements over the client's in `buf`, which consists of whole messages, if the
    /// server has all of them under names of the same length, and nothing is prepared or closed; else changes nothing.
    /// Returns how many names it was, or `None` if it may not be sent like that.
    pub fn rename_whole(&mut self, buf: &mut [u8], server: &mut Server, limits: ClientLimits) -> Option<usize> {
        if limits.prepared_max == 0 && !self.statements.has_listens() {
            return Some(0);
        }
        self.statements.correct(server.take_corrections());
        let (mut at, mut renamed, mut binds) = (0, Vec::new(), 0);
        while let Ok(Some(header)) = Header::read(&buf[at..], limits.packet_len_max) {
            if matches!(header.kind, b'P' | b'B' | b'D' | b'C') {
                match Name::read(header, &buf[at..]) {
                    Ok(Some(Name { name, .. })) if header.kind == b'B' && self.statements.listen(name).is_some() => {
                        return None;
                    }
                    Ok(Some(Name { name: b"", .. })) => {}
                    Ok(Some(name)) if matches!(header.kind, b'B' | b'D') => {
                        let Ok(Meaning::Statement(statement)) = self.statements.find(name.name, server) else {
                            return None;
                        };
                        if !statement.is_in_place() || !server.has_statement(&statement) {
                            return None;
                        }
                        renamed.push((at + name.at, statement));
                        binds += u64::from(header.kind == b'B');
                    }
                    _ => return None,
                }
            }
            at += header.total();
        }
        for (at, statement) in &renamed {
            buf[*at..*at + statement.name().len()].copy_from_slice(statement.name().as_bytes());
        }
        self.uses.binds += binds;
        Some(renamed.len())
    }

    /// Looks at the Parse, Bind, Describe or Close at the start of `buf`.
    pub(super) fn replace(
        &mut self,
        header: Header,
        buf: &[u8],
        server: &mut Server,
        limits: ClientLimits,
    ) -> Result<Replaced, Error> {
        // What is skipped or swallowed has no effect, whatever it names.
        if matches!(server.prospect(), Prospect::Skipped | Prospect::Swallowed) {
            return Ok(Replaced::No);
        }
        let Some(Name { name, at }) = Name::read(header, buf)? else { return Ok(Replaced::Later) };
        if name.is_empty() {
            return Ok(match header.kind {
                b'P' => self.replace_unnamed_parse(header, buf, server, limits),
                b'B' if self.must_listen(name) => Replaced::ByDriver,
                _ => Replaced::No,
            });
        }
        if limits.prepared_max == 0 {
            return Ok(Replaced::No);
        }
        if server.prospect() == Prospect::Unknown {
            return self.replace_unknown(header, buf, Name { name, at }, server);
        }
        match header.kind {
            b'P' => self.replace_parse(header, buf, server, limits),
            b'C' => self.replace_close(header, buf, name, server),
            _ => self.replace_use(header, buf, Name { name, at }, server, limits),
        }
    }

    /// Looks at the Query at the start of `buf`.
    pub(super) fn replace_query(
        &mut self,
        header: Header,
        buf: &[u8],
        server: &mut Server,
        limits: ClientLimits,
    ) -> Result<Replaced, Error> {
        let command = match Command::look(header, buf) {
            Look::None => return Ok(Replaced::No),
            Look::Later => return Ok(Replaced::Later),
            Look::Command(command) => command,
        };
        let is_ours = match &command {
            Command::Listen { .. } | Command::Unlisten(_) => limits.listens,
            Command::Prepare { .. } => limits.prepared_max > 0,
            Command::Execute { name, .. } => match self.statements.commanded(name) {
                Some(statement) if server.has_statement(&statement) => {
                    return Ok(self.rename_command(header, buf, &command, server, &statement));
                }
                statement => statement.is_some(),
            },
            Command::Deallocate(name) => self.statements.has_any(name),
        };
        match server.settling() {
            _ if !is_ours => Ok(Replaced::No),
            Settling::Soon => Ok(Replaced::Hold),
            // In a failed transaction the server refuses it.
            Settling::Now if server.status() != TransactionStatus::Failed => Ok(Replaced::ByDriver),
            Settling::Never if server.prospect() == Prospect::Unknown => wait_for_end(server),
            _ => Ok(Replaced::No),
        }
    }

    /// The head of an EXECUTE with the server's name of the statement.
    fn rename_command(
        &mut self,
        header: Header,
        buf: &[u8],
        command: &Command<'_>,
        server: &mut Server,
        statement: &Statement,
    ) -> Replaced {
        let Command::Execute { at, .. } = command else { return Replaced::No };
        let name = statement.identifier();
        let len = header.len as usize + name.len() - at.len();
        let mut insert = vec![header.kind];
        insert.extend((len as u32).to_be_bytes());
        insert.extend_from_slice(&buf[HEADER_LEN..at.start]);
        insert.extend_from_slice(name.as_bytes());
        server.handle_request(Request::Query);
        self.walker = Walker::resume((header.total() - at.end) as u32);
        Replaced::With { skip: at.end, insert }
    }

    /// The Parse of the unnamed statement, which only matters if it is LISTEN or UNLISTEN.
    fn replace_unnamed_parse(
        &mut self,
        header: Header,
        buf: &[u8],
        server: &mut Server,
        limits: ClientLimits,
    ) -> Replaced {
        let body = &buf[HEADER_LEN + 1..buf.len().min(header.total())];
        let is_short = header.total() <= COMMAND_LEN_MAX;
        if limits.listens && is_short && buf.len() < header.total() && Command::may_be_listen(body) {
            return Replaced::Later;
        }
        let command = if limits.listens && is_short { listen_in(body) } else { None };
        self.statements.set_unnamed(command);
        if command.is_none() {
            return Replaced::No;
        }
        let mut insert = Vec::new();
        message(&mut insert, b'P', |out| {
            out.push(0);
            out.extend_from_slice(NO_COMMAND);
        });
        server.handle_request(Request::Parse);
        Replaced::With { skip: header.total(), insert }
    }

    /// Whether what is bound is a LISTEN or UNLISTEN which is not carried out yet.
    fn must_listen(&mut self, name: &[u8]) -> bool {
        self.statements.listen(name).is_some() && !std::mem::take(&mut self.bound)
    }

    /// The text of the LISTEN or UNLISTEN that the message at the start of `buf` binds.
    pub(super) fn listen_of(&self, buf: &[u8]) -> Option<&[u8]> {
        let header = Header::read(buf, MESSAGE_LEN_MAX).ok()??;
        let name = Name::read(header, buf).ok()??;
        self.statements.listen(name.name).filter(|_| header.kind == b'B')
    }

    fn replace_parse(
        &mut self,
        header: Header,
        buf: &[u8],
        server: &mut Server,
        limits: ClientLimits,
    ) -> Result<Replaced, Error> {
        if header.total() > PARSE_LEN_MAX {
            return Err(Error::ParseTooLong);
        }
        if let Some(message) = buf.get(..header.total()) {
            return Ok(match self.parse(message, server, limits)? {
                Some(insert) => Replaced::With { skip: message.len(), insert },
                None => Replaced::Hold,
            });
        }
        self.collecting = Some(Box::new(Collecting { bytes: buf.to_vec(), header }));
        Ok(Replaced::With { skip: buf.len(), insert: Vec::new() })
    }

    /// More of a Parse that is not there as a whole.
    pub(super) fn collect(
        &mut self,
        buf: &[u8],
        server: &mut Server,
        limits: ClientLimits,
    ) -> Result<FromClient, Error> {
        if server.is_full() {
            return Ok(FromClient::Full(0));
        }
        let Some(mut collecting) = self.collecting.take() else { return Ok(FromClient::Forward(0)) };
        let skip = buf.len().min(collecting.header.total() - collecting.bytes.len());
        collecting.bytes.extend_from_slice(&buf[..skip]);
        let is_whole = collecting.is_whole();
        let insert = if is_whole { self.parse_collected(&collecting, server, limits)? } else { None };
        if let Some(insert) = insert {
            return Ok(FromClient::Splice { forward: 0, skip, insert });
        }
        self.collecting = Some(collecting);
        Ok(match skip {
            0 if is_whole => FromClient::Full(0),
            0 => FromClient::Forward(0),
            _ => FromClient::Splice { forward: 0, skip, insert: Vec::new() },
        })
    }

    fn parse_collected(
        &mut self,
        collected: &Collecting,
        server: &mut Server,
        limits: ClientLimits,
    ) -> Result<Option<Vec<u8>>, Error> {
        match server.prospect() {
            Prospect::Answered => self.parse(&collected.bytes, server, limits),
            Prospect::Unknown if server.will_end() => Ok(None),
            Prospect::Unknown => Err(Error::PreparedBehindCopy),
            // The reply to something before it came meanwhile.
            Prospect::Skipped | Prospect::Swallowed => {
                server.handle_request(Request::Parse);
                Ok(Some(collected.bytes.clone()))
            }
        }
    }

    /// A Parse as a whole: what the server gets; `None` if it must wait.
    fn parse(&mut self, message: &[u8], server: &mut Server, limits: ClientLimits) -> Result<Option<Vec<u8>>, Error> {
        let broken = Error::BrokenPacket("broken Parse packet");
        let body = &message[HEADER_LEN..];
        let name_len = body.iter().position(|&byte| byte == 0).ok_or_else(|| broken.clone())?;
        let (name, body) = (&body[..name_len], &body[name_len + 1..]);
        if !is_parse_body(body) {
            return Err(broken);
        }
        let command = if limits.listens { listen_in(body) } else { None };
        let sent_body = if command.is_some() { NO_COMMAND } else { body };
        let Some(new) = self.statements.create(name, sent_body, server)? else { return Ok(None) };
        let mut insert = Vec::new();
        let (name, most) = (Arc::clone(&new.name), limits.prepared_max as usize);
        let sent = server.handle_parse(name, &new.statement, most, &mut insert);
        if sent == Sent::NotYet {
            return Ok(None);
        }
        self.statements.set_listen(&new.name, command);
        self.statements.enter(new, server);
        self.uses.client_parses += 1;
        self.uses.server_parses += u64::from(sent == Sent::Parse);
        Ok(Some(insert))
    }

    fn replace_close(
        &mut self,
        header: Header,
        buf: &[u8],
        name: &[u8],
        server: &mut Server,
    ) -> Result<Replaced, Error> {
        if buf.len() < header.total() {
            return Ok(Replaced::Later);
        }
        // The Close before this one may have been skipped.
        if !self.statements.has(name) && server.owes_status() {
            return Ok(Replaced::Hold);
        }
        match self.statements.remove(name) {
            Some((name, statement)) => server.handle_close(name, &statement),
            None => server.handle_request(Request::Close),
        }
        Ok(Replaced::With { skip: header.total(), insert: CLOSE_OF_NONE.to_vec() })
    }

    /// The same for a server that a COPY which failed in a pipeline has left in doubt: what is to be sent besides, or
    /// answered here, has no place any more. It is ended soon.
    fn replace_unknown(
        &mut self,
        header: Header,
        buf: &[u8],
        name: Name<'_>,
        server: &mut Server,
    ) -> Result<Replaced, Error> {
        match header.kind {
            b'C' if buf.len() < header.total() => Ok(Replaced::Later),
            b'C' => {
                self.statements.forget(name.name);
                server.handle_request(Request::Close);
                Ok(Replaced::With { skip: header.total(), insert: CLOSE_OF_NONE.to_vec() })
            }
            b'B' | b'D' => match self.statements.find(name.name, server)? {
                Meaning::Statement(statement) if server.statements().touch(statement.id()) => {
                    Ok(self.rename(header, buf, name, server, &statement, Vec::new()))
                }
                _ => wait_for_end(server),
            },
            _ => wait_for_end(server),
        }
    }

    /// A Bind or Describe: its head is replaced, what follows goes on as it comes.
    fn replace_use(
        &mut self,
        header: Header,
        buf: &[u8],
        Name { name, at }: Name<'_>,
        server: &mut Server,
        limits: ClientLimits,
    ) -> Result<Replaced, Error> {
        let statement = match self.statements.find(name, server)? {
            Meaning::Statement(statement) => statement,
            Meaning::Nothing => return Ok(Replaced::No),
            Meaning::NotYet => return Ok(Replaced::Hold),
        };
        if header.kind == b'B' && self.must_listen(name) {
            return Ok(Replaced::ByDriver);
        }
        let mut insert = Vec::new();
        match server.handle_use(&statement, limits.prepared_max as usize, &mut insert) {
            Sent::NotYet => return Ok(Replaced::Hold),
            Sent::Parse => self.uses.server_parses += 1,
            Sent::Nothing => {}
        }
        Ok(self.rename(header, buf, Name { name, at }, server, &statement, insert))
    }

    /// The head of a Bind or Describe with the server's name of the statement, behind what is in `insert`.
    fn rename(
        &mut self,
        header: Header,
        buf: &[u8],
        Name { name, at }: Name<'_>,
        server: &mut Server,
        statement: &Statement,
        mut insert: Vec<u8>,
    ) -> Replaced {
        let len = header.len as usize + statement.name().len() - name.len();
        insert.push(header.kind);
        insert.extend((len as u32).to_be_bytes());
        insert.extend_from_slice(&buf[HEADER_LEN..at]);
        insert.extend_from_slice(statement.name().as_bytes());
        self.uses.binds += u64::from(header.kind == b'B');
        server.handle_request(if header.kind == b'B' { Request::Bind } else { Request::Describe });
        let skip = at + name.len();
        self.walker = Walker::resume((header.total() - skip) as u32);
        Replaced::With { skip, insert }
    }
}

/// The client gets another server as soon as this one is ended; within a transaction it cannot.
fn wait_for_end(server: &Server) -> Result<Replaced, Error> {
    if server.will_end() { Ok(Replaced::Hold) } else { Err(Error::PreparedBehindCopy) }
}

/// The LISTEN or UNLISTEN that follows the name in a Parse message, if it is one.
fn listen_in(body: &[u8]) -> Option<&[u8]> {
    let len = body.iter().position(|&byte| byte == 0)?;
    Some(&body[..len]).filter(|sql| Command::read_listen(sql).is_some())
}

/// Whether this is what follows the name in a Parse: text, number of types, types.
fn is_parse_body(body: &[u8]) -> bool {
    let Some(len) = body.iter().position(|&byte| byte == 0) else { return false };
    match body[len + 1..] {
        [a, b, ref types @ ..] => types.len() == 4 * usize::from(u16::from_be_bytes([a, b])),
        _ => false,
    }
}
