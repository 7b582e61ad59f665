//! Both paths understand every conversation alike, however it is cut.

mod script;

use proptest::prelude::*;
use tigger_bypass_host::conversation::{Carried, Conversation, Piece};
use tigger_bypass_host::taps::{Rules, Side, SinkEvent, Taps, Verdict};

use script::{CARRIED, message, stream};

const RULES: Rules = Rules {
    session: false,
    simple_query: true,
    prepared: false,
    commands: false,
    reply_limit: 256 * 1024,
    packet_len_max: i32::MAX as u32,
    remote: None,
};

fn piece(side: Side, len: usize) -> Piece {
    Piece { side, len, joined: false, all_read: false }
}

#[test]
fn every_split_of_the_replies() {
    for (requests, replies) in CARRIED {
        let (requests, replies) = (stream(Side::Client, requests), stream(Side::Server, replies));
        for a in 0..=replies.len() {
            for b in a..=replies.len() {
                for joined in [false, true] {
                    let cut = |len| Piece { joined, ..piece(Side::Server, len) };
                    let pieces = [piece(Side::Client, requests.len()), cut(a), cut(b - a), cut(replies.len() - b)];
                    for remote in [None, Some(Side::Client)] {
                        assert_carried(Rules { remote, ..RULES }, &requests, &replies, &pieces);
                    }
                }
            }
        }
    }
}

#[test]
fn replies_one_byte_at_a_time() {
    for (requests, replies) in CARRIED {
        let (requests, replies) = (stream(Side::Client, requests), stream(Side::Server, replies));
        for joined in [false, true] {
            let byte = Piece { joined, ..piece(Side::Server, 1) };
            let pieces = [vec![piece(Side::Client, requests.len())], vec![byte; replies.len()]].concat();
            assert_carried(RULES, &requests, &replies, &pieces);
        }
    }
}

#[track_caller]
fn assert_carried(rules: Rules, requests: &[u8], replies: &[u8], pieces: &[Piece]) {
    let carried = Conversation { rules, requests, replies, pieces }.check();
    assert_eq!((carried.received, carried.sent, carried.left), (requests.len(), replies.len(), false), "{pieces:?}");
}

#[test]
fn turn_by_turn() {
    let check = |rules: Rules, turns: &[(&str, &str)]| {
        let turns: Vec<_> = turns.iter().map(|(r, s)| (stream(Side::Client, r), stream(Side::Server, s))).collect();
        let pieces: Vec<Piece> = turns
            .iter()
            .flat_map(|(requests, replies)| {
                [Piece { all_read: true, ..piece(Side::Client, requests.len()) }, piece(Side::Server, replies.len())]
            })
            .collect();
        let (requests, replies): (Vec<_>, Vec<_>) = turns.into_iter().unzip();
        let (requests, replies) = (requests.concat(), replies.concat());
        let carried = Conversation { rules, requests: &requests, replies: &replies, pieces: &pieces }.check();
        assert_eq!((carried.received, carried.sent, carried.left), (requests.len(), replies.len(), false));
    };
    let session = Rules { session: true, ..RULES };
    for rules in [RULES, session] {
        check(rules, &[("Q", "TDCz"); 200]);
        check(rules, &[("Q", "Cx"), ("Q", "TDCx"), ("PBES", "12Cx"), ("Q", "Ee"), ("Q", "Cz"), ("Q", "Cz")]);
        // The next extended query is begun: the server is not free, although it owes no ReadyForQuery.
        check(rules, &[("PBESP", "12Cz"), ("BES", "12Cz"), ("PBESPBE", "Ez"), ("S", "12Cz")]);
    }
    check(RULES, &[("Q", "Cx"); 200]);
}

