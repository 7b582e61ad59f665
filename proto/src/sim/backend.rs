//! A model of a PostgreSQL backend after login: the loop `PostgresMain` of PostgreSQL's `tcop/postgres.c`, and COPY's
//! `CopyGetData`. It plays every server of the simulation, and once more, for each client, the server that the client
//! would have had without a proxy: what that one answers is what the client must get.
//!
//! A message is executed in two steps, taking it and finishing it, so that a cancel request can come between. Where a
//! request was cancelled is written down in [`Hits`], so that the reference repeats it.

mod execute;

use std::collections::{HashMap, HashSet, VecDeque};

use super::pipe::Pipe;
use super::script::PARAMETERS;
use super::sql::{Statement, Token};
use crate::wire::backend::{self, ColumnType, kind};
use crate::wire::error_response::{self, Severity};
use crate::wire::frame::{HEADER_LEN, Header, MESSAGE_LEN_MAX};

/// Steps at which a cancel request hit: the token, and the how many-th step of it.
pub(super) type Hits = HashSet<(Token, u32)>;

/// The backend sends when this much is written, as with PQ_SEND_BUFFER_SIZE (`pqcomm.c`).
const SEND_BUFFER_LEN: usize = 8192;

/// Steps of a COPY are numbered from here, to differ from those of queries.
const COPY_STEP: u32 = 1 << 16;

#[derive(Debug)]
pub(super) struct BackendModel {
    input: Vec<u8>,
    output: Vec<u8>,
    /// This much of the output was flushed.
    flushed: usize,
    dialect: Dialect,
    work: Option<Work>,
    copy: Option<CopyIn>,
    /// `doing_extended_query_message`
    extended: bool,
    ignore_till_sync: bool,
    transaction: Transaction,
    /// A deferred constraint that will fail the commit.
    deferred: Option<String>,
    statements: HashMap<String, String>,
    portals: HashMap<String, Portal>,
    parameters: Parameters,
    /// Values at the start of the session, and of the transaction.
    defaults: Parameters,
    saved: Option<Parameters>,
    reported: Parameters,
    /// Terminate was received.
    pub(super) over: bool,
    /// Its name in the trace, if there is one.
    pub(super) name: Option<String>,
}

/// Names and values of parameters; those of scripts are reported.
pub(super) type Parameters = Vec<(String, String)>;

/// What differs between versions of PostgreSQL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Dialect {
    /// Before PostgreSQL 14: ParameterStatus is sent when a parameter changes, not before the next ReadyForQuery.
    pub(super) reports_at_once: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Transaction {
    None,
    Implicit,
    Block,
    Failed,
}

/// A request that was taken and is not finished.
#[derive(Debug)]
enum Work {
    Query(String),
    Execute { portal: String, rows: usize },
    Function(String),
}

#[derive(Clone, Debug)]
struct Portal {
    sql: String,
    row: usize,
    runs: u32,
}

#[derive(Debug)]
struct CopyIn {
    sql: String,
    step: u32,
    rows: usize,
    /// The rest of a simple query; `None` for an Execute.
    simple: Option<VecDeque<String>>,
}

struct SqlError {
    sqlstate: &'static str,
    text: String,
}

fn sql_error<T>(sqlstate: &'static str, text: impl Into<String>) -> Result<T, SqlError> {
    Err(SqlError { sqlstate, text: text.into() })
}

impl BackendModel {
    pub(super) fn new(parameters: Parameters, dialect: Dialect) -> Self {
        Self {
            input: Vec::new(),
            output: Vec::new(),
            flushed: 0,
            dialect,
            work: None,
            copy: None,
            extended: false,
            ignore_till_sync: false,
            transaction: Transaction::None,
            deferred: None,
            statements: HashMap::new(),
            portals: HashMap::new(),
            defaults: parameters.clone(),
            reported: parameters.clone(),
            parameters,
            saved: None,
            over: false,
            name: None,
        }
    }

    pub(super) fn feed(&mut self, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
    }

