//! Why a client or a server connection ends: one error, one text, one SQLSTATE, one log level, one label for statistics.
//!
//! Texts and SQLSTATEs are PgBouncer's, because applications and dashboards match on them: severity FATAL, code 08P01
//! unless a server gave another one.

use std::borrow::Cow;

use crate::wire::error_response::{self, ErrorFields, Severity};
use crate::wire::frame::BadHeader;
use crate::wire::startup::BadStartup;

/// How loud the log line of an error is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    /// What happens every day: timeouts, wrong passwords, hang-ups.
    Info,
    /// Somebody should look: protocol violations, a server that cannot be reached.
    Warning,
}

/// Why a connection is closed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant's text says what it is; see `describe`")]
pub enum Error {
    // The client's packets.
    BadHeader(BadHeader),
    BadStartup(BadStartup),
    UnknownPacket,
    FailedToParse,
    BrokenPacket(&'static str),
    QueryDisallowed,
    ConsoleExtendedQuery,
    UnencryptedAfterSsl,
    UnencryptedAfterGss,
    StartupResent,
    PasswordBeforeStartup,
    // The client's start-up parameters.
    UnsupportedParameter(String),
    UnsupportedOption(String),
    OptionsForm,
    ReplicationValue(String),
    NoUserName,
    UserNameTooLong,
    DatabaseNameTooLong,
    // Who the client is.
    PasswordTooLong,
    EmptyPassword,
    PasswordFailed,
    SaslFailed,
    SaslMechanism,
    TrustFailed,
    NoSuchDatabase(String),
    DatabaseDisabled(String),
    NotAllowed,
    // Prepared statements.
    PreparedInUse,
    PreparedMissing,
    TooManyPrepared,
    ParseTooLong,
    PreparedBehindCopy,
    // LISTEN.
    TooManyChannels,
    ListenEncoding,
    NotificationsMissed,
    // Limits and timeouts.
    TooManyClients,
    TooManyServers,
    TooManyDatabaseClients,
    TooManyUserClients,
    ClientLoginTimeout,
    ClientLoginTimeoutServerDown,
    QueryWaitTimeout,
    QueryTimeout,
    QueryTimeoutWaiting,
    TransactionTimeout,
    IdleTransactionTimeout,
    ClientIdleTimeout,
    SuspendTimeout,
    // The administrator.
    ShuttingDown,
    ServerShuttingDown,
    AdminDisconnect,
    DatabaseRemoved,
    DatabaseConfigChanged,
    ConfigError,
    // The server.
    ServerLoginFailing(String),
    ServerRefused(ErrorFields),
    ServerAuthentication(Cow<'static, str>),
    ServerLogin(Cow<'static, str>),
    ServerCrashed,
    ServerProtocol(Cow<'static, str>),
    ConnectFailed,
    ConnectTimeout,
    DnsLookupFailed,
    StatementPooling,
    InvalidServerParameter,
    ParameterRefused(ErrorFields),
    // Ends that are nobody's fault.
    ClientUnexpectedEof,
    ClientClose,
    ClientLeftServerBusy,
    ReplicationClientLeft,
    ServerListens,
    ServerLifetime,
    ServerIdleTimeout,
    Evicted,
    CloseNeeded,
    PauseMode,
}

impl Error {
    /// What a client or the log reads; never a secret, never query text.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Self::BadHeader(bad) => bad.to_string().into(),
            Self::BadStartup(bad) => bad.to_string().into(),
            Self::UnsupportedParameter(name) => format!("unsupported startup parameter: {name}").into(),
            Self::UnsupportedOption(name) => format!("unsupported startup parameter in options: {name}").into(),
            Self::ReplicationValue(value) => format!("invalid value for parameter \"replication\": \"{value}\"").into(),
            Self::NoSuchDatabase(name) => format!("no such database: {name}").into(),
            Self::DatabaseDisabled(name) => format!("database \"{name}\" is disabled").into(),
            Self::ServerLoginFailing(cause) => {
                format!("server login has been failing, cached error: {cause} (server_login_retry)").into()
            }
            Self::ServerRefused(fields) | Self::ParameterRefused(fields) => (&*fields.message).into(),
            Self::ServerAuthentication(text) => format!("server login failed: {text}").into(),
            Self::ServerLogin(text) | Self::ServerProtocol(text) => (&**text).into(),
            _ => self.describe().0.into(),
        }
    }

    /// The SQLSTATE sent to a client.
    pub fn sqlstate(&self) -> &str {
        match self {
            Self::ServerRefused(fields) | Self::ParameterRefused(fields) if fields.sqlstate.len() == 5 => {
                &fields.sqlstate
            }
            Self::TooManyPrepared | Self::ParseTooLong | Self::TooManyChannels | Self::NotificationsMissed => "54000",
            Self::PreparedBehindCopy | Self::ListenEncoding => "0A000",
            Self::TooManyServers => "53300",
            Self::ReplicationValue(_) => "22023",
            _ => "08P01",
        }
    }

    /// The level of the log line.
    pub fn level(&self) -> Level {
        self.describe().1
    }

    /// The label in statistics.
    pub fn label(&self) -> &'static str {
        self.describe().2
    }

    /// True when clients that wait for the first server of their pool are told this error of its login: the next attempt would
    /// end in the same way. 57P03 cannot_connect_now is none: the server is starting up or shutting down.
    pub fn ends_logins(&self) -> bool {
        match self {
            Self::ServerRefused(fields) => fields.sqlstate != "57P03",
            Self::ServerAuthentication(_) => true,
            _ => false,
        }
    }

    /// The ErrorResponse for a client.
    pub fn response(&self) -> Vec<u8> {
        let mut out = Vec::new();
        error_response::write(&mut out, Severity::Fatal, self.sqlstate(), &cut(&self.text()));
        out
    }

    /// Text (where it has no parts), log level and label of each variant.
    fn describe(&self) -> (&'static str, Level, &'static str) {
        use Level::{Info, Warning};
        match self {
            Self::BadHeader(_) => ("bad packet header", Warning, "bad_packet"),
            Self::BadStartup(_) => ("bad startup packet", Warning, "bad_packet"),
            Self::UnknownPacket => ("unknown pkt", Warning, "bad_packet"),
            Self::FailedToParse => ("failed to parse packet", Warning, "bad_packet"),
            Self::BrokenPacket(text) => (text, Warning, "bad_packet"),
            Self::PreparedInUse => ("prepared statement name is already in use", Warning, "prepared_statement"),
            Self::PreparedMissing => ("prepared statement did not exist", Warning, "prepared_statement"),
            Self::TooManyPrepared => ("too many prepared statements", Warning, "prepared_statement"),
            Self::PreparedBehindCopy => (
                "prepared statements behind a COPY that fails in a pipeline are not supported",
                Warning,
                "prepared_statement",
            ),
            Self::ParseTooLong => ("prepared statement is too long", Warning, "prepared_statement"),
            Self::TooManyChannels => ("too many channels", Warning, "listen"),
            Self::ListenEncoding => {
                ("LISTEN with a client_encoding that is not the server's default is not supported", Info, "listen")
            }
            Self::NotificationsMissed => ("notifications are not read", Info, "listen"),
            Self::TooManyServers => (
                "no more server connections allowed (max_db_connections, max_user_connections)",
                Warning,
                "max_db_connections",
            ),
            Self::QueryDisallowed => ("PQexec disallowed", Warning, "disallowed"),
            Self::ConsoleExtendedQuery => {
                ("extended query protocol not supported by admin console", Warning, "disallowed")
            }
            Self::UnencryptedAfterSsl => ("received unencrypted data after SSL request", Warning, "bad_packet"),
            Self::UnencryptedAfterGss => {
                ("received unencrypted data after GSSAPI encryption request", Warning, "bad_packet")
            }
            Self::StartupResent => ("client re-sent startup pkt", Warning, "bad_packet"),
            Self::PasswordBeforeStartup => ("client password pkt before startup packet", Warning, "bad_packet"),
            Self::UnsupportedParameter(_) => ("unsupported startup parameter", Warning, "startup_parameter"),
            Self::UnsupportedOption(_) => ("unsupported startup parameter in options", Warning, "startup_parameter"),
            Self::OptionsForm => (
                "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed",
                Warning,
                "startup_parameter",
            ),
            Self::ReplicationValue(_) => ("invalid value for parameter", Warning, "startup_parameter"),
            Self::NoUserName => ("no username supplied", Warning, "startup_parameter"),
            Self::UserNameTooLong => ("username too long", Warning, "startup_parameter"),
            Self::DatabaseNameTooLong => ("database name too long", Warning, "startup_parameter"),
            Self::PasswordTooLong => ("password too long", Info, "authentication"),
            Self::EmptyPassword => ("empty password returned by client", Info, "authentication"),
            Self::PasswordFailed => ("password authentication failed", Info, "authentication"),
            Self::SaslFailed => ("SASL authentication failed", Info, "authentication"),
            Self::SaslMechanism => ("client selected an invalid SASL authentication mechanism", Info, "authentication"),
            Self::TrustFailed => ("\"trust\" authentication failed", Info, "authentication"),
            Self::NoSuchDatabase(_) => ("no such database", Info, "no_such_database"),
            Self::DatabaseDisabled(_) => ("database is disabled", Info, "no_such_database"),
            Self::NotAllowed => ("not allowed", Info, "authentication"),
            Self::TooManyClients => ("no more connections allowed (max_client_conn)", Warning, "max_client_conn"),
            Self::TooManyDatabaseClients => {
                ("client connections exceeded (max_db_client_connections)", Warning, "max_db_client_connections")
            }
            Self::TooManyUserClients => {
                ("client connections exceeded (max_user_client_connections)", Warning, "max_user_client_connections")
            }
            Self::ClientLoginTimeout => ("client_login_timeout", Info, "client_login_timeout"),
            Self::ClientLoginTimeoutServerDown => ("client_login_timeout (server down)", Info, "client_login_timeout"),
            Self::QueryTimeout => ("query timeout", Warning, "query_timeout"),
            Self::QueryTimeoutWaiting => ("query_timeout", Warning, "query_timeout"),
            Self::TransactionTimeout => ("transaction timeout", Warning, "transaction_timeout"),
            Self::IdleTransactionTimeout => ("idle transaction timeout", Warning, "idle_transaction_timeout"),
            Self::ClientIdleTimeout => ("client_idle_timeout", Info, "client_idle_timeout"),
            Self::SuspendTimeout => ("suspend_timeout", Info, "admin"),
            Self::QueryWaitTimeout => ("query_wait_timeout", Warning, "query_wait_timeout"),
            Self::ShuttingDown => ("pooler is shutting down", Info, "shutdown"),
            Self::ServerShuttingDown => ("server shutting down", Info, "shutdown"),
            Self::AdminDisconnect => ("admin forced disconnect", Info, "admin"),
            Self::DatabaseRemoved => ("database removed", Info, "admin"),
            Self::DatabaseConfigChanged => ("database configuration changed", Info, "admin"),
            Self::ConfigError => ("bouncer config error", Warning, "config"),
            Self::ServerLoginFailing(_) => ("server login has been failing", Info, "server_login"),
            Self::ServerRefused(_) => ("server refused the login", Warning, "server_login"),
            Self::ServerAuthentication(_) | Self::ServerLogin(_) => ("server login failed", Warning, "server_login"),
            Self::ServerCrashed => ("server conn crashed?", Warning, "server_lost"),
            Self::ServerProtocol(_) => ("server broke the protocol", Warning, "server_lost"),
            Self::ConnectFailed => ("connect failed", Warning, "server_login"),
            Self::DnsLookupFailed => ("server DNS lookup failed", Warning, "server_login"),
            Self::ConnectTimeout => ("connect timeout", Warning, "server_login"),
            Self::StatementPooling => {
                ("transaction blocks not allowed in statement pooling mode", Info, "statement_pooling")
            }
            Self::InvalidServerParameter => ("invalid server parameter", Info, "server_parameter"),
            Self::ParameterRefused(_) => ("server refused a parameter", Info, "server_parameter"),
            Self::ClientUnexpectedEof => ("client unexpected eof", Info, "client_close"),
            Self::ClientClose => ("client close request", Info, "client_close"),
            Self::ClientLeftServerBusy => ("client disconnect while server was not ready", Info, "client_close"),
            Self::ReplicationClientLeft => ("replication client was closed", Info, "client_close"),
            Self::ServerListens => ("server listens to something", Info, "server_listens"),
            Self::ServerLifetime => ("server lifetime over", Info, "server_lifetime"),
            Self::ServerIdleTimeout => ("server idle timeout", Info, "server_idle_timeout"),
            Self::Evicted => ("evicted", Info, "evicted"),
            Self::CloseNeeded => ("close_needed", Info, "close_needed"),
            Self::PauseMode => ("pause mode", Info, "admin"),
        }
    }
}

impl std::fmt::Display for Error {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text())
    }
}

