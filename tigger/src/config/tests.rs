//! The whole way from text to the checked configuration, its errors and its warnings.

use std::io;

use proptest::prelude::*;

use super::settings::Setting;
use super::*;

/// Parses `text` as `t.ini`; the files it may include are `one.ini` and `self.ini`.
fn parse(text: &str) -> Result<(Config, Vec<Warning>), ConfigError> {
    Config::parse_str("t.ini", text, &|path| match path.to_str() {
        Some("one.ini") => Ok("max_client_conn = 7\n[databases]\nb = host=two\n".to_owned()),
        Some("bad.ini") => Ok("\nno_such = 1\n".to_owned()),
        Some("self.ini") => Ok("%include self.ini\n".to_owned()),
        _ => Err(io::Error::new(io::ErrorKind::NotFound, "no such file")),
    })
}

/// Configuration of a `[pgbouncer]` section with nothing in it, followed by `text`; there must be no warning.
fn config(text: &str) -> Config {
    let (config, warnings) = parse(&format!("[pgbouncer]\n{text}")).unwrap();
    assert_eq!(warnings, []);
    config
}

/// Each text is refused with exactly this error.
#[test]
fn errors_name_file_and_line() {
    let check = |text: &str, expected: &str| {
        let error = parse(text).map(|_| ()).expect_err(text).to_string();
        assert_eq!(error, expected, "{text:?}");
    };
    check("", "t.ini: section [pgbouncer] is missing");
    check("[databases]\na = host=x", "t.ini: section [pgbouncer] is missing");
    check("verbose = 1", "t.ini:1: value without section: verbose");
    check("[nonsense]", "t.ini:1: unknown section \"nonsense\"");
    check("\n[pgbouncer", "t.ini:2: syntax error: \"]\" is missing after a section name");
    check("[pgbouncer]\nfoo", "t.ini:2: syntax error: expected \"=\" after the key");
    check("[pgbouncer]\n= 1", "t.ini:2: syntax error: expected key = value");
    check("[pgbouncer]\nfoo bar = 1", "t.ini:2: syntax error: expected \"=\" after the key");
    check("[pgbouncer]\n\"foo = 1", "t.ini:2: syntax error: expected key = value");
    check("[pgbouncer]\nverbose = \0", "t.ini:2: syntax error: NUL character");
    check("[pgbouncer]\n\nfoo = 1", "t.ini:3: unknown parameter: foo");
    check("[pgbouncer]\nPool_mode = session", "t.ini:2: unknown parameter: Pool_mode");
    check(
        "[pgbouncer]\npool_mode = fast",
        "t.ini:2: invalid value \"fast\" for parameter pool_mode: expected one of session, transaction, statement",
    );
    check("[pgbouncer]\nverbose = x", "t.ini:2: invalid value \"x\" for parameter verbose: expected a whole number");
    check(
        "[pgbouncer]\nverbose = +-1",
        "t.ini:2: invalid value \"+-1\" for parameter verbose: expected a whole number",
    );
    check(
        "[pgbouncer]\nlog_stats = yes",
        "t.ini:2: invalid value \"yes\" for parameter log_stats: expected a whole number",
    );
    check(
        "[pgbouncer]\nlisten_port = 65536",
        "t.ini:2: invalid value \"65536\" for parameter listen_port: expected a port from 0 to 65535",
    );
    check(
        "[pgbouncer]\nmax_client_conn = -1",
        "t.ini:2: invalid value \"-1\" for parameter max_client_conn: expected a number from 0 to 4294967295",
    );
    check(
        "[pgbouncer]\nstats_period = 0",
        "t.ini:2: invalid value \"0\" for parameter stats_period: expected at least 1 second",
    );
    check(
        "[pgbouncer]\nquery_wait_timeout = -1",
        "t.ini:2: invalid value \"-1\" for parameter query_wait_timeout: expected a number of seconds from 0 on",
    );
    check(
        "[pgbouncer]\nserver_lifetime = nan",
        "t.ini:2: invalid value \"nan\" for parameter server_lifetime: expected a number of seconds",
    );
    check(
        "[pgbouncer]\nserver_lifetime = 1e10",
        "t.ini:2: invalid value \"1e10\" for parameter server_lifetime: expected at most 1000000000 seconds",
    );
    check(
        "[pgbouncer]\nauth_type = hba",
        "t.ini:2: invalid value \"hba\" for parameter auth_type: this method is not supported yet",
    );
    check(
        "[pgbouncer]\nclient_tls_sslmode = require",
        "t.ini:2: invalid value \"require\" for parameter client_tls_sslmode: TLS is not supported yet",
    );
    check("[pgbouncer]\n%include gone.ini", "t.ini:2: cannot read included file \"gone.ini\": no such file");
    check("[pgbouncer]\n%include bad.ini", "bad.ini:2: unknown parameter: no_such");
    check("[pgbouncer]\n%include self.ini", "self.ini:1: include nesting level too deep");
}

