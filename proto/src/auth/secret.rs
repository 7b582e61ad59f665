//! The stored forms of a password and how the SCRAM keys follow from it. It does not read files; the text
//! comes from the second column of `auth_file` or from `auth_query`.

use std::fmt;
use std::num::NonZeroU32;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};
use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::md5::Md5Hash;

/// What is stored to check a user's password, or to log in to a server with.
///
/// Equality tells on reload that a secret changed; it is not for checking what a client sent.
#[derive(Clone, PartialEq, Eq)]
pub enum Secret {
    /// The password itself. Empty means that the user cannot log in with a password.
    Plain(String),
    /// `md5` and 32 hex digits.
    Md5(Md5Hash),
    /// `SCRAM-SHA-256$…`: enough to check a client, not enough to log in to a server.
    Scram(ScramSecret),
}

impl Secret {
    /// Reads a stored secret. Text which is neither an MD5 nor a SCRAM secret is the password itself, even
    /// if it looks like a damaged one, as in PgBouncer and in `pg_authid`.
    pub fn parse(text: &str) -> Self {
        if let Some(hash) = Md5Hash::parse(text) {
            return Self::Md5(hash);
        }
        match ScramSecret::parse(text) {
            Some(secret) => Self::Scram(secret),
            None => Self::Plain(text.into()),
        }
    }

    /// True for the empty password, with which PgBouncer and PostgreSQL let nobody in.
    pub fn is_empty(&self) -> bool {
        matches!(self, Self::Plain(password) if password.is_empty())
    }

    /// True if `password`, which came in clear text (`auth_type = plain`), is the one stored. Slow for a
    /// SCRAM secret: it does all of its iterations.
    pub fn verify_password(&self, user: &str, password: &str) -> bool {
        if self.is_empty() || password.is_empty() {
            return false;
        }
        match self {
            Self::Plain(stored) => stored.as_bytes().ct_eq(password.as_bytes()).into(),
            Self::Md5(stored) => stored.matches(&Md5Hash::from_password(password, user)),
            Self::Scram(stored) => {
                let keys = Keys::from_password(password, &stored.salt, stored.iterations);
                keys.client_key.stored_key() == stored.stored_key
            }
        }
    }

    /// What to check a SCRAM client against: the secret itself, or one made from a plain password with
    /// `iterations` (slow: keep the result). `None` for an MD5 secret and an empty password; run the
    /// exchange with [`ScramSecret::mock`] then, and with the same `mock_key`, which makes the salt of a
    /// plain password as lasting as a mock one.
    pub fn to_scram(&self, user: &str, mock_key: &[u8; 32], iterations: NonZeroU32) -> Option<ScramSecret> {
        match self {
            Self::Scram(secret) => Some(secret.clone()),
            Self::Plain(password) if !password.is_empty() => {
                let salt = lasting_salt(user, mock_key);
                Some(ScramSecret::from_password(password, &salt, iterations))
            }
            Self::Plain(_) | Self::Md5(_) => None,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain(***)",
            Self::Md5(_) => "Md5(***)",
            Self::Scram(_) => "Scram(***)",
        })
    }
}

/// What PostgreSQL stores for SCRAM-SHA-256: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`
/// (PostgreSQL manual, catalog `pg_authid`).
#[derive(Clone, PartialEq, Eq)]
pub struct ScramSecret {
    pub(super) iterations: NonZeroU32,
    pub(super) salt: Vec<u8>,
    pub(super) stored_key: Key,
    pub(super) server_key: Key,
}

impl ScramSecret {
    /// The secret of `password`. Slow: it does `iterations` rounds of HMAC.
    pub fn from_password(password: &str, salt: &[u8], iterations: NonZeroU32) -> Self {
        let Keys { client_key, server_key } = Keys::from_password(password, salt, iterations);
        Self { iterations, salt: salt.into(), stored_key: client_key.stored_key(), server_key }
    }

