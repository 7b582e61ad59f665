//! What a client gets through the proxy is what it gets from PostgreSQL itself, byte for byte: each script runs against
//! both, in each pool mode and on each path, and all messages that come back are compared.
//!
//! * `tests/differential/*.txt`: the scripts; `fixture.sql`: what they find in their database;
//! * `script`, `words`, `frontend`: how they are written;
//! * `connection`: a run; `backend`: what came back, made comparable; `difference`: two runs side by side.
//!
//! Each script runs three times: as it is; with all that is sent cut into pieces; and, in transaction mode, with another
//! client in between that has it go from server to server. `SEED=n` cuts other pieces.

mod backend;
mod connection;
mod difference;
mod frontend;
mod script;
mod words;

use std::{collections::BTreeMap, env, path::PathBuf, sync::OnceLock};

use tigger_testkit::{Postgres, Proxy, Psql};

use self::backend::{Message, NOTHING, normalised};
use self::connection::{Connection, Cut};
use self::script::Script;
use crate::kernel_path::kernel_proxy;
use crate::support::{Console, assert_kernel_path_used, options, postgres, proxy, until};
use crate::torture::random::Random;
use crate::wire::Wire;

/// Where the proxy's client gets something else than PostgreSQL's.
const KNOWN: &[Known] = &[
    Known {
        titles: &["options at login", "an encoding by another name at login"],
        modes: EVERY_MODE,
        reason: "the login needs no server: values are reported as the client gave them, not as PostgreSQL spells them",
    },
    Known {
        titles: &["a long application_name is cut", "an application_name that is not ASCII"],
        modes: EVERY_MODE,
        reason: "the same; PostgreSQL cuts it, and replaces what is not ASCII",
    },
    Known {
        titles: &["a bad value at login"],
        modes: EVERY_MODE,
        reason: "the same; the value is refused when the first server is needed",
    },
    Known {
        titles: &["a parameter at login that is not reported", "a parameter at login that does not exist"],
        modes: EVERY_MODE,
        reason: "as PgBouncer: only parameters that can follow the client are accepted at login",
    },
    Known {
        titles: &["set and reset", "discard all resets parameters"],
        modes: EVERY_MODE,
        reason: "as PgBouncer: RESET gives the server's default, which is not what the client has logged in with",
    },
    Known {
        titles: &["a query within copy in", "the backend ends itself", "the backend ends itself within a transaction"],
        modes: EVERY_MODE,
        reason: "as PgBouncer: behind the server's FATAL comes one of our own, `server conn crashed?`",
    },
    Known { titles: &["a backend that is gone with requests behind"], modes: EVERY_MODE, reason: "the same" },
    Known {
        titles: &["an unknown message", "an unknown message within a transaction", "a message of the server"],
        modes: EVERY_MODE,
        reason: "as PgBouncer: the FATAL is our own, `unknown pkt`",
    },
    Known { titles: &["a password that nobody asked for"], modes: EVERY_MODE, reason: "the same" },
    Known {
        titles: &["a goodbye that comes with a query"],
        modes: EVERY_MODE,
        reason: "as PgBouncer: who says goodbye waits for no reply",
    },
    Known {
        titles: &[
            "a transaction that an error leaves open",
            "a transaction that is left open",
            "a transaction that a group leaves open",
        ],
        modes: &[Mode::Statement],
        reason: "what statement mode is for",
    },
    Known {
        titles: &[
            "everything after an error is skipped",
            "an error at each message",
            "groups with errors of different kinds",
        ],
        modes: &[Mode::Transaction, Mode::Statement],
        reason: "as PgBouncer: who names a prepared statement that does not exist is disconnected",
    },
    Known {
        titles: &["an error that names the statement"],
        modes: &[Mode::Transaction],
        reason: "on servers statements have other names",
    },
    Known {
        titles: &["an error in what is executed", "wrong parameters for what is executed"],
        modes: &[Mode::Transaction, Mode::Statement],
        reason: "the same; which are longer, so that in an EXECUTE positions are others as well",
    },
    Known {
        titles: &["prepare twice", "prepare twice within a transaction"],
        modes: &[Mode::Transaction, Mode::Statement],
        reason: "the error is our own, without a place in PostgreSQL's source",
    },
    Known {
        titles: &["names beyond the longest"],
        modes: &[Mode::Transaction, Mode::Statement],
        reason: "they are cut here, without PostgreSQL's notice",
    },
    Known {
        titles: &["executions sent ahead with errors"],
        modes: &[Mode::Transaction],
        reason: "clients share statements, so the server may have a generic plan before this client's sixth execution: what \
                 is wrong with a value shows at Execute, not at Bind",
    },
    Known {
        titles: &["application_name in another case"],
        modes: &[Mode::Transaction],
        reason: "as PgBouncer: values that differ in case only are taken for the same",
    },
];

