//! What clients ask for: each piece adds some requests to a script and, with a token that never comes twice, the replies
//! that PostgreSQL must give.

use super::copies;
use super::expect::{Expect, Framing, INTEGER, Rows, TEXT};
use super::random::Random;
use super::script::{Ending, Script};

/// A kind of request.
pub(super) struct Piece {
    pub(super) name: &'static str,
    /// How often it is chosen.
    weight: usize,
    place: Place,
    add: fn(&mut Composer, &mut Script),
}

/// Where a piece may stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Also inside a transaction, and behind requests that are [in doubt](Script::in_doubt).
    Anywhere,
    /// Also inside a transaction, but not behind requests that are in doubt.
    Certain,
    /// It begins a transaction of its own, or fails, or sets what a rollback would set back.
    Outside,
}

/// Everything that can be in a pipeline.
pub(super) const PIECES: &[Piece] = {
    use Place::{Anywhere, Certain, Outside};
    &[
        Piece { name: "simple query", weight: 30, place: Anywhere, add: Composer::simple },
        Piece { name: "empty query", weight: 2, place: Anywhere, add: Composer::empty },
        Piece { name: "several statements", weight: 5, place: Anywhere, add: Composer::several },
        Piece { name: "rows", weight: 12, place: Anywhere, add: Composer::rows },
        Piece { name: "notice", weight: 2, place: Anywhere, add: Composer::notice },
        Piece { name: "extended query", weight: 20, place: Anywhere, add: Composer::extended },
        Piece { name: "extended rows", weight: 8, place: Anywhere, add: Composer::extended_rows },
        Piece { name: "flush", weight: 3, place: Anywhere, add: Composer::flushed },
        Piece { name: "slow query", weight: 3, place: Anywhere, add: Composer::slow },
        Piece { name: "function call", weight: 2, place: Anywhere, add: Composer::function_call },
        Piece { name: "copy out", weight: 4, place: Anywhere, add: copies::copy_out },
        Piece { name: "copy in", weight: 4, place: Certain, add: copies::copy_in },
        Piece { name: "failing copy in", weight: 3, place: Outside, add: copies::failing_copy_in },
        Piece { name: "prepared statement", weight: 20, place: Outside, add: Composer::prepared },
        Piece { name: "named objects", weight: 4, place: Outside, add: Composer::named },
        Piece { name: "transaction", weight: 8, place: Outside, add: Composer::transaction },
        Piece { name: "failed transaction", weight: 3, place: Outside, add: Composer::failed_transaction },
        Piece { name: "error", weight: 4, place: Outside, add: Composer::error },
        Piece { name: "error in a pipeline", weight: 4, place: Outside, add: Composer::extended_error },
        Piece { name: "prepared with SQL", weight: 8, place: Outside, add: Composer::prepared_with_sql },
        Piece { name: "listen and notify", weight: 2, place: Outside, add: Composer::listen },
        Piece { name: "unlisten", weight: 2, place: Outside, add: Composer::unlisten },
        Piece { name: "set", weight: 4, place: Outside, add: Composer::set },
        Piece { name: "show", weight: 4, place: Anywhere, add: Composer::show },
    ]
};

/// Sizes of replies in bytes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sizes {
    /// What most replies have at most.
    pub(super) common: usize,
    /// What a rare one has at most.
    pub(super) rare: usize,
}

/// Writes the scripts of one client and knows what it has set.
#[derive(Debug)]
pub(super) struct Composer {
    pub(super) random: Random,
    client: usize,
    sequence: u64,
    sizes: Sizes,
    application_name: String,
    time_zone: String,
    /// Which of its prepared statements it has made since it has logged in.
    prepared: [bool; PREPARED],
    /// At the end of all scripts so far it listens to something.
    pub(super) listens: bool,
    /// Nobody kills backends any more.
    pub(super) calm: bool,
}

impl Composer {
    pub(super) fn new(client: usize, random: Random, sizes: Sizes) -> Self {
        let (application_name, time_zone) = Default::default();
        Self {
            random,
            client,
            sequence: 0,
            sizes,
            application_name,
            time_zone,
            prepared: Default::default(),
            listens: false,
            calm: false,
        }
    }

    /// With what all tokens of this client begin.
    pub(super) fn own(&self) -> String {
        format!("c{}n", self.client)
    }