#[test]
fn every_split_of_the_requests() {
    for (requests, replies) in CARRIED {
        let (requests, replies) = (stream(Side::Client, requests), stream(Side::Server, replies));
        for a in 0..=requests.len() {
            for b in a..=requests.len() {
                for joined in [false, true] {
                    let cut = |len| Piece { joined, ..piece(Side::Client, len) };
                    let pieces = [cut(a), cut(b - a), cut(requests.len() - b), piece(Side::Server, replies.len())];
                    let carried =
                        Conversation { rules: RULES, requests: &requests, replies: &replies, pieces: &pieces }.check();
                    assert!(carried.left || carried.received == requests.len());
                }
            }
        }
    }
}

/// Statements that the server has are carried under its names for them, at every split of the requests.
#[test]
fn prepared_statements_are_renamed() {
    let rules = Rules { prepared: true, ..RULES };
    let check = |script: &str, carried: &str| {
        let requests = stream(Side::Client, script);
        let whole = [piece(Side::Client, requests.len())];
        let got = Conversation { rules, requests: &requests, replies: &[], pieces: &whole }.check();
        assert_eq!(got.received, stream(Side::Client, carried).len(), "{script}");
        for cut in 1..requests.len() {
            let joined = Piece { joined: true, ..piece(Side::Client, requests.len() - cut) };
            for second in [piece(Side::Client, requests.len() - cut), joined] {
                let pieces = [piece(Side::Client, cut), second];
                Conversation { rules, requests: &requests, replies: &[], pieces: &pieces }.check();
            }
        }
    };
    check("sES", "sES");
    check("itEsESPBEStES", "itEsESPBEStES");
    check("isisisisisisS", "isisisisisisS");
    // The server lacks it: none of what is sent with it goes on.
    check("sESnES", "");
    check("n", "");
    // Nobody knows it.
    check("sESu", "sES");
    check("sESl", "sES");
    check("sESb", "sES");
    check("sESp", "sES");
}

/// What the kernel path leaves, and how much of both streams it carried before.
#[test]
fn what_is_left_to_the_user_path() {
    let check = |rules: Rules, requests: &str, replies: &str, carried: (&str, &str)| {
        let (client, server) = (stream(Side::Client, requests), stream(Side::Server, replies));
        let pieces = [piece(Side::Client, client.len()), piece(Side::Server, server.len())];
        let got = Conversation { rules, requests: &client, replies: &server, pieces: &pieces }.check();
        let expected = (stream(Side::Client, carried.0).len(), stream(Side::Server, carried.1).len());
        assert_eq!((got.received, got.sent, got.left), (expected.0, expected.1, true), "{requests} {replies}");
    };
    let session = Rules { session: true, ..RULES };
    check(RULES, "X", "", ("", ""));
    check(RULES, "F", "", ("", ""));
    check(RULES, "H", "", ("", ""));
    check(RULES, "p", "", ("", ""));
    for named in ["d", "s", "b", "e"] {
        check(RULES, named, "", ("", ""));
    }
    check(RULES, "QX", "", ("Q", ""));
    check(RULES, "PBESp", "", ("PBES", ""));
    check(RULES, "PBEQ", "", ("PBE", ""));
    check(session, "PBESpsbedX", "", ("PBESpsbed", ""));
    check(Rules { commands: true, ..RULES }, "QQvQ", "", ("QQ", ""));
    check(Rules { commands: true, ..RULES }, "PBESw", "", ("PBES", ""));
    check(Rules { commands: true, ..RULES }, "vyvQ", "", ("", ""));
    check(Rules { commands: true, ..RULES }, "yvQ", "", ("y", ""));
    check(RULES, "vwaX", "", ("vwa", ""));
    check(Rules { commands: true, ..RULES }, "PBESaBES", "", ("PBES", ""));
    check(Rules { commands: true, ..RULES }, "Q", "TDACz", ("Q", "TD"));
    check(Rules { simple_query: false, ..RULES }, "PBESQ", "", ("PBES", ""));
    check(Rules { packet_len_max: 12, ..RULES }, "Q", "", ("", ""));
    check(RULES, "Q", "TDCSz", ("Q", "TDC"));
    check(RULES, "Q", "Gz", ("Q", ""));
    check(RULES, "P", "1", ("P", ""));
    check(RULES, "Q", "CzN", ("Q", "Cz"));
    check(RULES, &"S".repeat(65), "", (&"S".repeat(64), ""));
}

