//! The sans-IO core of Tigger, a PostgreSQL connection proxy: protocol, pooling, authentication.
//!
//! **No sockets, no clock, no threads, no globals, no randomness of its own, no unsafe code.** Time and random bytes are
//! arguments; `handle_*` takes input, `poll_*` gives what to do. So the whole pooler can be simulated and fuzzed (see
//! `sim`), and the process around it decides how bytes travel.

#![forbid(unsafe_code)]

pub mod auth;
pub mod cancel;
pub mod client;
pub mod error;
pub mod parameters;
pub mod pool;
pub mod prepared;
pub mod replication;
pub mod server;
#[cfg(any(test, feature = "sim"))]
pub mod sim;
pub mod wire;
