//! Settings of listening sockets, of TCP and of the network in general.

use super::Setting;
use crate::config::kind::Kind;

/// Listening sockets, TCP, messages, DNS, peers.
pub(super) const SETTINGS: &[Setting] = &[
    Setting::fixed(
        "listen_addr",
        Kind::Names(Some(|s| &mut s.listen_addr)),
        Some(""),
        "Addresses or host names on which TCP connections are accepted; `*` means all. Unset: only the unix socket.",
    ),
    Setting::fixed(
        "listen_port",
        Kind::Port(Some(|s| &mut s.listen_port)),
        Some("6432"),
        "Port for TCP, and the number in the name of the unix socket.",
    ),
    Setting::fixed(
        "listen_backlog",
        Kind::Count(Some(|s| &mut s.listen_backlog)),
        Some("4096"),
        "Length of the kernel's queue of connections that are not accepted yet. PgBouncer's default is 128, which a \
         burst of new clients overruns; the kernel lowers the value to its own limit (`net.core.somaxconn`).",
    ),
    Setting::fixed(
        "unix_socket_dir",
        Kind::Text(Some(|s| &mut s.unix_socket_dir)),
        Some("/tmp"),
        "Directory of the unix socket, for clients and for databases without a host. Empty turns unix sockets off. \
         With `@` in front, the socket is in the abstract namespace of Linux.",
    ),
    Setting::fixed(
        "unix_socket_mode",
        Kind::Count(Some(|s| &mut s.unix_socket_mode)),
        Some("0777"),
        "Access mode of the unix socket's file, octal with a leading 0.",
    ),
    Setting::fixed(
        "unix_socket_group",
        Kind::Text(Some(|s| &mut s.unix_socket_group)),
        Some(""),
        "Group of the unix socket's file.",
    ),
    Setting::fixed(
        "so_reuseport",
        Kind::Switch(None),
        Some("0"),
        "Set `SO_REUSEPORT`, so that several processes can listen on the same port.",
    ),
    Setting::new(
        "tcp_defer_accept",
        Kind::Switch(Some(|s| &mut s.tcp_defer_accept)),
        Some("1"),
        "Set `TCP_DEFER_ACCEPT`, so that a connection is accepted only once its first bytes have come, or after a second \
         without any: one second is what PgBouncer sets, although its manual says 45. After a reload the next connection is \
         still accepted as before.",
    ),
    Setting::new(
        "tcp_keepalive",
        Kind::Switch(Some(|s| &mut s.tcp_keepalive)),
        Some("1"),
        "Turn on TCP keepalive for clients and servers.",
    ),
    Setting::new(
        "tcp_keepcnt",
        Kind::Limit(Some(|s| &mut s.tcp_keepcnt)),
        Some("0"),
        "Number of lost keepalive probes after which a connection counts as dead; 0 leaves the system's value.",
    ),
    Setting::new(
        "tcp_keepidle",
        Kind::WholeSeconds(Some(|s| &mut s.tcp_keepidle)),
        Some("0"),
        "Time without traffic before the first keepalive probe; 0 leaves the system's value.",
    ),
    Setting::new(
        "tcp_keepintvl",
        Kind::WholeSeconds(Some(|s| &mut s.tcp_keepintvl)),
        Some("0"),
        "Time between keepalive probes; 0 leaves the system's value.",
    ),
    Setting::new(
        "tcp_socket_buffer",
        Kind::Count(Some(|s| &mut s.tcp_socket_buffer)),
        Some("0"),
        "Size in bytes of the kernel's buffers of each TCP socket, up to the system's limits (`net.core.rmem_max` and \
         `wmem_max`); 0 leaves them to the system, which makes them as large as the connection needs.",
    ),
    Setting::new(
        "tcp_user_timeout",
        Kind::Count(Some(|s| &mut s.tcp_user_timeout)),
        Some("0"),
        "Milliseconds that sent data may stay unacknowledged before the connection is closed; 0 leaves the system's \
         value.",
    ),
    Setting::new(
        "max_packet_size",
        Kind::Count(Some(|s| &mut s.max_packet_size)),
        Some("2147483647"),
        "Largest message in bytes that is passed on, in either direction. A result may be larger, as each row is a \
         message of its own.",
    ),
    Setting::fixed(
        "pkt_buf",
        Kind::Count(None),
        Some("4096"),
        "Size in bytes of PgBouncer's buffer of a connection. Larger messages pass all the same.",
    ),
    Setting::new(
        "sbuf_loopcnt",
        Kind::Count(None),
        Some("5"),
        "How many buffers PgBouncer reads from one connection before it turns to the next; 0 means no limit.",
    ),
    Setting::new(
        "dns_max_ttl",
        Kind::Seconds(Some(|s| &mut s.dns_max_ttl)),
        Some("15"),
        "How long the addresses of a host name are kept, whatever the name server says. When a later lookup, for a new \
         server, gives others, servers at addresses that are gone are replaced as by `RECONNECT`.",
    ),
    Setting::new(
        "dns_nxdomain_ttl",
        Kind::Seconds(Some(|s| &mut s.dns_nxdomain_ttl)),
        Some("15"),
        "How long a failed lookup of a host name is kept.",
    ),
    Setting::new(
        "dns_zone_check_period",
        Kind::Timeout(Some(|s| &mut s.dns_zone_check_period)),
        Some("0"),
        "How often it is looked whether hosts have other addresses, without waiting for a new server to be opened. \
         PgBouncer asks for the serial number of each zone, and for the names only where that has changed; Tigger asks for \
         the names. 0 means never.",
    ),
    Setting::fixed("resolv_conf", Kind::File(None), Some(""), "File used instead of the system's `resolv.conf`."),
    Setting::new(
        "peer_id",
        Kind::Count(None),
        Some("0"),
        "Number of this process in a group that passes cancel requests on (section `[peers]`), 1 to 16383; 0 means \
         no group.",
    ),
];