#[test]
fn errors_of_lines_name_file_and_line_but_no_password() {
    let check = |lines: &str, expected: &str| {
        let error = parse(&format!("[pgbouncer]\n{lines}")).map(|_| ()).expect_err(lines).to_string();
        assert_eq!(error, expected, "{lines:?}");
        assert!(!error.contains("hush"), "{error}");
    };
    let syntax = |reason: &str| format!("t.ini:3: syntax error in connection string: {reason}");
    check("[databases]\npgbouncer = host=x", "t.ini:3: database name \"pgbouncer\" is reserved");
    check("[databases]\na = host=x colour=red", "t.ini:3: unrecognized connection parameter: colour");
    check("[databases]\na = password=my hush=1", "t.ini:3: unrecognized connection parameter: after password=");
    check("[databases]\na = password=my hush", &syntax("expected key=value"));
    check("[databases]\na = password='hush", &syntax("the closing quote is missing"));
    check("[databases]\na = password='hush'x", &syntax("expected a space after a closing quote"));
    check("[databases]\na = password=''", &syntax("empty value"));
    check("[databases]\na = host=", &syntax("empty value"));
    check("[databases]\na = =x", &syntax("expected key=value"));
    check("[databases]\na = host=,x", "t.ini:3: invalid value \",x\" for host: empty host");
    check("[databases]\na = port=0", "t.ini:3: invalid port: 0");
    check("[databases]\na = pool_size=10x", "t.ini:3: invalid value \"10x\" for pool_size: expected a whole number");
    check(
        "unix_socket_dir =\n[databases]\na = port=1",
        "t.ini:4: database \"a\" has no host, and unix_socket_dir is empty",
    );
    check("[users]\nbob = host=x", "t.ini:3: unrecognized connection parameter: host");
    check("[peers]\n0 = host=x", "t.ini:3: peer id \"0\" is not a number from 1 to 16383");
    check("[peers]\n1 = port=6432", "t.ini:3: host was not provided for peer 1");
}

#[test]
fn what_is_not_built_is_a_warning() {
    let check = |lines: &str, expected: &[&str]| {
        let (_, warnings) = parse(&format!("[pgbouncer]\n{lines}")).unwrap();
        let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
        assert_eq!(warnings, expected, "{lines:?}");
    };
    check("query_timeout = 0.0\npkt_buf = 0x1000\nauth_user =\nauth_ldap_options=", &[]);
    check("autodb_idle_timeout = 5", &[]);
    check("suspend_timeout = 5", &[]);
    check("auth_ldap_options = x", &["t.ini:2: setting \"auth_ldap_options\" is accepted but not built yet: ignored"]);
    check(
        "client_tls_sslmode=allow",
        &["t.ini:2: setting \"client_tls_sslmode\" is accepted but not built yet: ignored"],
    );
    check("conffile = x", &["t.ini:2: setting \"conffile\" is accepted but not built yet: ignored"]);
    check(
        "[databases]\na = host=x,y connect_query='select 1' load_balance_hosts=disable auth_user=x",
        &["t.ini:3: setting \"auth_user\" is accepted but not built yet: ignored"],
    );
    check("[users]\nbob = max_user_client_connections=3 query_timeout=3", &[]);
    check("[peers]\n1 = host=x pool_size=3", &["t.ini:3: peer 1 is accepted but not built yet: ignored"]);
}

