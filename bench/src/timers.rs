//! How exact time-outs are: thousands of clients log in and stay idle; how long after `client_idle_timeout` is each told?
//!
//! Only of the first of them, while nearly all others are still there. They are told in the order in which they logged in, so
//! that one thread can wait for one after the other. That includes the time for which this process waits for a processor.

use std::time::{Duration, Instant};

use anyhow::Result;
use tigger_testkit::percentile;

use crate::{
    idle::{self, Client},
    report::{Outcome, Timers},
    rig::Rig,
    scenario::Rival,
};

/// Opens `clients` connections, which time out after `seconds`.
pub(crate) fn measure(rig: &Rig, rival: Rival, clients: u32, seconds: u32, fd_limit: u64) -> Result<Outcome> {
    if let Some(skipped) = idle::too_few_files(clients, fd_limit) {
        return Ok(skipped);
    }
    let pooler = rig.fresh_pooler_with(rival, &[("client_idle_timeout", &seconds.to_string())])?;
    let timeout = Duration::from_secs(seconds.into());
    let start = Instant::now();
    let mut connected = Vec::with_capacity(clients as usize);
    for _ in 0..clients {
        match Client::connect(pooler.port()) {
            Ok(client) => connected.push((client, Instant::now())),
            Err(error) => return Ok(failed(format!("login {}: {error}", connected.len()))),
        }
    }
    if start.elapsed() >= timeout {
        let took = start.elapsed().as_secs();
        return Ok(failed(format!("the logins took {took} s, longer than the time-out")));
    }
    let sample = connected.len() / SAMPLE_PART;
    let mut late_us = Vec::with_capacity(sample);
    for (client, since) in &mut connected[..sample] {
        match client.last_words(timeout + PATIENCE) {
            // One that is told too early is not late, and wrong.
            Ok(text) if text.contains("client_idle_timeout") && since.elapsed() + EARLY_MAX >= timeout => {
                late_us.push(since.elapsed().saturating_sub(timeout).as_micros() as u64);
            }
            Ok(text) => return Ok(failed(format!("after {:?}: {text}", since.elapsed()))),
            Err(error) => return Ok(failed(error.to_string())),
        }
    }
    late_us.sort_unstable();
    let ms = |percent| percentile(&late_us, percent) as f64 / 1000.0;
    Ok(Outcome::Timers(Timers {
        clients: u64::from(clients),
        timed_out: sample as u64,
        p50_ms: ms(50.0),
        p99_ms: ms(99.0),
        max_ms: ms(100.0),
        failures: 0,
    }))
}

fn failed(why: String) -> Outcome {
    Outcome::Failed { failures: 1, why }
}

/// One in so many clients is waited for.
const SAMPLE_PART: usize = 5;
/// How much longer than the time-out is waited at most.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pooler counts from when it sends the end of the login, which is before that is read here.
const EARLY_MAX: Duration = Duration::from_millis(50);
