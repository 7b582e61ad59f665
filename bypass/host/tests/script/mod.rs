//! What clients and servers send, in short.

use tigger_bypass_host::taps::Side;

/// A message.
pub(crate) fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let len = u32::try_from(body.len() + 4).expect("short");
    [&[kind][..], &len.to_be_bytes(), body].concat()
}

/// The messages that a script stands for: a letter is a type byte, and the smallest body that such a message has from
/// this side. `Q` and `P` have some SQL, `D` of a server has a row, `t`, `e` and `z` are its ReadyForQuery with
/// status T, E and I.
pub(crate) fn stream(side: Side, script: &str) -> Vec<u8> {
    let body = |kind: u8| -> (u8, &'static [u8]) {
        match (side, kind) {
            (Side::Client, b'Q') => (b'Q', b"select 1\0"),
            (Side::Client, b'P') => (b'P', b"\0select $1\0\0\0"),
            (Side::Client, b'B') => (b'B', b"\0\0\0\0\0\0\0\0"),
            (Side::Client, b'D' | b'C') => (kind, b"S\0"),
            (Side::Client, b'E') => (b'E', b"\0\0\0\0\0"),
            // The same with a name: of a statement (`s` is a Bind), or (`b`, `e`) of a portal.
            (Side::Client, b'p') => (b'P', b"s\0select 1\0\0\0"),
            (Side::Client, b's') => (b'B', b"\0s\0\0\0\0\0\0\0"),
            (Side::Client, b'b') => (b'B', b"p\0\0\0\0\0\0\0\0"),
            (Side::Client, b'e') => (b'E', b"p\0\0\0\0\0"),
            (Side::Client, b'd') => (b'D', b"Ps\0"),
            (Side::Client, b't') => (b'B', b"\0t2\0\0\0\0\0\0\0"),
            (Side::Client, b'n') => (b'B', b"\0no\0\0\0\0\0\0\0"),
            (Side::Client, b'i') => (b'D', b"St2\0"),
            (Side::Client, b'u') => (b'D', b"Sunknown\0"),
            // Commands, and what is none.
            (Side::Client, b'v') => (b'Q', b"LISTEN x\0"),
            (Side::Client, b'w') => (b'Q', b" \n\texecute p\0"),
            (Side::Client, b'y') => (b'Q', b" delete from x\0"),
            (Side::Client, b'a') => (b'P', b"\0Listen x\0\0\0"),
            (Side::Client, b'l') => (b'D', b"Sthe name of this statement is so long that it is cut when it is read\0"),
            (Side::Server, b'A') => (b'A', b"\0\0\0\x01x\0\0"),
            (Side::Server, b'D') => (b'D', b"\0\x01\0\0\0\x02ab"),
            (Side::Server, b'T') => (b'T', b"\0\x01a\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0"),
            (Side::Server, b'C') => (b'C', b"SELECT 1\0"),
            (Side::Server, b'E') => (b'E', b"SERROR\0C42601\0Mno\0\0"),
            (Side::Server, b'N') => (b'N', b"SNOTICE\0\0"),
            (Side::Server, b'S') => (b'S', b"TimeZone\0UTC\0"),
            (Side::Server, b'z') => (b'Z', b"I"),
            (Side::Server, b'x') => (b'Z', b"T"),
            (Side::Server, b'e') => (b'Z', b"E"),
            (Side::Server, b'G') => (b'G', b"\0\0\0"),
            _ => (kind, b""),
        }
    };
    script
        .bytes()
        .flat_map(|kind| {
            let (kind, body) = body(kind);
            message(kind, body)
        })
        .collect()
}

/// Conversations that the kernel path carries as a whole: requests and replies.
pub(crate) const CARRIED: &[(&str, &str)] = &[
    ("Q", "TDCz"),
    ("Q", "z"),
    ("Q", "NEz"),
    ("Q", "TDACz"),
    ("Q", "CTDDCNz"),
    ("QQ", "TDCzTDCz"),
    ("PBDES", "12TDCz"),
    ("PBDES", "12nCz"),
    ("PBEHS", "12DDsz"),
    ("PDS", "1tTz"),
    ("PBDES", "Ez"),
    ("PBESPBES", "12EzEz"),
    ("PBESCSQ", "12Iz3zTDCz"),
    ("CSS", "3zz"),
    ("ES", "CEz"),
];
