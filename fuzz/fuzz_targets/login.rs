//! Both logins on any bytes and any chunking: nobody gets in without the proof that the method asks for, and no server is
//! taken for one that knows the user's secret unless it went through its whole authentication.
#![no_main]

use std::num::NonZeroU32;
use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;
use tigger_fuzz::{Chunked, Fed};
use tigger_proto::auth::md5;
use tigger_proto::auth::scram::{ClientExchange, Credential, ServerExchange};
use tigger_proto::auth::secret::{Key, ScramSecret, Secret};
use tigger_proto::client::login::{Login as ClientLogin, Method, Step as ClientStep};
use tigger_proto::error::Error;
use tigger_proto::parameters::Tracked;
use tigger_proto::server::login::{Login as ServerLogin, ServerSecret, Step as ServerStep};
use tigger_proto::wire::startup::BadStartup;

const PASSWORD: &str = "sesame";
const SALT: [u8; 4] = [1, 2, 3, 4];
const NONCE: &str = "nonce";

static SCRAM: LazyLock<ScramSecret> =
    LazyLock::new(|| ScramSecret::from_password(PASSWORD, b"salt", NonZeroU32::new(2).expect("two")));

/// The key that an honest client proves itself with.
static CLIENT_KEY: LazyLock<Key> = LazyLock::new(|| {
    let client = ClientExchange::new(Credential::Password(PASSWORD.into()), "c");
    let server = ServerExchange::new(SCRAM.clone(), "s");
    let (first, server) = server.handle_client_first(&client.client_first()).expect("an honest client");
    let (last, _) = client.handle_server_first(&first).expect("an honest server");
    server.handle_client_final(&last).expect("an honest client").1
});

fuzz_target!(|data: &[u8]| {
    let [mode, data @ ..] = data else { return };
    let Some(input) = Chunked::read(data) else { return };
    if asks_for_work(input.stream) {
        return;
    }
    if mode & 0x80 == 0 {
        let whole = log_client_in(*mode, input.whole());
        let chunked = log_client_in(*mode, input);
        match (whole.0.end, chunked.0.end) {
            // What follows an SSLRequest at once is refused, so that this depends on the chunks.
            (Some(Error::UnencryptedAfterSsl | Error::UnencryptedAfterGss), _) => {}
            // As does how much of a bad header is there to be shown.
            (Some(Error::BadStartup(BadStartup::Header(_))), Some(Error::BadStartup(BadStartup::Header(_)))) => {
                assert_eq!(whole.1, chunked.1);
            }
            (end, chunked_end) => assert_eq!((whole.1, end), (chunked.1, chunked_end)),
        }
    } else {
        let whole = log_in_to_server(*mode, input.whole());
        let chunked = log_in_to_server(*mode, input);
        assert_eq!((whole.1, whole.0.end), (chunked.1, chunked.0.end));
    }
});

/// Half a million rounds of HMAC are slow and prove nothing.
fn asks_for_work(stream: &[u8]) -> bool {
    stream.windows(6).any(|text| text.starts_with(b"i=") && text[2..].iter().all(u8::is_ascii_digit))
}

fn contains(stream: &[u8], part: &[u8]) -> bool {
    stream.windows(part.len()).any(|window| window == part)
}

