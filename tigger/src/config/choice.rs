//! Settings that are one word of a fixed list. Words compare without regard to case, as in PgBouncer.

pub use tigger_proto::pool::PoolMode;
use tigger_proto::wire::version::Version;

/// A value written as one of a few words.
pub trait Choice: Copy + PartialEq + 'static {
    /// Each value with its word, in the order of the manual.
    const WORDS: &'static [(&'static str, Self)];

    /// The word of this value.
    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, value)| *value == self).map_or("", |(word, _)| word)
    }

    /// Value of a word.
    ///
    /// # Errors
    /// Says which words there are.
    fn from_word(text: &str) -> Result<Self, String> {
        Self::WORDS.iter().find(|(word, _)| word.eq_ignore_ascii_case(text)).map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<&str> = Self::WORDS.iter().map(|(word, _)| *word).collect();
            format!("expected one of {}", words.join(", "))
        })
    }
}

impl Choice for PoolMode {
    const WORDS: &'static [(&'static str, Self)] =
        &[("session", Self::Session), ("transaction", Self::Transaction), ("statement", Self::Statement)];
}

impl Choice for Version {
    const WORDS: &'static [(&'static str, Self)] = &[("3.0", Self::V3_0), ("3.2", Self::V3_2)];
}

/// How clients prove who they are (`auth_type`). Only the methods that are built.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum AuthType {
    /// No check and the user name is ignored: every database needs a forced user.
    Any,
    /// No check, but the user must be known.
    Trust,
    /// Password in clear text.
    Plain,
    /// MD5, or SCRAM for a user whose secret is a SCRAM secret.
    #[default]
    Md5,
    /// SCRAM-SHA-256.
    ScramSha256,
}

impl AuthType {
    /// PgBouncer's methods that are refused with an error until they are built: ignoring one would let clients in.
    pub const NOT_YET: [&'static str; 4] = ["cert", "hba", "pam", "ldap"];
}

impl Choice for AuthType {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("any", Self::Any),
        ("trust", Self::Trust),
        ("plain", Self::Plain),
        ("md5", Self::Md5),
        ("scram-sha-256", Self::ScramSha256),
    ];
}

/// Which of several hosts a new server is on (`load_balance_hosts`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LoadBalanceHosts {
    /// The next one, for each server.
    #[default]
    RoundRobin,
    /// The same one, until a connection to it fails.
    Disable,
}

impl Choice for LoadBalanceHosts {
    const WORDS: &'static [(&'static str, Self)] = &[("round-robin", Self::RoundRobin), ("disable", Self::Disable)];
}

/// What becomes of start-up parameters that are neither tracked nor ignored (`startup_parameters`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum StartupParameters {
    /// The client is refused, as by PgBouncer.
    #[default]
    PgBouncer,
    /// They are set on each server that the client gets.
    Apply,
}

impl Choice for StartupParameters {
    const WORDS: &'static [(&'static str, Self)] = &[("pgbouncer", Self::PgBouncer), ("apply", Self::Apply)];
}

/// Whether queries and results may move inside the kernel (`kernel_path`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum KernelPath {
    /// Where it can be.
    #[default]
    Auto,
    /// Not at all.
    Off,
    /// As `Auto`, but a process that cannot have it does not start.
    Require,
}

impl Choice for KernelPath {
    const WORDS: &'static [(&'static str, Self)] =
        &[("auto", Self::Auto), ("off", Self::Off), ("require", Self::Require)];
}

/// Whether a connection is encrypted and what is verified (`client_tls_sslmode`, `server_tls_sslmode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub enum SslMode {
    /// Never.
    #[default]
    Disable,
    /// If the other end asks.
    Allow,
    /// If the other end can.
    Prefer,
    /// Always.
    Require,
    /// Always, with a certificate of a known authority.
    VerifyCa,
    /// Always, with a certificate of a known authority for the right name.
    VerifyFull,
}

impl Choice for SslMode {
    const WORDS: &'static [(&'static str, Self)] = &[
        ("disable", Self::Disable),
        ("allow", Self::Allow),
        ("prefer", Self::Prefer),
        ("require", Self::Require),
        ("verify-ca", Self::VerifyCa),
        ("verify-full", Self::VerifyFull),
    ];
}