#[test]
fn defaults_are_pgbouncers() {
    let Settings { pool_mode, auth_type, default_pool_size, listen_port, listen_backlog, .. } = Settings::default();
    assert_eq!((pool_mode, auth_type), (PoolMode::Session, AuthType::Md5));
    assert_eq!((default_pool_size, listen_port, listen_backlog), (20, 6432, 4096));
    let settings = config("").settings;
    assert_eq!(settings, Settings::default());
    assert_eq!(settings.query_wait_timeout, Some(Duration::from_secs(120)));
    assert_eq!(settings.max_db_connections, None);
    assert_eq!(settings.server_reset_query.as_deref(), Some("DISCARD ALL"));
    assert_eq!(settings.unix_socket_mode, 0o777);
    assert_eq!(settings.track_extra_parameters, ["IntervalStyle"]);
    assert_eq!(settings.listen_addr, [""; 0]);
    assert_eq!((settings.auth_file, settings.user, settings.verbose), (None, None, 0));
}

/// The table holds PgBouncer's settings, each once, and each default is accepted as a value without a warning.
#[test]
fn table_is_complete() {
    let mut names: Vec<&str> = settings::all().map(|setting| setting.name).collect();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), 101 + 5, "PgBouncer's settings and five of our own");
    for Setting { name, default, doc, .. } in settings::all() {
        assert!(doc.ends_with('.'), "{name}");
        if let Some(text) = default {
            let given = config(&format!("{name} = {text}\n"));
            assert_eq!(given.settings, Settings::default(), "{name}");
        }
    }
}

#[test]
fn settings_are_read() {
    let settings = config(
        "pool_mode=TRANSACTION\r\n  listen_addr =  127.0.0.1, ::1 ,\n; listen_port = 1\n# listen_port = 2\n\
         query_wait_timeout = 0\nreserve_pool_timeout=0.5\nunix_socket_dir=\nmax_db_connections=-1\nlogfile = a b;c\n\
         server_reset_query =\nunix_socket_mode = 0700\nlog_stats = -1\nverbose=1\nverbose=0x2\nmax_packet_size=4294967295",
    )
    .settings;
    assert_eq!(settings.pool_mode, PoolMode::Transaction);
    assert_eq!(settings.listen_addr, ["127.0.0.1", "::1"]);
    assert_eq!(settings.listen_port, 6432);
    assert_eq!(settings.query_wait_timeout, None);
    assert_eq!(settings.reserve_pool_timeout, Some(Duration::from_millis(500)));
    assert_eq!(settings.unix_socket_dir, None);
    assert_eq!(settings.max_db_connections, None);
    assert_eq!(settings.logfile, Some(PathBuf::from("a b;c")));
    assert_eq!(settings.server_reset_query, None);
    assert_eq!(settings.unix_socket_mode, 0o700);
    assert!(settings.log_stats);
    assert_eq!(settings.verbose, 2);
    assert_eq!(settings.max_packet_size, u32::MAX);
}

#[test]
fn sections_and_includes_run_on() {
    // one.ini starts in the section around it, and the section it ends in goes on after it.
    let config =
        config("[databases] a = host=one\n[pgbouncer]\n%include one.ini\nc = host=three\n[pgbouncer]; x\nverbose=1");
    assert_eq!(config.databases.keys().collect::<Vec<_>>(), ["a", "b", "c"]);
    assert_eq!((config.settings.verbose, config.settings.max_client_conn), (1, 7));
}

#[test]
fn databases_are_read() {
    let config = config(
        "unix_socket_dir = /run/pg\n[databases]\n\
         plain =\n\
         \"my \"\"db\"\"\" = host = h1 port=0x10 dbname='x y' user=bob password='it''s \\back' pool_size=3\n\
         sock = host=/tmp reserve_pool=4 pool_mode=statement max_db_connections=0 server_lifetime=0\n\
         abs\t=\thost=@pg\tclient_encoding=UTF8\ttimezone='Europe/Berlin' application_name=a\n",
    );
    let plain = config.database("plain").unwrap();
    assert_eq!((&plain.hosts[0], plain.port), (&Host::Unix("/run/pg".to_owned()), 5432));
    assert_eq!((plain.server_dbname(), plain.auto, plain.pool_size), ("plain", false, None));
    let quoted = config.database("my \"db\"").unwrap();
    assert_eq!((&quoted.hosts[0], quoted.port), (&Host::Tcp("h1".to_owned()), 16));
    assert_eq!((quoted.server_dbname(), quoted.user.as_deref()), ("x y", Some("bob")));
    assert_eq!(quoted.password.as_ref().map(Secret::expose), Some("it's \\back"));
    let sock = config.database("sock").unwrap();
    assert_eq!(sock.hosts[0].unix_socket(sock.port), Some(PathBuf::from("/tmp/.s.PGSQL.5432")));
    assert_eq!((sock.reserve_pool_size, sock.max_db_connections, sock.server_lifetime), (Some(4), None, None));
    let abs = config.database("abs").unwrap();
    assert_eq!(&abs.hosts[0], &Host::Unix("@pg".to_owned()));
    let parameters: Vec<_> = abs.startup_parameters().collect();
    assert_eq!(parameters, [("client_encoding", "UTF8"), ("timezone", "Europe/Berlin"), ("application_name", "a")]);
    assert_eq!(config.database("other"), None);
    assert!(!format!("{config:?}").contains("it's"), "the password is in the Debug text");
}