#[test]
fn unanswered_requests_beyond_the_limit() {
    let rules = Rules { reply_limit: 30, ..RULES };
    let requests = stream(Side::Client, "QQQ");
    let len = requests.len() / 3;
    let pieces = [piece(Side::Client, len); 3];
    let carried = Conversation { rules, requests: &requests, replies: &[], pieces: &pieces }.check();
    assert_eq!((carried.received, carried.left), (2 * len, true));
}

#[test]
fn a_reply_beyond_the_limit() {
    let rules = Rules { reply_limit: 100, ..RULES };
    let (requests, replies) = (stream(Side::Client, "QQQ"), stream(Side::Server, "TDDCzTDDCzTDDCz"));
    let (request, reply) = (requests.len() / 3, replies.len() / 3);
    let turn = |all_read| [Piece { all_read, ..piece(Side::Client, request) }, piece(Side::Server, reply)];
    let check = |pieces: &[Piece]| Conversation { rules, requests: &requests, replies: &replies, pieces }.check();
    // One that reads goes on for ever, one that does not has no more than the limit to read.
    let all = check(&[turn(true), turn(true), turn(true)].concat());
    assert_eq!(all, Carried { received: 3 * request, sent: 3 * reply, readies: 3, left: false });
    let some = check(&[turn(false), turn(false), turn(false)].concat());
    assert_eq!((some.sent, some.left), (100, true));
}

/// The request of a client is with its server, one of both being remote; gives what the client sent, and the reply.
fn asked(remote: Side, limit: u32) -> (Taps, Vec<u8>, Vec<u8>) {
    let mut taps = Taps::new(Rules { remote: Some(remote), reply_limit: limit, ..RULES });
    let (request, reply) = (stream(Side::Client, "Q"), stream(Side::Server, "TDDDCz"));
    assert_eq!(taps.run(Side::Client, &request, 0, true), Verdict::Peer(request.len()));
    (taps, request, reply)
}

/// What a sender says after a socket took only a part is the rest of it: nobody gets it, whoever is linked by then.
#[test]
fn the_rest_of_what_a_sink_did_not_take() {
    for missing in [1, 7, 20] {
        let (mut taps, request, reply) = asked(Side::Client, 1 << 18);
        assert_eq!(taps.run(Side::Server, &reply, 0, true), Verdict::Peer(reply.len()));
        taps.sink(Side::Client, SinkEvent::TookLess, missing);
        // Another client is linked to the server.
        assert_eq!(taps.run(Side::Client, &request, 0, true), Verdict::Peer(request.len()));
        let rest = &reply[reply.len() - missing as usize..];
        assert_eq!(taps.run(Side::Server, rest, 0, true), Verdict::Wrong);
        assert_eq!(taps.run(Side::Server, &reply, 0, true), Verdict::Wrong, "nor what follows");

        let (mut taps, request, _) = asked(Side::Server, 1 << 18);
        taps.sink(Side::Server, SinkEvent::TookLess, missing.min(5));
        assert_eq!(taps.run(Side::Client, &request, 0, true), Verdict::Wrong);
        taps.take_back();
        assert_eq!(taps.run(Side::Client, &request, 0, true), Verdict::Wrong, "nor does the user path");
    }
}

#[test]
fn a_sink_that_took_everything() {
    for event in [SinkEvent::GoesOn, SinkEvent::IsReplaced] {
        let (mut taps, request, reply) = asked(Side::Client, 1 << 18);
        assert_eq!(taps.run(Side::Server, &reply, 0, true), Verdict::Peer(reply.len()));
        taps.sink(Side::Client, event, 1000);
        assert_eq!(taps.run(Side::Client, &request, 0, true), Verdict::Peer(request.len()), "{event:?}");
        assert_eq!(taps.run(Side::Server, &reply, 0, true), Verdict::Peer(reply.len()), "{event:?}");
    }
}

