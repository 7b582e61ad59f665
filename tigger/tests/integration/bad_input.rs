//! Clients that do not speak the protocol, or lie in it: each gets an error where it can be told one, loses its
//! connection and is logged; everybody else goes on.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tigger_testkit::{Postgres, Proxy, ProxyOptions};

use crate::support::{Console, join, options, postgres, proxy, until_logged};
use crate::wire::{
    CANCEL_REQUEST, GSSENC_REQUEST, POSTGRES, Refusal, SSL_REQUEST, Wire, cstr, message, packet, startup,
};

const V3: u32 = 3 << 16;

/// Runs `test` while another client runs queries, which must all be answered rightly.
fn undisturbed(postgres: &Postgres, configure: impl FnOnce(ProxyOptions) -> ProxyOptions, test: impl FnOnce(&Proxy)) {
    let proxy = proxy(&configure(options(postgres)));
    let mut bystander = Wire::new(&proxy);
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let queries = thread::spawn(move || {
        let mut done = 0;
        while !stopped.load(Ordering::Relaxed) || done < 10 {
            done += 1;
            assert_eq!(bystander.value(&format!("select {done}")), done.to_string());
        }
    });
    test(&proxy);
    stop.store(true, Ordering::Relaxed);
    join(queries);
    Console::new(&proxy).until_quiet("postgres");
}

/// Sends bytes on a new connection and expects this error, the end of the connection, and a log line.
#[track_caller]
fn check_refused(proxy: &Proxy, bytes: &[u8], text: &str) {
    let mut wire = Wire::connect(proxy);
    wire.send_raw(bytes);
    assert_eq!(wire.last_words(), Refusal::fatal(text));
    until_logged(proxy, &format!("closing because: {text}"));
}

#[test]
fn instead_of_a_startup_packet() {
    let Some(postgres) = postgres() else { return };
    undisturbed(
        postgres,
        |options| options,
        |proxy| {
            let check = |bytes: &[u8], text: &str| check_refused(proxy, bytes, text);
            check(b"\xde\xad\xbe\xef\xde\xad\xbe\xef garbage", "bad packet header: 'deadbeefdeadbeef'");
            check(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "bad packet header: '474554202f204854'");
            check(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "bad packet header: '1603010200010001'");
            check(&[0; 4], "bad packet header: '0000000000000000'");
            check(&[0; 64], "bad packet header: '0000000000000000'");
            check(b"\0\0\0\x04", "bad packet header: '0000000400000000'");
            check(b"\0\0\0\x04\0\x03\0\0", "bad packet header: '0000000400030000'");
            check(b"\x80\0\0\0\0\x03\0\0", "bad packet header: '8000000000030000'");
            check(&packet(2 << 16, b"postgres\0"), "old V2 protocol not supported");
            check(&packet(7 << 16, b"user\0x\0\0"), "bad packet header: '0000001000070000'");
            check(&message(b'p', &cstr("password")), "client password pkt before startup packet");
            check(&message(b'Q', &cstr("select 1")), "bad packet header: '510000000d73656c'");
            let layout = "invalid startup packet layout: expected terminator as last byte";
            check(&packet(V3, b"user\0postgres\0"), layout);
            check(&packet(V3, b"user\0postgres\0\0more\0"), layout);
            check(&packet(V3, b"user"), layout);
            check(&packet(V3, b"user\0\xff\xfe\0\0"), layout);
            check(&startup(V3, &[("database", "postgres")]), "no username supplied");
            check(&startup(V3, &[("user", &"u".repeat(200))]), "username too long");
            check(&startup(V3, &[("user", "u"), ("database", &"d".repeat(200))]), "database name too long");
            check(&packet(CANCEL_REQUEST, b""), "bad cancel request");
        },
    );
}