    /// Takes one message or finishes one; false when there is nothing to do.
    pub(super) fn step(&mut self, hits: &Hits) -> bool {
        if let Some(work) = self.work.take() {
            let result = self.finish(work, hits);
            self.settle(result);
            return true;
        }
        let Ok(Some(header)) = Header::read(&self.input, MESSAGE_LEN_MAX) else { return false };
        if self.over || self.input.len() < header.total() {
            return false;
        }
        let message: Vec<u8> = self.input.drain(..header.total()).collect();
        if let Some(name) = &self.name {
            let body: String = String::from_utf8_lossy(&message[HEADER_LEN..]).chars().take(60).collect();
            eprintln!("{name} takes {} {body:?}", char::from(header.kind));
        }
        let result = match self.copy.take() {
            Some(copy) => self.receive_copy(copy, header.kind, &message[HEADER_LEN..], hits),
            None => self.receive(header.kind, &message[HEADER_LEN..]),
        };
        self.settle(result);
        true
    }

    /// What a cancel request would hit now, if anything: the proxy's own queries have no token.
    pub(super) fn running(&self) -> Option<(Option<Token>, u32)> {
        if let Some(copy) = &self.copy {
            return Some((Token::of(&copy.sql), COPY_STEP + copy.step));
        }
        match self.work.as_ref()? {
            Work::Query(sql) | Work::Function(sql) => Some((Token::of(sql), 0)),
            Work::Execute { portal, .. } => {
                let portal = self.portals.get(portal)?;
                Some((Token::of(&portal.sql), portal.runs))
            }
        }
    }

    /// Cancels a query of the proxy, which no reference repeats.
    pub(super) fn cancel_own(&mut self) {
        self.work = None;
        self.settle(sql_error("57014", "canceling statement due to user request"));
    }

    /// True when Terminate, or the end of the input, cuts something off.
    pub(super) fn is_cut_off(&self) -> bool {
        // Or the end of the input, up to which a failed COPY skips, comes instead of the Sync that its client has sent.
        self.copy.is_some()
            || self.ignore_till_sync
            || matches!(self.transaction, Transaction::Block | Transaction::Failed)
    }

    /// True when Terminate is the next message.
    pub(super) fn meets_terminate(&self) -> bool {
        self.work.is_none() && self.input.starts_with(b"X")
    }

    /// Whether it has said, or will say to what came, an error with a SQLSTATE that begins so.
    pub(super) fn says_error(&mut self, sqlstate: &str, hits: &Hits) -> bool {
        while self.step(hits) {}
        // What is wrong with a message may be known before it has come as a whole.
        if !self.input.is_empty() {
            return true;
        }
        let mut at = 0;
        while let Ok(Some(header)) = Header::read(&self.output[at..], MESSAGE_LEN_MAX) {
            let Some(body) = self.output.get(at + HEADER_LEN..at + header.total()) else { break };
            if header.kind == kind::ERROR_RESPONSE
                && error_response::ErrorFields::read(body).sqlstate.starts_with(sqlstate)
            {
                return true;
            }
            at += header.total();
        }
        false
    }

    /// True when more input is needed to go on.
    pub(super) fn is_quiet(&self) -> bool {
        self.work.is_none()
            && !matches!(Header::read(&self.input, MESSAGE_LEN_MAX), Ok(Some(header)) if self.input.len() >= header.total())
    }