fn log_client_in(mode: u8, input: Chunked<'_>) -> (Fed<Error>, Vec<ClientStep>) {
    let secret = |text: &str| Some(Secret::parse(text));
    let md5 = "md5efb28dc0c41ff5e2b6b2ceb9d4b8d9f3";
    let mock = ScramSecret::mock("u", &[7; 32], NonZeroU32::new(2).expect("two"));
    // Each with what the stream must hold before the client is believed; `None`: it never is.
    let answer = |text: &str| md5::response(&Secret::parse(text), "u", SALT);
    let methods: [(Method, Option<String>); 11] = [
        (Method::Trust, Some(String::new())),
        (Method::TrustRefused, None),
        (Method::Plain(secret(PASSWORD)), Some(format!("{PASSWORD}\0"))),
        (Method::Plain(secret("")), None),
        (Method::Plain(None), None),
        (Method::Plain(Some(Secret::Scram(SCRAM.clone()))), Some(format!("{PASSWORD}\0"))),
        (Method::Md5(secret(PASSWORD), SALT), answer(PASSWORD)),
        (Method::Md5(secret(md5), SALT), answer(md5)),
        (Method::Md5(None, SALT), None),
        (Method::Scram(Box::new(SCRAM.clone()), NONCE.into()), Some(",p=".into())),
        (Method::Scram(Box::new(mock), NONCE.into()), None),
    ];
    let count = methods.len();
    let (method, proof) = methods.into_iter().nth(usize::from(mode) % count).expect("one of them");
    let (mut login, mut method, mut steps) = (ClientLogin::default(), Some(method), Vec::new());
    let fed = input.feed(|buf| {
        let mut used = 0;
        loop {
            let (n, mut step) = match login.handle_bytes(&buf[used..]) {
                Err(error) => return (used, Some(error)),
                Ok((0, ClientStep::More)) => return (used, None),
                Ok(step) => step,
            };
            used += n;
            if let ClientStep::Startup { .. } = &step {
                steps.push(step);
                step = match login.authenticate("u", method.take().expect("only one start-up")) {
                    Err(error) => return (used, Some(error)),
                    Ok(step) => step,
                };
            }
            if matches!(step, ClientStep::Authenticated | ClientStep::AuthenticatedScram(..)) {
                let proof = proof.as_ref().expect("nobody can be this user");
                assert!(proof.is_empty() || contains(input.stream, proof.as_bytes()));
            }
            if let ClientStep::AuthenticatedScram(_, key) = &step {
                assert!(*key == *CLIENT_KEY);
            }
            let over = matches!(step, ClientStep::Terminate);
            steps.push(step);
            if over {
                return (used, Some(Error::ClientClose));
            }
        }
    });
    (fed, steps)
}

fn log_in_to_server(mode: u8, input: Chunked<'_>) -> (Fed<Error>, Vec<ServerStep>) {
    let tracked = Tracked::new([]);
    let secret = match mode % 5 {
        0 => None,
        1 => Some(Secret::parse(PASSWORD)),
        2 => Some(Secret::parse("md5efb28dc0c41ff5e2b6b2ceb9d4b8d9f3")),
        _ => Some(Secret::Scram(SCRAM.clone())),
    };
    let client_key = (mode % 5 == 4).then(|| *CLIENT_KEY);
    let login = ServerLogin::new("u", ServerSecret { secret, client_key }, NONCE);
    let mut login = login.querying((mode >= 128).then(|| "select 1".to_owned()));
    let mut steps = Vec::new();
    let fed = input.feed(|buf| {
        let mut used = 0;
        loop {
            let (n, step) = match login.handle_bytes(&buf[used..], &tracked) {
                Err(error) => return (used, Some(error)),
                Ok((0, step)) => {
                    assert_eq!(step, ServerStep::More);
                    return (used, None);
                }
                Ok(step) => step,
            };
            used += n;
            let ready = matches!(step, ServerStep::Ready(..));
            if step != ServerStep::More {
                steps.push(step);
            }
            if ready {
                let asked = authentication_requests(input.stream);
                let whole = [&[0][..], &[3, 0], &[5, 0], &[10, 11, 12, 0]];
                assert!(whole.contains(&&asked[..]), "logged in after {asked:?}");
                return (used, Some(Error::ClientClose));
            }
        }
    });
    (fed, steps)
}

/// The codes of the authentication requests before the first ReadyForQuery.
fn authentication_requests(mut stream: &[u8]) -> Vec<u32> {
    let mut codes = Vec::new();
    while let Some((&[kind, a, b, c, d], _)) = stream.split_first_chunk::<5>() {
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        match kind {
            b'R' => codes.push(u32::from_be_bytes(stream[5..9].try_into().expect("four bytes"))),
            b'Z' => break,
            _ => {}
        }
        stream = stream.get(1 + len..).unwrap_or_default();
    }
    codes
}
