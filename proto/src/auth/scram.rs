//! SCRAM-SHA-256 (RFC 5802, RFC 7677; PostgreSQL manual 55.3) in both roles: [`ServerExchange`] asks a
//! client, [`ClientExchange`] answers a server. It takes and gives the SASL payload of the messages, not
//! the messages themselves, and does no channel binding (SCRAM-SHA-256-PLUS).
//!
//! ```text
//! client:  ServerExchange --client-first--> ExpectFinal --client-final--> ClientKey
//! server:  ClientExchange --server-first--> ExpectServerFinal --server-final--> ()
//! ```

use std::fmt;

use base64::{Engine, engine::general_purpose::STANDARD as BASE64};

use super::secret::{Key, Keys, ScramSecret, parse_iterations};

/// The name of the mechanism in AuthenticationSASL and SASLInitialResponse.
pub const MECHANISM: &str = "SCRAM-SHA-256";

/// Longest SASL message taken from a peer, in bytes: PostgreSQL's PG_MAX_SASL_MESSAGE_LENGTH. An honest
/// message has some 120.
pub const MESSAGE_LEN_MAX: usize = 1024;

/// Most iterations done for a server. They run in one go in the login of that server, a third of a second
/// for a million on a CPU without SHA instructions; without a limit a server (or who plays one) could stop
/// the process. PostgreSQL's default is 4096, and OWASP's advice for PBKDF2-HMAC-SHA256 is 600000.
pub const ITERATIONS_MAX: u32 = 1_000_000;

/// A nonce of 24 characters from random bytes, as many as PostgreSQL's SCRAM_RAW_NONCE_LEN.
pub fn nonce_from_bytes(random: &[u8; 18]) -> String {
    BASE64.encode(random)
}

/// We ask a client for its password: the exchange before client-first.
#[derive(Debug)]
pub struct ServerExchange {
    secret: ScramSecret,
    nonce: String,
}

impl ServerExchange {
    /// `nonce` comes from [`nonce_from_bytes`] with fresh random bytes. With [`ScramSecret::mock`] the
    /// exchange goes its whole way and fails at the end.
    pub fn new(secret: ScramSecret, nonce: &str) -> Self {
        debug_assert!(is_nonce(nonce));
        Self { secret, nonce: nonce.into() }
    }

    /// Takes client-first, gives server-first for AuthenticationSASLContinue. The user name in it is not
    /// looked at: the one of StartupMessage counts.
    pub fn handle_client_first(self, message: &[u8]) -> Result<(Vec<u8>, ExpectFinal), ScramError> {
        let message = text(message, ScramError::Client)?;
        let (gs2_header, bare) = split_gs2_header(message)?;
        let mut attributes = Attributes::new(bare, ScramError::Client)?;
        attributes.take("n=", "no user name in client-first-message")?;
        let client_nonce = attributes.take("r=", "no nonce in client-first-message")?;
        if !is_nonce(client_nonce) {
            return Err(ScramError::Client("nonce is empty or has non-printable characters"));
        }
        attributes.skip_extensions()?;

        let nonce = format!("{client_nonce}{}", self.nonce);
        let salt = BASE64.encode(&self.secret.salt);
        let server_first = format!("r={nonce},s={salt},i={}", self.secret.iterations);
        let next = ExpectFinal {
            secret: self.secret,
            channel_binding: BASE64.encode(gs2_header),
            nonce,
            first_messages: format!("{bare},{server_first}"),
        };
        Ok((server_first.into_bytes(), next))
    }
}

/// We ask a client for its password: server-first is sent, client-final is to come.
#[derive(Debug)]
pub struct ExpectFinal {
    secret: ScramSecret,
    /// What `c=` must be: base64 of the GS2 header which the client sent first.
    channel_binding: String,
    nonce: String,
    /// The part of AuthMessage known so far: client-first-bare and server-first.
    first_messages: String,
}

