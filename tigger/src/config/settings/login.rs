//! Settings of client authentication and of the admin console.

use super::Setting;
use crate::config::kind::Kind;

/// Authentication, admin console.
pub(super) const SETTINGS: &[Setting] = &[
    Setting::new(
        "auth_type",
        Kind::AuthType(Some(|s| &mut s.auth_type)),
        Some("md5"),
        "How clients prove who they are. `md5` uses SCRAM for users whose secret is a SCRAM secret. `scram-sha-256` \
         needs SCRAM secrets or plain passwords in `auth_file`. `plain` sends the password in clear text. `trust` \
         checks nothing, but the user must be in `auth_file`. `any` also ignores the user's name, so each database \
         needs a forced user. `cert`, `hba`, `pam` and `ldap` are refused with an error until they are built.",
    ),
    Setting::new(
        "auth_file",
        Kind::File(Some(|s| &mut s.auth_file)),
        None,
        "File with the users and their secrets; its format is described below.",
    ),
    Setting::new("auth_hba_file", Kind::File(None), Some(""), "Rules for `auth_type=hba`."),
    Setting::new("auth_ident_file", Kind::File(None), None, "User name maps for `auth_type=hba`."),
    Setting::new("auth_ldap_options", Kind::Concealed(None), None, "Connection options for `auth_type=ldap`."),
    Setting::new(
        "auth_user",
        Kind::Text(None),
        None,
        "User as whom `auth_query` is run for users that are not in `auth_file`.",
    ),
    Setting::new(
        "auth_query",
        Kind::Text(None),
        Some(
            "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END FROM pg_authid WHERE rolname=$1 AND rolcanlogin",
        ),
        "SQL that returns name and secret of the user `$1`.",
    ),
    Setting::new(
        "auth_dbname",
        Kind::Text(None),
        None,
        "Database in which `auth_query` is run, instead of the client's.",
    ),
    Setting::new(
        "scram_iterations",
        Kind::Count(Some(|s| &mut s.scram_iterations)),
        Some("4096"),
        "Iterations of the SCRAM secrets that are made from plain passwords. More make guessing, and each login, \
         more expensive.",
    ),
    Setting::new("login_notify_message", Kind::Text(None), Some(""), "Notice sent to clients after the login."),
    Setting::new(
        "admin_users",
        Kind::Names(Some(|s| &mut s.admin_users)),
        Some(""),
        "Users who may run all commands at the admin console.",
    ),
    Setting::new(
        "stats_users",
        Kind::Names(Some(|s| &mut s.stats_users)),
        Some(""),
        "Users who may run the `SHOW` commands at the admin console, except those that show secrets or clients' \
         data.",
    ),
];
