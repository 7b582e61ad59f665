//! Login to a server: our side of start-up and authentication, up to its first ReadyForQuery (manual, section 55.2.1), and
//! the `connect_query`, whose effects are part of what the server says about itself.

use crate::auth::md5;
use crate::auth::scram::{self, ClientExchange, Credential, ExpectServerFinal};
use crate::auth::secret::{Key, Secret};
use crate::error::Error;
use crate::parameters::{ParameterSet, Tracked};
use crate::wire::backend::{self, Authentication, kind};
use crate::wire::error_response::ErrorFields;
use crate::wire::frame::{HEADER_LEN, Header};
use crate::wire::frontend;
use crate::wire::version::Version;

/// Longest message accepted during login, in bytes. The longest a server sends is an ErrorResponse.
const MESSAGE_LEN_MAX: u32 = 64 * 1024;

/// Length of a BackendKeyData: process id, and a secret that has 4 bytes in protocol 3.0 and at most 256 in 3.2.
const CANCEL_KEY_LEN: std::ops::RangeInclusive<usize> = 8..=260;

/// With what the proxy logs in to a server.
#[derive(Clone, Debug, Default)]
pub struct ServerSecret {
    /// The user's secret from the configuration, if there is one.
    pub secret: Option<Secret>,
    /// The ClientKey that a client with the same SCRAM secret proved itself with.
    pub client_key: Option<Key>,
}

/// What the first server of a pool says to the world: sent on to every client of the pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Welcome {
    /// Every ParameterStatus, in order; of those that are tracked, clients get their own values.
    pub parameters: Vec<(String, String)>,
    /// The tracked ones.
    pub tracked: ParameterSet,
}

impl Welcome {
    /// The server's `application_name`; empty if it reports none.
    pub fn application_name(&self) -> &str {
        self.tracked.value(crate::parameters::APPLICATION_NAME).unwrap_or_default()
    }
}

/// A server that is being logged in to.
#[derive(Debug)]
pub struct Login {
    user: String,
    secret: ServerSecret,
    nonce: String,
    state: State,
    parameters: Vec<(String, String)>,
    key: Box<[u8]>,
    /// What was asked for, or what the server answered to that.
    version: Version,
    /// Still to be run.
    connect_query: Option<String>,
}

#[derive(Debug)]
enum State {
    /// The server may ask for a proof.
    Start,
    ScramFirst(Box<ClientExchange>),
    ScramFinal(Box<ExpectServerFinal>),
    /// Only AuthenticationOk can follow.
    Proved,
    /// Parameters and the key follow.
    Authenticated,
    /// Logged in; the replies to the `connect_query` follow.
    Querying,
}

/// What comes out of the server's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    More,
    /// Send this.
    Reply(Vec<u8>),
    /// The server reported this error while it ran the `connect_query`, which changes nothing.
    QueryFailed(ErrorFields),
    /// The server is ready: its parameters and its cancel key.
    Ready(Welcome, Box<[u8]>),
}

impl Login {
    /// A login as `user`; the StartupMessage was sent. `nonce` is random, for SCRAM.
    pub fn new(user: &str, secret: ServerSecret, nonce: &str) -> Self {
        Self {
            user: user.to_owned(),
            secret,
            nonce: nonce.to_owned(),
            state: State::Start,
            parameters: Vec::new(),
            key: Box::default(),
            version: Version::V3_0,
            connect_query: None,
        }
    }

    /// The same where the StartupMessage asked for this version.
    #[must_use]
    pub fn speaking(self, version: Version) -> Self {
        Self { version, ..self }
    }

    /// The same with SQL to be run before the server is ready.
    #[must_use]
    pub fn querying(self, connect_query: Option<String>) -> Self {
        Self { connect_query, ..self }
    }

