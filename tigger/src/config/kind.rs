//! The kinds of values a setting or a connection parameter may have: how the text is read, checked, stored in its
//! field and shown again. It knows no setting by name.

use std::path::PathBuf;
use std::time::Duration;

use tigger_proto::wire::version::Version;

use super::choice::{AuthType, Choice, KernelPath, LoadBalanceHosts, PoolMode, SslMode, StartupParameters};
use super::database::Host;
use super::secret::Secret;

/// The field of `T` in which a value of type `V` ends. `None`: the value is checked, but nothing uses it yet.
pub(super) type Field<T, V> = Option<fn(&mut T) -> &mut V>;

/// Kind of a value, with its field in the checked structure `T`.
pub(super) enum Kind<T> {
    /// Any text; empty = unset.
    Text(Field<T, Option<String>>),
    /// Any text, never shown, because it may hold a password.
    Concealed(Field<T, Option<Secret>>),
    /// Name of a file; empty = unset.
    File(Field<T, Option<PathBuf>>),
    /// List separated by commas.
    Names(Field<T, Vec<String>>),
    /// Number; other than 0 = on.
    Switch(Field<T, bool>),
    /// TCP port; 0 is allowed only where the field is a setting.
    Port(Field<T, u16>),
    /// Number from 0 on.
    Count(Field<T, u32>),
    /// Number; 0 or less = no limit of its own.
    Limit(Field<T, Option<u32>>),
    /// Number; less than 0 = the more general setting applies.
    CountOverride(Field<T, Option<u32>>),
    /// Seconds with decimals.
    Seconds(Field<T, Duration>),
    /// Seconds with decimals; 0 = off.
    Timeout(Field<T, Option<Duration>>),
    /// Seconds with decimals; 0 = off, less than 0 = the more general setting applies.
    TimeoutOverride(Field<T, Option<Duration>>),
    /// Seconds without decimals; 0 = off.
    WholeSeconds(Field<T, Option<Duration>>),
    /// Seconds without decimals, at least 1.
    Period(Field<T, Duration>),
    /// Pool mode.
    PoolMode(Field<T, PoolMode>),
    /// Pool mode in place of the more general setting.
    PoolModeOverride(Field<T, Option<PoolMode>>),
    /// Choice of one of several hosts.
    LoadBalanceHosts(Field<T, LoadBalanceHosts>),
    /// What becomes of start-up parameters that are not tracked.
    StartupParameters(Field<T, StartupParameters>),
    /// Use of the kernel path.
    KernelPath(Field<T, KernelPath>),
    /// Use of the kernel path in place of the more general setting.
    KernelPathOverride(Field<T, Option<KernelPath>>),
    /// Authentication method.
    AuthType(Field<T, AuthType>),
    /// Version of the protocol.
    Version(Field<T, Version>),
    /// TLS mode.
    SslMode(Field<T, SslMode>),
    /// Hosts separated by commas.
    Hosts(Field<T, Vec<Host>>),
}

