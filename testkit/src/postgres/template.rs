//! A data directory fresh from `initdb`, made once per version of PostgreSQL and copied from then on: `initdb` takes
//! seconds. It lives in cargo's target directory, so `cargo clean` removes it.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    account::Account,
    programs::target_dir,
    run::{command, run},
};

/// Makes `data` a fresh data directory of this `initdb` that belongs to `account`.
pub(super) fn copy_to(data: &Path, initdb: &Path, account: Account) -> Result<()> {
    let template = template(initdb, account)?;
    copy(&template, data, account).with_context(|| format!("copying {}", template.display()))
}

fn template(initdb: &Path, account: Account) -> Result<PathBuf> {
    let version = run(Command::new(initdb).arg("--version"), LIMIT)?.checked()?.stdout;
    // "initdb (PostgreSQL) 15.8 (Debian …)"
    let version = version.split_ascii_whitespace().nth(2).context("initdb --version names no version")?;
    let cache = target_dir()?.join("testkit");
    fs::create_dir_all(&cache).with_context(|| format!("creating {}", cache.display()))?;
    let template = cache.join(format!("initdb-{version}"));
    // Tests of several processes may come here at once.
    let lock = File::create(cache.join("lock")).context("creating the lock of the template")?;
    lock.lock().context("locking the template")?;
    if !template.is_dir() {
        make(initdb, &template, account)?;
    }
    Ok(template)
}

fn make(initdb: &Path, template: &Path, account: Account) -> Result<()> {
    // The unprivileged account may have no way into the target directory, so initdb works elsewhere.
    let scratch =
        tempfile::Builder::new().prefix("tigger-initdb-").tempdir_in("/tmp").context("temporary directory")?;
    account.own(scratch.path()).context("giving the directory to the server's account")?;
    let data = scratch.path().join("data");
    let mut command = command(initdb);
    command.current_dir(scratch.path()).args(["--username=postgres", "--auth=trust", "--encoding=UTF8", "--no-locale"]);
    command.args(["--no-sync", "--pgdata"]).arg(&data);
    run(account.apply(&mut command), LIMIT)?.checked()?;
    // Renamed when complete, so that an interrupted copy is never taken for a template.
    let half = template.with_extension("half");
    if half.exists() {
        fs::remove_dir_all(&half).context("removing an interrupted copy")?;
    }
    copy(&data, &half, Account::Ours).context("keeping the template")?;
    fs::rename(&half, template).context("naming the template")
}

/// Copies a tree of directories and files (a data directory has nothing else) and gives it to `account`.
fn copy(from: &Path, to: &Path, account: Account) -> Result<()> {
    fs::create_dir(to)?;
    fs::set_permissions(to, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target, account)?;
        } else {
            fs::copy(entry.path(), &target)?;
            account.own(&target)?;
        }
    }
    Ok(account.own(to)?)
}

const LIMIT: Duration = Duration::from_secs(120);