    /// Handles the first message in `buf`; returns how many bytes it had.
    ///
    /// # Errors
    /// Why the login failed: [`Error::ServerRefused`] with the server's own words, [`Error::ServerAuthentication`] where one
    /// end cannot prove itself, or [`Error::ServerLogin`].
    pub fn handle_bytes(&mut self, buf: &[u8], tracked: &Tracked) -> Result<(usize, Step), Error> {
        let bad = |text: &'static str| Error::ServerLogin(text.into());
        let header = Header::read(buf, MESSAGE_LEN_MAX).map_err(|_| bad("bad packet from server during login"))?;
        let Some(header) = header else { return Ok((0, Step::More)) };
        let Some(body) = buf.get(HEADER_LEN..header.total()) else { return Ok((0, Step::More)) };
        let authenticated = matches!(self.state, State::Authenticated);
        let step = match header.kind {
            kind if matches!(self.state, State::Querying) => self.handle_reply(kind, body, tracked)?,
            kind::AUTHENTICATION if !authenticated => {
                let request =
                    Authentication::read(body).ok_or_else(|| bad("bad authentication request from server"))?;
                self.handle_authentication(request)?
            }
            kind::ERROR_RESPONSE => return Err(Error::ServerRefused(ErrorFields::read(body))),
            kind::NOTICE_RESPONSE => Step::More,
            kind::NEGOTIATE_PROTOCOL_VERSION if matches!(self.state, State::Start) => {
                let version = backend::read_negotiation(body).filter(|version| version.minor() <= self.version.minor());
                self.version = version.ok_or_else(|| bad("bad protocol negotiation from server"))?;
                Step::More
            }
            kind::PARAMETER_STATUS if authenticated => {
                self.handle_parameter(body)?;
                Step::More
            }
            kind::BACKEND_KEY_DATA if authenticated => {
                if !CANCEL_KEY_LEN.contains(&body.len()) {
                    return Err(bad("bad cancel key from server"));
                }
                self.key = body.into();
                Step::More
            }
            kind::READY_FOR_QUERY if authenticated => match self.connect_query.take() {
                Some(sql) => {
                    self.state = State::Querying;
                    let mut out = Vec::new();
                    frontend::query(&mut out, &sql);
                    Step::Reply(out)
                }
                None => self.ready(tracked),
            },
            _ => return Err(bad("unexpected message from server during login")),
        };
        Ok((header.total(), step))
    }

    /// A message while the `connect_query` runs: only what it does to the parameters matters, and that it ends.
    fn handle_reply(&mut self, kind: u8, body: &[u8], tracked: &Tracked) -> Result<Step, Error> {
        let bad = |text: &'static str| Error::ServerLogin(text.into());
        match kind {
            kind::PARAMETER_STATUS => self.handle_parameter(body)?,
            kind::ERROR_RESPONSE => return Ok(Step::QueryFailed(ErrorFields::read(body))),
            // It waits for data that nobody has.
            kind::COPY_IN_RESPONSE | kind::COPY_BOTH_RESPONSE => return Err(bad("connect_query wants to copy")),
            kind::READY_FOR_QUERY if body != b"I" => return Err(bad("connect_query left a transaction open")),
            kind::READY_FOR_QUERY => return Ok(self.ready(tracked)),
            _ => {}
        }
        Ok(Step::More)
    }

    fn handle_parameter(&mut self, body: &[u8]) -> Result<(), Error> {
        let (name, value) = backend::read_parameter_status(body)
            .ok_or_else(|| Error::ServerLogin("bad ParameterStatus from server".into()))?;
        match self.parameters.iter_mut().find(|(known, _)| known == name) {
            Some((_, known)) => value.clone_into(known),
            None => self.parameters.push((name.to_owned(), value.to_owned())),
        }
        Ok(())
    }

    fn ready(&mut self, tracked: &Tracked) -> Step {
        let parameters = std::mem::take(&mut self.parameters);
        let mut values = ParameterSet::new(tracked);
        for (name, value) in &parameters {
            if let Some(position) = tracked.position(name) {
                values.set(position, value);
            }
        }
        Step::Ready(Welcome { parameters, tracked: values }, std::mem::take(&mut self.key))
    }