impl<T> Kind<T> {
    /// Reads `text`, stores the value in its field of `target`, and returns the value as `SHOW CONFIG` shows it.
    ///
    /// # Errors
    /// The reason why the text is refused. It does not repeat the text.
    pub(super) fn apply(&self, text: &str, target: &mut T) -> Result<String, String> {
        Ok(match self {
            Self::Text(field) => {
                store(field, target, (!text.is_empty()).then(|| text.to_owned()));
                text.to_owned()
            }
            Self::Concealed(field) => {
                store(field, target, (!text.is_empty()).then(|| Secret::new(text)));
                if text.is_empty() { String::new() } else { CONCEALED.to_owned() }
            }
            Self::File(field) => {
                store(field, target, (!text.is_empty()).then(|| PathBuf::from(text)));
                text.to_owned()
            }
            Self::Names(field) => {
                let names = text.split(',').map(str::trim).filter(|name| !name.is_empty());
                store(field, target, names.map(str::to_owned).collect());
                text.to_owned()
            }
            Self::Hosts(field) => {
                let hosts = text.split(',').map(Host::parse).collect::<Result<_, _>>()?;
                store(field, target, hosts);
                text.to_owned()
            }
            Self::PoolMode(field) => choose(field, target, PoolMode::from_word(text)?, |mode| mode),
            Self::PoolModeOverride(field) => choose(field, target, PoolMode::from_word(text)?, Some),
            Self::LoadBalanceHosts(field) => choose(field, target, LoadBalanceHosts::from_word(text)?, |choice| choice),
            Self::StartupParameters(field) => {
                choose(field, target, StartupParameters::from_word(text)?, |choice| choice)
            }
            Self::KernelPath(field) => choose(field, target, KernelPath::from_word(text)?, |choice| choice),
            Self::KernelPathOverride(field) => match KernelPath::from_word(text)? {
                // Whether a process starts is not a matter of one database or user.
                KernelPath::Require => return Err("expected one of auto, off".to_owned()),
                choice => choose(field, target, choice, Some),
            },
            Self::Version(field) => choose(field, target, Version::from_word(text)?, |version| version),
            Self::AuthType(field) => choose(field, target, auth_type(text)?, |method| method),
            Self::SslMode(field) => {
                let mode = SslMode::from_word(text)?;
                if field.is_none() && mode >= SslMode::Require {
                    // A warning would not do: who asks for encryption must not get clear text.
                    return Err("TLS is not supported yet".to_owned());
                }
                choose(field, target, mode, |mode| mode)
            }
            Self::Switch(..) | Self::Port(..) | Self::Count(..) | Self::Limit(..) | Self::CountOverride(..) => {
                self.apply_number(integer(text)?, target)?.to_string()
            }
            Self::WholeSeconds(..) | Self::Period(..) => self.apply_number(integer(text)?, target)?.to_string(),
            Self::Seconds(..) | Self::Timeout(..) | Self::TimeoutOverride(..) => {
                self.apply_seconds(seconds(text)?, target)?.to_string()
            }
        })
    }

    fn apply_number(&self, number: i64, target: &mut T) -> Result<i64, String> {
        match self {
            Self::Switch(field) => store(field, target, number != 0),
            Self::Port(field) => {
                let port = u16::try_from(number).map_err(|_| "expected a port from 0 to 65535".to_owned())?;
                store(field, target, port);
            }
            Self::Count(field) => store(field, target, count(number)?),
            Self::Limit(field) => store(field, target, Some(count(number.max(0))?).filter(|limit| *limit > 0)),
            Self::CountOverride(field) => {
                let own = if number < 0 { None } else { Some(count(number)?) };
                store(field, target, own);
            }
            Self::WholeSeconds(field) => {
                let time = Duration::from_secs(count(number)?.into());
                store(field, target, Some(time).filter(|time| !time.is_zero()));
            }
            Self::Period(field) => {
                if number < 1 {
                    return Err("expected at least 1 second".to_owned());
                }
                store(field, target, Duration::from_secs(count(number)?.into()));
            }
            _ => {}
        }
        Ok(number)
    }

    fn apply_seconds(&self, number: f64, target: &mut T) -> Result<f64, String> {
        if let Self::TimeoutOverride(field) = self
            && number < 0.0
        {
            store(field, target, None);
            return Ok(number);
        }
        let time = duration(number)?;
        match self {
            Self::Seconds(field) => store(field, target, time),
            Self::Timeout(field) => store(field, target, Some(time).filter(|time| !time.is_zero())),
            Self::TimeoutOverride(field) => store(field, target, Some(time)),
            _ => {}
        }
        Ok(number)
    }

    /// Whether something uses the value.
    pub(super) fn is_built(&self) -> bool {
        match self {
            Self::Text(field) => field.is_some(),
            Self::Concealed(field) => field.is_some(),
            Self::File(field) => field.is_some(),
            Self::Names(field) => field.is_some(),
            Self::Switch(field) => field.is_some(),
            Self::Port(field) => field.is_some(),
            Self::Count(field) => field.is_some(),
            Self::Limit(field) | Self::CountOverride(field) => field.is_some(),
            Self::Seconds(field) | Self::Period(field) => field.is_some(),
            Self::Timeout(field) | Self::TimeoutOverride(field) | Self::WholeSeconds(field) => field.is_some(),
            Self::PoolMode(field) => field.is_some(),
            Self::PoolModeOverride(field) => field.is_some(),
            Self::LoadBalanceHosts(field) => field.is_some(),
            Self::StartupParameters(field) => field.is_some(),
            Self::KernelPath(field) => field.is_some(),
            Self::KernelPathOverride(field) => field.is_some(),
            Self::Version(field) => field.is_some(),
            Self::AuthType(field) => field.is_some(),
            Self::SslMode(field) => field.is_some(),
            Self::Hosts(field) => field.is_some(),
        }
    }

