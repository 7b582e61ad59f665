//! What a client sends: any chunking passes on the same bytes and leaves the same state as the stream in one piece, with
//! and without a server, and the server learns of each request once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tigger_fuzz::{Chunked, Fed};
use tigger_proto::client::{Client, ClientLimits, FromClient};
use tigger_proto::error::Error;
use tigger_proto::parameters::{ParameterSet, Tracked};
use tigger_proto::server::Server;
use tigger_proto::wire::frame::MESSAGE_LEN_MAX;
use tigger_proto::wire::frontend::{Frontend, Request};

#[derive(Debug, PartialEq, Eq)]
enum End {
    Full,
    Terminate,
    Command,
    NeedServer,
    Failed(Error),
}

fuzz_target!(|data: &[u8]| {
    let Some((&flags, data)) = data.split_first() else { return };
    let Some(input) = Chunked::read(data) else { return };
    let limits = ClientLimits {
        packet_len_max: if flags & 1 == 0 { MESSAGE_LEN_MAX } else { 50 },
        simple_query: flags & 2 == 0,
        prepared_max: if flags & 16 == 0 { 0 } else { 2 },
        listens: flags & 32 != 0,
    };
    let linked = flags & 4 == 0;
    let unknown = flags & 8 != 0;
    let prepares = limits.prepared_max > 0;
    let (whole, client, server, sent) = run(input.whole(), limits, linked, unknown);
    let (chunked, client_2, server_2, sent_2) = run(input, limits, linked, unknown);
    assert_eq!(chunked.end, whole.end);
    assert_eq!(sent, sent_2);
    if !prepares {
        assert_eq!(format!("{server:?}"), format!("{server_2:?}"));
    }
    // Who is refused is disconnected, wherever it stands; and a Parse that must wait may have been collected already.
    if !matches!(whole.end, Some(End::Failed(_) | End::Full)) {
        assert_eq!(client.at_border(), client_2.at_border());
    }
    // One piece with an error in it is dropped; of several, those before the error were passed on. What a client
    // without a server sends before it says goodbye is dropped either way, and not counted.
    match whole.end {
        Some(End::Full) if prepares => assert!(chunked.used >= whole.used),
        None | Some(End::Full | End::NeedServer | End::Command) => assert_eq!(chunked.used, whole.used),
        Some(End::Terminate) if linked => assert_eq!(chunked.used, whole.used),
        _ => assert!(chunked.used >= whole.used),
    }
    // Where names matter, a message goes on only when they are there.
    if linked && !unknown && !prepares && !limits.listens && whole.end.is_none() {
        let mut told = new_server(false);
        for message in messages(input.stream) {
            match message {
                Frontend::Request(request) => told.handle_request(request),
                Frontend::Silent => told.handle_silent(),
                Frontend::Terminate => unreachable!("that ends what is handled"),
            }
        }
        assert_eq!(format!("{server:?}"), format!("{told:?}"));
    }
});

/// What a client's bytes lead to. Of what the server is sent, only what is put in place of something.
fn run(input: Chunked<'_>, limits: ClientLimits, linked: bool, unknown: bool) -> (Fed<End>, Client, Server, Vec<u8>) {
    let mut sent = Vec::new();
    let mut client = Client::new(ParameterSet::new(&Tracked::new([])));
    let mut server = new_server(unknown);
    let fed = input.feed(|buf| {
        let mut used = 0;
        let end = loop {
            let buf = &buf[used..];
            let step = match linked {
                true => client.handle_bytes(buf, &mut server, limits),
                false => client.handle_bytes_unlinked(buf, limits),
            };
            let (n, end) = match step {
                Ok(FromClient::Forward(n)) => (n, None),
                Ok(FromClient::Full(n)) => (n, Some(End::Full)),
                Ok(FromClient::Terminate(n)) => (n, Some(End::Terminate)),
                Ok(FromClient::Command(n)) => (n, Some(End::Command)),
                Ok(FromClient::NeedServer) => (0, Some(End::NeedServer)),
                Ok(FromClient::Discard(n)) if n > 0 && n < buf.len() => {
                    used += n;
                    continue;
                }
                Ok(FromClient::Discard(n)) => (n, None),
                Ok(FromClient::Splice { forward, skip, insert }) => {
                    sent.extend(insert);
                    while let Some(fake) = server.poll_fake() {
                        sent.extend(fake);
                    }
                    used += forward + skip;
                    continue;
                }
                Err(error) => (0, Some(End::Failed(error))),
            };
            used += n;
            break end;
        };
        (used, end)
    });
    (fed, client, server, sent)
}

/// A server; if `unknown`, one of which nobody can tell what it owes, so that it takes only one question at a time.
fn new_server(unknown: bool) -> Server {
    let tracked = Tracked::new([]);
    let mut server = Server::new(ParameterSet::new(&tracked));
    if unknown {
        server.handle_request(Request::Execute);
        server.handle_request(Request::Sync);
        let replies = b"G\0\0\0\x07\0\0\0E\0\0\0\x05\0";
        server.handle_bytes(replies, &tracked, |_, _| {}).expect("replies that were asked for");
        assert!(!server.is_idle());
    }
    server
}

/// The messages in a stream that has no error in it.
fn messages(mut stream: &[u8]) -> impl Iterator<Item = Frontend> {
    std::iter::from_fn(move || {
        loop {
            let (header, _) = stream.split_first_chunk::<5>()?;
            let [kind, len @ ..] = *header;
            stream = stream.get(1 + u32::from_be_bytes(len) as usize..).unwrap_or_default();
            if let Some(message) = Frontend::from_kind(kind) {
                return Some(message);
            }
        }
    })
}
