//! The program itself: arguments, the check of a configuration, the background, and starts that must fail.

use std::{fs, os::unix::fs::PermissionsExt, path::Path, process::Command};

use tigger_testkit::{Conninfo, ProxyOptions, Psql, Run, free_port, run};

use crate::support::{DEADLINE, assert_failed, options, postgres, proxy, until};
use crate::wire::Wire;

fn tigger(args: &[&str]) -> Run {
    run(Command::new(env!("CARGO_BIN_EXE_tigger")).args(args), DEADLINE).unwrap()
}

/// A directory in /tmp that goes with the value.
struct Directory(std::path::PathBuf);

impl Directory {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("tigger-it-{}-{}", std::process::id(), free_port()));
        fs::create_dir(&path).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        Self(path)
    }

    /// Writes a file and returns its path.
    fn file(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        fs::remove_dir_all(&self.0).unwrap();
    }
}

#[test]
fn version_and_usage() {
    let version = tigger(&["-V"]).checked().unwrap();
    assert_eq!(version.stdout, format!("tigger {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(tigger(&["--version"]).stdout, version.stdout);
    assert!(tigger(&["--help"]).checked().unwrap().stdout.contains("CONFIG.INI"));
    assert_failed(&tigger(&[]), "CONFIG.INI");
    assert_failed(&tigger(&["--no-such-option"]), "--no-such-option");
    assert_failed(&tigger(&["/nonexistent/tigger.ini"]), "/nonexistent/tigger.ini");
}

#[test]
fn check_of_a_configuration() {
    let directory = Directory::new();
    let good = directory
        .file("good.ini", "[databases]\na = host=127.0.0.1\nb = host=::1\n[pgbouncer]\nlisten_addr = 127.0.0.1\n");
    let run = tigger(&["--check", &good]).checked().unwrap();
    assert!(run.stdout.contains("2 databases") && run.stdout.contains("good"), "{run}");
    // Place and reason, without the value where it may be a secret.
    let cases = [
        ("[databases]\na = host=127.0.0.1\n\n[pgbouncer]\npool_mode = swimming\n", "bad.ini:5"),
        ("[pgbouncer]\nlisten_port = 70000\n", "bad.ini:2"),
        ("[databases]\na = host=127.0.0.1 password='unfinished\n[pgbouncer]\n", "bad.ini:2"),
        ("[pgbouncer]\n\n\nno equals sign\n", "bad.ini:4"),
        ("[pgbouncer]\nserver_tls_sslmode = require\n", "bad.ini:2"),
        ("[pgbouncer]\n%include missing.ini\n", "missing.ini"),
    ];
    for (text, place) in cases {
        let run = tigger(&["--check", &directory.file("bad.ini", text)]);
        assert_failed(&run, place);
        assert!(!run.stderr.contains("unfinished"), "{run}");
    }
    let users = directory.file("users.txt", "\"alice\" \"geheim\"\nthis is no user\n");
    let ini = directory.file("users.ini", &format!("[pgbouncer]\nlisten_addr = 127.0.0.1\nauth_file = {users}\n"));
    let run = tigger(&["--check", &ini]);
    assert_failed(&run, "users.txt:2");
    assert!(!run.to_string().contains("geheim"), "{run}");
}

#[test]
fn a_start_that_must_fail_says_why() {
    let Some(postgres) = postgres() else { return };
    let running = proxy(&options(postgres).setting("pidfile", "tigger.pid"));
    let directory = Directory::new();
    let pgbouncer = format!("[pgbouncer]\nlisten_port = {}\nunix_socket_dir =\n", running.port());
    let taken = directory.file("taken.ini", &format!("{pgbouncer}listen_addr = 127.0.0.1\n"));
    let run = tigger(&[&taken]);
    assert_failed(&run, &running.port().to_string());
    assert_failed(&tigger(&[&directory.file("nothing.ini", &pgbouncer)]), "nothing to listen on");
    // The socket of a running process is not taken away.
    let socket = format!(
        "[pgbouncer]\nlisten_port = {}\nunix_socket_dir = {}\n",
        running.port(),
        running.socket_dir().display()
    );
    assert_failed(&tigger(&[&directory.file("socket.ini", &socket)]), ".s.PGSQL.");
    assert_eq!(running.psql("select 1").unwrap(), "1");
    assert!(running.socket_dir().join(format!(".s.PGSQL.{}", running.port())).exists());
    let pidfile = running.socket_dir().join("tigger.pid");
    let second = format!(
        "[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\nunix_socket_dir =\npidfile = {}\n",
        free_port(),
        pidfile.display()
    );
    assert_failed(&tigger(&[&directory.file("second.ini", &second)]), "tigger.pid");
    assert!(pidfile.exists(), "another process's pidfile was removed");
}

#[test]
fn a_stale_socket_file_is_replaced() {
    let Some(postgres) = postgres() else { return };
    let (directory, port) = (Directory::new(), free_port());
    let dead = std::os::unix::net::UnixListener::bind(directory.path(&format!(".s.PGSQL.{port}"))).unwrap();
    drop(dead);
    let proxy = proxy(&options(postgres).setting("unix_socket_dir", &directory.path("")).port(port));
    until("the socket works", || {
        let socket = Conninfo::new(&directory.path(""), proxy.port());
        Psql::new(socket).text("select 1").is_ok_and(|text| text == "1")
    });
    drop(proxy);
}

/// libpq finds one of two proxies at its abstract name, and that one finds the other.
#[test]
fn abstract_unix_sockets_on_both_sides() {
    let Some(postgres) = postgres() else { return };
    let name = |side: &str| format!("@tigger-it-{}-{side}", std::process::id());
    let inner = proxy(&options(postgres).setting("unix_socket_dir", &name("inner")));
    let server = format!("postgres = host={} port={}", name("inner"), inner.port());
    let outer = proxy(&ProxyOptions::new().database(&server).setting("unix_socket_dir", &name("outer")));
    let psql = Psql::new(Conninfo::new(&name("outer"), outer.port()));
    assert_eq!(psql.text("select 1 + 1").unwrap(), "2");
    for (admin, show) in [(&outer, "SHOW SERVERS"), (&inner, "SHOW CLIENTS")] {
        let table = admin.admin(show).unwrap();
        let row = table.find("database", "postgres").unwrap();
        assert_eq!((&row["addr"], &row["port"]), ("unix", &*inner.port().to_string()), "{show}");
    }
    // Cancel requests find their way.
    let mut client = Wire::new(&outer);
    client.start("select pg_sleep(600), 'abstract'");
    let running = "select count(*) from pg_stat_activity where query like '%abstract%' and wait_event = 'PgSleep'";
    until("it runs", || postgres.psql(running).unwrap() == "1");
    client.cancel();
    assert_eq!(client.reply().refusal.unwrap().sqlstate, "57014");
    // The name is another's as long as that lives.
    let second =
        format!("[pgbouncer]\nlisten_addr =\nlisten_port = {}\nunix_socket_dir = {}\n", inner.port(), name("inner"));
    let directory = Directory::new();
    assert_failed(&tigger(&[&directory.file("second.ini", &second)]), "Address already in use");
}

/// Ends the process whose pid is in a file, whatever the test did.
struct EndOf(String);

impl EndOf {
    fn pid(&self) -> Option<u32> {
        fs::read_to_string(&self.0).ok()?.trim().parse().ok()
    }
}

impl Drop for EndOf {
    fn drop(&mut self) {
        if let Some(pid) = self.pid() {
            let kill = format!("kill -QUIT {pid}");
            drop(run(Command::new("sh").args(["-c", &kill]), DEADLINE));
        }
    }
}

#[test]
fn in_the_background() {
    let Some(postgres) = postgres() else { return };
    let (directory, port) = (Directory::new(), free_port());
    let daemon = EndOf(directory.path("tigger.pid"));
    let ini = format!(
        "[databases]\n* = host={} port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nauth_type = trust\n\
         auth_file = {}\nunix_socket_dir =\n",
        postgres.host(),
        postgres.port(),
        directory.file("users.txt", "\"postgres\" \"\"\n"),
    );
    let run = tigger(&["-d", &directory.file("incomplete.ini", &ini)]);
    assert_failed(&run, "logfile and pidfile");
    let files = format!("logfile = {}\npidfile = {}\n", directory.path("tigger.log"), daemon.0);
    let run = tigger(&["-d", &directory.file("tigger.ini", &(ini + &files))]).checked().unwrap();
    assert_eq!((run.stdout.as_str(), run.stderr.as_str()), ("", ""));
    let psql = Psql::new(Conninfo::new("127.0.0.1", port));
    until("it answers", || psql.text("select 1").is_ok_and(|text| text == "1"));
    let pid = daemon.pid().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let session: u32 = status.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap().parse().unwrap();
    let ours = fs::read_to_string("/proc/self/stat").unwrap();
    let our_session: u32 = ours.rsplit_once(')').unwrap().1.split_whitespace().nth(3).unwrap().parse().unwrap();
    assert_ne!(session, our_session, "it left our session");
    let log = fs::read_to_string(directory.path("tigger.log")).unwrap();
    assert!(log.lines().all(|line| line.contains(&format!(" [{pid}] "))), "{log}");
    drop(daemon);
    until("it has ended", || !Path::new(&format!("/proc/{pid}")).exists());
    assert!(!Path::new(&directory.path("tigger.pid")).exists());
}

#[test]
fn quiet_and_verbose() {
    let Some(postgres) = postgres() else { return };
    let quiet = proxy(&options(postgres).arg("-q"));
    assert_eq!(quiet.psql("select 1").unwrap(), "1");
    assert_eq!(quiet.log(), "");
    let plain = proxy(&options(postgres));
    let line = plain.log().lines().next().unwrap().to_owned();
    // 2026-01-31 12:00:00.123 UTC [4711] LOG text
    let words: Vec<&str> = line.splitn(6, ' ').collect();
    assert!(words[0].len() == 10 && words[1].len() == 12 && words[2] == "UTC" && words[4] == "LOG", "{line}");
    assert_eq!(words[3], format!("[{}]", plain.pid()));
    let verbose = proxy(&options(postgres).arg("-v").arg("-v"));
    assert_eq!(verbose.psql("select 'not for the log'").unwrap(), "not for the log");
    assert!(!verbose.log().contains("not for the log"), "query text in the log");
}