    /// What the manual says about the text that is expected.
    pub(super) fn describe(&self) -> String {
        match self {
            Self::Text(_) => "text".to_owned(),
            Self::Concealed(_) => "text, never shown".to_owned(),
            Self::File(_) => "file name".to_owned(),
            Self::Names(_) => "list separated by commas".to_owned(),
            Self::Switch(_) => "0 or 1".to_owned(),
            Self::Port(_) => "port".to_owned(),
            Self::Count(_) => "number".to_owned(),
            Self::Limit(_) => "number, 0 = not limited".to_owned(),
            Self::CountOverride(_) => "number, -1 = not set".to_owned(),
            Self::Seconds(_) => "seconds, decimals allowed".to_owned(),
            Self::Timeout(_) => "seconds, decimals allowed, 0 = off".to_owned(),
            Self::TimeoutOverride(_) => "seconds, decimals allowed, 0 = off, -1 = not set".to_owned(),
            Self::WholeSeconds(_) => "whole seconds, 0 = off".to_owned(),
            Self::Period(_) => "whole seconds, at least 1".to_owned(),
            Self::PoolMode(_) | Self::PoolModeOverride(_) => words::<PoolMode>(),
            Self::LoadBalanceHosts(_) => words::<LoadBalanceHosts>(),
            Self::StartupParameters(_) => words::<StartupParameters>(),
            Self::KernelPath(_) => words::<KernelPath>(),
            Self::KernelPathOverride(_) => "`auto`, `off`".to_owned(),
            Self::Version(_) => words::<Version>(),
            Self::AuthType(_) => words::<AuthType>(),
            Self::SslMode(_) => words::<SslMode>(),
            Self::Hosts(_) => "host name, address or directory".to_owned(),
        }
    }
}

fn store<T, V>(field: &Field<T, V>, target: &mut T, value: V) {
    if let Some(field) = field {
        *field(target) = value;
    }
}

fn choose<T, C: Choice, V>(field: &Field<T, V>, target: &mut T, choice: C, wrap: fn(C) -> V) -> String {
    store(field, target, wrap(choice));
    choice.word().to_owned()
}

fn words<C: Choice>() -> String {
    let words: Vec<String> = C::WORDS.iter().map(|(word, _)| format!("`{word}`")).collect();
    words.join(", ")
}

fn auth_type(text: &str) -> Result<AuthType, String> {
    if AuthType::NOT_YET.iter().any(|word| word.eq_ignore_ascii_case(text)) {
        return Err("this method is not supported yet".to_owned());
    }
    AuthType::from_word(text)
}

/// Reads a whole number as C's `strtol` with base 0 does: `0x` is hexadecimal, a leading `0` octal.
fn integer(text: &str) -> Result<i64, String> {
    let (sign, digits) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, &digits[2..]),
        [b'0', _, ..] => (8, &digits[1..]),
        _ => (10, digits),
    };
    // `from_str_radix` would take a second sign.
    if digits.starts_with(['+', '-']) {
        return Err("expected a whole number".to_owned());
    }
    i64::from_str_radix(digits, radix).map(|number| sign * number).map_err(|_| "expected a whole number".to_owned())
}

fn count(number: i64) -> Result<u32, String> {
    u32::try_from(number).map_err(|_| format!("expected a number from 0 to {}", u32::MAX))
}

fn seconds(text: &str) -> Result<f64, String> {
    text.parse::<f64>()
        .ok()
        .filter(|number| number.is_finite())
        .ok_or_else(|| "expected a number of seconds".to_owned())
}

fn duration(seconds: f64) -> Result<Duration, String> {
    if seconds > SECONDS_MAX {
        return Err(format!("expected at most {SECONDS_MAX} seconds"));
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| "expected a number of seconds from 0 on".to_owned())
}

/// Longest time, some 30 years: more could overflow when it is added to a point in time.
const SECONDS_MAX: f64 = 1e9;

/// Shown in place of a value that may hold a password.
const CONCEALED: &str = "********";
