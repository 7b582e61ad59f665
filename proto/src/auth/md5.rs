//! MD5 password authentication (PostgreSQL manual 55.2.1, AuthenticationMD5Password): the stored form and
//! the answer to a salt. It does not guard against MD5's weakness: who holds a stored hash can log in with it.

use std::fmt;

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

use super::secret::Secret;

/// The stored form: the MD5 of the password followed by the user name.
#[derive(Clone, PartialEq, Eq)]
pub struct Md5Hash {
    /// 32 lower-case hex digits, because the answer to a salt hashes the digits and not the digest.
    hex: String,
}

impl Md5Hash {
    /// The hash of `password` for `user`.
    pub fn from_password(password: &str, user: &str) -> Self {
        Self { hex: hex_digest(password.as_bytes(), user.as_bytes()) }
    }

    /// Reads `md5` and 32 lower-case hex digits; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.strip_prefix(PREFIX)?;
        let is_digit = |b| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        (hex.len() == HEX_LEN && hex.bytes().all(is_digit)).then(|| Self { hex: hex.into() })
    }

    /// The text of PasswordMessage which answers `salt`.
    pub fn response(&self, salt: [u8; 4]) -> String {
        format!("{PREFIX}{}", hex_digest(self.hex.as_bytes(), &salt))
    }

    /// True if both are the hash of the same password and user; takes the same time for any two hashes.
    pub fn matches(&self, other: &Self) -> bool {
        self.hex.as_bytes().ct_eq(other.hex.as_bytes()).into()
    }
}

impl fmt::Debug for Md5Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Md5Hash(***)")
    }
}

/// The answer to a server's `salt`. `None` for a SCRAM secret, which cannot answer MD5.
pub fn response(secret: &Secret, user: &str, salt: [u8; 4]) -> Option<String> {
    match secret {
        Secret::Plain(password) => Some(Md5Hash::from_password(password, user).response(salt)),
        Secret::Md5(hash) => Some(hash.response(salt)),
        Secret::Scram(_) => None,
    }
}

/// True if `response` (PasswordMessage without its final zero) is what a client which knows the secret
/// answers to `salt`. False for a SCRAM secret and for an empty password.
pub fn verify(secret: &Secret, user: &str, salt: [u8; 4], client_response: &[u8]) -> bool {
    !secret.is_empty()
        && response(secret, user, salt).is_some_and(|expected| expected.as_bytes().ct_eq(client_response).into())
}

fn hex_digest(first: &[u8], second: &[u8]) -> String {
    let digest = Md5::new().chain_update(first).chain_update(second);
    format!("{:032x}", u128::from_be_bytes(digest.finalize().into()))
}

const PREFIX: &str = "md5";
const HEX_LEN: usize = 32;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Computed with coreutils: `printf %s pencil"user" | md5sum`, then `printf '<hex>\1\2\3\4' | md5sum`.
    const STORED: &str = "md520c46e3762c864548e296b33c3406aa9";
    const ANSWER: &str = "md54376eb6913b38f9aaff38dc7cf19ca76";
    const SALT: [u8; 4] = [1, 2, 3, 4];

    #[test]
    fn known_hash_and_answer() {
        let hash = Md5Hash::from_password("pencil", "user");
        assert_eq!(Md5Hash::parse(STORED), Some(hash.clone()));
        assert_eq!(hash.response(SALT), ANSWER);
    }

    #[test]
    fn verify_accepts_only_the_exact_answer() {
        let plain = Secret::Plain("pencil".into());
        let stored = Secret::parse(STORED);
        let scram = Secret::parse(crate::auth::secret::tests::PENCIL);
        let empty = Secret::Plain(String::new());
        let empty_answer = Md5Hash::from_password("", "user").response(SALT);
        let wrong_salt = Md5Hash::from_password("pencil", "user").response([1, 2, 3, 5]);
        #[rustfmt::skip]
        let table = [
            (&plain,  "user",  ANSWER,                 true),
            (&stored, "user",  ANSWER,                 true),
            (&plain,  "other", ANSWER,                 false),
            (&stored, "other", ANSWER,                 true), // the user is inside the stored hash
            (&plain,  "user",  wrong_salt.as_str(),    false),
            (&plain,  "user",  &ANSWER[..34],          false),
            (&plain,  "user",  &ANSWER[3..],           false),
            (&plain,  "user",  "",                     false),
            (&plain,  "user",  STORED,                 false),
            (&stored, "user",  STORED,                 false),
            (&scram,  "user",  ANSWER,                 false),
            (&empty,  "user",  empty_answer.as_str(),  false),
        ];
        for (secret, user, answer, expected) in table {
            let verified = verify(secret, user, SALT, answer.as_bytes());
            assert_eq!(verified, expected, "{secret:?} {user} {answer}");
        }
    }

    #[test]
    fn scram_secret_has_no_answer() {
        let scram = Secret::parse(crate::auth::secret::tests::PENCIL);
        assert_eq!(response(&scram, "user", SALT), None);
    }

    proptest! {
        #[test]
        fn answers_from_either_form_verify_with_either(
            password in ".{1,20}", user in ".{0,20}", salt: [u8; 4], garbage: Vec<u8>,
        ) {
            let hash = Md5Hash::from_password(&password, &user);
            let forms = [Secret::Plain(password), Secret::Md5(hash)];
            for ours in &forms {
                let answer = response(ours, &user, salt).unwrap();
                for theirs in &forms {
                    prop_assert!(verify(theirs, &user, salt, answer.as_bytes()));
                    prop_assert!(!verify(theirs, &user, salt, &garbage));
                }
            }
        }
    }
}
