//! Tests that lack what they need. Rust's test harness knows no skipping at run time, so they are said and counted here.

use std::{
    env,
    fs::OpenOptions,
    io::{self, Write},
};

/// Says on standard error, past the capture of the test harness, that `test` was skipped and `why`, and adds a line to
/// the file named by `TIGGER_SKIPPED` from which `make test` counts. The test then returns.
pub fn skipped(test: &str, why: &str) {
    let line = format!("SKIPPED {test}: {why}\n");
    // A lost line on a closed stderr must not fail a test.
    drop(io::stderr().write_all(line.as_bytes()));
    if let Some(path) = env::var_os("TIGGER_SKIPPED") {
        let file = OpenOptions::new().append(true).create(true).open(path);
        if let Err(error) = file.and_then(|mut file| file.write_all(line.as_bytes())) {
            panic!("counting a skipped test: {error}");
        }
    }
}