    /// A secret which no password matches, for a user who does not exist or has no password that SCRAM
    /// can use, so that an outsider sees the same exchange as for any user (PostgreSQL's mock
    /// authentication). `mock_key` is random and the same for as long as the process lives: a salt that
    /// changed from one attempt to the next would give the user away.
    pub fn mock(user: &str, mock_key: &[u8; 32], iterations: NonZeroU32) -> Self {
        Self {
            iterations,
            salt: lasting_salt(user, mock_key).into(),
            // Nobody knows a key whose SHA-256 is all zeros, so no proof fits.
            stored_key: Key([0; 32]),
            server_key: Key([0; 32]),
        }
    }

    /// Reads PostgreSQL's textual form; `None` if it is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (iterations, rest) = text.strip_prefix(super::scram::MECHANISM)?.strip_prefix('$')?.split_once(':')?;
        let (salt, keys) = rest.split_once('$')?;
        let (stored_key, server_key) = keys.split_once(':')?;
        Some(Self {
            iterations: parse_iterations(iterations)?,
            salt: BASE64.decode(salt).ok()?,
            stored_key: Key::from_base64(stored_key)?,
            server_key: Key::from_base64(server_key)?,
        })
    }

    /// ServerKey, which proves to a client that we know the secret.
    pub fn server_key(&self) -> Key {
        self.server_key
    }
}

impl fmt::Debug for ScramSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ScramSecret(***)")
    }
}

/// A SHA-256 sized key or signature of SCRAM (RFC 5802 section 3). Comparing two takes the same time
/// wherever they differ.
#[derive(Clone, Copy)]
pub struct Key(pub [u8; 32]);

impl Key {
    /// Reads exactly 32 bytes of base64.
    pub(super) fn from_base64(text: &str) -> Option<Self> {
        BASE64.decode(text).ok()?.try_into().ok().map(Self)
    }

    pub(super) fn to_base64(self) -> String {
        BASE64.encode(self.0)
    }

    /// StoredKey, if `self` is ClientKey.
    pub(super) fn stored_key(self) -> Self {
        Self(Sha256::digest(self.0).into())
    }

    /// HMAC of `message` with `self`.
    pub(super) fn sign(self, message: &str) -> Self {
        hmac(&self.0, message.as_bytes())
    }

    pub(super) fn xor(self, other: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i] ^ other.0[i]))
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Key {}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(***)")
    }
}

/// The two keys which follow from a password, a salt and an iteration count.
pub(super) struct Keys {
    pub(super) client_key: Key,
    pub(super) server_key: Key,
}

impl Keys {
    /// RFC 5802 section 3: SaltedPassword, then ClientKey and ServerKey.
    pub(super) fn from_password(password: &str, salt: &[u8], iterations: NonZeroU32) -> Self {
        let prepared = prepare(password);
        let salted: [u8; 32] = pbkdf2::pbkdf2_hmac_array::<Sha256, 32>(prepared.as_bytes(), salt, iterations.get());
        Self { client_key: hmac(&salted, b"Client Key"), server_key: hmac(&salted, b"Server Key") }
    }
}

/// Reads a positive decimal number; unlike `parse`, refuses a sign.
pub(super) fn parse_iterations(text: &str) -> Option<NonZeroU32> {
    if text.starts_with('+') { None } else { text.parse().ok() }
}

/// SASLprep, or the password as it is if SASLprep refuses it or leaves nothing, as PostgreSQL does: its
/// passwords need not be valid by RFC 4013.
fn prepare(password: &str) -> std::borrow::Cow<'_, str> {
    match stringprep::saslprep(password) {
        Ok(prepared) if !prepared.is_empty() => prepared,
        _ => password.into(),
    }
}

/// A salt which stays the same for a user while the process lives, and tells nothing without `mock_key`.
fn lasting_salt(user: &str, mock_key: &[u8; 32]) -> [u8; SALT_LEN] {
    let Key(mac) = hmac(mock_key, user.as_bytes());
    std::array::from_fn(|i| mac[i])
}