impl ExpectFinal {
    /// Takes client-final, gives server-final for AuthenticationSASLFinal and the ClientKey which the
    /// client's proof revealed. With that key a server which has the same stored secret can be logged in
    /// to ([`Credential::Keys`]).
    pub fn handle_client_final(self, message: &[u8]) -> Result<(Vec<u8>, Key), ScramError> {
        let message = text(message, ScramError::Client)?;
        let (without_proof, proof) =
            message.rsplit_once(",p=").ok_or(ScramError::Client("no proof in client-final-message"))?;
        let proof = Key::from_base64(proof).ok_or(ScramError::Client("malformed proof"))?;
        let mut attributes = Attributes::new(without_proof, ScramError::Client)?;
        let channel_binding = attributes.take("c=", "no channel binding in client-final-message")?;
        if channel_binding != self.channel_binding {
            return Err(ScramError::Client("unexpected channel-binding attribute"));
        }
        if attributes.take("r=", "no nonce in client-final-message")? != self.nonce {
            return Err(ScramError::Client("nonce in client-final-message is not ours"));
        }
        attributes.skip_extensions()?;

        let auth_message = format!("{},{without_proof}", self.first_messages);
        let stored_key = self.secret.stored_key;
        let client_key = proof.xor(stored_key.sign(&auth_message));
        if client_key.stored_key() != stored_key {
            return Err(ScramError::WrongPassword);
        }
        let signature = self.secret.server_key.sign(&auth_message);
        let server_final = format!("v={}", signature.to_base64());
        Ok((server_final.into_bytes(), client_key))
    }
}

/// What we log in to a server with.
#[derive(Clone)]
pub enum Credential {
    /// The password itself.
    Password(String),
    /// The keys of a user whose stored secret, salt and iterations included, is the same on the server and
    /// here. With any other secret on the server it refuses the login.
    Keys {
        /// From [`ExpectFinal::handle_client_final`].
        client_key: Key,
        /// From [`ScramSecret::server_key`].
        server_key: Key,
    },
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Password(_) => "Password(***)",
            Self::Keys { .. } => "Keys(***)",
        })
    }
}

/// We log in to a server: the exchange before server-first.
#[derive(Debug)]
pub struct ClientExchange {
    credential: Credential,
    nonce: String,
    /// client-first-bare.
    bare: String,
}

impl ClientExchange {
    /// `nonce` comes from [`nonce_from_bytes`] with fresh random bytes.
    pub fn new(credential: Credential, nonce: &str) -> Self {
        debug_assert!(is_nonce(nonce));
        Self {
            credential,
            nonce: nonce.into(),
            // Without a user name, as libpq: the server takes the one of StartupMessage.
            bare: format!("n=,r={nonce}"),
        }
    }

    /// client-first, for SASLInitialResponse.
    pub fn client_first(&self) -> Vec<u8> {
        format!("{GS2_HEADER}{}", self.bare).into_bytes()
    }

    /// Takes server-first, gives client-final for SASLResponse. Slow with a password: it does all the
    /// iterations which the server asks for, up to [`ITERATIONS_MAX`].
    pub fn handle_server_first(self, message: &[u8]) -> Result<(Vec<u8>, ExpectServerFinal), ScramError> {
        let message = text(message, ScramError::Server)?;
        let mut attributes = Attributes::new(message, ScramError::Server)?;
        let nonce = attributes.take("r=", "no nonce in server-first-message")?;
        let server_nonce =
            nonce.strip_prefix(&self.nonce).ok_or(ScramError::Server("nonce does not begin with ours"))?;
        if !is_nonce(server_nonce) {
            return Err(ScramError::Server("server's nonce is empty or has non-printable characters"));
        }
        let salt = attributes.take("s=", "no salt in server-first-message")?;
        let salt = BASE64.decode(salt).map_err(|_| ScramError::Server("malformed salt"))?;
        let iterations = attributes.take("i=", "no iteration count in server-first-message")?;
        let iterations = parse_iterations(iterations)
            .filter(|iterations| iterations.get() <= ITERATIONS_MAX)
            .ok_or(ScramError::Server("iteration count is not between 1 and 1000000"))?;
        attributes.skip_extensions()?;

        let keys = match self.credential {
            Credential::Password(password) => Keys::from_password(&password, &salt, iterations),
            Credential::Keys { client_key, server_key } => Keys { client_key, server_key },
        };
        let without_proof = format!("c={},r={nonce}", BASE64.encode(GS2_HEADER));
        let auth_message = format!("{},{message},{without_proof}", self.bare);
        let client_signature = keys.client_key.stored_key().sign(&auth_message);
        let proof = keys.client_key.xor(client_signature).to_base64();
        let next = ExpectServerFinal { signature: keys.server_key.sign(&auth_message) };
        Ok((format!("{without_proof},p={proof}").into_bytes(), next))
    }
}

