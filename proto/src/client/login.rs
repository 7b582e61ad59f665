//! Login of a client: start-up packets, then the proof of who it is.
//!
//! ```text
//! Startup --SSLRequest, GSSENCRequest ('N')--> Startup
//!    | \--CancelRequest--> (over)
//!    \--StartupMessage--> Decide --authenticate--> Password, ScramFirst --> ScramFinal
//!                            \--trust----------------------\--------------------\--> (authenticated)
//! ```
//! Between `Decide` and [`Login::authenticate`] the driver looks up database and user; it does no work for a client
//! that has not sent a well-formed start-up.

use crate::auth::md5;
use crate::auth::scram::{self, ExpectFinal, ServerExchange};
use crate::auth::secret::{Key, ScramSecret, Secret};
use crate::error::Error;
use crate::wire::backend::{self, Authentication};
use crate::wire::frame::{HEADER_LEN, Header};
use crate::wire::frontend;
use crate::wire::startup::{self, BadStartup, StartupPacket};
use crate::wire::version::Version;

/// Longest password message accepted, in bytes; tokens of cloud identity services are several KiB.
const PASSWORD_LEN_MAX: u32 = 16 * 1024;

/// A client that is logging in.
#[derive(Debug, Default)]
pub struct Login {
    state: State,
    /// SSLRequest and GSSENCRequest are answered once each.
    asked: [bool; 2],
}

#[derive(Debug, Default)]
enum State {
    #[default]
    Startup,
    Decide,
    Password(Check),
    ScramFirst(Box<ServerExchange>),
    ScramFinal(Box<ExpectFinal>),
    Over,
}

/// How a password message is checked.
#[derive(Clone, Debug)]
enum Check {
    Plain { user: String, secret: Option<Secret> },
    Md5 { user: String, secret: Option<Secret>, salt: [u8; 4] },
}

/// How the client must prove who it is. A secret of `None` is a user that does not exist: it is asked like any other,
/// and refused in the end.
#[derive(Clone, Debug)]
pub enum Method {
    /// Nothing is asked.
    Trust,
    /// Nothing is asked, but the user does not exist.
    TrustRefused,
    /// The password in clear text.
    Plain(Option<Secret>),
    /// MD5 of the password with this salt.
    Md5(Option<Secret>, [u8; 4]),
    /// SCRAM-SHA-256 with this nonce; for unknown users the secret is a mock.
    Scram(Box<ScramSecret>, String),
}

/// What comes out of the client's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Nothing yet.
    More,
    /// Send this.
    Reply(Vec<u8>),
    /// The connection only carries this cancel key.
    Cancel(Vec<u8>),
    /// Send `reply` (may be empty), look up who and where, then call [`Login::authenticate`].
    Startup {
        /// What the client is told of the protocol.
        reply: Vec<u8>,
        /// What is spoken with it.
        version: Version,
        /// Name and value pairs in the order sent.
        parameters: Vec<(String, String)>,
    },
    /// The client is who it says.
    Authenticated,
    /// The same by SCRAM: send the bytes. The key is what SCRAM passthrough needs to log in to a server.
    AuthenticatedScram(Vec<u8>, Key),
    /// The client said goodbye.
    Terminate,
}

impl Login {
    /// Handles the bytes at the start of `buf`; returns how many were used.
    ///
    /// # Errors
    /// What the client is told before it is disconnected.
    pub fn handle_bytes(&mut self, buf: &[u8]) -> Result<(usize, Step), Error> {
        match self.state {
            State::Startup => self.handle_startup(buf),
            State::Decide | State::Over => Ok((0, Step::More)),
            _ => self.handle_message(buf),
        }
    }

    /// The driver's decision how `user` must prove itself.
    pub fn authenticate(&mut self, user: &str, method: Method) -> Result<Step, Error> {
        debug_assert!(matches!(self.state, State::Decide));
        let user = user.to_owned();
        let (state, request) = match method {
            Method::Trust => {
                self.state = State::Over;
                return Ok(Step::Authenticated);
            }
            Method::TrustRefused => return Err(Error::TrustFailed),
            Method::Plain(secret) => {
                (State::Password(Check::Plain { user, secret }), Authentication::CleartextPassword)
            }
            Method::Md5(secret, salt) => {
                (State::Password(Check::Md5 { user, secret, salt }), Authentication::Md5Password(salt))
            }
            Method::Scram(secret, nonce) => (
                State::ScramFirst(Box::new(ServerExchange::new(*secret, &nonce))),
                Authentication::Sasl(vec![scram::MECHANISM.as_bytes()]),
            ),
        };
        self.state = state;
        Ok(reply(&request))
    }