fn hmac(key: &[u8; 32], message: &[u8]) -> Key {
    let mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes a key of any length");
    Key(mac.chain_update(message).finalize().into_bytes().into())
}

/// PostgreSQL's SCRAM_DEFAULT_SALT_LEN: a mock salt must be as long as that of a real user.
const SALT_LEN: usize = 16;

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Salt and iterations of RFC 7677 section 3, password `pencil`; the keys were computed with Python's
    /// hashlib and hmac.
    pub(in super::super) const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    const MOCK_KEY: [u8; 32] = [7; 32];

    fn iterations(n: u32) -> NonZeroU32 {
        NonZeroU32::new(n).unwrap()
    }

    /// PostgreSQL's textual form.
    fn to_text(secret: &ScramSecret) -> String {
        format!(
            "SCRAM-SHA-256${}:{}${}:{}",
            secret.iterations,
            BASE64.encode(&secret.salt),
            secret.stored_key.to_base64(),
            secret.server_key.to_base64()
        )
    }

    #[test]
    fn made_from_password_has_postgresql_text() {
        let salt = BASE64.decode("W22ZaJ0SNY7soEsUEjb6gQ==").unwrap();
        let secret = ScramSecret::from_password("pencil", &salt, iterations(4096));
        assert_eq!(to_text(&secret), PENCIL);
        assert_eq!(Secret::parse(PENCIL), Secret::Scram(secret));
    }

    #[test]
    fn parse_table() {
        enum Form {
            Plain,
            Md5,
            Scram,
        }
        use Form::{Md5, Plain, Scram};
        let hash = "0123456789abcdef0123456789abcdef";
        let key = BASE64.encode([1; 32]);
        let short_key = BASE64.encode([1; 31]);
        let long_key = BASE64.encode([1; 33]);
        let bare_key = key.trim_end_matches('=');
        let table = [
            (PENCIL.to_owned(), Scram),
            (format!("SCRAM-SHA-256$1:c2FsdA==${key}:{key}"), Scram),
            (format!("SCRAM-SHA-256$0:c2FsdA==${key}:{key}"), Plain),
            (format!("SCRAM-SHA-256$-1:c2FsdA==${key}:{key}"), Plain),
            (format!("SCRAM-SHA-256$+1:c2FsdA==${key}:{key}"), Plain),
            (format!("SCRAM-SHA-256$:c2FsdA==${key}:{key}"), Plain),
            (format!("SCRAM-SHA-256$4294967296:c2FsdA==${key}:{key}"), Plain),
            (format!("SCRAM-SHA-256$1:c2FsdA=${key}:{key}"), Plain),
            (format!("SCRAM-SHA-256$1:c2FsdA==${short_key}:{key}"), Plain),
            (format!("SCRAM-SHA-256$1:c2FsdA==${key}:{long_key}"), Plain),
            (format!("SCRAM-SHA-256$1:c2FsdA==${key}:{bare_key}"), Plain),
            (format!("SCRAM-SHA-256$1:c2FsdA==${key}:{key} "), Plain),
            (format!("SCRAM-SHA-256$1:c2FsdA==${key}"), Plain),
            (format!("scram-sha-256$1:c2FsdA==${key}:{key}"), Plain),
            (format!("SCRAM-SHA-1$1:c2FsdA==${key}:{key}"), Plain),
            (format!("md5{hash}"), Md5),
            (format!("MD5{hash}"), Plain),
            (format!("md5{}", hash.to_uppercase()), Plain),
            (format!("md5{hash}0"), Plain),
            (format!("md5{}", &hash[1..]), Plain),
            (format!("md5{}+", &hash[1..]), Plain),
            (hash.to_owned(), Plain),
            ("md5".to_owned(), Plain),
            ("pässwörd".to_owned(), Plain),
            (String::new(), Plain),
        ];
        for (text, expected) in table {
            match (Secret::parse(&text), expected) {
                (Secret::Plain(password), Plain) => assert_eq!(password, text),
                (Secret::Md5(_), Md5) | (Secret::Scram(_), Scram) => {}
                (parsed, _) => panic!("{text}: {parsed:?}"),
            }
        }
    }

    #[test]
    fn verify_password_with_each_form() {
        let md5 = Secret::Md5(Md5Hash::from_password("pencil", "user"));
        for secret in [Secret::Plain("pencil".into()), md5, Secret::parse(PENCIL)] {
            assert!(secret.verify_password("user", "pencil"), "{secret:?}");
            for wrong in ["", "penci", "pencils", "Pencil"] {
                assert!(!secret.verify_password("user", wrong), "{secret:?} {wrong}");
            }
        }
        assert!(!Secret::parse("").verify_password("user", ""));
    }

    #[test]
    fn equality_sees_a_changed_secret() {
        let texts = ["", "pencil", "pencils", PENCIL, &PENCIL.replace("4096", "4097")];
        for (i, left) in texts.iter().enumerate() {
            for (j, right) in texts.iter().enumerate() {
                assert_eq!(Secret::parse(left) == Secret::parse(right), i == j);
            }
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let secret = Secret::parse(PENCIL);
        let Secret::Scram(scram) = &secret else {
            panic!("{secret:?}");
        };
        let hash = Md5Hash::from_password("pencil", "user");
        let cases = [
            (format!("{:?}", Secret::Plain("pencil".into())), "Plain(***)"),
            (format!("{:?}", Secret::Md5(hash.clone())), "Md5(***)"),
            (format!("{hash:?}"), "Md5Hash(***)"),
            (format!("{secret:?}"), "Scram(***)"),
            (format!("{scram:?}"), "ScramSecret(***)"),
            (format!("{:?}", scram.server_key()), "Key(***)"),
        ];
        for (shown, expected) in cases {
            assert_eq!(shown, expected);
        }
    }

    #[test]
    fn mock_and_plain_salts_last_and_look_alike() {
        let mock = |user, key| ScramSecret::mock(user, key, iterations(4096));
        assert_eq!(mock("a", &MOCK_KEY), mock("a", &MOCK_KEY));
        assert_ne!(mock("a", &MOCK_KEY).salt, mock("b", &MOCK_KEY).salt);
        assert_ne!(mock("a", &MOCK_KEY).salt, mock("a", &[8; 32]).salt);

        let plain = |text| Secret::parse(text).to_scram("a", &MOCK_KEY, iterations(1));
        assert_eq!(plain("pencil").unwrap().salt, mock("a", &MOCK_KEY).salt);
        assert_eq!(plain(""), None);
        assert_eq!(plain("md50123456789abcdef0123456789abcdef"), None);
        assert_eq!(plain(PENCIL).map(Secret::Scram), Some(Secret::parse(PENCIL)));
    }

    /// RFC 4013 section 3, and the fallbacks.
    #[test]
    fn passwords_are_prepared_as_postgresql_does() {
        let table = [
            ("I\u{AD}X", "IX"),
            ("user", "user"),
            ("\u{AA}", "a"),
            ("\u{2168}", "IX"),
            ("a\u{A0}b", "a b"),
            // Refused by SASLprep: control, bidirectional text, unassigned in Unicode 3.2.
            ("\u{7}", "\u{7}"),
            ("\u{627}\u{31}", "\u{627}\u{31}"),
            ("\u{1F600}", "\u{1F600}"),
            // Nothing would be left.
            ("\u{AD}", "\u{AD}"),
            ("", ""),
        ];
        for (password, expected) in table {
            assert_eq!(prepare(password), expected, "{password:?}");
        }
    }

    proptest! {
        #[test]
        fn text_form_reads_back(password: String, salt: Vec<u8>, n in 1..4_u32) {
            let secret = ScramSecret::from_password(&password, &salt, iterations(n));
            prop_assert_eq!(ScramSecret::parse(&to_text(&secret)), Some(secret));
        }

        #[test]
        fn any_text_is_a_secret(text in ".*") {
            Secret::parse(&text);
            Secret::parse(&format!("SCRAM-SHA-256${text}"));
        }
    }
}
