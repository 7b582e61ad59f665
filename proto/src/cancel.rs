//! Keys of cancel requests (manual, section 55.2.8).

/// The key a client gets at login and shows when it wants its query cancelled: ours, not a server's.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CancelKey(pub [u8; 8]);

impl CancelKey {
    /// A key from random bytes. The first bit is cleared, because clients show the first four bytes as a process id,
    /// which is positive.
    pub fn from_random(mut bytes: [u8; 8]) -> Self {
        bytes[0] &= 0x7f;
        Self(bytes)
    }
}

/// The key lets its holder cancel queries, so logs do not show it.
impl std::fmt::Debug for CancelKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CancelKey(..)")
    }
}
