//! The language that simulated clients speak to simulated backends. A statement is a verb, the token of who sent it, and
//! arguments; every reply says the token again, so that a reply on a wrong road is recognised.
//!
//! ```text
//! select c1q7 ROWS SIZE     rows                      copyin c1q7 [early]    COPY FROM STDIN; `early`: fails after its
//! error c1q7                fails                                            CopyInResponse, before it reads anything
//! syntax c1q7               fails in its Parse        copyout c1q7 ROWS SIZE COPY TO STDOUT
//! defer c1q7                fails at commit           notice c1q7            a notice and no rows
//! begin, commit, rollback   as in PostgreSQL          show c1q7 NAME         the value of a parameter
//! -- c1q7                   an empty query            discard all            the reset query
//! deallocate c1q7           DEALLOCATE ALL            set c1q7 NAME=VALUE    (the proxy's own: SET NAME='VALUE', and
//!                                                     SELECT pg_catalog.set_config('NAME','VALUE' or NULL,false))
//! ```
//! In a prepared statement, `$1` stands for the token, which comes with Bind: so that clients have statements in common.

use std::fmt;

/// Names a query: who sent it, and the how many-th it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Token {
    pub(super) client: u32,
    pub(super) number: u32,
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "c{}q{}", self.client, self.number)
    }
}

impl Token {
    /// The token of a statement; the proxy's own have none.
    pub(super) fn of(sql: &str) -> Option<Self> {
        let words = sql.split(|c: char| c.is_whitespace() || c == ';');
        let (client, number) = words.filter(|word| !word.is_empty()).nth(1)?.strip_prefix('c')?.split_once('q')?;
        Some(Self { client: client.parse().ok()?, number: number.parse().ok()? })
    }
}

/// A statement, read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Statement {
    Empty,
    Select {
        rows: usize,
        size: usize,
    },
    Error,
    Syntax,
    Defer,
    Begin,
    Commit,
    Rollback,
    CopyIn {
        early: bool,
    },
    CopyOut {
        rows: usize,
        size: usize,
    },
    Notice,
    Show(String),
    Set(String, String),
    /// Without a value: to its default.
    SetConfig(String, Option<String>),
    Discard,
    Deallocate,
}

impl Statement {
    pub(super) fn read(sql: &str) -> Self {
        let words: Vec<&str> = sql.split_whitespace().collect();
        let number = |at: usize| words.get(at).and_then(|word| word.parse().ok()).unwrap_or(0);
        match words.first().copied().unwrap_or_default() {
            "" | "--" => Self::Empty,
            "SELECT" => read_set_config(sql),
            "select" => Self::Select { rows: number(2), size: number(3) },
            "error" => Self::Error,
            "defer" => Self::Defer,
            "begin" => Self::Begin,
            "commit" => Self::Commit,
            "rollback" => Self::Rollback,
            "copyin" => Self::CopyIn { early: words.get(2) == Some(&"early") },
            "copyout" => Self::CopyOut { rows: number(2), size: number(3) },
            "notice" => Self::Notice,
            "show" => Self::Show(words.get(2).copied().unwrap_or_default().to_owned()),
            "discard" => Self::Discard,
            "deallocate" => Self::Deallocate,
            "set" | "SET" => match sql.split_once('=') {
                Some((name, value)) => {
                    Self::Set(name.split_whitespace().last().unwrap_or_default().to_owned(), unquote(value.trim()))
                }
                None => Self::Syntax,
            },
            _ => Self::Syntax,
        }
    }

    /// True for what a failed transaction block still accepts.
    pub(super) fn ends_block(&self) -> bool {
        matches!(self, Self::Commit | Self::Rollback)
    }

    pub(super) fn has_rows(&self) -> bool {
        matches!(self, Self::Select { .. } | Self::Show(_))
    }
}

fn read_set_config(sql: &str) -> Statement {
    let arguments =
        sql.trim().strip_prefix("SELECT pg_catalog.set_config(").and_then(|sql| sql.strip_suffix(",false)"));
    match arguments.and_then(|arguments| arguments.split_once(',')) {
        Some((name, "NULL")) => Statement::SetConfig(unquote(name), None),
        Some((name, value)) => Statement::SetConfig(unquote(name), Some(unquote(value))),
        None => Statement::Syntax,
    }
}

/// The value of a string literal (manual, sections 4.1.2.1 and 4.1.2.2), or the text itself.
fn unquote(text: &str) -> String {
    let (escaped, rest) = match text.strip_prefix('E') {
        Some(rest) if rest.starts_with('\'') => (true, rest),
        _ => (false, text),
    };
    let Some(inside) = rest.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) else { return text.to_owned() };
    let value = inside.replace("''", "'");
    if escaped { value.replace("\\\\", "\\") } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_and_tokens() {
        assert_eq!(Token::of("select c1q20 3 4"), Some(Token { client: 1, number: 20 }));
        assert_eq!(Token::of("SET a='b'"), None);
        assert_eq!(Statement::read("select c1q20 3 4"), Statement::Select { rows: 3, size: 4 });
        let set = |sql, value: &str| assert_eq!(Statement::read(sql), Statement::Set("a".into(), value.into()));
        set("set c1q2 a=b, c", "b, c");
        set("SET a='b''c'", "b'c");
        set("SET a=E'b''\\\\c'", "b'\\c");
        let set = |sql, value: Option<&str>| {
            assert_eq!(Statement::read(sql), Statement::SetConfig("a".into(), value.map(str::to_owned)));
        };
        set("SELECT pg_catalog.set_config('a','b, c',false)", Some("b, c"));
        set("SELECT pg_catalog.set_config('a',NULL,false)", None);
        assert_eq!(Statement::read(" "), Statement::Empty);
    }
}
