//! Writes the manual page of the configuration from the tables, so that it can never differ from what is parsed. The
//! only texts here are those that no table holds.

use super::connection_string::Key;
use super::settings::{GROUPS, Setting};
use super::{database, peer, user};

/// Text of `doc/config.md`.
pub fn config_markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    page.push_str("\n## Section [pgbouncer]\n");
    for group in GROUPS {
        page.push_str(&format!("\n### {}\n", group.title));
        for setting in group.settings {
            page.push_str(&setting_markdown(setting));
        }
    }
    page.push_str(DATABASES);
    page.push_str(&keys_markdown(database::KEYS));
    page.push_str(USERS);
    page.push_str(&keys_markdown(user::KEYS));
    page.push_str(PEERS);
    page.push_str(&keys_markdown(peer::KEYS));
    page.push_str(AUTH_FILE);
    page.push_str(DIFFERENCES);
    page
}

fn setting_markdown(setting: &Setting) -> String {
    let default = match setting.default {
        None => "not set".to_owned(),
        Some("") => "empty".to_owned(),
        Some(text) => format!("`{text}`"),
    };
    let change = if setting.is_changeable() { "by reload" } else { "at the start only" };
    let status = if setting.kind.is_built() { "built" } else { "accepted, not built yet" };
    format!(
        "\n#### {}\n\n{}\n\nValue: {}. Default: {default}. Changes: {change}. Status: {status}.\n",
        setting.name,
        setting.doc,
        setting.kind.describe(),
    )
}

fn keys_markdown<T>(keys: &[Key<T>]) -> String {
    let mut table = "\n| key | value | status | meaning |\n|---|---|---|---|\n".to_owned();
    for key in keys {
        let status = if key.kind.is_built() { "built" } else { "accepted" };
        table.push_str(&format!("| `{}` | {} | {status} | {} |\n", key.name, key.kind.describe(), key.doc));
    }
    table
}

const INTRODUCTION: &str = r#"# Configuration

This page is made from the tables in `tigger/src/config`. Do not edit it.

Tigger reads PgBouncer's configuration file: an existing `pgbouncer.ini` works as it is, up to the differences listed at the
end. All settings of PgBouncer are known. A setting that is *accepted, not built yet* is checked, and a warning is logged if it
is set to something else than its default. A setting, a section or a key that is unknown is an error, with file and line.

## The file

* `[section]` starts a section: `[pgbouncer]`, `[databases]`, `[users]` or `[peers]`. `[pgbouncer]` must be there.
* `key = value` sets a value. White space around key and value does not count. Of several lines with the same key, the last
  one counts.
* Lines that start with `;` or `#` are comments. Later in a line, these characters are part of the value.
* A key consists of the characters `A-Z a-z 0-9 _ . - *`, or stands in double quotes, with `""` for a quote:
  `"my db" = host=db1`.
* `%include file` reads another file at that place. A relative name is relative to the working directory of the process.
  Includes may be nested up to 10 deep, and a section goes on across their borders.
* Numbers are decimal, octal with a leading `0`, or hexadecimal with a leading `0x`. Times are seconds, and may have
  decimals where it says so. Words such as pool modes may be in upper or lower case.
* Lines may end in LF or CR LF. The text is UTF-8.
"#;

const DATABASES: &str = r#"
## Section [databases]

    name = key=value key=value …

The name is the one clients ask for. Pairs are separated by spaces. A value with spaces stands in single quotes, with `''` for
a quote; a backslash has no special meaning. A value cannot be empty. The name `*` stands for every database without a line
of its own, and `pgbouncer` is reserved for the admin console.

    [databases]
    app = host=10.0.0.5 pool_size=50
    reports = host=/run/postgresql dbname=app user=reader password='it''s me'
    * = host=localhost
"#;

const USERS: &str = r#"
## Section [users]

    name = key=value key=value …

What is set for a user wins over what is set for a database, and both win over `[pgbouncer]`. Where a database has a forced
user, it is that user's line that counts.
"#;

const PEERS: &str = r#"
## Section [peers]

    number = key=value key=value …

Other processes to which cancel requests are passed. The lines are checked, but not used yet.
"#;

const AUTH_FILE: &str = r#"
## The file named by auth_file

    "user" "secret"

One user in a line, both texts in double quotes, with `""` for a quote. The secret is a plain password, `md5` with 32
hexadecimal digits, or a secret that starts with `SCRAM-SHA-256$`. What follows in the line is ignored, and so are empty lines
and lines that start with `;`. Of several lines for a user, the last one counts.
"#;

const DIFFERENCES: &str = r#"
## Differences from PgBouncer

* `listen_backlog` is 4096 by default, not 128.
* A second `[pgbouncer]` section adds to the first. PgBouncer sets everything back to the defaults there.
* `auth_type` `cert`, `hba`, `pam` and `ldap`, and TLS modes from `require` on, are errors until they are built: to ignore them
  would let clients in, or send data in clear text.
* A number must fit: `pool_size=ten` and `pool_size=10x` are errors, where PgBouncer reads 0 and 10. A setting cannot be less
  than 0.
* Keys in double quotes are accepted. PgBouncer's manual has them too, but PgBouncer 1.18 refuses them.
* A tab separates pairs in a line of `[databases]` as a space does. PgBouncer takes it as part of the value.
* After a closing quote in a line of `[databases]` a space must follow. PgBouncer drops the character that follows.
* A database without a host needs `unix_socket_dir`. Without it the file is refused; PgBouncer fails when it connects.
* A broken line in `auth_file` makes the whole file refused: at the start it is an error, at a reload the old users stay.
  PgBouncer keeps the users above the line and forgets those below. Both texts of a user stand in one line.
* A changed setting that only a start can change is named in a warning at a reload. PgBouncer says nothing.
* `conffile` cannot be set. PgBouncer takes it as the file of the next reload.
* `SHOW CONFIG` does not show `auth_ldap_options`, which may hold a password.
"#;
