//! Messages of PostgreSQL's frontend/backend protocol, version 3 (manual, chapter 55).
//!
//! Reads headers and the few bodies a pooler must understand, and builds the messages it sends itself.
//! Query text and result rows are never parsed here: they are bytes that pass.

pub mod backend;
pub mod error_response;
pub mod frame;
pub mod frontend;
pub mod startup;
pub mod version;

/// Reads the NUL-terminated string at the start of `body`; returns it and what follows.
pub(crate) fn cstr(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = body.iter().position(|&b| b == 0)?;
    Some((&body[..end], &body[end + 1..]))
}