/// We log in to a server: client-final is sent, server-final is to come.
#[derive(Debug)]
pub struct ExpectServerFinal {
    signature: Key,
}

impl ExpectServerFinal {
    /// Takes server-final. `Ok` means that the server knows the user's secret; AuthenticationOk before it
    /// must not be taken for a login.
    pub fn handle_server_final(self, message: &[u8]) -> Result<(), ScramError> {
        let message = text(message, ScramError::Server)?;
        if let Some(error) = message.strip_prefix("e=") {
            return Err(ScramError::ServerRefused(error.into()));
        }
        let mut attributes = Attributes::new(message, ScramError::Server)?;
        let signature = attributes.take("v=", "no signature in server-final-message")?;
        let signature = Key::from_base64(signature).ok_or(ScramError::Server("malformed signature"))?;
        attributes.skip_extensions()?;
        if signature != self.signature {
            return Err(ScramError::WrongServer);
        }
        Ok(())
    }
}

/// Why an exchange failed and whose fault it was. The text is for the log: a client is told no more than
/// that its authentication failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ScramError {
    /// The client broke the protocol or asked for what we do not offer.
    Client(&'static str),
    /// The client does not know the password, or the user does not exist (mock secret).
    WrongPassword,
    /// The server broke the protocol.
    Server(&'static str),
    /// The server ended the exchange with this `server-error-value`.
    ServerRefused(String),
    /// The server does not know the user's secret: it is not the one it claims to be, or the keys of
    /// [`Credential::Keys`] are not of one secret.
    WrongServer,
}

impl fmt::Display for ScramError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(what) => write!(f, "bad SCRAM message from client: {what}"),
            Self::WrongPassword => f.write_str("SCRAM proof of client does not match its secret"),
            Self::Server(what) => write!(f, "bad SCRAM message from server: {what}"),
            // Quoted, because a server may put anything in it.
            Self::ServerRefused(error) => write!(f, "server refused SCRAM login: {error:?}"),
            Self::WrongServer => f.write_str("invalid server signature"),
        }
    }
}

impl std::error::Error for ScramError {}

/// Says who sent the message that is being read.
type Fault = fn(&'static str) -> ScramError;

/// The attributes of a message, in the order in which RFC 5802 section 7 wants them.
struct Attributes<'a> {
    rest: std::str::Split<'a, char>,
    fault: Fault,
}

impl<'a> Attributes<'a> {
    fn new(message: &'a str, fault: Fault) -> Result<Self, ScramError> {
        // RFC 5802 section 5.1: `m` must end the authentication.
        if message.starts_with("m=") {
            return Err(fault("mandatory extensions are not supported"));
        }
        Ok(Self { rest: message.split(','), fault })
    }

    /// The value of the next attribute, which must be `name`; `missing` is the error if it is not.
    fn take(&mut self, name: &str, missing: &'static str) -> Result<&'a str, ScramError> {
        let attribute = self.rest.next();
        attribute.and_then(|attribute| attribute.strip_prefix(name)).ok_or((self.fault)(missing))
    }

    /// Passes over what follows, as RFC 5802 section 5.1 demands for optional extensions. An attribute
    /// which has a meaning is none: here it is out of place.
    fn skip_extensions(self) -> Result<(), ScramError> {
        let is_extension = |attribute: &str| match attribute.as_bytes() {
            [name, b'=', ..] => name.is_ascii_alphabetic() && !RESERVED.contains(name),
            _ => false,
        };
        if self.rest.clone().all(is_extension) { Ok(()) } else { Err((self.fault)("unexpected attribute")) }
    }
}

/// The message as text, if it can be one at all.
fn text(message: &[u8], fault: Fault) -> Result<&str, ScramError> {
    if message.len() > MESSAGE_LEN_MAX {
        return Err(fault("message is longer than 1024 bytes"));
    }
    let text = std::str::from_utf8(message).map_err(|_| fault("message is not UTF-8"))?;
    if text.contains('\0') {
        return Err(fault("message has a zero byte"));
    }
    Ok(text)
}

/// Splits client-first into its GS2 header, which must ask for no channel binding and no other identity,
/// and client-first-bare. `y` says that the client could bind and saw that we do not offer it: true.
fn split_gs2_header(message: &str) -> Result<(&str, &str), ScramError> {
    let bare = match message.as_bytes() {
        [b'n' | b'y', b',', b',', ..] => &message[3..],
        [b'n' | b'y', b',', b'a', b'=', ..] => {
            return Err(ScramError::Client("authorization identity is not supported"));
        }
        [b'p', b'=', ..] => return Err(ScramError::Client("channel binding is not supported")),
        _ => return Err(ScramError::Client("malformed GS2 header")),
    };
    Ok((&message[..3], bare))
}

/// RFC 5802 section 7, `printable`: visible ASCII without the comma; and at least one.
fn is_nonce(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && b != b',')
}

