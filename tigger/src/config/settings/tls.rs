//! Settings of encryption. None is built yet.

use super::Setting;
use crate::config::kind::Kind;

/// TLS with clients, TLS with servers.
pub(super) const SETTINGS: &[Setting] = &[
    Setting::new(
        "client_tls_sslmode",
        Kind::SslMode(None),
        Some("disable"),
        "Whether connections from clients are encrypted and what is verified. Until TLS is built, connections are \
         plain TCP, and `require`, `verify-ca` and `verify-full` are refused with an error rather than ignored.",
    ),
    Setting::new(
        "client_tls_ca_file",
        Kind::File(None),
        Some(""),
        "Certificates of the authorities that vouch for clients.",
    ),
    Setting::new("client_tls_cert_file", Kind::File(None), Some(""), "Certificate shown to clients."),
    Setting::new("client_tls_key_file", Kind::File(None), Some(""), "Private key of `client_tls_cert_file`."),
    Setting::new(
        "client_tls_protocols",
        Kind::Text(None),
        Some("secure"),
        "Versions of TLS allowed with clients: a list, `all`, or `secure` for 1.2 and 1.3.",
    ),
    Setting::new(
        "client_tls_ciphers",
        Kind::Text(None),
        Some("default"),
        "Ciphers allowed with clients up to TLS 1.2, in OpenSSL's notation.",
    ),
    Setting::new("client_tls13_ciphers", Kind::Text(None), None, "Cipher suites allowed with clients in TLS 1.3."),
    Setting::new(
        "client_tls_dheparams",
        Kind::Text(None),
        Some("auto"),
        "Parameters of the Diffie-Hellman key exchange: `auto`, `none` or `legacy`.",
    ),
    Setting::new(
        "client_tls_ecdhcurve",
        Kind::Text(None),
        Some("auto"),
        "Curve of the elliptic key exchange: `auto`, `none` or a name.",
    ),
    Setting::new(
        "server_tls_sslmode",
        Kind::SslMode(None),
        Some("prefer"),
        "Whether connections to servers are encrypted and what is verified. Until TLS is built, connections are \
         plain TCP, and `require`, `verify-ca` and `verify-full` are refused with an error rather than ignored.",
    ),
    Setting::new(
        "server_tls_ca_file",
        Kind::File(None),
        Some(""),
        "Certificates of the authorities that vouch for servers.",
    ),
    Setting::new("server_tls_cert_file", Kind::File(None), Some(""), "Certificate shown to servers."),
    Setting::new("server_tls_key_file", Kind::File(None), Some(""), "Private key of `server_tls_cert_file`."),
    Setting::new(
        "server_tls_protocols",
        Kind::Text(None),
        Some("secure"),
        "Versions of TLS allowed with servers: a list, `all`, or `secure` for 1.2 and 1.3.",
    ),
    Setting::new(
        "server_tls_ciphers",
        Kind::Text(None),
        Some("default"),
        "Ciphers allowed with servers up to TLS 1.2, in OpenSSL's notation.",
    ),
    Setting::new("server_tls13_ciphers", Kind::Text(None), None, "Cipher suites allowed with servers in TLS 1.3."),
];
