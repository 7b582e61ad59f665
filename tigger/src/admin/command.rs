//! The commands of the console: one table, case-insensitive words, an optional `;`.

use std::sync::Arc;

use tigger_proto::pool::ClientId;
use tigger_proto::wire::backend;
use tigger_proto::wire::error_response::{self, Severity};

use super::{Access, show};
use crate::config::ADMIN_DATABASE;
use crate::pooler::Pooler;
use crate::pooler::shutdown::Phase;

/// A command that is not SHOW.
struct Command {
    word: &'static str,
    argument: Argument,
    usage: &'static str,
    action: Action,
}

/// What may follow the word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Argument {
    None,
    /// The name of a database.
    Database,
    /// One of these words.
    OneOf(&'static [&'static str]),
}

#[derive(Clone, Copy)]
enum Action {
    Pause,
    Resume,
    Reconnect,
    Kill,
    Suspend,
    Reload,
    Shutdown,
}

const COMMANDS: &[Command] = &[
    Command { word: "RELOAD", argument: Argument::None, usage: "RELOAD", action: Action::Reload },
    Command { word: "PAUSE", argument: Argument::Database, usage: "PAUSE [<db>]", action: Action::Pause },
    Command { word: "RESUME", argument: Argument::Database, usage: "RESUME [<db>]", action: Action::Resume },
    Command { word: "SUSPEND", argument: Argument::None, usage: "SUSPEND", action: Action::Suspend },
    Command { word: "RECONNECT", argument: Argument::Database, usage: "RECONNECT [<db>]", action: Action::Reconnect },
    Command { word: "KILL", argument: Argument::Database, usage: "KILL [<db>]", action: Action::Kill },
    Command {
        word: "SHUTDOWN",
        argument: Argument::OneOf(&["WAIT_FOR_SERVERS", "WAIT_FOR_CLIENTS"]),
        usage: "SHUTDOWN [WAIT_FOR_SERVERS|WAIT_FOR_CLIENTS]",
        action: Action::Shutdown,
    },
];

/// Parameters that drivers set or ask for right after the login; PgBouncer answers them so that drivers can connect.
const DRIVER_PARAMETERS: &[(&str, &str)] = &[
    ("client_encoding", "UTF8"),
    ("default_transaction_isolation", "read committed"),
    ("standard_conforming_strings", "on"),
    ("datestyle", "ISO"),
    ("timezone", "GMT"),
];

/// Runs the command in `text` and appends its reply, without ReadyForQuery.
///
/// # Errors
/// What the user is told.
pub(super) async fn run(
    pooler: &Arc<Pooler>,
    client: ClientId,
    access: Access,
    text: &str,
    out: &mut Vec<u8>,
) -> Result<(), Refused> {
    let words = words(text).ok_or_else(|| invalid(text))?;
    let mut words = words.iter().map(String::as_str);
    let Some(first) = words.next() else {
        backend::message(out, backend::kind::EMPTY_QUERY_RESPONSE, |_| {});
        return Ok(());
    };
    let rest: Vec<&str> = words.collect();
    match first.to_ascii_uppercase().as_str() {
        "SHOW" | "SELECT" => Ok(answer_show(pooler, text, &rest, out)?),
        "SET" => Ok(answer_set(text, &rest, out)?),
        word => {
            let command = COMMANDS.iter().find(|command| command.word == word).ok_or_else(|| invalid(text))?;
            if access != Access::Admin {
                return Err("admin access needed".into());
            }
            let argument = command.argument(&rest).ok_or_else(|| invalid(text))?;
            act(pooler, client, command.action, argument).await?;
            backend::command_complete(out, command.word);
            Ok(())
        }
    }
}

/// What the user is told instead of a reply.
pub(super) struct Refused {
    pub(super) sqlstate: &'static str,
    pub(super) text: String,
}

impl From<String> for Refused {
    fn from(text: String) -> Self {
        Self { sqlstate: "08P01", text }
    }
}