#[test]
fn the_fallback_entry_serves_other_names() {
    let config = config("[databases]\na = host=one\n* = host=two\n");
    assert_eq!(config.database("a").unwrap().host_list(), "one");
    let other = config.database("other").unwrap();
    assert_eq!((other.name.as_str(), other.server_dbname(), other.auto), ("other", "other", true));
    assert_eq!(other.host_list(), "two");
}

#[test]
fn the_user_wins_over_the_database_over_the_settings() {
    let config = config(
        "pool_mode=statement\ndefault_pool_size=1\nreserve_pool_size=2\nmin_pool_size=9\nmax_db_connections=5\n\
         [databases]\n\
         plain = host=x\n\
         own = host=x pool_mode=transaction pool_size=10 reserve_pool_size=11 min_pool_size=3 max_db_connections=12 \
         query_wait_timeout=0 server_lifetime=7 kernel_path=off kernel_path_reply_limit=7\n\
         [users]\n\
         bob = pool_mode=session pool_size=20 reserve_pool_size=21 max_user_connections=22 query_wait_timeout=1.5 \
         kernel_path=auto kernel_path_reply_limit=8\n\
         neg = pool_size=-1 query_wait_timeout=-1\n",
    );
    let (plain, own) = (config.database("plain").unwrap(), config.database("own").unwrap());
    let defaults = PoolSettings {
        pool_mode: PoolMode::Statement,
        pool_size: 1,
        min_pool_size: 1,
        reserve_pool_size: 2,
        reserve_pool_timeout: Some(Duration::from_secs(5)),
        max_db_connections: Some(5),
        max_user_connections: None,
        server_lifetime: Duration::from_secs(3600),
        query_wait_timeout: Some(Duration::from_secs(120)),
        kernel_path: KernelPath::Auto,
        kernel_path_reply_limit: 256 * 1024,
    };
    assert_eq!(config.pool_settings(&plain, "alice"), defaults);
    assert_eq!(config.pool_settings(&plain, "neg"), defaults);
    let of_database = PoolSettings {
        pool_mode: PoolMode::Transaction,
        pool_size: 10,
        min_pool_size: 3,
        reserve_pool_size: 11,
        max_db_connections: Some(12),
        server_lifetime: Duration::from_secs(7),
        query_wait_timeout: None,
        kernel_path: KernelPath::Off,
        kernel_path_reply_limit: 7,
        ..defaults
    };
    assert_eq!(config.pool_settings(&own, "alice"), of_database);
    let of_user = PoolSettings {
        pool_mode: PoolMode::Session,
        pool_size: 20,
        reserve_pool_size: 21,
        max_user_connections: Some(22),
        query_wait_timeout: Some(Duration::from_millis(1500)),
        kernel_path: KernelPath::Auto,
        kernel_path_reply_limit: 8,
        ..of_database
    };
    assert_eq!(config.pool_settings(&own, "bob"), of_user);
}

#[test]
fn rows_show_values_and_defaults() {
    let (config, _) =
        parse("[pgbouncer]\nquery_timeout = 1.50\nunix_socket_mode=0700\nauth_ldap_options=hush\n").unwrap();
    let rows: Vec<ConfigRow> = config.rows().collect();
    assert!(rows.is_sorted_by_key(|row| row.key));
    let check = |key: &str, value: Option<&str>, default: Option<&str>, changeable: bool| {
        let row = rows.iter().find(|row| row.key == key).expect(key);
        assert_eq!((row.value.as_deref(), row.default, row.changeable), (value, default, changeable), "{key}");
    };
    check("query_timeout", Some("1.5"), Some("0"), true);
    check("unix_socket_mode", Some("448"), Some("0777"), false);
    check("pool_mode", Some("session"), Some("session"), true);
    check("auth_file", None, None, true);
    check("conffile", Some("t.ini"), None, false);
    check("auth_ldap_options", Some("********"), None, true);
}