    fn handle_startup(&mut self, buf: &[u8]) -> Result<(usize, Step), Error> {
        // No length that is accepted begins with this byte.
        if buf.first() == Some(&frontend::PASSWORD) {
            return match Header::read(buf, crate::wire::frame::MESSAGE_LEN_MAX)? {
                None => Ok((0, Step::More)),
                Some(header) if header.len > PASSWORD_LEN_MAX => Err(Error::PasswordTooLong),
                Some(_) => Err(Error::PasswordBeforeStartup),
            };
        }
        let Some((packet, len)) = startup::read(buf)? else { return Ok((0, Step::More)) };
        let more = buf.len() > len;
        let step = match packet {
            // Bytes that came with the request were sent before our answer: somebody in between may have put them there
            // (CVE-2021-23214).
            StartupPacket::Ssl if more => return Err(Error::UnencryptedAfterSsl),
            StartupPacket::GssEnc if more => return Err(Error::UnencryptedAfterGss),
            StartupPacket::Ssl => self.refuse_encryption(0, buf)?,
            StartupPacket::GssEnc => self.refuse_encryption(1, buf)?,
            StartupPacket::Cancel(key) => {
                self.state = State::Over;
                Step::Cancel(key)
            }
            StartupPacket::Startup { minor, parameters } => {
                self.state = State::Decide;
                Step::Startup { reply: negotiate(minor, &parameters), version: Version::for_client(minor), parameters }
            }
        };
        Ok((len, step))
    }

    fn refuse_encryption(&mut self, which: usize, buf: &[u8]) -> Result<Step, Error> {
        if std::mem::replace(&mut self.asked[which], true) {
            let mut head = [0; 8];
            head.copy_from_slice(&buf[..8]);
            return Err(BadStartup::Header(head).into());
        }
        Ok(Step::Reply(b"N".to_vec()))
    }

    fn handle_message(&mut self, buf: &[u8]) -> Result<(usize, Step), Error> {
        match buf.first() {
            None => return Ok((0, Step::More)),
            Some(&frontend::PASSWORD) => {}
            Some(b'X') => return Ok((0, Step::Terminate)),
            Some(0) => {
                return match startup::read(buf)? {
                    None => Ok((0, Step::More)),
                    Some((StartupPacket::Startup { .. }, _)) => Err(Error::StartupResent),
                    Some(_) => Err(Error::UnknownPacket),
                };
            }
            Some(_) => return Err(Error::UnknownPacket),
        }
        let Some(header) = Header::read(buf, crate::wire::frame::MESSAGE_LEN_MAX)? else { return Ok((0, Step::More)) };
        if header.len > PASSWORD_LEN_MAX {
            return Err(Error::PasswordTooLong);
        }
        let Some(body) = buf.get(HEADER_LEN..header.total()) else { return Ok((0, Step::More)) };
        let step = match std::mem::replace(&mut self.state, State::Over) {
            State::Password(check) => check.handle_password(body)?,
            State::ScramFirst(exchange) => {
                let (mechanism, data) = frontend::read_sasl_initial_response(body).ok_or(Error::FailedToParse)?;
                if mechanism != scram::MECHANISM.as_bytes() {
                    return Err(Error::SaslMechanism);
                }
                let (first, next) =
                    exchange.handle_client_first(data.unwrap_or_default()).map_err(|_| Error::SaslFailed)?;
                self.state = State::ScramFinal(Box::new(next));
                reply(&Authentication::SaslContinue(&first))
            }
            State::ScramFinal(exchange) => {
                let (last, key) = exchange.handle_client_final(body).map_err(|_| Error::SaslFailed)?;
                let mut out = Vec::new();
                backend::authentication(&mut out, &Authentication::SaslFinal(&last));
                return Ok((header.total(), Step::AuthenticatedScram(out, key)));
            }
            State::Startup | State::Decide | State::Over => return Err(Error::UnknownPacket),
        };
        Ok((header.total(), step))
    }
}

