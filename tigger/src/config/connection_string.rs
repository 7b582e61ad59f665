//! Reads the right side of a line in `[databases]`, `[users]` and `[peers]`: `key=value` pairs as libpq has them,
//! checked against a table of the keys of that section.

use super::kind::Kind;
use super::{ConfigError, Place, Warning};

/// One key that a section knows.
pub(super) struct Key<T> {
    /// Name as written.
    pub name: &'static str,
    /// Kind of the value and the field of `T` it fills.
    pub kind: Kind<T>,
    /// What the manual says, one paragraph.
    pub doc: &'static str,
}

/// Fills `target` from the pairs in `text`.
///
/// # Errors
/// A pair that is not understood, an unknown key or a value its kind refuses. The text itself is not repeated, except for
/// the refused value.
pub(super) fn fill<T>(
    keys: &[Key<T>],
    text: &str,
    place: &Place,
    target: &mut T,
    warnings: &mut Vec<Warning>,
) -> Result<(), ConfigError> {
    let mut rest = text;
    let mut after_password = false;
    while let Some(pair) = next_pair(rest) {
        let error = |message: String| ConfigError::new(place.clone(), message);
        let pair = pair.map_err(|reason| error(format!("syntax error in connection string: {reason}")))?;
        rest = pair.rest;
        let Some(key) = keys.iter().find(|key| key.name == pair.key) else {
            // The unknown word may be the second half of a password that should have been quoted.
            let name = if after_password { "after password=" } else { pair.key };
            return Err(error(format!("unrecognized connection parameter: {name}")));
        };
        key.kind
            .apply(&pair.value, target)
            .map_err(|reason| error(format!("invalid value {:?} for {}: {reason}", pair.value, key.name)))?;
        if !key.kind.is_built() {
            warnings.push(Warning::not_built(place.clone(), key.name));
        }
        after_password = key.name == "password";
    }
    Ok(())
}

struct Pair<'a> {
    key: &'a str,
    value: String,
    rest: &'a str,
}

/// First pair of `text`, or `None` at its end.
fn next_pair(text: &str) -> Option<Result<Pair<'_>, &'static str>> {
    let text = text.trim_start_matches(BLANK);
    (!text.is_empty()).then(|| pair(text))
}

fn pair(text: &str) -> Result<Pair<'_>, &'static str> {
    let end = text.find(|c| c == '=' || BLANK.contains(&c)).ok_or("expected key=value")?;
    let (key, rest) = text.split_at(end);
    let rest = rest
        .trim_start_matches(BLANK)
        .strip_prefix('=')
        .filter(|_| !key.is_empty())
        .ok_or("expected key=value")?
        .trim_start_matches(BLANK);
    let (value, rest) = match rest.strip_prefix('\'') {
        Some(quoted) => quoted_value(quoted)?,
        None => {
            let (value, rest) = rest.split_at(rest.find(BLANK).unwrap_or(rest.len()));
            (value.to_owned(), rest)
        }
    };
    if value.is_empty() {
        return Err("empty value");
    }
    Ok(Pair { key, value, rest })
}

/// Reads up to the closing quote; `''` stands for one quote. A backslash is a character like any other: PgBouncer, unlike
/// libpq, does not take it as an escape, and passwords in existing files rely on that.
fn quoted_value(text: &str) -> Result<(String, &str), &'static str> {
    let mut rest = text;
    let mut value = String::new();
    loop {
        let (part, after) = rest.split_once('\'').ok_or("the closing quote is missing")?;
        value.push_str(part);
        rest = after;
        match rest.strip_prefix('\'') {
            Some(after) => {
                value.push('\'');
                rest = after;
            }
            None if rest.is_empty() || rest.starts_with(BLANK) => return Ok((value, rest)),
            None => return Err("expected a space after a closing quote"),
        }
    }
}

const BLANK: [char; 2] = [' ', '\t'];
