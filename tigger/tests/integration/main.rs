//! Tigger as a whole, in front of a real PostgreSQL: `psql`, `pgbench`, a driver and bare sockets on one side, the admin
//! console and the log to see what happened. One program, so that all topics share one PostgreSQL server. What the
//! parsers and the pool do with every possible input is tested where they are, not here.

#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used, reason = "all of it is tests")]

mod admin_commands;
mod admin_show;
mod auth;
mod bad_input;
mod checks;
mod differential;
mod drivers;
mod end;
mod faults;
mod host_names;
mod hosts;
mod kernel_path;
mod limits;
mod listen;
mod many_clients;
mod parameters;
mod pgbench;
mod pools;
mod prepared;
mod programs;
mod protocol_versions;
mod psql;
mod reload;
mod replaced;
mod replication;
mod server_auth;
mod signals;
mod sql_prepare;
mod stale_plans;
mod startup_parameters;
mod support;
mod suspend;
mod timeouts;
mod torture;
mod wire;
