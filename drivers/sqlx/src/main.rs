//! Tries sqlx: see drivers/README.md. It takes the PG* environment variables by itself.

#![forbid(unsafe_code)]

mod checks;

use std::{env, process::ExitCode};

use anyhow::Result;
use futures_util::future::BoxFuture;

/// A name, what it needs of the arguments, and what it does.
struct Check {
    name: &'static str,
    needs: &'static [&'static str],
    run: fn() -> BoxFuture<'static, Result<()>>,
}

/// Whether an argument promises this.
fn have(need: &str) -> bool {
    env::args().any(|arg| arg == need)
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut exit = ExitCode::SUCCESS;
    for Check { name, needs, run } in checks::CHECKS {
        let lacking: Vec<&str> = needs.iter().copied().filter(|need| !have(need)).collect();
        if !lacking.is_empty() {
            println!("skipped {name}: it needs {}", lacking.join(" "));
        } else if let Err(error) = run().await {
            println!("FAILED {name}: {error:#}");
            exit = ExitCode::FAILURE;
        } else {
            println!("ok {name}");
        }
    }
    exit
}