/// Our GS2 header as a client: no channel binding, no authorization identity.
const GS2_HEADER: &str = "n,,";

/// The attributes to which RFC 5802 section 5.1 gives a meaning.
const RESERVED: &[u8] = b"anmrcsipve";

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use proptest::prelude::*;

    use super::*;
    use crate::auth::secret::{Secret, tests::PENCIL};

    /// RFC 7677 section 3: user `user`, password `pencil`.
    const CLIENT_NONCE: &str = "rOprNGfwEbeRWgbNEkqO";
    const SERVER_NONCE: &str = "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0";
    const CLIENT_FIRST: &str = "n,,n=user,r=rOprNGfwEbeRWgbNEkqO";
    const SERVER_FIRST: &str = "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";
    const CLIENT_FINAL: &str = "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,\
        p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    const SERVER_FINAL: &str = "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=";

    fn pencil() -> ScramSecret {
        ScramSecret::parse(PENCIL).unwrap()
    }

    /// Our client role with the vector's nonce, and with its user name, which we leave empty otherwise.
    fn client(credential: Credential) -> ClientExchange {
        ClientExchange { bare: CLIENT_FIRST[3..].into(), ..ClientExchange::new(credential, CLIENT_NONCE) }
    }

    fn after_client_first() -> ExpectFinal {
        let exchange = ServerExchange::new(pencil(), SERVER_NONCE);
        let (server_first, next) = exchange.handle_client_first(CLIENT_FIRST.as_bytes()).unwrap();
        assert_eq!(server_first, SERVER_FIRST.as_bytes());
        next
    }

    fn after_server_first(credential: Credential) -> ExpectServerFinal {
        let (client_final, next) = client(credential).handle_server_first(SERVER_FIRST.as_bytes()).unwrap();
        assert_eq!(client_final, CLIENT_FINAL.as_bytes());
        next
    }

    fn password(text: &str) -> Credential {
        Credential::Password(text.into())
    }

    #[test]
    fn rfc_7677_vector_in_both_roles() {
        let (server_final, client_key) = after_client_first().handle_client_final(CLIENT_FINAL.as_bytes()).unwrap();
        assert_eq!(server_final, SERVER_FINAL.as_bytes());

        let keys = Credential::Keys { client_key, server_key: pencil().server_key() };
        for credential in [password("pencil"), keys] {
            assert_eq!(client(credential.clone()).client_first(), CLIENT_FIRST.as_bytes());
            let next = after_server_first(credential);
            assert_eq!(next.handle_server_final(SERVER_FINAL.as_bytes()), Ok(()));
        }
    }

    #[test]
    fn user_name_is_left_empty() {
        let exchange = ClientExchange::new(password("pencil"), "abc");
        assert_eq!(exchange.client_first(), b"n,,n=,r=abc");
    }

    #[test]
    fn nonce_is_printable_and_of_24_characters() {
        for byte in 0..=u8::MAX {
            let nonce = nonce_from_bytes(&[byte; 18]);
            assert!(nonce.len() == 24 && is_nonce(&nonce), "{nonce}");
        }
    }

    #[test]
    fn client_first_table() {
        let long = format!("n,,n=,r={}", "x".repeat(1017));
        let longest = format!("n,,n=,r={}", "x".repeat(1016));
        let table = [
            (CLIENT_FIRST, ""),
            ("n,,n=,r=x", ""),
            ("y,,n=,r=x", ""),
            ("n,,n=josé,r=x", ""),
            ("n,,n=,r=x,z=1,X=", ""),
            (&longest, ""),
            (&long, "message is longer than 1024 bytes"),
            ("", "malformed GS2 header"),
            ("n", "malformed GS2 header"),
            ("x,,n=,r=x", "malformed GS2 header"),
            ("n,b=c,n=,r=x", "malformed GS2 header"),
            ("p=tls-server-end-point,,n=,r=x", "channel binding is not supported"),
            ("n,a=admin,n=,r=x", "authorization identity is not supported"),
            ("n,,m=1,n=,r=x", "mandatory extensions are not supported"),
            ("n,,r=x", "no user name in client-first-message"),
            ("n,,n=", "no nonce in client-first-message"),
            ("n,,n=,n=,r=x", "no nonce in client-first-message"),
            ("n,,n=,r=", "nonce is empty or has non-printable characters"),
            ("n,,n=,r=a b", "nonce is empty or has non-printable characters"),
            ("n,,n=,r=é", "nonce is empty or has non-printable characters"),
            ("n,,n=,r=x,", "unexpected attribute"),
            ("n,,n=,r=x,1=2", "unexpected attribute"),
            ("n,,n=,r=x,m=2", "unexpected attribute"),
            ("n,,n=\0,r=x", "message has a zero byte"),
        ];
        for (message, error) in table {
            let exchange = ServerExchange::new(pencil(), SERVER_NONCE);
            let outcome = exchange.handle_client_first(message.as_bytes());
            check(message, outcome, ScramError::Client, error);
        }
        let exchange = ServerExchange::new(pencil(), SERVER_NONCE);
        let outcome = exchange.handle_client_first(b"n,,n=\xff,r=x");
        check("\\xff", outcome, ScramError::Client, "message is not UTF-8");
    }

    #[test]
    fn client_final_table() {
        let proof = CLIENT_FINAL.rsplit_once(',').unwrap().1;
        let swap = |from: &str, to: &str| CLIENT_FINAL.replacen(from, to, 1);
        let table = [
            (CLIENT_FINAL.into(), ""),
            (swap("biws", "eSws"), "unexpected channel-binding attribute"),
            (swap("biws", "biw="), "unexpected channel-binding attribute"),
            (swap("c=biws,", ""), "no channel binding in client-final-message"),
            (swap("r=rOpr", "r=rOps"), "nonce in client-final-message is not ours"),
            (swap("$k0", "$k1"), "nonce in client-final-message is not ours"),
            (swap("$k0", "$k"), "nonce in client-final-message is not ours"),
            (swap("$k0", "$k0x"), "nonce in client-final-message is not ours"),
            (swap("p=", "q="), "no proof in client-final-message"),
            (format!("c=biws,{proof}"), "no nonce in client-final-message"),
            (swap("VQ=", "VQ"), "malformed proof"),
            (swap("VQ=", "VQ=,z=1"), "malformed proof"),
            (swap("dHzb", ""), "malformed proof"),
            (swap(",p=", ",p=AAAA,p="), "unexpected attribute"),
            (swap("c=", "m=1,c="), "mandatory extensions are not supported"),
        ];
        for (message, error) in table {
            let outcome = after_client_first().handle_client_final(message.as_bytes());
            check(&message, outcome, ScramError::Client, error);
        }
    }

    #[test]
    fn server_first_table() {
        let swap = |from: &str, to: &str| SERVER_FIRST.replacen(from, to, 1);
        let count = "iteration count is not between 1 and 1000000";
        let table = [
            (SERVER_FIRST.into(), ""),
            (swap("i=4096", "i=1"), ""),
            (swap("i=4096", "i=1,z=1"), ""),
            (swap("i=4096", "i=0"), count),
            (swap("i=4096", "i=1000001"), count),
            (swap("i=4096", "i=99999999999999999999"), count),
            (swap("i=4096", "i=-1"), count),
            (swap("i=4096", "i=+1"), count),
            (swap("i=4096", "i="), count),
            (swap("i=4096", "i=1,i=1"), "unexpected attribute"),
            (swap(",i=4096", ""), "no iteration count in server-first-message"),
            (swap("gQ==", "gQ="), "malformed salt"),
            (swap("s=", "t="), "no salt in server-first-message"),
            (swap("r=", "e="), "no nonce in server-first-message"),
            (swap("r=", "m=1,r="), "mandatory extensions are not supported"),
            (swap("r=rO", "r=rP"), "nonce does not begin with ours"),
            (swap(SERVER_NONCE, ""), "server's nonce is empty or has non-printable characters"),
        ];
        for (message, error) in table {
            let outcome = client(password("pencil")).handle_server_first(message.as_bytes());
            check(&message, outcome, ScramError::Server, error);
        }
    }

    #[test]
    fn server_final_table() {
        let swap = |from: &str, to: &str| SERVER_FINAL.replacen(from, to, 1);
        let refused = |text: &str| Err(ScramError::ServerRefused(text.into()));
        let table = [
            (SERVER_FINAL.into(), Ok(())),
            (format!("{SERVER_FINAL},z=1"), Ok(())),
            (swap("6rri", "7rri"), Err(ScramError::WrongServer)),
            (swap("G4=", "G4"), Err(ScramError::Server("malformed signature"))),
            (String::new(), Err(ScramError::Server("no signature in server-final-message"))),
            (format!("{SERVER_FINAL},"), Err(ScramError::Server("unexpected attribute"))),
            ("e=invalid-proof".into(), refused("invalid-proof")),
            ("e=".into(), refused("")),
        ];
        for (message, expected) in table {
            let next = after_server_first(password("pencil"));
            let outcome = next.handle_server_final(message.as_bytes());
            assert_eq!(outcome, expected, "{message}");
        }
    }

    /// Checks what a handler said to `message`; `error` is empty for success.
    fn check<T: fmt::Debug>(message: &str, outcome: Result<T, ScramError>, fault: Fault, error: &'static str) {
        match outcome {
            Ok(_) => assert_eq!("", error, "{message} was taken"),
            Err(found) => assert_eq!(found, fault(error), "{message}"),
        }
    }

    #[test]
    fn message_cut_anywhere_is_refused() {
        for len in 0..CLIENT_FINAL.len() {
            let outcome = after_client_first().handle_client_final(&CLIENT_FINAL.as_bytes()[..len]);
            assert!(matches!(outcome, Err(ScramError::Client(_))), "{len}");
        }
        for len in 0..SERVER_FINAL.len() {
            let next = after_server_first(password("pencil"));
            let outcome = next.handle_server_final(&SERVER_FINAL.as_bytes()[..len]);
            assert!(matches!(outcome, Err(ScramError::Server(_))), "{len}");
        }
        // A first message cut inside its last value is another valid message; the proof or the signature
        // then does not fit, because both cover it.
        for len in 0..CLIENT_FIRST.len() {
            let exchange = ServerExchange::new(pencil(), SERVER_NONCE);
            let outcome = exchange
                .handle_client_first(&CLIENT_FIRST.as_bytes()[..len])
                .and_then(|(_, next)| next.handle_client_final(CLIENT_FINAL.as_bytes()));
            assert!(matches!(outcome, Err(ScramError::Client(_))), "{len}");
        }
        for len in 0..SERVER_FIRST.len() {
            let outcome = client(password("pencil"))
                .handle_server_first(&SERVER_FIRST.as_bytes()[..len])
                .and_then(|(_, next)| next.handle_server_final(SERVER_FINAL.as_bytes()));
            assert!(outcome.is_err(), "{len}");
        }
    }

    #[test]
    fn mock_secret_fails_only_at_the_end() {
        let mock = ScramSecret::mock("nobody", &[7; 32], NonZeroU32::MIN);
        for guess in ["", "pencil"] {
            assert_eq!(log_in(&mock, password(guess)), Err(ScramError::WrongPassword));
        }
    }

    #[test]
    fn server_without_the_secret_is_found_out() {
        let ours = ScramSecret::from_password("pencil", b"salt", NonZeroU32::MIN);
        let impostor = ScramSecret { server_key: Key([9; 32]), ..ours };
        assert_eq!(log_in(&impostor, password("pencil")), Err(ScramError::WrongServer));
    }

    #[test]
    fn error_says_who_is_at_fault() {
        let table = [
            (ScramError::Client("x"), "bad SCRAM message from client: x"),
            (ScramError::Server("x"), "bad SCRAM message from server: x"),
            (ScramError::ServerRefused("a\nb".into()), r#"server refused SCRAM login: "a\nb""#),
        ];
        for (error, shown) in table {
            assert_eq!(error.to_string(), shown);
        }
    }

    #[test]
    fn debug_shows_no_secret() {
        let keys = Credential::Keys { client_key: Key([1; 32]), server_key: Key([2; 32]) };
        let shown = format!(
            "{:?} {keys:?} {:?} {:?} {:?}",
            client(password("pencil")),
            ServerExchange::new(pencil(), SERVER_NONCE),
            after_client_first(),
            after_server_first(password("pencil")),
        );
        for secret in ["pencil", "WG5d8", "wfPLw", "1, 1", "2, 2", "6rri"] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
    }

    /// Runs our client role against our server role.
    fn log_in(secret: &ScramSecret, credential: Credential) -> Result<Key, ScramError> {
        let server = ServerExchange::new(secret.clone(), SERVER_NONCE);
        let client = ClientExchange::new(credential, CLIENT_NONCE);
        let (server_first, server) = server.handle_client_first(&client.client_first())?;
        let (client_final, client) = client.handle_server_first(&server_first)?;
        let (server_final, client_key) = server.handle_client_final(&client_final)?;
        client.handle_server_final(&server_final)?;
        Ok(client_key)
    }

    /// Bytes, or a valid message with a run of its attributes replaced.
    fn message() -> impl Strategy<Value = Vec<u8>> {
        let valid = prop::sample::select(vec![CLIENT_FIRST, SERVER_FIRST, CLIENT_FINAL, SERVER_FINAL]);
        let attributes = prop::collection::vec("([a-zA-Z]=)?[!-~]{0,8}", 0..3);
        let altered = (valid, 0..5_usize, 0..3_usize, attributes).prop_map(|(valid, at, len, attributes)| {
            let mut parts: Vec<&str> = valid.split(',').collect();
            let at = at.min(parts.len());
            let end = (at + len).min(parts.len());
            parts.splice(at..end, attributes.iter().map(String::as_str));
            parts.join(",").into_bytes()
        });
        prop_oneof![altered, prop::collection::vec(any::<u8>(), 0..1100)]
    }

    proptest! {
        #[test]
        fn roles_agree_on_any_password(
            right in ".{0,12}", wrong in ".{0,12}", salt: Vec<u8>, count in 1..5_u32,
        ) {
            let salt = &salt[..salt.len().min(64)];
            let iterations = NonZeroU32::new(count).unwrap();
            let secret = ScramSecret::from_password(&right, salt, iterations);
            let client_key = log_in(&secret, Credential::Password(right)).unwrap();
            let keys = Credential::Keys { client_key, server_key: secret.server_key() };
            prop_assert_eq!(log_in(&secret, keys), Ok(client_key));

            // Two texts may be one password after SASLprep.
            let same = Secret::Scram(secret.clone()).verify_password("user", &wrong);
            if !same && !wrong.is_empty() {
                let outcome = log_in(&secret, Credential::Password(wrong));
                prop_assert_eq!(outcome, Err(ScramError::WrongPassword));
            }
        }

        #[test]
        fn one_wrong_bit_in_client_final_is_refused(at in 0..CLIENT_FINAL.len(), bit in 0..8_u32) {
            let mut message = CLIENT_FINAL.as_bytes().to_vec();
            message[at] ^= 1 << bit;
            prop_assert!(after_client_first().handle_client_final(&message).is_err());
        }

        #[test]
        fn one_wrong_bit_in_server_final_is_refused(at in 0..SERVER_FINAL.len(), bit in 0..8_u32) {
            let keys = client_keys();
            let mut message = SERVER_FINAL.as_bytes().to_vec();
            message[at] ^= 1 << bit;
            prop_assert!(after_server_first(keys).handle_server_final(&message).is_err());
        }

        #[test]
        fn nothing_but_the_vector_is_taken(first in message(), last in message()) {
            let exchange = ServerExchange::new(pencil(), SERVER_NONCE);
            if let Ok((_, next)) = exchange.handle_client_first(&first) {
                let is_vector = first == CLIENT_FIRST.as_bytes() && last == CLIENT_FINAL.as_bytes();
                prop_assert_eq!(next.handle_client_final(&last).is_ok(), is_vector);
            }
            let taken = after_client_first().handle_client_final(&last).is_ok();
            prop_assert_eq!(taken, last == CLIENT_FINAL.as_bytes());

            if let Ok((_, next)) = client(client_keys()).handle_server_first(&first) {
                let is_signature = last.split(|&b| b == b',').next() == Some(SERVER_FINAL.as_bytes());
                let is_vector = first == SERVER_FIRST.as_bytes() && is_signature;
                prop_assert!(next.handle_server_final(&last).is_err() || is_vector);
            }
        }
    }

    /// The vector's keys, which spare the iterations.
    fn client_keys() -> Credential {
        let (_, client_key) = after_client_first().handle_client_final(CLIENT_FINAL.as_bytes()).unwrap();
        Credential::Keys { client_key, server_key: pencil().server_key() }
    }
}
