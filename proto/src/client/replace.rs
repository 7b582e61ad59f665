//! What a server is sent instead of a message that names a prepared statement.
//!
//! | client's message | the server has the statement | it does not |
//! |---|---|---|
//! | Parse | nothing; ParseComplete is ours | Parse under the server's name |
//! | Bind, Describe | the same under the server's name | before it a Parse, whose ParseComplete is for nobody |
//! | Close | nothing; CloseComplete is ours | the same |

use super::statements::{Meaning, Name};
use super::{Client, ClientLimits, FromClient};
use crate::error::Error;
use crate::server::Server;
use crate::server::outstanding::Prospect;
use crate::wire::frame::{HEADER_LEN, Header, Walker};
use crate::wire::frontend::Request;

/// Longest Parse of a named statement, in bytes: it is kept as long as a client or server has the statement.
const PARSE_LEN_MAX: usize = 16 << 20;

/// The beginning of a Parse.
#[derive(Debug)]
pub(super) struct Collecting {
    bytes: Vec<u8>,
    header: Header,
}

/// What is to be done about a message.
pub(super) enum Replaced {
    /// It goes on as it is.
    No,
    /// Too little of it is there to know.
    Later,
    /// These bytes go on instead of the next `skip` ones.
    With { skip: usize, insert: Vec<u8> },
}

impl Client {
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
            return Ok(Replaced::No);
        }
        if server.prospect() == Prospect::Unknown {
            return Err(Error::PreparedBehindCopy);
        }
        match header.kind {
            b'P' => self.replace_parse(header, buf, server, limits),
            b'C' => self.replace_close(header, buf, name, server),
            _ => self.replace_use(header, buf, Name { name, at }, server, limits),
        }
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
            return Ok(Replaced::With { skip: message.len(), insert: self.parse(message, server, limits)? });
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
        if buf.is_empty() {
            return Ok(FromClient::Forward(0));
        }
        let Some(mut collecting) = self.collecting.take() else { return Ok(FromClient::Forward(0)) };
        let skip = buf.len().min(collecting.header.total() - collecting.bytes.len());
        collecting.bytes.extend_from_slice(&buf[..skip]);
        let insert = if collecting.bytes.len() == collecting.header.total() {
            self.parse_collected(&collecting, server, limits)?
        } else {
            self.collecting = Some(collecting);
            Vec::new()
        };
        Ok(FromClient::Splice { forward: 0, skip, insert })
    }

    fn parse_collected(
        &mut self,
        collected: &Collecting,
        server: &mut Server,
        limits: ClientLimits,
    ) -> Result<Vec<u8>, Error> {
        match server.prospect() {
            Prospect::Answered => self.parse(&collected.bytes, server, limits),
            Prospect::Unknown => Err(Error::PreparedBehindCopy),
            // The reply to something before it came meanwhile.
            Prospect::Skipped | Prospect::Swallowed => {
                server.handle_request(Request::Parse);
                Ok(collected.bytes.clone())
            }
        }
    }

    /// A Parse as a whole: what the server gets.
    fn parse(&mut self, message: &[u8], server: &mut Server, limits: ClientLimits) -> Result<Vec<u8>, Error> {
        let broken = Error::BrokenPacket("broken Parse packet");
        let body = &message[HEADER_LEN..];
        let name_len = body.iter().position(|&byte| byte == 0).ok_or_else(|| broken.clone())?;
        let (name, body) = (&body[..name_len], &body[name_len + 1..]);
        if !is_parse_body(body) {
            return Err(broken);
        }
        let (name, statement) = self.statements.create(name, body)?;
        let mut insert = Vec::new();
        self.uses.client_parses += 1;
        let sent = server.handle_parse(name, &statement, limits.prepared_max as usize, &mut insert);
        self.uses.server_parses += u64::from(sent);
        Ok(insert)
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
        match self.statements.remove(name) {
            Some((name, statement)) => server.handle_close(name, &statement),
            None => server.handle_close_of_none(),
        }
        Ok(Replaced::With { skip: header.total(), insert: Vec::new() })
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
        let Meaning::Statement(statement) = self.statements.find(name)? else { return Ok(Replaced::No) };
        let mut insert = Vec::new();
        let sent = server.handle_use(&statement, limits.prepared_max as usize, &mut insert);
        self.uses.server_parses += u64::from(sent);
        let len = header.len as usize + statement.name().len() - name.len();
        insert.push(header.kind);
        insert.extend((len as u32).to_be_bytes());
        insert.extend_from_slice(&buf[HEADER_LEN..at]);
        insert.extend_from_slice(statement.name().as_bytes());
        self.uses.binds += u64::from(header.kind == b'B');
        server.handle_request(if header.kind == b'B' { Request::Bind } else { Request::Describe });
        let skip = at + name.len();
        self.walker = Walker::resume((header.total() - skip) as u32);
        Ok(Replaced::With { skip, insert })
    }
}

/// Whether this is what follows the name in a Parse: text, number of types, types.
fn is_parse_body(body: &[u8]) -> bool {
    let Some(len) = body.iter().position(|&byte| byte == 0) else { return false };
    match body[len + 1..] {
        [a, b, ref types @ ..] => types.len() == 4 * usize::from(u16::from_be_bytes([a, b])),
        _ => false,
    }
}