#[test]
fn set_changes_one_setting_of_a_copy() {
    let old = config("");
    let new = old.with_setting("default_pool_size", "50").unwrap();
    assert_eq!((old.settings.default_pool_size, new.settings.default_pool_size), (20, 50));
    assert!(new.rows().any(|row| row.key == "default_pool_size" && row.value.as_deref() == Some("50")));
    let check = |name: &str, value: &str, expected: &str| {
        assert_eq!(old.with_setting(name, value).map(|_| ()).unwrap_err(), expected);
    };
    check("nonsense", "1", "unknown parameter: nonsense");
    check("listen_port", "1", "parameter listen_port cannot be changed while running");
    check("conffile", "x", "parameter conffile cannot be changed while running");
    check("pool_mode", "x", "expected one of session, transaction, statement");
}

#[test]
fn a_reload_keeps_what_only_a_start_reads() {
    let reload = |old: &str, new: &str| {
        let running = config(old);
        Config::build("t.ini", &format!("[pgbouncer]\n{new}"), &|_| unreachable!(), Some(&running)).unwrap()
    };
    let (config, warnings) = reload("listen_port=1\nverbose=1", "listen_port=2\nverbose=2\nuser=bob\npidfile=\n");
    assert_eq!((config.settings.listen_port, config.settings.verbose), (1, 2));
    assert_eq!(config.settings.user, None);
    let warnings: Vec<String> = warnings.iter().map(ToString::to_string).collect();
    assert_eq!(
        warnings,
        [
            "t.ini:2: setting \"listen_port\" cannot change while running: the old value stays",
            "t.ini:4: setting \"user\" cannot change while running: the old value stays",
        ]
    );
    assert!(config.rows().any(|row| row.key == "listen_port" && row.value.as_deref() == Some("1")));
    let (config, warnings) = reload("unix_socket_mode=0700", "");
    assert_eq!((config.settings.unix_socket_mode, warnings), (0o700, vec![]));
}

#[test]
fn auth_files_are_read() {
    let text = "; comment\n\n\"bob\" \"pw\" ignored \"more\"\r\n \"a\"\"b\"\"\" , \"q\"\"q\"\n\"nobody\" \"\"\n\"bob\"\"\"\t\"SCRAM$\"";
    let entries = auth_file::parse("u.txt", text).unwrap();
    let read: Vec<_> = entries.iter().map(|e| (e.place.line, e.user.as_str(), e.secret.expose())).collect();
    assert_eq!(read, [(3, "bob", "pw"), (4, "a\"b\"", "q\"q"), (5, "nobody", ""), (6, "bob\"", "SCRAM$")]);
    assert_eq!(format!("{:?}", entries[0].secret), "Secret(..)");

    let check = |line: &str, expected: &str| {
        let error = auth_file::parse("u.txt", &format!("\"ok\" \"ok\"\n{line}\n")).map(|_| ()).unwrap_err();
        assert_eq!(error.to_string(), format!("u.txt:2: broken auth file: {expected}"));
    };
    check("bob hush", "expected a user name in double quotes");
    check("# bob", "expected a user name in double quotes");
    check("\"bob", "the quote after the user name is missing");
    check("\"bob\" hush", "expected a secret in double quotes");
    check("\"bob\" \"hush", "the quote after the secret is missing");
    check("\"bob\" \"hush\"\"", "the quote after the secret is missing");
    check(&format!("\"{}\" \"x\"", "u".repeat(128)), "username too long");
    check(&format!("\"x\" \"{}\"", "u".repeat(2048)), "password too long");
    let error = auth_file::load(Path::new("/nonexistent/u.txt")).unwrap_err();
    assert!(error.to_string().starts_with("/nonexistent/u.txt: could not open auth_file: "), "{error}");
}

#[test]
fn the_manual_names_everything() {
    let page = config_markdown();
    for setting in settings::all() {
        assert!(page.contains(&format!("\n#### {}\n", setting.name)), "{}", setting.name);
    }
    for key in database::KEYS {
        assert!(page.contains(&format!("| `{}` |", key.name)), "{}", key.name);
    }
    assert!(page.lines().all(|line| line.trim_end() == line), "white space at the end of a line");
}

