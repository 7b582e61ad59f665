//! Execution of statements and transactions in the model of a backend: `exec_simple_query`, `exec_execute_message`
//! (`postgres.c`) and the transaction blocks of `xact.c`.

use std::collections::VecDeque;

use super::{BackendModel, CopyIn, Portal, SqlError, Transaction, Work, sql_error};
use crate::sim::backend::Hits;
use crate::sim::sql::{Statement, Token};
use crate::wire::backend::{self, kind};

enum Outcome {
    Complete(String),
    Empty,
    Suspended,
    CopyIn,
}

impl BackendModel {
    // Queries.

    pub(super) fn finish(&mut self, work: Work, hits: &Hits) -> Result<(), SqlError> {
        let check = |sql: &str, step: u32| match Token::of(sql) {
            Some(token) if hits.contains(&(token, step)) => {
                sql_error("57014", format!("canceling statement due to user request: {sql}"))
            }
            _ => Ok(()),
        };
        match work {
            Work::Query(sql) => {
                check(&sql, 0)?;
                let statements: VecDeque<String> =
                    sql.split(';').filter(|one| Statement::read(one) != Statement::Empty).map(str::to_owned).collect();
                if statements.is_empty() {
                    // Also what extended queries before it have begun.
                    self.end_implicit()?;
                    self.write(kind::EMPTY_QUERY_RESPONSE, &[]);
                }
                self.run(statements)
            }
            Work::Function(sql) => {
                check(&sql, 0)?;
                self.start(&Statement::Notice, &sql)?;
                self.end_implicit()?;
                self.write(b'V', sql.as_bytes());
                self.ready();
                Ok(())
            }
            Work::Execute { portal: name, rows } => {
                let mut portal = self.portals.get(&name).cloned().expect("checked when it was taken");
                check(&portal.sql, portal.runs)?;
                portal.runs += 1;
                let sql = portal.sql.clone();
                let outcome = self.execute(&sql, Some((&mut portal, rows)))?;
                if let Some(known) = self.portals.get_mut(&name) {
                    *known = portal;
                }
                match outcome {
                    Outcome::Complete(tag) => self.complete(&tag),
                    Outcome::Empty => self.write(kind::EMPTY_QUERY_RESPONSE, &[]),
                    Outcome::Suspended => self.write(kind::PORTAL_SUSPENDED, &[]),
                    Outcome::CopyIn => self.copy = Some(CopyIn { sql, step: 0, rows: 0, simple: None }),
                }
                Ok(())
            }
        }
    }

    /// Runs the (rest of the) statements of a simple query.
    pub(super) fn run(&mut self, mut statements: VecDeque<String>) -> Result<(), SqlError> {
        while let Some(sql) = statements.pop_front() {
            match self.execute(&sql, None)? {
                Outcome::Complete(tag) => {
                    if statements.is_empty() {
                        self.end_implicit()?;
                    }
                    self.complete(&tag);
                }
                Outcome::CopyIn => {
                    self.copy = Some(CopyIn { sql, step: 0, rows: 0, simple: Some(statements) });
                    return Ok(());
                }
                Outcome::Empty | Outcome::Suspended => {}
            }
        }
        self.ready();
        Ok(())
    }

