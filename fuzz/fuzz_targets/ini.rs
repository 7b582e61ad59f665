//! The configuration file. A password must not be seen in what is printed, and values that are shown must read back.
//!
//! An input is the file, a byte 0x01, and what is included. A byte 0x02 in the file stands for a line with a password, 0x03
//! for one with a password that should have been quoted.
#![no_main]

use std::collections::BTreeMap;
use std::fmt::Write;

use libfuzzer_sys::fuzz_target;
use tigger::config::Config;

const PASSWORD: &str = "hunter2";

fuzz_target!(|data: &[u8]| {
    let Ok(data) = std::str::from_utf8(data) else { return };
    if data.contains(PASSWORD) {
        return;
    }
    let (text, included) = data.split_once('\x01').unwrap_or((data, ""));
    let text = text.replace('\x02', &format!("\nx = host=a password={PASSWORD}"));
    let text = text.replace('\x03', &format!("\nx = host=a password=x {PASSWORD}"));
    let read_file = |_: &std::path::Path| Ok(included.to_owned());
    let (config, warnings) = match Config::parse_str("f", &text, &read_file) {
        Ok(read) => read,
        Err(error) => {
            assert!(!error.to_string().contains(PASSWORD), "{error}");
            let lines = text.split('\n').count().max(included.split('\n').count());
            assert!(error.place.line <= lines);
            return;
        }
    };
    for warning in &warnings {
        assert!(!warning.to_string().contains(PASSWORD), "{warning}");
    }
    assert!(!format!("{config:?}").contains(PASSWORD), "{config:?}");
    for database in config.databases.values().chain(&config.fallback) {
        let pool = config.pool_settings(database, "u");
        assert!(pool.min_pool_size <= pool.pool_size);
    }

    let shown = shown(&config);
    let mut again = String::from("[pgbouncer]\n");
    for (key, value) in &shown {
        writeln!(again, "{key} = {value}").expect("a string grows");
    }
    let (config_again, _) = Config::parse_str("f", &again, &read_file).expect("what is shown can be read");
    assert_eq!(self::shown(&config_again), shown);
    assert_eq!(config_again.settings, config.settings);
});

/// The settings that `SHOW CONFIG` shows and that can stand in a file.
fn shown(config: &Config) -> BTreeMap<&'static str, String> {
    let rows = config.rows().filter(|row| row.key != "conffile");
    rows.filter_map(|row| Some((row.key, row.value?))).collect()
}