    /// A text that was never used before: also fit for a name in SQL.
    pub(super) fn token(&mut self) -> String {
        self.sequence += 1;
        format!("{}{}", self.own(), self.sequence)
    }

    /// Start-up parameters of a new connection.
    pub(super) fn startup(&mut self) -> Vec<(&'static str, String)> {
        (self.application_name, self.time_zone) = (self.token(), self.new_time_zone());
        self.prepared = Default::default();
        self.listens = false;
        vec![
            ("user", "postgres".into()),
            ("database", "postgres".into()),
            ("application_name", self.application_name.clone()),
            ("timezone", self.time_zone.clone()),
        ]
    }

    /// One piece, or a pipeline of up to twenty, and what it is made of.
    pub(super) fn conversation(&mut self) -> (Script, Vec<&'static str>) {
        let depth = if self.random.one_in(3) { self.random.range(2, DEPTH_MAX) } else { 1 };
        let mut script = Script::new();
        let mut names = Vec::new();
        for _ in 0..depth {
            names.push(self.any(&mut script));
        }
        (script, names)
    }

    /// Adds a piece that may stand here.
    fn any(&mut self, script: &mut Script) -> &'static str {
        let fits = |place| match place {
            Place::Anywhere => true,
            Place::Certain => !script.in_doubt,
            Place::Outside => !script.in_doubt && script.status == b'I',
        };
        let piece = self.random.weighted(PIECES, |piece| if fits(piece.place) { piece.weight } else { 0 });
        (piece.add)(self, script);
        piece.name
    }

    /// A script of one piece.
    pub(super) fn only(&mut self, piece: &Piece) -> Script {
        let mut script = Script::new();
        (piece.add)(self, &mut script);
        script
    }

    /// A reply of the rare size.
    pub(super) fn huge(&mut self) -> Script {
        let mut script = Script::new();
        let rows = self.some_rows(Framing::DataRow, self.sizes.common, self.sizes.rare);
        simple_rows(&mut script, rows);
        script
    }

    /// A query that lasts, or ends about when the cancel request comes, and some that may be hit instead.
    pub(super) fn cancelled(&mut self) -> Script {
        let mut script = Script::new();
        script.ending = Ending::MayBeCancelled;
        let most = self.random.pick(&[10, 10, 10, 1000]);
        self.sleep(&mut script, most);
        for _ in 0..self.random.range(0, 3) {
            self.simple(&mut script);
        }
        script
    }

    /// The backend ends itself in the middle of a pipeline.
    pub(super) fn terminated(&mut self) -> Script {
        let mut script = Script::new();
        script.ending = Ending::Terminated;
        for _ in 0..self.random.range(0, 3) {
            self.simple(&mut script);
        }
        let token = self.token();
        simple_text(&mut script, "pg_terminate_backend(pg_backend_pid())::text", &token, "true");
        for _ in 0..self.random.range(0, 3) {
            self.extended(&mut script);
        }
        script
    }

    /// Lasts long enough to be hit by somebody else's cancel request.
    fn slow(&mut self, script: &mut Script) {
        self.sleep(script, 10);
    }

    fn sleep(&mut self, script: &mut Script, most_ms: usize) {
        let (token, ms) = (self.token(), self.random.range(0, most_ms));
        simple_text(script, &format!("pg_sleep({ms} / 1000.0)::text || '{token}'"), &token, &token);
    }

    fn simple(&mut self, script: &mut Script) {
        let token = self.token();
        simple_text(script, &format!("'{token}'"), &token, &token);
    }

    #[allow(clippy::unused_self, reason = "a piece like the others")]
    fn empty(&mut self, script: &mut Script) {
        script.query("");
        script.expect_kind("I");
        script.ready();
    }

    fn several(&mut self, script: &mut Script) {
        let tokens: Vec<String> = (0..self.random.range(2, 4)).map(|_| self.token()).collect();
        let block = script.status == b'I' && self.random.one_in(2);
        let mut sql: Vec<String> = tokens.iter().map(|token| format!("select '{token}' as {token}")).collect();
        if block {
            sql.insert(0, "begin".into());
            sql.push("commit".into());
            script.complete("BEGIN");
        }
        script.query(&sql.join("; "));
        tokens.iter().for_each(|token| one_row(script, token, token));
        if block {
            script.complete("COMMIT");
        }
        script.ready();
    }

    fn rows(&mut self, script: &mut Script) {
        let rows = self.some_rows(Framing::DataRow, 1, self.sizes.common);
        simple_rows(script, rows);
    }

    fn notice(&mut self, script: &mut Script) {
        let message = self.token();
        script.query(&format!("do $$begin raise notice '{message}'; end$$"));
        script.expect(Expect::Notice { message });
        script.complete("DO");
        script.ready();
    }

    fn extended(&mut self, script: &mut Script) {
        let token = self.token();
        extended_text(script, &token);
        script.sync();
        script.ready();
    }

    /// With the portal suspended once, when it has more than one row.
    fn extended_rows(&mut self, script: &mut Script) {
        let rows = self.some_rows(Framing::DataRow, 1, self.sizes.common);
        script.prepare(&format!("select {}", rows.sql("$1")), Some(&rows.token), &rows.token);
        let first = if rows.last > 1 { self.random.range(1, rows.last - 1) } else { 0 };
        if first > 0 {
            script.execute("", first);
            script.rows(Rows { last: first, ..rows.clone() });
            script.expect_kind("s");
        }
        script.execute("", 0);
        script.complete_after(Rows { next: first + 1, ..rows });
        script.sync();
        script.ready();
    }

    /// Replies to a Flush come without a ReadyForQuery.
    fn flushed(&mut self, script: &mut Script) {
        for _ in 0..self.random.range(1, 3) {
            let token = self.token();
            extended_text(script, &token);
            script.send(b'H', &[]);
            script.border();
        }
        script.sync();
        script.ready();
    }

    /// `btrim(text)`, by the message of protocol 3.0 that nothing but old drivers' large objects use.
    fn function_call(&mut self, script: &mut Script) {
        let token = self.token();
        let value = |text: &str| [&u32::try_from(text.len()).unwrap().to_be_bytes()[..], text.as_bytes()].concat();
        script.send(b'F', &[&BTRIM.to_be_bytes()[..], &[0, 0, 0, 1], &value(&format!(" {token} ")), &[0, 0]].concat());
        script.expect(Expect::Message { kind: b'V', body: value(&token) });
        script.ready();
    }

    /// Statements that all clients call the same, some of which are the same, and which outlive their transactions. Now and
    /// then one is closed, in the same pipeline in which it was used.
    fn prepared(&mut self, script: &mut Script) {
        for _ in 0..self.random.range(1, 3) {
            let which = self.random.range(0, PREPARED - 1);
            // Each client has the same texts, under names that tell them apart differently.
            let name = format!("S_{}", (which + self.client) % PREPARED);
            let column = format!("column{which}");
            if !std::mem::replace(&mut self.prepared[which], true) {
                script.parse(&name, &format!("select $1::text as {column}"));
                script.expect_kind("1");
            }
            let token = self.token();
            script.bind("", &name, Some(&token));
            script.describe(b'P', "");
            script.execute("", 0);
            script.expect_kind("2");
            script.described(&column, TEXT);
            script.row(&token);
            script.complete("SELECT 1");
            if self.random.one_in(20) {
                self.prepared[which] = false;
                script.close(b'S', &name);
                script.expect_kind("3");
            }
        }
        script.sync();
        script.ready();
    }

    /// PREPARE, EXECUTE and DEALLOCATE, perhaps in one transaction, which may be rolled back: that undoes nothing of it.
    fn prepared_with_sql(&mut self, script: &mut Script) {
        let ends = [None, Some(("commit", "COMMIT")), Some(("rollback", "ROLLBACK"))];
        let end = self.random.pick(&ends);
        let (name, which) = (self.token(), self.random.range(0, PREPARED - 1));
        let column = format!("column{which}");
        if end.is_some() {
            script.command("begin", "BEGIN", b'T');
        }
        let status = script.status;
        script.command(&format!("prepare {name} (text) as select $1 as {column}"), "PREPARE", status);
        for _ in 0..self.random.range(1, 3) {
            let token = self.token();
            script.query(&format!("execute {name} ('{token}')"));
            one_row(script, &column, &token);
            script.ready();
        }
        if let Some((sql, tag)) = end {
            script.command(sql, tag, b'I');
            let token = self.token();
            script.query(&format!("execute {name} ('{token}')"));
            one_row(script, &column, &token);
            script.ready();
        }
        script.command(&format!("deallocate {name}"), "DEALLOCATE", b'I');
    }

    /// Listens to one of its few channels and notifies itself.
    fn listen(&mut self, script: &mut Script) {
        let channel = format!("{}channel{}", self.own(), self.random.range(1, 3));
        script.query(&format!("listen {channel}"));
        script.expect(Expect::Listening);
        script.ready();
        self.listens = true;
        for _ in 0..self.random.range(1, 3) {
            let token = self.token();
            script.command(&format!("notify {channel}, '{token}'"), "NOTIFY", b'I');
            script.notifications.certain.push((channel.clone(), token));
        }
    }

    #[allow(clippy::unused_self, reason = "a piece like the others")]
    fn unlisten(&mut self, script: &mut Script) {
        self.listens = false;
        script.command("unlisten *", "UNLISTEN", b'I');
        script.notifications.doubt();
    }

    /// A named statement and a named portal, which is read in two parts while the statement is used again.
    fn named(&mut self, script: &mut Script) {
        script.command("begin", "BEGIN", b'T');
        let rows = Rows { last: 10, width: 1, ..self.some_rows(Framing::DataRow, 1, 2) };
        let token = rows.token.clone();
        let (statement, portal) = (format!("{token}_s"), format!("{token}_p"));
        script.parse(&statement, &format!("select {}", rows.sql("$1")));
        script.describe(b'S', &statement);
        script.expect_kind("1");
        script.parameter_described();
        script.described(&token, TEXT);
        script.bind(&portal, &statement, Some(&token));
        script.describe(b'P', &portal);
        script.execute(&portal, 4);
        script.expect_kind("2");
        script.described(&token, TEXT);
        script.rows(Rows { last: 4, ..rows.clone() });
        script.expect_kind("s");
        script.sync();
        script.ready();
        self.extended(script);
        self.simple(script);
        script.execute(&portal, 0);
        script.complete_after(Rows { next: 5, ..rows });
        script.close(b'P', &portal);
        script.close(b'S', &statement);
        script.expect_kind("33");
        script.sync();
        script.ready();
        script.command("commit", "COMMIT", b'I');
    }

    fn transaction(&mut self, script: &mut Script) {
        script.command("begin", "BEGIN", b'T');
        for _ in 0..self.random.range(1, 5) {
            let piece =
                self.random.weighted(PIECES, |piece| piece.weight * usize::from(piece.place == Place::Anywhere));
            (piece.add)(self, script);
        }
        let (sql, tag) = self.random.pick(&[("commit", "COMMIT"), ("rollback", "ROLLBACK")]);
        script.command(sql, tag, b'I');
    }

    fn failed_transaction(&mut self, script: &mut Script) {
        script.command("begin", "BEGIN", b'T');
        self.simple(script);
        self.any_error(script);
        script.query(&format!("select '{}'", self.token()));
        script.fail("25P02", ABORTED);
        script.ready();
        script.parse("", &format!("select '{}'", self.token()));
        script.fail("25P02", ABORTED);
        script.bind("", "", None);
        script.execute("", 0);
        script.sync();
        script.ready();
        script.command(self.random.pick(&["commit", "rollback"]), "ROLLBACK", b'I');
    }

    fn error(&mut self, script: &mut Script) {
        self.any_error(script);
    }

    /// A simple query that fails: before it runs, when it runs, or after another one.
    fn any_error(&mut self, script: &mut Script) {
        let token = self.token();
        let (sql, sqlstate, message) = match self.random.range(1, 5) {
            1 => ("select 1/0".to_owned(), "22012", "division by zero".to_owned()),
            2 => (format!("{token} x"), "42601", format!("syntax error at or near \"{token}\"")),
            3 => (format!("select * from {token}"), "42P01", format!("relation \"{token}\" does not exist")),
            4 => (format!("select '{token}'::int"), "22P02", not_a_number(&token)),
            _ => {
                one_row(script, &token, &token);
                (format!("select '{token}' as {token}; select 1/0; select 1"), "22012", "division by zero".into())
            }
        };
        script.query(&sql);
        script.fail(sqlstate, message);
        script.ready();
    }

    /// Extended queries of which one fails, at Parse, Bind or Execute; those up to the Sync are skipped.
    fn extended_error(&mut self, script: &mut Script) {
        for _ in 0..self.random.range(0, 2) {
            let token = self.token();
            extended_text(script, &token);
        }
        let token = self.token();
        match self.random.range(1, 3) {
            1 => {
                script.parse("", &format!("{token} x"));
                script.fail("42601", format!("syntax error at or near \"{token}\""));
            }
            2 => {
                script.parse("", "select $1::int");
                script.bind("", "", Some(&token));
                script.expect_kind("1");
                script.fail("22P02", not_a_number(&token));
            }
            _ => {
                script.parse("", &format!("select 1 / (i - i) as {token} from generate_series(1, 1) i"));
                script.bind("", "", None);
                script.describe(b'P', "");
                script.execute("", 0);
                script.expect_kind("12");
                script.described(&token, INTEGER);
                script.fail("22012", "division by zero");
            }
        }
        for _ in 0..self.random.range(0, 2) {
            let mut skipped = Script::new();
            extended_text(&mut skipped, &self.token());
            script.bytes.extend(skipped.bytes);
        }
        script.sync();
        script.ready();
    }

    fn set(&mut self, script: &mut Script) {
        if self.random.one_in(2) {
            self.application_name = self.token();
            script.command(&format!("set application_name = '{}'", self.application_name), "SET", b'I');
        } else {
            self.time_zone = self.new_time_zone();
            script.command(&format!("set timezone = '{}'", self.time_zone), "SET", b'I');
        }
    }

    fn show(&mut self, script: &mut Script) {
        let (name, value) = match self.random.range(1, 3) {
            1 => ("application_name", self.application_name.clone()),
            2 => ("TimeZone", self.time_zone.clone()),
            _ => {
                let token = self.token();
                let sql = format!("'{token} ' || current_setting('application_name') || current_setting('TimeZone')");
                let value = format!("{token} {}{}", self.application_name, self.time_zone);
                return simple_text(script, &sql, &token, &value);
            }
        };
        script.query(&format!("show {name}"));
        script.described(name, TEXT);
        script.row(&value);
        script.complete("SHOW");
        script.ready();
    }

    /// A POSIX time zone with a token for its name, in upper case as PostgreSQL reports it.
    fn new_time_zone(&mut self) -> String {
        let token = self.token().to_uppercase();
        format!("<{token}>-{}", self.random.range(1, 12))
    }

    /// From `low` to `high` bytes in one row, in a few or in many.
    pub(super) fn some_rows(&mut self, framing: Framing, low: usize, high: usize) -> Rows {
        let bytes = self.random.logarithmic(low, high);
        let most = self.random.pick(&[1, 10, 1000]);
        let count = self.random.range(1, most).max(bytes / ROW_LEN_MAX).min(bytes);
        let fill = b'a' + (self.client % 26) as u8;
        Rows { framing, token: self.token(), next: 1, last: count, fill, width: bytes / count }
    }
}

