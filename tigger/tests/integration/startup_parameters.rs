//! `startup_parameters = apply`: what a client gives at its start-up and nobody tracks is there on each of its servers, and
//! never on one that another client gets. On both paths.

use tigger_testkit::{Postgres, Proxy, ProxyOptions, Psql};

use crate::support::{Console, assert_kernel_path_used, options, postgres, proxy};
use crate::wire::{POSTGRES, Refusal, Wire};

/// Runs a test on the user path, and with a kernel path that must have had its share.
fn on_both_paths(change: impl Fn(ProxyOptions) -> ProxyOptions, test: impl Fn(&'static Postgres, &Proxy)) {
    let Some(postgres) = postgres() else { return };
    for path in ["off", "auto"] {
        let options = options(postgres).setting("startup_parameters", "apply").setting("kernel_path", path);
        let proxy = proxy(&change(options));
        test(postgres, &proxy);
        assert_kernel_path_used(&mut Console::new(&proxy));
    }
}

fn login(proxy: &Proxy, more: &[(&str, &str)]) -> Wire {
    Wire::login(proxy, &[POSTGRES, more].concat())
}

/// As a client on a server of its own gets it.
fn truth(postgres: &Postgres, name: &str) -> String {
    postgres.psql(&format!("show {name}")).unwrap()
}

#[test]
fn values_follow_their_client_and_nobody_else() {
    on_both_paths(
        |options| options.pool_size(1),
        |postgres, proxy| {
            for (name, given, shown) in [
                ("statement_timeout", ["1000", "2min"], ["1s", "2min"]),
                ("search_path", ["a, \"B c\"", "it's\\"], ["a, \"B c\"", "it's\\"]),
                ("Work_Mem", ["64kB", "1MB"], ["64kB", "1MB"]),
                ("my.own", ["x;y", ""], ["x;y", ""]),
            ] {
                let default = (name != "my.own").then(|| truth(postgres, name));
                let show = format!("select coalesce(current_setting('{name}', true), '')");
                let mut clients = given.map(|value| login(proxy, &[(name, value)]));
                let mut other = login(proxy, &[]);
                for round in 0..3 {
                    for (client, shown) in clients.iter_mut().zip(shown) {
                        // Several times, so that the kernel path may have it.
                        for _ in 0..4 {
                            assert_eq!(client.value(&show), *shown, "{name}, round {round}");
                        }
                    }
                    for _ in 0..4 {
                        assert_eq!(other.value(&show), default.clone().unwrap_or_default(), "{name}, round {round}");
                    }
                }
            }
            assert_eq!(Console::new(proxy).table("SHOW SERVERS").rows.len(), 1);
        },
    );
}

#[test]
fn many_clients_with_values_of_their_own_share_servers() {
    on_both_paths(
        |options| options.pool_size(3),
        |_, proxy| {
            let mut clients: Vec<(Wire, String)> = (0..12)
                .map(|nth| match nth % 4 {
                    0 => (login(proxy, &[]), "0".to_owned()),
                    n => (login(proxy, &[("options", &format!("-c statement_timeout={n}min"))]), format!("{n}min")),
                })
                .collect();
            for round in 0..40 {
                // All ask before anybody reads, so that servers go from one to the other in all orders.
                clients.rotate_left(round % 5);
                clients.iter_mut().for_each(|(client, _)| client.start("show statement_timeout"));
                for (client, expected) in &mut clients {
                    assert_eq!(client.reply().value(), *expected);
                }
            }
        },
    );
}

#[test]
fn a_bad_value_is_postgresqls_error_and_ends_its_client_alone() {
    on_both_paths(
        |options| options.pool_size(1),
        |_, proxy| {
            let mut good = login(proxy, &[("work_mem", "1MB")]);
            let mut plain = login(proxy, &[]);
            let pid = good.value("select pg_backend_pid()");
            for (name, value, sqlstate, text) in [
                ("work_mem", "much", "22023", "invalid value for parameter \"work_mem\": \"much\""),
                ("nonsense", "1", "42704", "unrecognized configuration parameter \"nonsense\""),
                (
                    "log_disconnections",
                    "on",
                    "55P02",
                    "parameter \"log_disconnections\" cannot be set after connection start",
                ),
            ] {
                let mut bad = login(proxy, &[("options", &format!("-c {name}={value} -c statement_timeout=7s"))]);
                bad.start("select 1");
                let refusal = Refusal { severity: "FATAL".into(), sqlstate: sqlstate.into(), text: text.into() };
                assert_eq!(bad.last_words(), refusal);
                for _ in 0..3 {
                    let values =
                        "select current_setting('work_mem') || ' ' || current_setting('statement_timeout') || ' '
                    || pg_backend_pid()";
                    assert_eq!(good.value(values), format!("1MB 0 {pid}"));
                    assert_eq!(plain.value(values), format!("4MB 0 {pid}"), "the server is whole, and as it was");
                }
            }
        },
    );
}

#[test]
fn a_role_is_given_back_before_anything_else() {
    on_both_paths(
        |options| options.pool_size(1),
        |_, proxy| {
            // A role that may not set this: it would not be able to take it back either.
            let parameter = ("log_min_duration_statement", "5s");
            let mut alice = login(proxy, &[parameter, ("role", "alice")]);
            let mut bob = login(proxy, &[("session_authorization", "bob"), ("role", "none")]);
            let mut plain = login(proxy, &[]);
            let who =
                "select session_user || ' ' || current_user || ' ' || current_setting('log_min_duration_statement')";
            for _ in 0..4 {
                for _ in 0..3 {
                    assert_eq!(alice.value(who), "postgres alice 5s");
                }
                assert_eq!(bob.value(who), "bob bob -1");
                for _ in 0..3 {
                    assert_eq!(plain.value(who), "postgres postgres -1");
                }
            }
            assert_eq!(Console::new(proxy).table("SHOW SERVERS").rows.len(), 1);
        },
    );
}

#[test]
fn in_session_mode_the_next_client_starts_anew() {
    for reset_query in ["DISCARD ALL", "", "select 1"] {
        let options = |options: ProxyOptions| {
            options.pool_mode("session").pool_size(1).setting("server_reset_query", reset_query)
        };
        on_both_paths(options, |_, proxy| {
            for _ in 0..3 {
                for (parameters, expected) in
                    [(&[("work_mem", "1MB")][..], "1MB"), (&[("work_mem", "1MB")], "1MB"), (&[], "4MB")]
                {
                    let mut client = login(proxy, parameters);
                    for _ in 0..4 {
                        assert_eq!(client.value("show work_mem"), expected);
                    }
                }
            }
            assert_eq!(Console::new(proxy).table("SHOW SERVERS").rows.len(), 1);
        });
    }
}

#[test]
fn discard_all_takes_nothing_from_the_next_transaction() {
    on_both_paths(
        |options| options.pool_size(1),
        |_, proxy| {
            let mut client = login(proxy, &[("work_mem", "1MB")]);
            for _ in 0..4 {
                assert_eq!(client.value("show work_mem"), "1MB");
                client.query("discard all");
            }
        },
    );
}

#[test]
fn a_server_that_does_not_give_a_value_back_is_closed() {
    on_both_paths(
        |options| options.pool_size(1),
        |_, proxy| {
            let mut first = login(proxy, &[("log_min_duration_statement", "5s")]);
            // Which stays with the server, and with it nobody may change the parameter.
            first.query("set session authorization alice");
            let mut plain = login(proxy, &[]);
            for _ in 0..3 {
                assert_eq!(plain.value("show log_min_duration_statement"), "-1");
            }
            assert!(
                proxy.log().contains("closing because: parameter cannot be reset: permission denied"),
                "{}",
                proxy.log()
            );
            assert_eq!(first.value("show log_min_duration_statement"), "5s");
        },
    );
}

#[test]
fn they_reach_psql_and_are_told_at_login() {
    on_both_paths(
        |options| options,
        |_, proxy| {
            let conninfo = proxy.conninfo().option("options", "-c work_mem=1MB -c search_path=a,b");
            let text = Psql::new(conninfo).text("select current_setting('work_mem') || current_setting('search_path')");
            assert_eq!(text.unwrap(), "1MBa,b");
            let mut client = login(proxy, &[("default_transaction_read_only", "on"), ("statement_timeout", "1min")]);
            // PostgreSQL 14 reports it.
            if let Some(value) = client.parameters.get("default_transaction_read_only") {
                assert_eq!(value, "on");
            }
            for _ in 0..4 {
                assert_eq!(client.value("show default_transaction_read_only"), "on");
            }
            // Of the console's user too, for whom it means nothing.
            Wire::login(proxy, &[("user", "postgres"), ("database", "pgbouncer"), ("search_path", "x")])
                .query("SHOW VERSION");
        },
    );
}

#[test]
fn what_is_ignored_is_not_applied() {
    on_both_paths(
        |options| options.setting("ignore_startup_parameters", "work_mem"),
        |_, proxy| {
            let mut client = login(proxy, &[("work_mem", "nonsense"), ("options", "-c statement_timeout=1min")]);
            for _ in 0..4 {
                assert_eq!(client.value("show work_mem"), "4MB");
                assert_eq!(client.value("show statement_timeout"), "1min");
            }
            let refused = Wire::try_login(proxy, &[POSTGRES, &[("options", "-d 3")]].concat()).unwrap_err();
            let text = "unsupported options startup parameter: only '-c config=val' and '--config=val' are allowed";
            assert_eq!(refused, Refusal::fatal(text));
        },
    );
}
