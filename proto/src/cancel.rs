//! Keys of cancel requests (manual, section 55.2.8).

use std::borrow::Borrow;

use crate::wire::version::Version;

/// The key a client gets at login and shows when it wants its query cancelled: ours, not a server's.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CancelKey(Box<[u8]>);

impl CancelKey {
    /// Random bytes for one key.
    pub const RANDOM_LEN: usize = 36;

    /// A key for a client that speaks this version. The first bit is cleared, because clients show the first four bytes
    /// as a process id, which is positive.
    pub fn from_random(mut bytes: [u8; Self::RANDOM_LEN], version: Version) -> Self {
        bytes[0] &= 0x7f;
        Self(bytes[..version.cancel_key_len()].into())
    }

    /// What the client is told, and shows: process id, then the secret.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Keys are found by what a client shows.
impl Borrow<[u8]> for CancelKey {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

/// The key lets its holder cancel queries, so logs do not show it.
impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CancelKey(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths() {
        for (version, len) in [(Version::V3_0, 8), (Version::V3_2, 36)] {
            let key = CancelKey::from_random([0xff; 36], version);
            assert_eq!((key.bytes().len(), key.bytes()[0], key.bytes()[len - 1]), (len, 0x7f, 0xff));
            assert_eq!(format!("{key:?}"), "CancelKey(..)");
        }
    }
}