    fn handle_authentication(&mut self, request: Authentication<'_>) -> Result<Step, Error> {
        let failed = |text: String| Error::ServerAuthentication(text.into());
        let (state, message) = match (std::mem::replace(&mut self.state, State::Proved), request) {
            (State::Start | State::Proved, Authentication::Ok) => {
                self.state = State::Authenticated;
                return Ok(Step::More);
            }
            (State::Start, Authentication::CleartextPassword) => {
                let Some(Secret::Plain(password)) = &self.secret.secret else {
                    return Err(failed("wrong password type".into()));
                };
                (State::Proved, password_message(password))
            }
            (State::Start, Authentication::Md5Password(salt)) => {
                let secret = self.secret.secret.as_ref();
                let answer = secret.and_then(|secret| md5::response(secret, &self.user, salt));
                let answer = answer.ok_or_else(|| failed("wrong password type".into()))?;
                (State::Proved, password_message(&answer))
            }
            (State::Start, Authentication::Sasl(mechanisms)) => {
                if !mechanisms.contains(&scram::MECHANISM.as_bytes()) {
                    let text = "none of the server's SASL authentication mechanisms are supported";
                    return Err(failed(text.into()));
                }
                let credential = self.scram_credential().ok_or_else(|| failed("wrong password type".into()))?;
                let exchange = ClientExchange::new(credential, &self.nonce);
                let mut out = Vec::new();
                frontend::sasl_initial_response(&mut out, scram::MECHANISM, &exchange.client_first());
                (State::ScramFirst(Box::new(exchange)), out)
            }
            (State::ScramFirst(exchange), Authentication::SaslContinue(data)) => {
                let (answer, next) = exchange.handle_server_first(data).map_err(|error| failed(error.to_string()))?;
                let mut out = Vec::new();
                frontend::sasl_response(&mut out, &answer);
                (State::ScramFinal(Box::new(next)), out)
            }
            (State::ScramFinal(exchange), Authentication::SaslFinal(data)) => {
                exchange.handle_server_final(data).map_err(|error| failed(error.to_string()))?;
                return Ok(Step::More);
            }
            (_, Authentication::Other(code)) => {
                return Err(failed(format!("unsupported authentication method {code}")));
            }
            _ => return Err(failed("unexpected authentication request".into())),
        };
        self.state = state;
        Ok(Step::Reply(message))
    }

    fn scram_credential(&self) -> Option<Credential> {
        match (self.secret.secret.as_ref()?, self.secret.client_key) {
            (Secret::Plain(password), _) => Some(Credential::Password(password.clone())),
            (Secret::Scram(secret), Some(client_key)) => {
                Some(Credential::Keys { client_key, server_key: secret.server_key() })
            }
            _ => None,
        }
    }
}