/// No more than a sink certainly takes is redirected to it.
#[test]
fn a_sink_without_room() {
    let (mut taps, _, reply) = asked(Side::Client, 1 << 18);
    taps.sink(Side::Client, SinkEvent::IsFull, 10);
    assert_eq!(taps.run(Side::Server, &reply, 0, true), Verdict::Peer(10));
    assert_eq!(taps.run(Side::Server, &reply[10..], 0, false), Verdict::User);
    assert_eq!(taps.reason(), "reply_long");

    let (mut taps, _, reply) = asked(Side::Client, 20);
    assert_eq!(taps.run(Side::Server, &reply, 0, true), Verdict::Peer(20));
    assert_eq!(taps.run(Side::Server, &reply[20..], 0, false), Verdict::User);

    let new = || Taps::new(Rules { remote: Some(Side::Server), ..RULES });
    let request = stream(Side::Client, "Q");
    let mut taps = new();
    taps.sink(Side::Server, SinkEvent::IsFull, request.len() as u32 - 1);
    assert_eq!(taps.run(Side::Client, &request, 0, true), Verdict::User, "half a request is worse than none");
    for event in [SinkEvent::HangsUp, SinkEvent::MemoryShort] {
        let mut taps = new();
        taps.sink(Side::Server, event, 0);
        assert_eq!(taps.run(Side::Client, &request, 0, true), Verdict::User);
        assert_eq!(taps.reason(), "sink", "{event:?}");
        let (mut taps, _, reply) = asked(Side::Client, 1 << 18);
        taps.sink(Side::Client, event, 0);
        assert_eq!(taps.run(Side::Server, &reply, 0, true), Verdict::User);
        assert_eq!(taps.reason(), "sink", "{event:?}");
    }
}

/// One thing that a client asks and what a backend answers to it: scripts of [`stream`].
fn exchange() -> impl Strategy<Value = (String, String)> {
    let rows = (0..4_usize).prop_map(|rows| "D".repeat(rows));
    let simple = rows.clone().prop_map(|rows| ("Q".into(), format!("T{rows}Cz")));
    let extended = rows.prop_map(|rows| ("PBDEHS".into(), format!("12T{rows}Cz")));
    let fixed = |requests: &'static str, replies: &'static str| Just((requests.to_owned(), replies.to_owned()));
    prop_oneof![
        4 => simple,
        4 => extended,
        1 => fixed("Q", "Ez"),
        1 => fixed("Q", "NCTDCEx"),
        1 => fixed("Q", "Cx"),
        1 => fixed("Q", "Ee"),
        1 => fixed("PBES", "1Ez"),
        1 => fixed("PBEEBS", "12DsD"),
        1 => fixed("PDCS", "1tn3z"),
        1 => fixed("PQS", "Ez"),
        1 => fixed("PQS", "1Czz"),
        1 => fixed("PQ", "1Cz"),
        1 => fixed("Q", "SCz"),
        1 => fixed("Q", "Gz"),
        1 => fixed("pS", "1z"),
        1 => fixed("F", "Vz"),
        1 => fixed("X", ""),
    ]
}

fn pieces() -> impl Strategy<Value = Vec<Piece>> {
    let side = prop_oneof![Just(Side::Client), Just(Side::Server)];
    let len = prop_oneof![3 => 1..12_usize, 1 => 1..200_usize];
    let piece = (side, len, any::<bool>(), any::<bool>());
    prop::collection::vec(piece.prop_map(|(side, len, joined, all_read)| Piece { side, len, joined, all_read }), 1..200)
}

