//! The command line.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use crate::{rows::Row, scenario::Rival};

/// What was asked for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Arguments {
    /// Fewer rows and rounds, for a look within two minutes.
    pub(crate) quick: bool,
    /// Only rows whose name contains this.
    only: Option<String>,
    /// This many rounds of every row.
    rounds: Option<u32>,
    /// Each measurement this long.
    seconds: Option<u32>,
    /// Where the results go instead of `target/bench`.
    pub(crate) out: Option<PathBuf>,
}

impl Arguments {
    pub(crate) fn parse(args: impl IntoIterator<Item = String>) -> Result<Self> {
        let mut arguments = Self::default();
        let mut args = args.into_iter();
        while let Some(arg) = args.next() {
            let mut value = || args.next().with_context(|| format!("{arg} wants a value"));
            match arg.as_str() {
                "--quick" => arguments.quick = true,
                "--only" => arguments.only = Some(value()?),
                "--rounds" => arguments.rounds = Some(value()?.parse().context("--rounds wants a number")?),
                "--seconds" => arguments.seconds = Some(value()?.parse().context("--seconds wants a number")?),
                "--out" => arguments.out = Some(value()?.into()),
                _ => bail!("unknown argument {arg}; there are {USAGE}"),
            }
        }
        Ok(arguments)
    }

    /// How often to measure the row; 0 leaves it out.
    pub(crate) fn rounds(&self, row: &Row) -> u32 {
        if self.only.as_ref().is_some_and(|only| !row.scenario.name().contains(only.as_str())) {
            return 0;
        }
        let planned = if self.quick { row.quick_rounds } else { row.rounds };
        if planned == 0 { 0 } else { self.rounds.unwrap_or(planned) }
    }

    /// Length of one measurement of the row.
    pub(crate) fn seconds(&self, row: &Row, rival: Rival) -> u32 {
        let connect_seconds = if rival.is_pooler() { 0 } else { row.direct_connect_seconds };
        connect_seconds + self.seconds.unwrap_or(if self.quick { row.quick_seconds } else { row.seconds })
    }
}

const USAGE: &str = "--quick, --only TEXT, --rounds N, --seconds N, --out DIRECTORY";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rows::ROWS;

    fn parse(line: &str) -> Result<Arguments> {
        Arguments::parse(line.split_ascii_whitespace().map(str::to_owned))
    }

    #[test]
    fn arguments_choose_rows_and_rounds() {
        let row = &ROWS[0];
        assert_eq!(parse("").unwrap().rounds(row), row.rounds);
        assert_eq!(parse("--quick").unwrap().rounds(row), row.quick_rounds);
        assert_eq!(parse("--rounds 9").unwrap().rounds(row), 9);
        assert_eq!(parse("--only nothing-like-it").unwrap().rounds(row), 0);
        assert_eq!(parse("--only path:").unwrap().rounds(row), row.rounds);
        assert_eq!(parse("--seconds 9").unwrap().seconds(row, Rival::PgBouncer), 9);
        assert_eq!(parse("--out a/b").unwrap().out, Some("a/b".into()));
    }

    #[test]
    fn wrong_arguments_are_told() {
        for line in ["--slow", "--only", "--rounds many", "--seconds 1.5"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