impl std::error::Error for Error {}

impl From<BadHeader> for Error {
    fn from(bad: BadHeader) -> Self {
        Self::BadHeader(bad)
    }
}

impl From<BadStartup> for Error {
    fn from(bad: BadStartup) -> Self {
        Self::BadStartup(bad)
    }
}

/// Longest text of an error sent to a client, in bytes.
const TEXT_LEN_MAX: usize = 512;

fn cut(text: &str) -> Cow<'_, str> {
    if text.len() <= TEXT_LEN_MAX { text.into() } else { text[..text.floor_char_boundary(TEXT_LEN_MAX)].into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses() {
        let check = |error: Error, expected: (&str, &str)| {
            let bytes = error.response();
            let fields = ErrorFields::read(&bytes[5..]);
            assert_eq!((fields.sqlstate.as_str(), fields.message.as_str()), expected);
            assert_eq!(fields.severity, "FATAL");
        };
        check(Error::NoSuchDatabase("x".into()), ("08P01", "no such database: x"));
        check(Error::TooManyClients, ("08P01", "no more connections allowed (max_client_conn)"));
        check(
            Error::ServerLoginFailing("connect failed".into()),
            ("08P01", "server login has been failing, cached error: connect failed (server_login_retry)"),
        );
        let refused = ErrorFields { severity: "FATAL".into(), sqlstate: "53300".into(), message: "too many".into() };
        check(Error::ServerRefused(refused), ("53300", "too many"));
        let long = Error::NoSuchDatabase("ü".repeat(1000)).response();
        assert!(long.len() < TEXT_LEN_MAX + 40);
    }
}
