//! The Tigger process: configuration, sockets, the user path, the admin console.
//!
//! What bytes mean is decided in `tigger-proto`; this crate moves them. See ARCHITECTURE.md for the map.

#![forbid(unsafe_code)]

pub mod admin;
pub mod config;
pub mod kernel_path;
pub mod log;
pub mod net;
pub mod pooler;
pub mod process;
pub mod relay;
pub mod startup;