#[test]
fn session_mode() {
    same_as_postgres(Mode::Session, Path::User);
}

#[test]
fn session_mode_on_the_kernel_path() {
    same_as_postgres(Mode::Session, Path::Kernel);
}

#[test]
fn transaction_mode() {
    same_as_postgres(Mode::Transaction, Path::User);
}

#[test]
fn transaction_mode_on_the_kernel_path() {
    same_as_postgres(Mode::Transaction, Path::Kernel);
}

#[test]
fn statement_mode() {
    same_as_postgres(Mode::Statement, Path::User);
}

#[test]
fn there_are_many_scripts_and_each_has_its_own_title() {
    let scripts = scripts();
    assert!(scripts.len() >= 150, "{} scripts", scripts.len());
    let titles: BTreeMap<_, _> = scripts.iter().map(|script| (&script.title, script)).collect();
    assert_eq!(titles.len(), scripts.len());
    for title in KNOWN.iter().flat_map(|known| known.titles) {
        assert!(titles.contains_key(&(*title).to_owned()), "no script has the title {title}");
    }
}

/// A difference that is known.
struct Known {
    /// Of the scripts that show it.
    titles: &'static [&'static str],
    modes: &'static [Mode],
    reason: &'static str,
}

/// Of [`KNOWN`], those that do not show when the server is faster than the client's next message.
const RACES: &[&str] = &["a goodbye that comes with a query"];

const EVERY_MODE: &[Mode] = &[Mode::Session, Mode::Transaction, Mode::Statement];

/// Pool mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Session,
    Transaction,
    Statement,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Path {
    User,
    Kernel,
}

/// How a script is run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    Whole,
    Pieces,
    /// A second client begins or ends a transaction after each wait, and so takes a server away, or gives one back.
    Hopping,
}

/// Runs all scripts that can run in `mode`, and compares what comes back with what PostgreSQL said.
fn same_as_postgres(mode: Mode, path: Path) {
    let Some(reference) = Reference::get() else { return };
    let name = format!("{mode:?}").to_lowercase();
    let options = options(reference.postgres).pool_mode(&name).pool_size(2);
    let proxy = match path {
        Path::User => proxy(&options.setting("kernel_path", "off")),
        Path::Kernel => {
            let Some(proxy) = kernel_proxy(&options) else { return };
            proxy
        }
    };
    let database = format!("differential_{name}_{}", format!("{path:?}").to_lowercase());
    reference.create(&database);
    let mut console = Console::new(&proxy);
    let mut problems = Vec::new();
    for script in reference.scripts.iter().filter(|script| script.runs_in(mode)) {
        let expected = &reference.transcripts[&script.title];
        let mut differences = Vec::new();
        for manner in manners(mode) {
            let got = run_proxied(&proxy, &database, script, *manner);
            if got != *expected {
                let sides = difference::shown(expected, &got);
                differences.push(format!("{script}, {mode:?}, {path:?}, {manner:?}\n{sides}"));
            }
            until(&format!("no server is in use after: {script}"), || console.pool(&database, "sv_active") == 0);
        }
        match KNOWN.iter().find(|known| known.titles.contains(&&*script.title) && known.modes.contains(&mode)) {
            None => problems.append(&mut differences),
            Some(known) if differences.is_empty() && !RACES.contains(&&*script.title) => {
                problems.push(format!("{script}, {mode:?}, {path:?}: differs no longer: {}\n", known.reason));
            }
            Some(_) => {}
        }
    }
    assert_kernel_path_used(&mut console);
    assert!(problems.is_empty(), "{} differences\n\n{}", problems.len(), problems.join("\n"));
}