    /// Executes one statement, without the end of its implicit transaction. `portal` and the most rows to send for an
    /// Execute.
    fn execute(&mut self, sql: &str, portal: Option<(&mut Portal, usize)>) -> Result<Outcome, SqlError> {
        let statement = Statement::read(sql);
        self.start(&statement, sql)?;
        let verb = sql.split_whitespace().next().unwrap_or_default().to_uppercase();
        let tag = match statement {
            Statement::Empty => return Ok(Outcome::Empty),
            Statement::Syntax => return sql_error("42601", format!("syntax error at {sql}")),
            Statement::Error => return sql_error("22012", format!("division by zero in {sql}")),
            Statement::Select { rows, size } => {
                let row = format!("{sql} {}", "x".repeat(size));
                return Ok(self.rows(&vec![row; rows], portal));
            }
            Statement::Show(name) => {
                let row = format!("{sql} is {}", self.value(&name).unwrap_or("unknown"));
                return Ok(self.rows(&[row], portal));
            }
            Statement::Defer => {
                self.deferred = Some(sql.to_owned());
                "INSERT 0 1".to_owned()
            }
            Statement::Begin => {
                if self.transaction == Transaction::Block {
                    self.notice("there is already a transaction in progress");
                }
                self.transaction = Transaction::Block;
                verb
            }
            Statement::Commit | Statement::Rollback => self.end_block(statement == Statement::Commit)?,
            Statement::CopyIn { early } => {
                self.write(kind::COPY_IN_RESPONSE, &[0, 0, 0]);
                self.flush();
                if early {
                    return sql_error("42809", format!("cannot copy to view: {sql}"));
                }
                return Ok(Outcome::CopyIn);
            }
            Statement::CopyOut { rows, size } => {
                self.write(b'H', &[0, 0, 0]);
                for row in 0..rows {
                    self.write(b'd', format!("{row} {sql} {}", "x".repeat(size)).as_bytes());
                }
                self.write(b'c', &[]);
                format!("COPY {rows}")
            }
            Statement::Notice => {
                self.notice(sql);
                "DO".to_owned()
            }
            Statement::Set(name, value) => {
                if value == "bad" {
                    return sql_error("22023", format!("invalid value for parameter: {sql}"));
                }
                if let Some(known) = self.parameters.iter_mut().find(|(known, _)| *known == name) {
                    known.1 = value;
                }
                self.report(self.dialect.reports_at_once);
                verb
            }
            Statement::SetConfig(name, value) => {
                let default = self.defaults.iter().find(|(known, _)| *known == name).map(|(_, value)| value.clone());
                let value = value.or(default).unwrap_or_default();
                if value == "bad" {
                    return sql_error("22023", format!("invalid value for parameter: {sql}"));
                }
                if let Some(known) = self.parameters.iter_mut().find(|(known, _)| *known == name) {
                    known.1.clone_from(&value);
                }
                return Ok(self.rows(&[value], portal));
            }
            Statement::Discard => {
                self.parameters.clone_from(&self.defaults);
                self.statements.clear();
                self.report(self.dialect.reports_at_once);
                "DISCARD ALL".to_owned()
            }
            Statement::Deallocate => {
                self.statements.clear();
                "DEALLOCATE ALL".to_owned()
            }
        };
        Ok(Outcome::Complete(tag))
    }

    fn rows(&mut self, rows: &[String], portal: Option<(&mut Portal, usize)>) -> Outcome {
        let simple = portal.is_none();
        let (from, most) = portal.as_ref().map_or((0, 0), |(portal, most)| (portal.row, *most));
        let to = if most == 0 { rows.len() } else { rows.len().min(from + most) };
        if simple {
            self.row_description();
        }
        for row in &rows[from..to] {
            backend::data_row(&mut self.output, &[Some(row.clone())]);
            self.wrote();
        }
        if let Some((portal, _)) = portal {
            portal.row = to;
        }
        if most > 0 && to < rows.len() {
            Outcome::Suspended
        } else {
            Outcome::Complete(format!("SELECT {}", to - from))
        }
    }

    // Transactions.

    /// Before anything is parsed or executed.
    pub(super) fn start(&mut self, statement: &Statement, sql: &str) -> Result<(), SqlError> {
        match self.transaction {
            Transaction::None => {
                self.transaction = Transaction::Implicit;
                self.saved = Some(self.parameters.clone());
                Ok(())
            }
            Transaction::Failed if !statement.ends_block() => {
                sql_error("25P02", format!("current transaction is aborted: {sql}"))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn end_implicit(&mut self) -> Result<(), SqlError> {
        if self.transaction == Transaction::Implicit { self.commit() } else { Ok(()) }
    }

    fn commit(&mut self) -> Result<(), SqlError> {
        if let Some(sql) = self.deferred.take() {
            self.transaction = Transaction::Implicit; // so that the error leaves no block behind
            return sql_error("23505", format!("constraint violated by {sql}"));
        }
        self.transaction = Transaction::None;
        self.saved = None;
        self.portals.clear();
        Ok(())
    }

    fn end_block(&mut self, commit: bool) -> Result<String, SqlError> {
        match self.transaction {
            Transaction::Block if commit => self.commit()?,
            Transaction::Block | Transaction::Failed => {
                self.abort(Transaction::None);
                return Ok("ROLLBACK".to_owned());
            }
            Transaction::None | Transaction::Implicit => {
                self.notice("there is no transaction in progress");
                if commit {
                    self.commit()?;
                } else {
                    self.abort(Transaction::None);
                }
            }
        }
        Ok(if commit { "COMMIT" } else { "ROLLBACK" }.to_owned())
    }

    pub(super) fn abort(&mut self, then: Transaction) {
        self.transaction = then;
        self.deferred = None;
        self.portals.clear();
        if let Some(saved) = self.saved.take() {
            self.parameters = saved;
            self.report(self.dialect.reports_at_once);
        }
    }
}
