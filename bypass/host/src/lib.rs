//! The taps of the kernel path (`bypass/src/bpf/tap.bpf.h`), compiled for the host and held against the Rust code that
//! serves the same clients on the user path: invariant 6 of ARCHITECTURE.md. For tests and fuzz targets only.
//!
//! * [`taps`]: the programs around one client and one server, as the kernel would run them;
//! * [`conversation`]: two streams and how they are cut; everything that must be the same after each cut;
//! * [`eligible`]: what the programs may redirect, said a second time;
//! * [`walk`]: the walker alone, which is also run in the kernel (`tests/test_run.rs`).

mod backend;
pub mod conversation;
pub mod eligible;
pub mod taps;
pub mod walk;
