//! Users and secrets from `auth_file`, and how a client must prove it is one of them.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::Mutex;

use tigger_proto::auth::scram;
use tigger_proto::auth::secret::{ScramSecret, Secret};
use tigger_proto::client::login::Method;

use crate::config::{AuthType, Config, ConfigError, Warning, auth_file};

/// All users of `auth_file`.
#[derive(Debug)]
pub struct Users {
    secrets: HashMap<String, Secret>,
    /// SCRAM secrets made from plain passwords: deriving one costs thousands of hashes, so each is made once.
    derived: Mutex<HashMap<String, ScramSecret>>,
    /// Makes the salts of users that do not exist, and of those with plain passwords, so that nobody can tell which are
    /// which (PostgreSQL calls it mock authentication).
    mock_key: [u8; 32],
    iterations: NonZeroU32,
}

impl Users {
    /// Reads the file that the configuration names.
    ///
    /// # Errors
    /// The file cannot be read or has a broken line.
    pub fn load(config: &Config, mock_key: [u8; 32]) -> Result<(Self, Vec<Warning>), ConfigError> {
        let mut warnings = Vec::new();
        let mut secrets = HashMap::new();
        if let Some(path) = &config.settings.auth_file {
            for entry in auth_file::load(path)? {
                if secrets.insert(entry.user.clone(), Secret::parse(entry.secret.expose())).is_some() {
                    let message = format!("user {:?} is there twice: the last secret counts", entry.user);
                    warnings.push(Warning { place: entry.place, message });
                }
            }
        }
        let iterations = NonZeroU32::new(config.settings.scram_iterations).unwrap_or(SCRAM_ITERATIONS);
        Ok((Self { secrets, derived: Mutex::default(), mock_key, iterations }, warnings))
    }

    /// The secret of a user that exists.
    pub fn secret(&self, user: &str) -> Option<&Secret> {
        self.secrets.get(user)
    }

    /// How many users there are.
    pub fn len(&self) -> usize {
        self.secrets.len()
    }

    /// True without any user.
    pub fn is_empty(&self) -> bool {
        self.secrets.is_empty()
    }

    /// Names of all users.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.secrets.keys().map(String::as_str)
    }

    /// How a client must prove that it is `user`. `random` makes salts and nonces.
    pub fn method(&self, auth_type: AuthType, user: &str, random: &[u8; 18]) -> Method {
        let secret = self.secret(user).filter(|secret| !secret.is_empty());
        match auth_type {
            AuthType::Any => Method::Trust,
            AuthType::Trust if self.secrets.contains_key(user) => Method::Trust,
            AuthType::Trust => Method::TrustRefused,
            AuthType::Plain => Method::Plain(secret.cloned()),
            // As PostgreSQL and PgBouncer: a SCRAM secret cannot serve MD5, so such users are asked for SCRAM.
            AuthType::Md5 if !matches!(secret, Some(Secret::Scram(_))) => {
                Method::Md5(secret.cloned(), [random[0], random[1], random[2], random[3]])
            }
            AuthType::Md5 | AuthType::ScramSha256 => {
                Method::Scram(Box::new(self.scram_secret(user)), scram::nonce_from_bytes(random))
            }
        }
    }

    fn scram_secret(&self, user: &str) -> ScramSecret {
        let mock = || ScramSecret::mock(user, &self.mock_key, self.iterations);
        match self.secret(user) {
            None => mock(),
            Some(Secret::Scram(secret)) => secret.clone(),
            Some(secret) => {
                let mut derived = self.derived.lock().expect("nobody panics with this lock");
                if let Some(known) = derived.get(user) {
                    return known.clone();
                }
                match secret.to_scram(user, &self.mock_key, self.iterations) {
                    Some(made) => derived.entry(user.to_owned()).or_insert(made).clone(),
                    None => {
                        tracing::warn!("user {user:?} has no secret that SCRAM can use");
                        mock()
                    }
                }
            }
        }
    }
}

/// PgBouncer's and PostgreSQL's default, for a setting of 0.
const SCRAM_ITERATIONS: NonZeroU32 = NonZeroU32::new(4096).expect("not zero");

#[cfg(test)]
mod tests {
    use super::*;

    fn users(list: &[(&str, &str)]) -> Users {
        Users {
            secrets: list.iter().map(|&(user, secret)| (user.to_owned(), Secret::parse(secret))).collect(),
            derived: Mutex::default(),
            mock_key: [7; 32],
            iterations: NonZeroU32::new(2).unwrap(),
        }
    }

    #[test]
    fn methods() {
        let scram = "SCRAM-SHA-256$4096:c2FsdHNhbHRzYWx0c2FsdA==$AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
        let users =
            users(&[("plain", "x"), ("empty", ""), ("scram", scram), ("md5", "md5900150983cd24fb0d6963f7d28e17f72")]);
        let check = |auth_type, user, expected: &str| {
            let method = users.method(auth_type, user, &[1; 18]);
            let name = match method {
                Method::Trust => "trust",
                Method::TrustRefused => "refused",
                Method::Plain(Some(_)) => "plain",
                Method::Plain(None) => "plain?",
                Method::Md5(Some(_), _) => "md5",
                Method::Md5(None, _) => "md5?",
                Method::Scram(..) => "scram",
            };
            assert_eq!(name, expected, "{auth_type:?} {user}");
        };
        check(AuthType::Any, "nobody", "trust");
        check(AuthType::Trust, "plain", "trust");
        check(AuthType::Trust, "nobody", "refused");
        check(AuthType::Plain, "plain", "plain");
        check(AuthType::Plain, "nobody", "plain?");
        check(AuthType::Plain, "empty", "plain?");
        check(AuthType::Md5, "md5", "md5");
        check(AuthType::Md5, "nobody", "md5?");
        check(AuthType::Md5, "scram", "scram");
        check(AuthType::ScramSha256, "plain", "scram");
        check(AuthType::ScramSha256, "md5", "scram");
        check(AuthType::ScramSha256, "nobody", "scram");
    }
}