impl Check {
    fn handle_password(self, body: &[u8]) -> Result<Step, Error> {
        let [password @ .., 0] = body else { return Err(Error::FailedToParse) };
        if password.is_empty() {
            return Err(Error::EmptyPassword);
        }
        let good = match self {
            Self::Plain { user, secret } => {
                let password = std::str::from_utf8(password).map_err(|_| Error::PasswordFailed)?;
                secret.is_some_and(|secret| secret.verify_password(&user, password))
            }
            Self::Md5 { user, secret, salt } => {
                secret.is_some_and(|secret| md5::verify(&secret, &user, salt, password))
            }
        };
        if good { Ok(Step::Authenticated) } else { Err(Error::PasswordFailed) }
    }
}

fn reply(request: &Authentication<'_>) -> Step {
    let mut out = Vec::new();
    backend::authentication(&mut out, request);
    Step::Reply(out)
}

/// What a client is told first that asks for a version which is not spoken, or for options (manual, section 55.2.1). One
/// that asks for 3.1 is told 3.0, as servers before PostgreSQL 18 do: 18 takes it for a 3.0 without a word.
fn negotiate(minor: u16, parameters: &[(String, String)]) -> Vec<u8> {
    let unknown: Vec<String> =
        parameters.iter().map(|(name, _)| name).filter(|name| name.starts_with("_pq_.")).cloned().collect();
    let version = Version::for_client(minor);
    let mut out = Vec::new();
    if minor != version.minor() || !unknown.is_empty() {
        backend::negotiate_protocol_version(&mut out, version, &unknown);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::scram::{ClientExchange, Credential};
    use std::num::NonZeroU32;

    fn startup_bytes(minor: u8, option: bool) -> Vec<u8> {
        let mut out = Vec::new();
        let parameters = [("user", "u"), ("_pq_.x", "1")];
        let parameters = parameters[..1 + usize::from(option)].iter().copied();
        startup::startup_message(&mut out, Version::V3_0, parameters);
        out[7] = minor;
        out
    }

    fn started() -> Login {
        let mut login = Login::default();
        let bytes = startup_bytes(0, false);
        let (used, step) = login.handle_bytes(&bytes).unwrap();
        assert_eq!(used, bytes.len());
        let parameters = vec![("user".into(), "u".into())];
        assert_eq!(step, Step::Startup { reply: vec![], version: Version::V3_0, parameters });
        login
    }

    fn password(text: &str) -> Vec<u8> {
        let mut out = Vec::new();
        frontend::password(&mut out, text);
        out
    }

    #[test]
    fn encryption_is_refused_once_each() {
        let mut login = Login::default();
        let ssl = b"\0\0\0\x08\x04\xd2\x16\x2f";
        let gss = b"\0\0\0\x08\x04\xd2\x16\x30";
        assert_eq!(login.handle_bytes(gss), Ok((8, Step::Reply(b"N".to_vec()))));
        assert_eq!(login.handle_bytes(ssl), Ok((8, Step::Reply(b"N".to_vec()))));
        assert!(matches!(login.handle_bytes(ssl), Err(Error::BadStartup(_))));
        let pipelined = [ssl.as_slice(), &startup_bytes(0, false)].concat();
        assert_eq!(Login::default().handle_bytes(&pipelined), Err(Error::UnencryptedAfterSsl));
        let pipelined = [gss.as_slice(), &startup_bytes(0, false)].concat();
        assert_eq!(Login::default().handle_bytes(&pipelined), Err(Error::UnencryptedAfterGss));
    }

    #[test]
    fn versions_are_negotiated() {
        let check = |minor: u8, option: bool, expected: (&[u8], Version)| {
            let (_, step) = Login::default().handle_bytes(&startup_bytes(minor, option)).unwrap();
            let Step::Startup { reply, version, parameters } = step else { panic!("{step:?}") };
            assert_eq!((reply.as_slice(), version), expected, "3.{minor}");
            assert_eq!(parameters.len(), 1 + usize::from(option));
        };
        check(0, false, (b"", Version::V3_0));
        check(0, true, (b"v\0\0\0\x13\0\x03\0\0\0\0\0\x01_pq_.x\0", Version::V3_0));
        check(1, false, (b"v\0\0\0\x0c\0\x03\0\0\0\0\0\0", Version::V3_0));
        check(2, false, (b"", Version::V3_2));
        check(2, true, (b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.x\0", Version::V3_2));
        check(3, false, (b"v\0\0\0\x0c\0\x03\0\x02\0\0\0\0", Version::V3_2));
        check(255, true, (b"v\0\0\0\x13\0\x03\0\x02\0\0\0\x01_pq_.x\0", Version::V3_2));
    }

    #[test]
    fn a_password_before_the_startup() {
        let early = password("sesame");
        assert_eq!(Login::default().handle_bytes(&early[..4]), Ok((0, Step::More)));
        assert_eq!(Login::default().handle_bytes(&early[..5]), Err(Error::PasswordBeforeStartup));
        assert_eq!(Login::default().handle_bytes(b"p\0\0\xff\xff"), Err(Error::PasswordTooLong));
        assert!(matches!(Login::default().handle_bytes(b"p\0\0\0\x03"), Err(Error::BadHeader(_))));
    }

    #[test]
    fn passwords() {
        let secret = || Some(Secret::parse("sesame"));
        let check = |method: Method, message: &[u8], expected: Result<Step, Error>| {
            let mut login = started();
            assert!(matches!(login.authenticate("u", method), Ok(Step::Reply(_))));
            assert_eq!(login.handle_bytes(&message[..message.len() - 1]).ok(), Some((0, Step::More)));
            assert_eq!(login.handle_bytes(message).map(|(_, step)| step), expected);
        };
        let good = Ok(Step::Authenticated);
        check(Method::Plain(secret()), &password("sesame"), good.clone());
        check(Method::Plain(secret()), &password("wrong"), Err(Error::PasswordFailed));
        check(Method::Plain(secret()), &password(""), Err(Error::EmptyPassword));
        check(Method::Plain(None), &password("sesame"), Err(Error::PasswordFailed));
        check(Method::Plain(secret()), b"p\0\0\0\x07abc", Err(Error::FailedToParse));
        let answer = md5::response(&Secret::parse("sesame"), "u", [1, 2, 3, 4]).unwrap();
        check(Method::Md5(secret(), [1, 2, 3, 4]), &password(&answer), good);
        check(Method::Md5(secret(), [1, 2, 3, 5]), &password(&answer), Err(Error::PasswordFailed));
        check(Method::Md5(None, [1, 2, 3, 4]), &password(&answer), Err(Error::PasswordFailed));

        let mut login = started();
        login.authenticate("u", Method::Plain(secret())).unwrap();
        assert_eq!(login.handle_bytes(b"Q\0\0\0\x04"), Err(Error::UnknownPacket));
        let again = startup_bytes(0, false);
        assert_eq!(login.handle_bytes(&again[..again.len() - 1]), Ok((0, Step::More)));
        assert_eq!(login.handle_bytes(&again), Err(Error::StartupResent));
        assert_eq!(login.handle_bytes(b"\0\0\0\x08\x04\xd2\x16\x2f"), Err(Error::UnknownPacket));
        assert_eq!(login.handle_bytes(b"p\0\0\xff\xff"), Err(Error::PasswordTooLong));
        assert_eq!(login.handle_bytes(b"X\0\0\0\x04"), Ok((0, Step::Terminate)));
        assert_eq!(started().authenticate("u", Method::Trust), Ok(Step::Authenticated));
        assert_eq!(started().authenticate("u", Method::TrustRefused), Err(Error::TrustFailed));
    }

    #[test]
    fn scram() {
        let iterations = NonZeroU32::new(2).unwrap();
        let secret = ScramSecret::from_password("sesame", b"salt", iterations);
        for (typed, good) in [("sesame", true), ("wrong", false)] {
            let mut login = started();
            login.authenticate("u", Method::Scram(Box::new(secret.clone()), "servernonce".into())).unwrap();
            let client = ClientExchange::new(Credential::Password(typed.into()), "clientnonce");
            let mut message = Vec::new();
            frontend::sasl_initial_response(&mut message, scram::MECHANISM, &client.client_first());
            let Step::Reply(first) = login.handle_bytes(&message).unwrap().1 else { panic!("no reply") };
            let (answer, client) = client.handle_server_first(&first[9..]).unwrap();
            message.clear();
            frontend::sasl_response(&mut message, &answer);
            match login.handle_bytes(&message) {
                Ok((_, Step::AuthenticatedScram(last, _))) => {
                    assert!(good);
                    client.handle_server_final(&last[9..]).unwrap();
                }
                other => assert!(!good && other == Err(Error::SaslFailed), "{other:?}"),
            }
        }
        let mut login = started();
        login.authenticate("u", Method::Scram(Box::new(secret), "n".into())).unwrap();
        let mut message = Vec::new();
        frontend::sasl_initial_response(&mut message, "SCRAM-SHA-256-PLUS", b"p=tls");
        assert_eq!(login.handle_bytes(&message), Err(Error::SaslMechanism));
    }
}
