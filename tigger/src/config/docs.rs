//! Writes the manual page of the configuration from the tables.

/// Text of `doc/config.md`.
pub fn config_markdown() -> String {
    String::new()
}