/// Pieces as given, but whole requests of an exchange, and no reply before its request.
fn in_turn(exchanges: &[(String, String)], pieces: &[Piece]) -> Vec<Piece> {
    let mut out = Vec::new();
    let (mut sent, mut unanswered) = (0, 0);
    for piece in pieces {
        match piece.side {
            Side::Client => {
                let Some((requests, replies)) = exchanges.get(sent) else { continue };
                sent += 1;
                unanswered += stream(Side::Server, replies).len();
                let (first, second) = (stream(Side::Client, requests).len(), piece.len);
                // Some are cut, behind what the programs must see of a request.
                let cut = if second % 3 == 0 { first.saturating_sub(second % 5) } else { first };
                out.push(Piece { len: cut, ..*piece });
                out.push(Piece { len: first - cut, joined: false, ..*piece });
            }
            Side::Server => {
                let len = piece.len.min(unanswered);
                unanswered -= len;
                out.push(Piece { len, ..*piece });
            }
        }
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_backends_say(
        exchanges in prop::collection::vec(exchange(), 1..12),
        pieces in pieces(),
        session in any::<bool>(),
        limit in prop_oneof![Just(256 * 1024), 40..400_u32],
        remote in any::<bool>(),
    ) {
        let requests: Vec<u8> = exchanges.iter().flat_map(|(script, _)| stream(Side::Client, script)).collect();
        let replies: Vec<u8> = exchanges.iter().flat_map(|(_, script)| stream(Side::Server, script)).collect();
        let pieces = in_turn(&exchanges, &pieces);
        let remote = remote.then_some(Side::Client);
        let rules = Rules { session, prepared: !session, commands: !session, reply_limit: limit, remote, ..RULES };
        Conversation { rules, requests: &requests, replies: &replies, pieces: &pieces }.check();
    }

    #[test]
    fn messages_of_any_kind(
        requests in prop::collection::vec(("[QPBDECSHXFdcz]", prop::collection::vec(any::<u8>(), 0..9)), 0..20),
        replies in prop::collection::vec(("[123CDEINTZnstAGS]", prop::collection::vec(any::<u8>(), 0..9)), 0..20),
        pieces in pieces(),
        session in any::<bool>(),
        limit in prop_oneof![Just(256 * 1024), 1..100_u32],
    ) {
        let write = |messages: &[(String, Vec<u8>)]| -> Vec<u8> {
            messages.iter().flat_map(|(kind, body)| message(kind.as_bytes()[0], body)).collect()
        };
        let rules = Rules { session, prepared: !session && limit & 1 == 0, commands: !session, reply_limit: limit, ..RULES };
        let (requests, replies) = (write(&requests), write(&replies));
        Conversation { rules, requests: &requests, replies: &replies, pieces: &pieces }.check();
    }

    #[test]
    fn prepared_statements(
        script in "[QSESEsstinilPBDEHe]{1,60}",
        pieces in pieces(),
        limit in prop_oneof![Just(256 * 1024), 30..200_u32],
    ) {
        let rules = Rules { prepared: true, reply_limit: limit, ..RULES };
        let requests = stream(Side::Client, &script);
        Conversation { rules, requests: &requests, replies: &[], pieces: &pieces }.check();
    }

    #[test]
    fn commands(
        texts in prop::collection::vec(
            (
                prop::sample::select(vec![None, Some(""), Some("s")]),
                "[ \n]{0,40}(l|li|lis|LISTEN x|unlike|UNLISTEN|pre|Prep|exec|explain|dea|delete|select|;|)",
            ),
            1..8,
        ),
        pieces in pieces(),
    ) {
        let request = |(name, text): &(Option<&str>, String)| match name {
            None => message(b'Q', &[text.as_bytes(), b"\0"].concat()),
            Some(name) => [
                message(b'P', &[name.as_bytes(), b"\0", text.as_bytes(), b"\0\0\0"].concat()),
                message(b'S', b""),
            ]
            .concat(),
        };
        let requests: Vec<u8> = texts.iter().flat_map(request).collect();
        let rules = Rules { commands: true, ..RULES };
        Conversation { rules, requests: &requests, replies: &[], pieces: &pieces }.check();
    }

    #[test]
    fn bytes_of_any_kind(
        requests in prop::collection::vec(any::<u8>(), 0..60),
        replies in prop::collection::vec(any::<u8>(), 0..60),
        pieces in pieces(),
    ) {
        let requests = [b"Q\0\0\0\x05\0".to_vec(), requests].concat();
        Conversation { rules: RULES, requests: &requests, replies: &replies, pieces: &pieces }.check();
    }
}