#[test]
fn startup_packets_up_to_10_000_bytes() {
    let Some(postgres) = postgres() else { return };
    undisturbed(
        postgres,
        |options| options.setting("ignore_startup_parameters", "padding"),
        |proxy| {
            let padded = |len: usize| {
                let short = startup(V3, &[POSTGRES, &[("padding", "")]].concat()).len();
                startup(V3, &[POSTGRES, &[("padding", &"x".repeat(len - short))]].concat())
            };
            let mut wire = Wire::connect(proxy);
            wire.send_raw(&padded(10_000));
            wire.logged_in().unwrap();
            assert_eq!(wire.value("select 1"), "1");
            // In pieces, too.
            let mut wire = Wire::connect(proxy);
            padded(10_000).chunks(999).for_each(|chunk| wire.send_raw(chunk));
            wire.logged_in().unwrap();
            check_refused(proxy, &padded(10_001), "bad packet header: '0000271100030000'");
        },
    );
}

#[test]
fn hanging_up_half_way() {
    let Some(postgres) = postgres() else { return };
    undisturbed(
        postgres,
        |options| options,
        |proxy| {
            let whole = startup(V3, POSTGRES);
            for cut in [0, 1, 4, 8, whole.len() - 1] {
                let mut wire = Wire::connect(proxy);
                wire.send_raw(&whole[..cut]);
            }
            let eofs = || proxy.log().matches("closing because: client unexpected eof").count();
            crate::support::until("all five are logged", || eofs() == 5);
            // Logged in, then half a header and half a message.
            for half in [&b"Q\0\0"[..], b"Q\0\0\0\x0aselec"] {
                Wire::new(proxy).send_raw(half);
            }
            crate::support::until("these two, too", || eofs() == 7);
        },
    );
}

#[test]
fn out_of_order_during_the_login() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres).auth_type("plain").user("alice", "geheim"));
    let asked = || {
        let mut wire = Wire::connect(&proxy);
        wire.send_raw(&startup(V3, &[("user", "alice"), ("database", "postgres")]));
        assert_eq!(wire.message(), Some((b'R', vec![0, 0, 0, 3])));
        wire
    };
    let check = |bytes: &[u8], text: &str| {
        let mut wire = asked();
        wire.send_raw(bytes);
        assert_eq!(wire.last_words(), Refusal::fatal(text));
        until_logged(&proxy, &format!("closing because: {text}"));
    };
    check(&message(b'Q', &cstr("select 1")), "unknown pkt");
    check(&startup(V3, POSTGRES), "client re-sent startup pkt");
    check(&packet(SSL_REQUEST, b""), "unknown pkt");
    check(&message(b'p', &[b'x'; 20_000]), "password too long");
    check(&message(b'p', b"no terminator"), "failed to parse packet");
    check(b"p\0\0\0\x03", "bad packet header: '7000000003'");
    check(b"p\xff\xff\xff\xff", "bad packet header: '70ffffffff'");
    // Goodbye instead of a password is no error.
    let mut wire = asked();
    wire.send(b'X', b"");
    wire.assert_closed();
    // A query right behind the password waits for the login.
    let mut wire = asked();
    wire.send_raw(&[message(b'p', &cstr("geheim")), message(b'Q', &cstr("select 5"))].concat());
    wire.logged_in().unwrap();
    assert_eq!(wire.reply().value(), "5");
}

#[test]
fn after_the_login() {
    let Some(postgres) = postgres() else { return };
    undisturbed(
        postgres,
        |options| options.setting("max_packet_size", "65536"),
        |proxy| {
            let cases: [(&[u8], &str); 9] = [
                (b"?\0\0\0\x04", "unknown pkt"),
                (b"\0\0\0\0\x04", "unknown pkt"),
                (b"p\0\0\0\x05\0", "unknown pkt"),
                (b"R\0\0\0\x08\0\0\0\0", "unknown pkt"),
                (b"\x16\x03\x01\x02\0", "bad packet header: '1603010200'"),
                (b"Q\0\0\0\x03", "bad packet header: '5100000003'"),
                (b"Q\0\0\0\0", "bad packet header: '5100000000'"),
                (b"Q\x80\0\0\0", "bad packet header: '5180000000'"),
                (b"P\0\x01\x11\x71", "bad packet header: '5000011171'"),
            ];
            for (bytes, text) in cases {
                // Idle, in a transaction, and right behind a good query.
                for prelude in ["", "begin"] {
                    let mut wire = Wire::new(proxy);
                    wire.query(prelude);
                    wire.send_raw(bytes);
                    assert_eq!(wire.last_words(), Refusal::fatal(text), "{prelude:?}, then {bytes:?}");
                }
                until_logged(proxy, &format!("closing because: {text}"));
            }
            let mut wire = Wire::new(proxy);
            let long = format!("select length('{}')", "x".repeat(65_000));
            assert_eq!(wire.value(&long), "65000", "below max_packet_size");
            let open = "select count(*) from pg_stat_activity where state like 'idle in%' and backend_start > now() - interval '1 s'";
            crate::support::until("no transaction was left open", || postgres.psql(open).unwrap() == "0");
        },
    );
}

