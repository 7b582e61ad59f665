//! What a server sends: any chunking passes on the same bytes and leaves the same state as the stream in one piece,
//! linked, idle and with a query of the driver.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tigger_fuzz::{Chunked, Fed};
use tigger_proto::error::Error;
use tigger_proto::parameters::{ParameterSet, Tracked};
use tigger_proto::server::{FromServer, OwnQuery, Server};
use tigger_proto::wire::frontend::{Frontend, Request};

/// What is seen from outside: how far it came, where ReadyForQuery was, what was reported, and the state at the end.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    fed: Fed<Error>,
    readies: Vec<usize>,
    parameters: Vec<(usize, String)>,
    state: String,
}

fuzz_target!(|data: &[u8]| {
    let [mode, count, data @ ..] = data else { return };
    let Some((requests, data)) = data.split_at_checked(usize::from(*count)) else { return };
    let Some(input) = Chunked::read(data) else { return };
    let whole = run(*mode, requests, input.whole());
    let chunked = run(*mode, requests, input);
    if whole.fed.end.is_none() {
        assert_eq!(chunked, whole);
        // What an idle server sends reaches nobody: how much of an unfinished message is dropped at once is open.
        if mode % 3 != 2 {
            assert_eq!(whole.fed.used, reference(*mode, input.stream));
        }
    } else {
        // One piece with an error in it is dropped; of several, those before the error were passed on.
        assert!(chunked.fed.used >= whole.fed.used);
        assert_eq!(Seen { fed: Fed { used: whole.fed.used, ..chunked.fed }, ..chunked }, whole);
    }
});

/// What follows a step.
enum Then {
    /// More bytes are needed.
    Wait,
    Ready,
    GoOn,
}

fn run(mode: u8, requests: &[u8], input: Chunked<'_>) -> Seen {
    let tracked = Tracked::new([]);
    let mut server = Server::new(ParameterSet::new(&tracked));
    let (mut readies, mut parameters, mut passed, mut failure) = (Vec::new(), Vec::new(), 0, None);
    match mode % 3 {
        0 => requests.iter().filter_map(|kind| request(*kind)).for_each(|request| server.handle_request(request)),
        1 => server.handle_own_query(),
        _ => {}
    }
    let fed = input.feed(|buf| {
        let mut used = 0;
        let end = loop {
            let buf = &buf[used..];
            let step = match mode % 3 {
                0 => server
                    .handle_bytes(buf, &tracked, |position, value| parameters.push((position, value.to_owned())))
                    .map(|from| match from {
                        FromServer::Forward(n) => (n, Then::Wait),
                        FromServer::Ready(n) => (n, Then::Ready),
                        FromServer::Splice { forward, skip, .. } => (forward + skip, Then::GoOn),
                    }),
                1 => server.handle_own_reply(buf, &tracked, &mut failure).map(|own| match own {
                    OwnQuery::More(n) => (n, Then::Wait),
                    OwnQuery::Done(n) | OwnQuery::Failed(n, _) => (n, Then::Ready),
                }),
                _ => server.handle_idle_bytes(buf, &tracked).map(|n| (n, Then::Wait)),
            };
            match step {
                Err(error) => break Some(error),
                Ok((n, then)) => {
                    used += n;
                    passed += n;
                    match then {
                        Then::Wait => break None,
                        Then::Ready => readies.push(passed),
                        Then::GoOn => {}
                    }
                }
            }
        };
        (used, end)
    });
    if let Some(&last) = readies.last() {
        let [.., b'Z', 0, 0, 0, 5, status] = input.stream[..last] else { panic!("ready without ReadyForQuery") };
        // After an error the server is closed, whatever it says.
        assert!(status == b'I' || fed.end.is_some() || !server.is_idle());
    }
    assert!(!(server.is_idle() && server.owes()));
    Seen { fed, readies, parameters, state: format!("{server:?}") }
}

/// How much of a good stream is used: all but a header cut short and a message that is waited for as a whole.
fn reference(mode: u8, stream: &[u8]) -> usize {
    let whole = [&b"ZS"[..], b"ZSE", b""][usize::from(mode % 3)];
    let mut at = 0;
    while let Some(&[kind, len @ ..]) = stream.get(at..).and_then(|rest| rest.first_chunk::<5>()) {
        let end = at + 1 + u32::from_be_bytes(len) as usize;
        if end > stream.len() {
            return if whole.contains(&kind) { at } else { stream.len() };
        }
        at = end;
    }
    at
}

fn request(kind: u8) -> Option<Request> {
    match Frontend::from_kind(kind) {
        Some(Frontend::Request(request)) => Some(request),
        _ => None,
    }
}