fn manners(mode: Mode) -> &'static [Manner] {
    match mode {
        Mode::Transaction => &[Manner::Whole, Manner::Pieces, Manner::Hopping],
        // A client keeps its server, or no other can.
        Mode::Session | Mode::Statement => &[Manner::Whole, Manner::Pieces],
    }
}

fn run_proxied(proxy: &Proxy, database: &str, script: &Script, manner: Manner) -> Vec<Message> {
    if manner != Manner::Hopping {
        return run(proxy.port(), database, script, manner, || {});
    }
    // As this client, so that servers are given the same parameters for both. One that is refused needs no server.
    let mut other = Wire::try_login(proxy, &script.start_up(database)).ok();
    let mut commands = ["begin", "rollback"].into_iter().cycle();
    run(proxy.port(), database, script, manner, || {
        other.iter_mut().for_each(|other| drop(other.query(commands.next().expect("it goes round"))));
    })
}

fn run(port: u16, database: &str, script: &Script, manner: Manner, waited: impl FnMut()) -> Vec<Message> {
    let cut = match manner {
        Manner::Pieces => Cut::Pieces(Random::new(seed(), script.title.len() as u64)),
        Manner::Whole | Manner::Hopping => Cut::Whole,
    };
    normalised(Connection::login(port, &script.start_up(database), cut).run(script, waited))
}

fn seed() -> u64 {
    env::var("SEED").map_or(1, |seed| seed.parse().expect("SEED is a number"))
}

/// What PostgreSQL itself says.
struct Reference {
    postgres: &'static Postgres,
    scripts: Vec<Script>,
    /// By title.
    transcripts: BTreeMap<String, Vec<Message>>,
}

impl Reference {
    /// `None` where PostgreSQL is not installed.
    fn get() -> Option<&'static Self> {
        static SHARED: OnceLock<Reference> = OnceLock::new();
        let postgres = postgres()?;
        Some(SHARED.get_or_init(|| Self::take(postgres)))
    }

    fn take(postgres: &'static Postgres) -> Self {
        // It may be there: where one test has failed here, the next tries again.
        postgres.psql(&format!("drop database if exists {FIXTURE}")).unwrap();
        postgres.psql(&format!("create database {FIXTURE}")).unwrap();
        let fixture = std::fs::read_to_string(directory().join("fixture.sql")).unwrap();
        Psql::new(postgres.socket_conninfo().dbname(FIXTURE)).text(&fixture).unwrap();
        let mut reference = Self { postgres, scripts: scripts(), transcripts: BTreeMap::new() };
        let database = "differential_direct";
        reference.create(database);
        let mut unfit = String::new();
        for script in &reference.scripts {
            let transcript = run(postgres.port(), database, script, Manner::Whole, || {});
            // A script whose result depends on time, or on what an earlier run left behind, proves nothing.
            let again = run(postgres.port(), database, script, Manner::Pieces, || {});
            if transcript != again || transcript.iter().any(|message| message.kind == NOTHING) {
                unfit += &format!("{script}\n{}\n", difference::shown(&transcript, &again));
            }
            reference.transcripts.insert(script.title.clone(), transcript);
        }
        assert!(unfit.is_empty(), "PostgreSQL does not repeat itself:\n\n{unfit}");
        reference
    }

    /// Makes a database for one variant: a copy has the same OIDs.
    fn create(&self, database: &str) {
        self.postgres.psql(&format!("drop database if exists {database}")).unwrap();
        self.postgres.psql(&format!("create database {database} template {FIXTURE}")).unwrap();
    }
}

fn scripts() -> Vec<Script> {
    script::read_all(&directory())
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/differential")
}

const FIXTURE: &str = "differential_fixture";