#[test]
fn the_examples_are_valid() {
    let etc = Path::new(env!("CARGO_MANIFEST_DIR")).join("../etc");
    let (config, warnings) = Config::load(&etc.join("tigger.ini")).unwrap();
    assert_eq!(warnings, []);
    assert!(!config.databases.is_empty());
    assert!(!auth_file::load(&etc.join("userlist.txt")).unwrap().is_empty());
}

/// Writes a value of a connection string so that it reads back.
fn quote(value: &str) -> String {
    format!("'{}'", value.replace('\'', "''"))
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*") {
        let _ = parse(&text);
        let _ = auth_file::parse("u.txt", &text);
    }

    /// Made of the pieces of the dialect, so that the parsers are reached.
    #[test]
    fn any_mix_of_pieces_is_read_or_refused(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("[pgbouncer]"), Just("[databases]"), Just("[users]"), Just("[peers]"), Just("\n"), Just("="), Just("'"),
                Just("\""), Just(" "), Just("%include one.ini"), Just("%include self.ini"), Just("*"), Just("a"), Just("host"),
                Just("pool_size"), Just("pool_mode"), Just("session"), Just("-1"), Just("0x"), Just("08"), Just("1e300"), Just(";"),
                Just("\0"), Just("ü"), Just("listen_addr"), Just("server_lifetime"), Just("password"), Just(","),
            ],
            0..40,
        )
    ) {
        let text = pieces.concat();
        let _ = parse(&text);
        let _ = parse(&format!("[pgbouncer]\n{text}"));
        let _ = auth_file::parse("u.txt", &text);
    }

    #[test]
    fn databases_read_back_as_written(
        name in "[^\\p{C}\\n]{1,20}",
        password in "[^\\p{C}]{1,20}",
        dbname in "[^\\p{C}]{1,20}",
        port in 1u16..,
        pool_size in proptest::option::of(0u32..1000),
        mode in proptest::sample::select(PoolMode::WORDS),
    ) {
        prop_assume!(name != ADMIN_DATABASE && name != database::FALLBACK);
        let mut line = format!("\"{}\" = host=h port={port} pool_mode={}", name.replace('"', "\"\""), mode.0);
        line += &format!(" dbname={} password={}", quote(&dbname), quote(&password));
        if let Some(size) = pool_size {
            line += &format!(" pool_size={size}");
        }
        let config = config(&format!("[databases]\n{line}\n"));
        let mut expected = Database::new(name.clone(), Host::Tcp("h".to_owned()));
        expected.port = port;
        expected.pool_mode = Some(mode.1);
        expected.dbname = Some(dbname);
        expected.password = Some(Secret::new(password));
        expected.pool_size = pool_size;
        prop_assert_eq!(&*config.database(&name).unwrap(), &expected);
    }

    /// Values shown by `SHOW CONFIG` are a configuration of the same meaning.
    #[test]
    fn shown_settings_read_back(
        size in 0u32.., timeout in 0u32..100_000_000, mode in proptest::sample::select(PoolMode::WORDS), port in 0u16..,
    ) {
        let first = config(&format!(
            "default_pool_size={size}\nquery_wait_timeout={}\npool_mode={}\nlisten_port={port}\nserver_idle_timeout=0",
            f64::from(timeout) / 1000.0, mode.0
        ));
        let written: String = first
            .rows()
            .filter(|row| row.key != "conffile")
            .filter_map(|row| Some(format!("{} = {}\n", row.key, row.value?)))
            .collect();
        prop_assert_eq!(config(&written).settings, first.settings);
    }

    #[test]
    fn auth_entries_read_back_as_written(users in proptest::collection::vec(("[^\\p{C}]{0,20}", "[^\\p{C}]{0,20}"), 0..5)) {
        let text: String = users
            .iter()
            .map(|(user, secret)| format!("\"{}\" \"{}\"\n", user.replace('"', "\"\""), secret.replace('"', "\"\"")))
            .collect();
        let entries = auth_file::parse("u.txt", &text).unwrap();
        let read: Vec<_> = entries.into_iter().map(|e| (e.user, e.secret.expose().to_owned())).collect();
        prop_assert_eq!(read, users);
    }
}
