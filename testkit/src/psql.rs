//! Runs `psql`, a client that people trust, with a hard bound in time.

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{
    account::Account,
    conninfo::Conninfo,
    host::Host,
    programs::postgres_program,
    run::{Run, run},
    table::{FIELD, RECORD, Table},
};

/// One `psql` invocation to be. It reads no start-up file, stops at the first error and prints bare values.
#[derive(Clone, Debug)]
pub struct Psql {
    conninfo: Conninfo,
    host: Host,
    account: Account,
    args: Vec<String>,
    limit: Duration,
}

impl Psql {
    /// Connects with `conninfo` and runs for a minute at most.
    pub fn new(conninfo: Conninfo) -> Self {
        let (host, account) = (Host::default(), Account::Ours);
        Self { conninfo, host, account, args: Vec::new(), limit: Duration::from_secs(60) }
    }

    /// Runs as an account that is not ours; `None` when we are not root, and can be nobody else.
    pub fn as_other_account(self) -> Result<Option<Self>> {
        match Account::for_servers()? {
            Account::Ours => Ok(None),
            account @ Account::Other { .. } => Ok(Some(Self { account, ..self })),
        }
    }

    /// Runs on `host` instead of ours.
    #[must_use]
    pub fn on(mut self, host: &Host) -> Self {
        self.host = host.clone();
        self
    }

    /// Adds a command line argument.
    #[must_use]
    pub fn arg(mut self, arg: &str) -> Self {
        self.args.push(arg.to_owned());
        self
    }

    /// Sets the bound in time past which psql is killed.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Runs the queries in order over one connection, each as one simple-protocol message. A failing query is not an
    /// error here but a status: 3 after an SQL error, 2 after a lost or refused connection (psql manual, Exit Status).
    pub fn run(&self, queries: &[&str]) -> Result<Run> {
        self.run_with(&["--tuples-only"], queries)
    }

    /// The values of one query, one row a line and `|` between columns, without the final newline.
    pub fn text(&self, query: &str) -> Result<String> {
        let run = self.run(&[query])?.checked().with_context(|| format!("psql: {query}"))?;
        Ok(run.stdout.strip_suffix('\n').unwrap_or(&run.stdout).to_owned())
    }

    /// The rows of one query with their column names.
    pub fn table(&self, query: &str) -> Result<Table> {
        let (field, record) = (FIELD.to_string(), RECORD.to_string());
        let args = ["--pset=footer=off", "--field-separator", &field, "--record-separator", &record];
        let run = self.run_with(&args, &[query])?.checked().with_context(|| format!("psql: {query}"))?;
        Ok(Table::parse(&run.stdout))
    }

    fn run_with(&self, args: &[&str], queries: &[&str]) -> Result<Run> {
        let mut command = self.host.command(&postgres_program("psql")?, self.account);
        command.args(["--no-psqlrc", "--quiet", "--no-align", "--no-password", "--set=ON_ERROR_STOP=1"]);
        command.args(args).args(&self.args).args(["--dbname", &self.conninfo.to_string()]);
        for query in queries {
            command.args(["--command", query]);
        }
        run(self.conninfo.apply(&mut command), self.limit)
    }
}