fn password_message(text: &str) -> Vec<u8> {
    let mut out = Vec::new();
    frontend::password(&mut out, text);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::scram::ServerExchange;
    use crate::auth::secret::ScramSecret;
    use std::num::NonZeroU32;

    fn request(request: &Authentication<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        backend::authentication(&mut out, request);
        out
    }

    fn plain(text: &str) -> ServerSecret {
        ServerSecret { secret: Some(Secret::parse(text)), client_key: None }
    }

    fn handle(login: &mut Login, bytes: &[u8]) -> Result<Step, Error> {
        let tracked = Tracked::new([]);
        for end in 0..bytes.len() {
            assert_eq!(login.handle_bytes(&bytes[..end], &tracked).unwrap(), (0, Step::More));
        }
        let (used, step) = login.handle_bytes(bytes, &tracked)?;
        assert_eq!(used, bytes.len());
        Ok(step)
    }

    /// After authentication: parameters, key, ready.
    fn finish(login: &mut Login) {
        assert_eq!(handle(login, &request(&Authentication::Ok)), Ok(Step::More));
        let mut bytes = Vec::new();
        backend::parameter_status(&mut bytes, "server_version", "15");
        assert_eq!(handle(login, &bytes), Ok(Step::More));
        bytes.clear();
        backend::parameter_status(&mut bytes, "TimeZone", "CET");
        assert_eq!(handle(login, &bytes), Ok(Step::More));
        bytes.clear();
        backend::backend_key_data(&mut bytes, &[1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(handle(login, &bytes), Ok(Step::More));
        bytes.clear();
        backend::ready_for_query(&mut bytes);
        let Ok(Step::Ready(welcome, key)) = handle(login, &bytes) else { panic!("not ready") };
        assert_eq!(*key, [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(welcome.parameters.len(), 2);
        assert_eq!(welcome.tracked.value(2), Some("CET"));
    }

    #[test]
    fn versions() {
        let negotiation = |version, unknown: &[String]| {
            let mut bytes = Vec::new();
            backend::negotiate_protocol_version(&mut bytes, version, unknown);
            bytes
        };
        let bad = || Err(Error::ServerLogin("bad protocol negotiation from server".into()));
        let check = |asked, answer: &[u8], expected: Result<Step, Error>| {
            let mut login = Login::new("u", ServerSecret::default(), "n").speaking(asked);
            assert_eq!(handle(&mut login, answer), expected);
            if expected.is_ok() {
                finish(&mut login);
            }
        };
        let (v3_0, v3_2) = (Version::V3_0, Version::V3_2);
        check(v3_2, &negotiation(v3_0, &[]), Ok(Step::More));
        check(v3_2, &negotiation(v3_2, &[]), Ok(Step::More));
        check(v3_0, &negotiation(v3_0, &[]), Ok(Step::More));
        check(v3_0, &negotiation(v3_2, &[]), bad());
        check(v3_2, &negotiation(v3_0, &["_pq_.x".into()]), bad());
        check(v3_2, b"v\0\0\0\x0c\0\x03\0\x01\0\0\0\0", bad());
        // Too late.
        let mut login = Login::new("u", ServerSecret::default(), "n").speaking(v3_2);
        handle(&mut login, &request(&Authentication::Ok)).unwrap();
        handle(&mut login, &negotiation(v3_0, &[])).unwrap_err();
    }

    #[test]
    fn cancel_keys() {
        for (len, is_good) in [(7, false), (8, true), (36, true), (260, true), (261, false)] {
            let mut login = Login::new("u", ServerSecret::default(), "n");
            handle(&mut login, &request(&Authentication::Ok)).unwrap();
            let mut bytes = Vec::new();
            backend::backend_key_data(&mut bytes, &vec![7; len]);
            let result = handle(&mut login, &bytes);
            assert_eq!(result.is_ok(), is_good, "{len}: {result:?}");
            if is_good {
                let Ok(Step::Ready(_, key)) = handle(&mut login, READY) else { panic!("not ready") };
                assert_eq!(*key, vec![7; len]);
            }
        }
    }

    #[test]
    fn connect_query() {
        let logged_in = || {
            let mut login = Login::new("u", ServerSecret::default(), "n").querying(Some("select 1".into()));
            handle(&mut login, &request(&Authentication::Ok)).unwrap();
            let mut bytes = Vec::new();
            backend::parameter_status(&mut bytes, "TimeZone", "CET");
            handle(&mut login, &bytes).unwrap();
            assert_eq!(handle(&mut login, READY), Ok(Step::Reply(b"Q\0\0\0\x0dselect 1\0".to_vec())));
            login
        };
        let mut login = logged_in();
        for ignored in [&b"T\0\0\0\x06\0\0"[..], b"D\0\0\0\x06\0\0", b"N\0\0\0\x05\0", b"C\0\0\0\x06x\0"] {
            assert_eq!(handle(&mut login, ignored), Ok(Step::More));
        }
        let mut bytes = Vec::new();
        backend::parameter_status(&mut bytes, "TimeZone", "UTC");
        assert_eq!(handle(&mut login, &bytes), Ok(Step::More));
        let failed = handle(&mut login, b"E\0\0\0\x17SERROR\0C42601\0Mno\0\0").unwrap();
        assert!(matches!(failed, Step::QueryFailed(fields) if fields.sqlstate == "42601"));
        let Ok(Step::Ready(welcome, _)) = handle(&mut login, READY) else { panic!("not ready") };
        assert_eq!(welcome.parameters, [("TimeZone".to_owned(), "UTC".to_owned())]);
        assert_eq!(welcome.tracked.value(2), Some("UTC"));

        let check = |bytes: &[u8], expected: &str| {
            assert_eq!(handle(&mut logged_in(), bytes).unwrap_err().to_string(), expected);
        };
        check(b"Z\0\0\0\x05T", "connect_query left a transaction open");
        check(b"G\0\0\0\x07\0\0\0", "connect_query wants to copy");
    }

    const READY: &[u8] = b"Z\0\0\0\x05I";

    #[test]
    fn trust_plain_md5() {
        let mut login = Login::new("u", ServerSecret::default(), "n");
        finish(&mut login);

        let mut login = Login::new("u", plain("sesame"), "n");
        let answer = handle(&mut login, &request(&Authentication::CleartextPassword));
        assert_eq!(answer, Ok(Step::Reply(b"p\0\0\0\x0bsesame\0".to_vec())));
        finish(&mut login);

        let mut login = Login::new("u", plain("sesame"), "n");
        let answer = handle(&mut login, &request(&Authentication::Md5Password([1, 2, 3, 4])));
        let expected = md5::response(&Secret::parse("sesame"), "u", [1, 2, 3, 4]).unwrap();
        assert_eq!(answer, Ok(Step::Reply(password_message(&expected))));
        finish(&mut login);
    }

    #[test]
    fn scram_with_password_or_keys() {
        let stored = ScramSecret::from_password("sesame", b"salt", NonZeroU32::new(2).unwrap());
        // What a client proved itself with.
        let client_key = {
            let (server, client) = (
                ServerExchange::new(stored.clone(), "s"),
                ClientExchange::new(Credential::Password("sesame".into()), "c"),
            );
            let (first, server) = server.handle_client_first(&client.client_first()).unwrap();
            let (last, _) = client.handle_server_first(&first).unwrap();
            server.handle_client_final(&last).unwrap().1
        };
        let keys = ServerSecret { secret: Some(Secret::Scram(stored.clone())), client_key: Some(client_key) };
        for secret in [plain("sesame"), keys] {
            let mut login = Login::new("u", secret, "n");
            let sasl = request(&Authentication::Sasl(vec![b"SCRAM-SHA-256-PLUS", b"SCRAM-SHA-256"]));
            let Ok(Step::Reply(first)) = handle(&mut login, &sasl) else { panic!("no reply") };
            let (_, data) = frontend::read_sasl_initial_response(&first[5..]).unwrap();
            let (answer, server) = ServerExchange::new(stored.clone(), "s").handle_client_first(data.unwrap()).unwrap();
            let Ok(Step::Reply(second)) = handle(&mut login, &request(&Authentication::SaslContinue(&answer))) else {
                panic!("no reply")
            };
            let (last, _) = server.handle_client_final(&second[5..]).unwrap();
            assert_eq!(handle(&mut login, &request(&Authentication::SaslFinal(&last))), Ok(Step::More));
            finish(&mut login);
        }
    }

    #[test]
    fn failures() {
        #[track_caller]
        fn check(secret: ServerSecret, bytes: &[u8], expected: &str) {
            let error = handle(&mut Login::new("u", secret, "n"), bytes).unwrap_err();
            assert_eq!(error.to_string(), expected);
        }
        let md5 = plain("md5900150983cd24fb0d6963f7d28e17f72");
        check(md5, &request(&Authentication::CleartextPassword), "server login failed: wrong password type");
        let none = ServerSecret::default;
        check(none(), &request(&Authentication::Md5Password([0; 4])), "server login failed: wrong password type");
        check(
            none(),
            &request(&Authentication::Sasl(vec![b"SCRAM-SHA-256"])),
            "server login failed: wrong password type",
        );
        check(
            none(),
            &request(&Authentication::Sasl(vec![b"OTHER"])),
            "server login failed: none of the server's SASL authentication mechanisms are supported",
        );
        check(none(), &request(&Authentication::Other(7)), "server login failed: unsupported authentication method 7");
        let unexpected = "server login failed: unexpected authentication request";
        check(none(), &request(&Authentication::SaslFinal(b"")), unexpected);
        check(none(), b"Z\0\0\0\x05I", "unexpected message from server during login");
        check(none(), b"E\0\0\0\x17SFATAL\0C53300\0Mno\0\0", "no");

        // A server that skips its own proof is not trusted.
        let mut login = Login::new("u", plain("sesame"), "n");
        handle(&mut login, &request(&Authentication::Sasl(vec![b"SCRAM-SHA-256"]))).unwrap();
        assert!(handle(&mut login, &request(&Authentication::Ok)).is_err());
    }
}
