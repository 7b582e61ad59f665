//! SCRAM: both sides on any message, and an exchange in which one byte is changed on its way: that must never succeed.
#![no_main]

use std::num::NonZeroU32;

use libfuzzer_sys::fuzz_target;
use tigger_proto::auth::scram::{ClientExchange, Credential, ScramError, ServerExchange};
use tigger_proto::auth::secret::{ScramSecret, Secret};

const CLIENT_NONCE: &str = "clientnonce";
const SERVER_NONCE: &str = "servernonce";

fuzz_target!(|data: &[u8]| {
    let Some((&mode, data)) = data.split_first() else { return };
    match mode % 4 {
        0 => ask_client(data),
        1 => answer_server(data),
        2 => tamper(data),
        _ => read_secret(data),
    }
});

/// Two messages of a client, separated by a line feed.
fn ask_client(data: &[u8]) {
    let (first, last) = halves(data);
    let secret = ScramSecret::from_password("pencil", b"salt", NonZeroU32::MIN);
    let Ok((answer, exchange)) = ServerExchange::new(secret.clone(), SERVER_NONCE).handle_client_first(first) else {
        return;
    };
    let first = std::str::from_utf8(first).expect("it was taken for text");
    let nonce = first.split(',').nth(3).and_then(|nonce| nonce.strip_prefix("r=")).expect("a nonce");
    assert_eq!(String::from_utf8(answer), Ok(format!("r={nonce}{SERVER_NONCE},s=c2FsdA==,i=1")));
    if let Ok((_, client_key)) = exchange.handle_client_final(last) {
        let keys = Credential::Keys { client_key, server_key: secret.server_key() };
        assert_eq!(exchange_all(keys, &secret, None), Ok(()));
    }
}

/// Two messages of a server, separated by a line feed.
fn answer_server(data: &[u8]) {
    let (first, last) = halves(data);
    // Half a million rounds of HMAC are slow and prove nothing.
    if first.windows(6).any(|text| text.starts_with(b"i=") && text[2..].iter().all(u8::is_ascii_digit)) {
        return;
    }
    let exchange = ClientExchange::new(Credential::Password("pencil".into()), CLIENT_NONCE);
    let Ok((answer, exchange)) = exchange.handle_server_first(first) else { return };
    let first = std::str::from_utf8(first).expect("it was taken for text");
    let nonce = first.split(',').next().expect("a nonce");
    assert!(nonce.len() > "r=".len() + CLIENT_NONCE.len(), "no nonce of the server");
    let answer = String::from_utf8(answer).expect("text");
    assert!(answer.starts_with(&format!("c=biws,{nonce},p=")));
    let result = exchange.handle_server_final(last);
    assert!(result.is_err() || last.starts_with(b"v="));
}

/// Password, salt and a change: which message, which byte, how.
fn tamper(data: &[u8]) {
    let [message, at, change, rest @ ..] = data else { return };
    let (password, salt) = halves(rest);
    let Ok(password) = std::str::from_utf8(password) else { return };
    if salt.len() > 500 {
        // A message may have 1024 bytes.
        return;
    }
    let secret = ScramSecret::from_password(password, salt, NonZeroU32::MIN);
    let change = (usize::from(message % 4), usize::from(*at), *change);
    let result = exchange_all(Credential::Password(password.into()), &secret, Some(change));
    assert_eq!(result.is_ok(), change.2 == 0, "{result:?}");
}

/// An exchange of both sides; `change` is XORed into a byte of one of the four messages.
fn exchange_all(
    credential: Credential,
    secret: &ScramSecret,
    change: Option<(usize, usize, u8)>,
) -> Result<(), ScramError> {
    let on_its_way = |message: usize, mut bytes: Vec<u8>| {
        if let Some((_, at, xor)) = change.filter(|(which, ..)| *which == message) {
            let at = at % bytes.len();
            bytes[at] ^= xor;
        }
        bytes
    };
    let client = ClientExchange::new(credential, CLIENT_NONCE);
    let server = ServerExchange::new(secret.clone(), SERVER_NONCE);
    let (bytes, server) = server.handle_client_first(&on_its_way(0, client.client_first()))?;
    let (bytes, client) = client.handle_server_first(&on_its_way(1, bytes))?;
    let (bytes, _) = server.handle_client_final(&on_its_way(2, bytes))?;
    client.handle_server_final(&on_its_way(3, bytes))
}

fn read_secret(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let secret = Secret::parse(text);
    assert_eq!(secret.is_empty(), text.is_empty());
    match &secret {
        Secret::Plain(password) => {
            assert_eq!(password, text);
            assert_eq!(secret.verify_password("u", text), !text.is_empty());
        }
        Secret::Md5(_) => assert!(text.starts_with("md5") && text.len() == 35),
        Secret::Scram(_) => assert!(text.starts_with("SCRAM-SHA-256$")),
    }
}

fn halves(data: &[u8]) -> (&[u8], &[u8]) {
    let at = data.iter().position(|&b| b == b'\n').unwrap_or(data.len());
    (&data[..at], data.get(at + 1..).unwrap_or_default())
}