impl Script {
    /// All of `rows`, and the tag of a SELECT that returned them.
    pub(super) fn complete_after(&mut self, rows: Rows) {
        let tag = format!("SELECT {}", rows.left());
        self.rows(rows);
        self.complete(&tag);
    }
}

/// A simple query for one text.
fn simple_text(script: &mut Script, expression: &str, column: &str, value: &str) {
    script.query(&format!("select {expression} as {column}"));
    one_row(script, column, value);
    script.ready();
}

fn simple_rows(script: &mut Script, rows: Rows) {
    script.query(&format!("select {}", rows.sql(&format!("'{}'", rows.token))));
    script.described(&rows.token, TEXT);
    script.complete_after(rows);
    script.ready();
}

/// The reply to a SELECT of one text.
fn one_row(script: &mut Script, column: &str, value: &str) {
    script.described(column, TEXT);
    script.row(value);
    script.complete("SELECT 1");
}

/// An extended query for its parameter, without Sync.
fn extended_text(script: &mut Script, token: &str) {
    script.prepare(&format!("select $1::text as {token}"), Some(token), token);
    script.execute("", 0);
    script.row(token);
    script.complete("SELECT 1");
}

/// What PostgreSQL says to a text where an integer should be.
pub(super) fn not_a_number(text: &str) -> String {
    format!("invalid input syntax for type integer: \"{text}\"")
}

const ABORTED: &str = "current transaction is aborted, commands ignored until end of transaction block";
/// OID of `btrim(text)` (`pg_proc.dat`).
const BTRIM: u32 = 885;
/// Prepared statements of each client.
const PREPARED: usize = 6;
/// Longest pipeline, in pieces.
const DEPTH_MAX: usize = 20;
/// Longest row: PostgreSQL keeps some copies of one in memory.
const ROW_LEN_MAX: usize = 8 << 20;