    /// Why another client must not get this backend, if so.
    pub(super) fn soiled(&self) -> Option<&'static str> {
        match () {
            () if self.work.is_some() => Some("runs a query"),
            () if self.copy.is_some() => Some("is in COPY"),
            () if self.ignore_till_sync => Some("ignores everything until Sync"),
            () if self.transaction != Transaction::None => Some("is in a transaction"),
            () => None,
        }
    }

    pub(super) fn input(&self) -> &[u8] {
        &self.input
    }

    pub(super) fn output(&self) -> &[u8] {
        &self.output
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.parameters.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// Output that was flushed.
    pub(super) fn flushed(&self) -> usize {
        self.flushed
    }

    /// Writes flushed output to the connection; returns how much.
    pub(super) fn send(&mut self, to: &mut Pipe, most: usize) -> usize {
        let n = to.write(&mut self.output, most.min(self.flushed));
        self.flushed -= n;
        n
    }

    /// Says something that nobody asked for.
    pub(super) fn say(&mut self, message: &[u8]) {
        self.output.extend_from_slice(message);
        self.flush();
    }

    /// The first whole message of the output, flushed or not.
    pub(super) fn first_message(&self) -> Option<&[u8]> {
        let header = Header::read(&self.output, MESSAGE_LEN_MAX).ok()??;
        self.output.get(..header.total())
    }

    /// Drops the first message of the output.
    pub(super) fn drop_message(&mut self) {
        let len = self.first_message().map_or(0, <[u8]>::len);
        self.output.drain(..len);
        self.flushed = self.flushed.saturating_sub(len);
    }

    // Messages.

    fn receive(&mut self, kind: u8, body: &[u8]) -> Result<(), SqlError> {
        if matches!(kind, b'S' | b'X') {
            self.ignore_till_sync = false;
        }
        if self.ignore_till_sync {
            return Ok(());
        }
        self.extended = matches!(kind, b'P' | b'B' | b'D' | b'E' | b'C' | b'H');
        let texts = texts(body);
        let text = |at: usize| texts.get(at).cloned().unwrap_or_default();
        match kind {
            b'Q' => self.work = Some(Work::Query(text(0))),
            b'F' => self.work = Some(Work::Function(text(0))),
            b'P' => self.parse(text(0), text(1))?,
            b'B' => self.bind(text(0), &text(1), bound_value(body))?,
            b'D' => self.describe(body[0], &texts_from(body, 1))?,
            b'E' => {
                let rows = body.last_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes) as usize);
                if !self.portals.contains_key(&text(0)) {
                    return sql_error("34000", format!("portal \"{}\" does not exist", text(0)));
                }
                self.work = Some(Work::Execute { portal: text(0), rows });
            }
            b'C' => {
                let name = texts_from(body, 1);
                if body[0] == b'S' {
                    self.statements.remove(&name)
                } else {
                    self.portals.remove(&name).map(|p| p.sql)
                };
                self.write(kind::CLOSE_COMPLETE, &[]);
            }
            b'H' => self.flush(),
            b'S' => {
                self.end_implicit()?;
                self.ready();
            }
            b'X' => self.over = true,
            _ => {} // COPY messages after a failed COPY are ignored.
        }
        Ok(())
    }

    fn parse(&mut self, name: String, sql: String) -> Result<(), SqlError> {
        let statement = Statement::read(&sql);
        self.start(&statement, &sql)?;
        match statement {
            Statement::Syntax => sql_error("42601", format!("syntax error at {sql}")),
            _ if !name.is_empty() && self.statements.contains_key(&name) => {
                sql_error("42P05", format!("prepared statement \"{name}\" already exists"))
            }
            _ => {
                self.statements.insert(name, sql);
                self.write(kind::PARSE_COMPLETE, &[]);
                Ok(())
            }
        }
    }

    fn bind(&mut self, portal: String, name: &str, value: Option<&str>) -> Result<(), SqlError> {
        let Some(sql) = self.statements.get(name).cloned() else {
            return sql_error("26000", format!("prepared statement \"{name}\" does not exist"));
        };
        self.start(&Statement::read(&sql), &sql)?;
        let sql = value.map_or(sql.clone(), |value| sql.replace("$1", value));
        self.portals.insert(portal, Portal { sql, row: 0, runs: 0 });
        self.write(kind::BIND_COMPLETE, &[]);
        Ok(())
    }

    fn describe(&mut self, what: u8, name: &str) -> Result<(), SqlError> {
        let sql = match what {
            b'S' => self.statements.get(name).cloned(),
            _ => self.portals.get(name).map(|portal| portal.sql.clone()),
        };
        let Some(sql) = sql else { return sql_error("26000", format!("\"{name}\" does not exist")) };
        let statement = Statement::read(&sql);
        self.start(&statement, &sql)?;
        if what == b'S' {
            self.write(b't', &[0, 0]);
        }
        if statement.has_rows() {
            self.row_description();
        } else {
            self.write(kind::NO_DATA, &[]);
        }
        Ok(())
    }

    /// In COPY-in mode Sync and Flush are ignored; what has no place there is swallowed and fails the COPY.
    fn receive_copy(&mut self, mut copy: CopyIn, kind: u8, body: &[u8], hits: &Hits) -> Result<(), SqlError> {
        if matches!(kind, b'S' | b'H') {
            self.copy = Some(copy);
            return Ok(());
        }
        self.extended = copy.simple.is_none();
        let token = Token::of(&copy.sql);
        let step = COPY_STEP + copy.step;
        copy.step += 1;
        if kind == b'f' {
            return sql_error("57014", format!("COPY from stdin failed: {}", copy.sql));
        }
        if !matches!(kind, b'c' | b'd') {
            return sql_error("08P01", format!("unexpected message type 0x{kind:02X} during {}", copy.sql));
        }
        if token.is_some_and(|token| hits.contains(&(token, step))) {
            return sql_error("57014", format!("canceling statement due to user request: {}", copy.sql));
        }
        if body.starts_with(b"bad") {
            return sql_error("22P04", format!("bad data in {}", copy.sql));
        }
        if kind == b'd' {
            copy.rows += 1;
            self.copy = Some(copy);
            return Ok(());
        }
        let tag = format!("COPY {}", copy.rows);
        match copy.simple {
            Some(rest) => {
                if rest.is_empty() {
                    self.end_implicit()?;
                }
                self.complete(&tag);
                self.run(rest)
            }
            None => {
                self.complete(&tag);
                Ok(())
            }
        }
    }

    /// The end of `PostgresMain`'s loop: after an error the transaction is aborted, and the rest of an extended query is
    /// skipped.
    fn settle(&mut self, result: Result<(), SqlError>) {
        let Err(SqlError { sqlstate, text }) = result else { return };
        self.copy = None;
        error_response::write(&mut self.output, Severity::Error, sqlstate, &text);
        self.flush();
        let failed = matches!(self.transaction, Transaction::Block | Transaction::Failed);
        self.abort(if failed { Transaction::Failed } else { Transaction::None });
        if self.extended {
            self.ignore_till_sync = true;
        } else {
            self.ready();
        }
    }

    // Output.

    fn ready(&mut self) {
        self.report(true);
        let status = match self.transaction {
            Transaction::None | Transaction::Implicit => b'I',
            Transaction::Block => b'T',
            Transaction::Failed => b'E',
        };
        self.write(kind::READY_FOR_QUERY, &[status]);
        self.flush();
    }

    fn report(&mut self, now: bool) {
        if !now {
            return;
        }
        for (new, old) in self.parameters.iter().zip(&mut self.reported) {
            if new != old && PARAMETERS.iter().any(|(tracked, _)| *tracked == new.0) {
                backend::parameter_status(&mut self.output, &new.0, &new.1);
                old.1.clone_from(&new.1);
            }
        }
    }

    fn row_description(&mut self) {
        backend::row_description(&mut self.output, [("reply", ColumnType::Text)].into_iter());
        self.wrote();
    }

    fn notice(&mut self, text: &str) {
        error_response::write(&mut self.output, Severity::Notice, "00000", text);
        self.flush();
    }

    fn complete(&mut self, tag: &str) {
        backend::command_complete(&mut self.output, tag);
        self.wrote();
    }

    fn write(&mut self, kind: u8, body: &[u8]) {
        backend::message(&mut self.output, kind, |out| out.extend_from_slice(body));
        self.wrote();
    }

    fn wrote(&mut self) {
        if self.output.len() - self.flushed > SEND_BUFFER_LEN {
            self.flush();
        }
    }

    fn flush(&mut self) {
        self.flushed = self.output.len();
    }
}

/// The texts at the start of a body.
/// The only parameter of a Bind, if it has one: behind two names, the number of formats and that of parameters.
fn bound_value(body: &[u8]) -> Option<&str> {
    let mut parts = body.splitn(3, |&byte| byte == 0).skip(2);
    let [0, 0, 0, 1, len @ ..] = parts.next()? else { return None };
    let (len, rest) = len.split_first_chunk::<4>()?;
    std::str::from_utf8(rest.get(..u32::from_be_bytes(*len) as usize)?).ok()
}

fn texts(body: &[u8]) -> Vec<String> {
    body.split(|&byte| byte == 0).take(2).map(|text| String::from_utf8_lossy(text).into_owned()).collect()
}

fn texts_from(body: &[u8], at: usize) -> String {
    texts(&body[at.min(body.len())..]).swap_remove(0)
}