impl From<&str> for Refused {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

impl Command {
    /// Checks what follows the word.
    fn argument<'a>(&self, rest: &[&'a str]) -> Option<Option<&'a str>> {
        match (rest, self.argument) {
            ([], _) => Some(None),
            ([name], Argument::Database) => Some(Some(name)),
            ([word], Argument::OneOf(words)) if words.iter().any(|known| known.eq_ignore_ascii_case(word)) => {
                Some(Some(word))
            }
            _ => None,
        }
    }
}

fn invalid(text: &str) -> String {
    format!("invalid command '{}', use SHOW HELP;", text.trim())
}

async fn act(pooler: &Arc<Pooler>, client: ClientId, action: Action, argument: Option<&str>) -> Result<(), Refused> {
    match action {
        Action::Reload => {
            pooler.reload().map_err(|error| {
                tracing::error!("reload failed: {error}");
                Refused { sqlstate: "F0000", text: "RELOAD failed, see logs for additional details".into() }
            })?;
            tracing::info!("RELOAD command issued");
            return Ok(());
        }
        Action::Shutdown => {
            let phase = match argument.map(str::to_ascii_uppercase).as_deref() {
                Some("WAIT_FOR_SERVERS") => Phase::WaitForServers,
                Some(_) => Phase::WaitForClients,
                None => Phase::Stop,
            };
            tracing::info!("SHUTDOWN command issued");
            pooler.shut_down(phase);
            return Ok(());
        }
        Action::Suspend => return suspend(pooler, client).await,
        Action::Pause | Action::Resume | Action::Reconnect | Action::Kill => {}
    }
    let verb = match action {
        Action::Pause => "pause",
        Action::Resume => "resume",
        Action::Reconnect => "reconnect",
        _ => "kill",
    };
    if let Some(name) = argument {
        if name == ADMIN_DATABASE {
            return Err(format!("cannot {verb} admin db: {name}").into());
        }
        if !pooler.database_names().iter().any(|known| known == name) {
            return Err(format!("no such database: {name}").into());
        }
    }
    tracing::info!(
        "{} command issued{}",
        verb.to_uppercase(),
        argument.map(|name| format!(" for {name}")).unwrap_or_default()
    );
    let all_paused = || show::names(pooler, argument).iter().all(|name| pooler.database_state(name).is_paused());
    match action {
        Action::Pause if pooler.suspension.current().is_some() => return Err("already suspended/paused".into()),
        Action::Pause if all_paused() && !show::names(pooler, argument).is_empty() => {
            return Err("already suspended/paused".into());
        }
        Action::Pause => {
            pooler.pause(argument);
            if !pooler.console.wait(client, pooler.released(argument)).await {
                pooler.resume(argument);
                return Err("canceled".into());
            }
        }
        Action::Resume if argument.is_none() && pooler.end_suspension() => {}
        Action::Resume => {
            let any = show::names(pooler, argument).iter().any(|name| pooler.database_state(name).is_paused());
            if !any {
                return Err(match argument {
                    Some(name) => format!("database {name} is not paused").into(),
                    None => "pooler is not paused/suspended".into(),
                });
            }
            pooler.resume(argument);
        }
        Action::Reconnect => pooler.reconnect(argument),
        _ => pooler.kill(argument),
    }
    Ok(())
}

/// SUSPEND: returns when all clients are.
async fn suspend(pooler: &Arc<Pooler>, client: ClientId) -> Result<(), Refused> {
    let names = show::names(pooler, None);
    let paused = names.iter().filter(|name| pooler.database_state(name).is_paused()).count();
    if paused > 0 && paused == names.len() {
        return Err("already suspended/paused".into());
    }
    if paused > 0 {
        return Err("cannot suspend with paused databases".into());
    }
    if !pooler.suspend(client) {
        return Err("already suspended/paused".into());
    }
    tracing::info!("SUSPEND command issued");
    if !pooler.console.wait(client, pooler.suspended()).await {
        pooler.end_suspension();
        return Err("canceled".into());
    }
    Ok(())
}

