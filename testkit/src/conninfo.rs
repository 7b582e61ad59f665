//! Where and as whom `psql`, `pgbench` and drivers connect.

use std::{collections::BTreeMap, fmt, process::Command};

/// libpq connection parameters (PostgreSQL manual, 34.1.2 Parameter Key Words). The password is kept apart: it goes
/// through the environment and shows in no `Debug` text.
#[derive(Clone)]
pub struct Conninfo {
    options: BTreeMap<String, String>,
    password: Option<String>,
}

impl Conninfo {
    /// User `postgres`, database `postgres` at `host` (a name, an address or a socket directory).
    pub fn new(host: &str, port: u16) -> Self {
        Self { options: BTreeMap::new(), password: None }
            .option("host", host)
            .option("port", &port.to_string())
            .user("postgres")
            .dbname("postgres")
    }

    /// Sets any parameter but the password, such as `sslmode` or `application_name`.
    #[must_use]
    pub fn option(mut self, name: &str, value: &str) -> Self {
        self.options.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Sets the user.
    #[must_use]
    pub fn user(self, user: &str) -> Self {
        self.option("user", user)
    }

    /// Sets the database.
    #[must_use]
    pub fn dbname(self, dbname: &str) -> Self {
        self.option("dbname", dbname)
    }

    /// Sets the password.
    #[must_use]
    pub fn password(mut self, password: &str) -> Self {
        self.password = Some(password.to_owned());
        self
    }

    /// Gives the password, if any, to a libpq program.
    pub(crate) fn apply<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        match &self.password {
            Some(password) => command.env("PGPASSWORD", password),
            None => command,
        }
    }
}

impl fmt::Display for Conninfo {
    /// The connection string, without the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.options.iter().enumerate() {
            let gap = if i == 0 { "" } else { " " };
            write!(f, "{gap}{name}='{}'", value.replace('\\', r"\\").replace('\'', r"\'"))?;
        }
        Ok(())
    }
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Conninfo({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_quoted_and_the_password_stays_hidden() {
        let conninfo = Conninfo::new("::1", 5432).dbname(r"it's \ odd").password("geheim");
        assert_eq!(conninfo.to_string(), r"dbname='it\'s \\ odd' host='::1' port='5432' user='postgres'");
        assert!(!format!("{conninfo:?}").contains("geheim"));
    }
}
