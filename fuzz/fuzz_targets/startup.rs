//! Start-up packets: decided as soon as they can be and never otherwise, and what is read can be built again. What
//! follows from the parameters of a client cannot break out of the query that a server gets.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tigger_proto::client::startup::{Untracked, check};
use tigger_proto::parameters::{ParameterSet, Tracked};
use tigger_proto::wire::startup::{BadStartup, StartupPacket, cancel_request, read, startup_message};
use tigger_proto::wire::version::Version;

fuzz_target!(|data: &[u8]| {
    let whole = read(data);
    // The shortest prefix that is decided decides for everything longer.
    let decided = (0..=data.len()).find_map(|end| match read(&data[..end]) {
        Ok(None) => None,
        decision => Some((end, decision)),
    });
    let Some((end, decision)) = decided else {
        assert_eq!(whole, Ok(None));
        let len = data.first_chunk().map_or(0, |len| u32::from_be_bytes(*len) as usize);
        assert!(data.len() < 8 || data.len() < len, "whole, but not decided");
        return;
    };
    match (decision, whole) {
        (Ok(Some((packet, used))), Ok(whole)) => {
            assert_eq!(end, used, "decided too late or too early");
            assert_eq!(build(&packet), data[..used]);
            assert_eq!(Some((packet.clone(), used)), whole);
            if let StartupPacket::Startup { parameters, .. } = packet {
                check_parameters(&parameters, false);
                check_parameters(&parameters, true);
            }
        }
        // Only the text of this error may have more of the header later.
        (Err(BadStartup::Header(_)), Err(BadStartup::Header(_))) => assert!(end <= 8),
        (Err(BadStartup::Layout), Err(BadStartup::Layout)) => {}
        (Err(error), Err(whole)) => {
            assert_eq!(error, whole);
            assert!(end <= 8, "{error}, but only after {end} bytes");
        }
        (decision, whole) => panic!("{decision:?} became {whole:?}"),
    }
});

fn build(packet: &StartupPacket) -> Vec<u8> {
    let mut out = Vec::new();
    match packet {
        StartupPacket::Ssl => out.extend(b"\0\0\0\x08\x04\xd2\x16\x2f"),
        StartupPacket::GssEnc => out.extend(b"\0\0\0\x08\x04\xd2\x16\x30"),
        StartupPacket::Cancel(key) => cancel_request(&mut out, key),
        StartupPacket::Startup { minor, parameters } => {
            startup_message(&mut out, Version::V3_0, parameters.iter().map(|(name, value)| (name.as_str(), value.as_str())));
            out[6..8].copy_from_slice(&minor.to_be_bytes());
        }
    }
    out
}

fn check_parameters(parameters: &[(String, String)], apply: bool) {
    let tracked = Tracked::new(["IntervalStyle"]);
    let ignored = ["extra_float_digits".into()];
    let untracked = Untracked { ignored: &ignored, apply };
    let Ok(startup) = check(parameters, &tracked, untracked) else { return };
    assert!((1..=127).contains(&startup.user.len()) && (1..=127).contains(&startup.database.len()));
    let mut server = ParameterSet::new(&tracked);
    (0..tracked.names().count()).for_each(|position| server.set(position, "what no client asks for"));
    let sql = startup.parameters.set_query(&server, &tracked).unwrap_or_default();
    for conforming in [true, false] {
        let mut rest = sql.as_str();
        for (position, name) in tracked.names().enumerate() {
            let Some(value) = startup.parameters.value(position) else { continue };
            rest = rest.strip_prefix("SET ").and_then(|rest| rest.strip_prefix(name)).expect("SET name");
            let (literal, after) = read_literal(rest.strip_prefix('=').expect("="), conforming);
            assert_eq!(literal, value, "{sql}");
            rest = after.strip_prefix(';').expect(";");
        }
        while let Some(after) = rest.strip_prefix("SELECT pg_catalog.set_config(") {
            let (name, after) = read_literal(after, conforming);
            let (value, after) = read_literal(after.strip_prefix(',').expect(","), conforming);
            assert_eq!(startup.parameters.applied(&name), Some(value.as_str()), "{sql}");
            rest = after.strip_prefix(",false);").expect(",false);");
        }
        assert_eq!(rest, "", "{sql}");
    }
}

/// Reads a literal as PostgreSQL's scanner does with `standard_conforming_strings` on or off.
fn read_literal(sql: &str, conforming: bool) -> (String, &str) {
    let (escapes, sql) = match sql.strip_prefix('E') {
        Some(sql) => (true, sql),
        None => (!conforming, sql),
    };
    let mut chars = sql.chars();
    assert_eq!(chars.next(), Some('\''));
    let mut value = String::new();
    loop {
        match chars.next().expect("an end of the literal") {
            '\'' => match chars.as_str().strip_prefix('\'') {
                Some(rest) => {
                    value.push('\'');
                    chars = rest.chars();
                }
                None => return (value, chars.as_str()),
            },
            '\\' if escapes => match chars.next() {
                Some('\\') => value.push('\\'),
                other => panic!("an escape that was not meant: {other:?}"),
            },
            c => value.push(c),
        }
    }
}