fn answer_show(pooler: &Arc<Pooler>, text: &str, rest: &[&str], out: &mut Vec<u8>) -> Result<(), String> {
    let [name] = rest else { return Err(invalid(text)) };
    if name.eq_ignore_ascii_case("HELP") {
        help(out);
    } else if let Some(table) = show::find(name) {
        table.write(pooler, out);
    } else if let Some((name, value)) = DRIVER_PARAMETERS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)) {
        backend::row_description(out, [(*name, backend::ColumnType::Text)].into_iter());
        backend::data_row(out, &[Some((*value).to_owned())]);
    } else {
        return Err(invalid(text));
    }
    backend::command_complete(out, "SHOW");
    Ok(())
}

fn answer_set(text: &str, rest: &[&str], out: &mut Vec<u8>) -> Result<(), String> {
    let name = rest.first().map(|word| word.split('=').next().unwrap_or(word)).ok_or_else(|| invalid(text))?;
    if !DRIVER_PARAMETERS.iter().any(|(known, _)| known.eq_ignore_ascii_case(name)) {
        return Err("SET of settings is not supported yet: change the configuration file and RELOAD".into());
    }
    error_response::write(out, Severity::Notice, "00000", "SET ignored");
    backend::command_complete(out, "SET");
    Ok(())
}

/// The notice that SHOW HELP answers with, as in PgBouncer.
fn help(out: &mut Vec<u8>) {
    let mut detail =
        format!("\n\tSHOW HELP|{}\n", show::TABLES.iter().map(|table| table.name).collect::<Vec<_>>().join("|"));
    for command in COMMANDS {
        detail.push_str(&format!("\t{}\n", command.usage));
    }
    backend::message(out, backend::kind::NOTICE_RESPONSE, |out| {
        for (code, value) in [(b'S', "NOTICE"), (b'C', "00000"), (b'M', "Console usage"), (b'D', &detail)] {
            out.push(code);
            out.extend_from_slice(value.as_bytes());
            out.push(0);
        }
        out.push(0);
    });
}

/// Splits one statement into words; a name may be quoted. `None` for an unfinished quote or a second statement.
fn words(text: &str) -> Option<Vec<String>> {
    let text = text.trim();
    let text = text.strip_suffix(';').unwrap_or(text);
    let mut words = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(&c) = chars.peek() {
        if c.is_whitespace() {
            chars.next();
        } else if c == '"' {
            chars.next();
            let mut word = String::new();
            loop {
                match chars.next()? {
                    '"' if chars.next_if_eq(&'"').is_none() => break,
                    c => word.push(c),
                }
            }
            words.push(word);
        } else if c == ';' {
            return None;
        } else {
            let mut word = String::new();
            while let Some(c) = chars.next_if(|c| !c.is_whitespace() && *c != ';') {
                word.push(c);
            }
            words.push(word);
        }
    }
    Some(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splitting() {
        let check = |text: &str, expected: Option<&[&str]>| {
            assert_eq!(
                words(text),
                expected.map(|words| words.iter().map(|&word| word.to_owned()).collect()),
                "{text}"
            );
        };
        check("", Some(&[]));
        check(" ; ", Some(&[]));
        check("SHOW POOLS;", Some(&["SHOW", "POOLS"]));
        check("pause \"my \"\"db\"\"\" ;", Some(&["pause", "my \"db\""]));
        check("pause \"x", None);
        check("SHOW POOLS; SHOW STATS", None);
    }

    #[test]
    fn arguments() {
        let command = |word: &str| COMMANDS.iter().find(|command| command.word == word).unwrap();
        assert_eq!(command("PAUSE").argument(&[]), Some(None));
        assert_eq!(command("PAUSE").argument(&["a"]), Some(Some("a")));
        assert_eq!(command("PAUSE").argument(&["a", "b"]), None);
        assert_eq!(command("RELOAD").argument(&["a"]), None);
        assert_eq!(command("SHUTDOWN").argument(&["wait_for_clients"]), Some(Some("wait_for_clients")));
        assert_eq!(command("SHUTDOWN").argument(&["x"]), None);
    }
}