#[test]
fn encryption_is_refused_politely() {
    let Some(postgres) = postgres() else { return };
    undisturbed(
        postgres,
        |options| options,
        |proxy| {
            for requests in [vec![SSL_REQUEST], vec![GSSENC_REQUEST], vec![GSSENC_REQUEST, SSL_REQUEST]] {
                let mut wire = Wire::connect(proxy);
                for code in requests {
                    wire.send_raw(&packet(code, b""));
                    let mut answer = [0];
                    wire.fill(&mut answer).unwrap();
                    assert_eq!(answer, *b"N");
                }
                wire.send_raw(&startup(V3, POSTGRES));
                wire.logged_in().unwrap();
                assert_eq!(wire.value("select 1"), "1");
            }
            // Bytes behind the request may be from somebody in between (CVE-2021-23214).
            let behind = |code: u32| [packet(code, b""), startup(V3, POSTGRES)].concat();
            check_refused(proxy, &behind(SSL_REQUEST), "received unencrypted data after SSL request");
            check_refused(proxy, &behind(GSSENC_REQUEST), "received unencrypted data after GSSAPI encryption request");
            // Asking for ever is not possible.
            let mut wire = Wire::connect(proxy);
            let mut answer = [0];
            wire.send_raw(&packet(SSL_REQUEST, b""));
            wire.fill(&mut answer).unwrap();
            wire.send_raw(&packet(SSL_REQUEST, b""));
            assert_eq!(wire.last_words(), Refusal::fatal("bad packet header: '0000000804d2162f'"));
        },
    );
}

#[test]
fn cancel_requests_with_a_wrong_key() {
    let Some(postgres) = postgres() else { return };
    undisturbed(
        postgres,
        |options| options,
        |proxy| {
            let (busy, long) = (Wire::new(proxy), Wire::connect(proxy).speaks(2, &[]));
            let near = [&busy, &long].map(|client| {
                let mut key = client.key.clone();
                *key.last_mut().unwrap() ^= 1;
                key
            });
            let cut = [&long.key[..8], &long.key[..35]].map(<[u8]>::to_vec);
            let longer = [&long.key[..], &[0]].concat();
            let others = [vec![0; 8], vec![255; 8], vec![1; 36], vec![1; 260], longer];
            for key in near.into_iter().chain(cut).chain(others) {
                let mut wire = Wire::connect(proxy);
                wire.send_raw(&packet(CANCEL_REQUEST, &key));
                wire.assert_closed();
            }
            until_logged(proxy, "failed cancel request");
            check_refused(proxy, &packet(CANCEL_REQUEST, &[1; 7]), "bad cancel request");
            check_refused(proxy, &packet(CANCEL_REQUEST, &[1; 261]), "bad cancel request");
        },
    );
}

#[test]
fn names_cannot_forge_log_lines() {
    let Some(postgres) = postgres() else { return };
    let proxy = proxy(&options(postgres));
    let name = "x\n2026-01-01 00:00:00.000 UTC [1] LOG forged\u{1b}[31m";
    Wire::try_login(&proxy, &[("user", name), ("database", "postgres")]).unwrap_err();
    until_logged(&proxy, "closing because: \"trust\" authentication failed");
    assert!(!proxy.log().contains("\n2026-01-01") && !proxy.log().contains('\u{1b}'), "{}", proxy.log());
}
