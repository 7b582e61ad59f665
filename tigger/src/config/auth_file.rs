//! Reads `auth_file` (`userlist.txt`): lines of `"user" "secret"`. It does not interpret the secret.

use std::path::Path;

use super::secret::Secret;
use super::{ConfigError, Place};

/// One user of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuthEntry {
    /// Name of the user.
    pub user: String,
    /// Password in plain text, `md5…` or `SCRAM-SHA-256$…`; empty = the user is known but has no password.
    pub secret: Secret,
    /// Where the entry stands.
    pub place: Place,
}

/// Reads the file at `path`. Of several entries for a user, the last one counts.
///
/// # Errors
/// The file cannot be read, or a line is broken; see [`parse`].
pub fn load(path: &Path) -> Result<Vec<AuthEntry>, ConfigError> {
    let file = path.display().to_string();
    let text = std::fs::read_to_string(path)
        .map_err(|error| ConfigError::new(Place::file(&file), format!("could not open auth_file: {error}")))?;
    parse(&file, &text)
}

/// Reads the text of an auth file. Lines that start with `;` are comments, and what follows the secret is ignored.
///
/// # Errors
/// The first broken line. PgBouncer keeps the users above such a line and drops those below; here the whole file is refused,
/// so that a typing error at a reload locks nobody out.
pub fn parse(file: &str, text: &str) -> Result<Vec<AuthEntry>, ConfigError> {
    let mut entries = Vec::new();
    for (index, line) in text.split('\n').enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with(';') {
            continue;
        }
        let place = Place { file: file.into(), line: index + 1 };
        // Neither text is repeated in an error: a missing quote can make the one into the other.
        let error = |message: &str| ConfigError::new(place.clone(), format!("broken auth file: {message}"));
        let rest = line.strip_prefix('"').ok_or_else(|| error("expected a user name in double quotes"))?;
        let (user, rest) = quoted(rest).ok_or_else(|| error("the quote after the user name is missing"))?;
        let start = rest.find('"').ok_or_else(|| error("expected a secret in double quotes"))?;
        let (secret, _ignored) =
            quoted(&rest[start + 1..]).ok_or_else(|| error("the quote after the secret is missing"))?;
        if user.len() > USER_MAX {
            return Err(error("username too long"));
        }
        if secret.len() > SECRET_MAX {
            return Err(error("password too long"));
        }
        entries.push(AuthEntry { user, secret: Secret::new(secret), place });
    }
    Ok(entries)
}

/// Longest user name in bytes, PgBouncer's.
const USER_MAX: usize = 127;

/// Longest secret in bytes, PgBouncer's: tokens of cloud services serve as passwords.
const SECRET_MAX: usize = 2047;

/// Text up to the closing quote, and what follows it; `""` stands for one quote.
fn quoted(text: &str) -> Option<(String, &str)> {
    let mut rest = text;
    let mut value = String::new();
    loop {
        let (part, after) = rest.split_once('"')?;
        value.push_str(part);
        rest = after;
        match rest.strip_prefix('"') {
            Some(after) => {
                value.push('"');
                rest = after;
            }
            None => return Some((value, rest)),
        }
    }
}
