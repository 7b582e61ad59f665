//! What simulated clients say: random scripts of whole units (queries, transactions, COPYs), each of which leaves a
//! backend outside a transaction and outside COPY, whatever fails in it.

use super::random::Random;
use super::sql::Token;
use crate::wire::backend::message;
use crate::wire::frontend;

/// A piece of a script.
#[derive(Debug)]
pub(super) struct Segment {
    pub(super) bytes: Vec<u8>,
    pub(super) then: Then,
}

/// What a client does when it has written a segment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Then {
    GoOn,
    /// It wants all its replies before it writes the next.
    Wait,
    /// That was a Terminate.
    Leave,
}

/// Names and values that scripts set; one of each list is the default. The values need quoting in different ways.
pub(super) const PARAMETERS: [(&str, [&str; 3]); 3] = [
    ("TimeZone", ["UTC", "Asia/Tokyo", "CET"]),
    ("DateStyle", ["ISO, MDY", "German", "SQL, DMY"]),
    ("application_name", ["", "it's", "a\\b"]),
];

/// The same for parameters that clients only give at their start-up, and that are not reported.
pub(super) const APPLIED: [(&str, [&str; 3]); 2] =
    [("work_mem", ["4MB", "1MB", "64MB"]), ("search_path", ["\"$user\", public", "a, b", "it's \\"])];

/// What kind of client it is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Style {
    /// Percentage of units that are followed by waiting for the replies.
    pub(super) waits: u64,
    /// Transaction blocks are sent.
    pub(super) blocks: bool,
    /// Longest row.
    pub(super) size_max: usize,
    pub(super) kept: Kept,
}

/// Whether prepared statements outlive the transaction in which they were made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kept {
    No,
    /// They are on the client's only server.
    ByServer,
    /// The proxy brings them to each server. A name that does not exist ends the client.
    ByProxy,
}

/// Writes the script of `client`.
pub(super) fn write(random: &mut Random, client: u32, units: usize, style: Style) -> Vec<Segment> {
    let mut writer =
        Writer { random, client, number: 0, names: 0, kept: Vec::new(), out: Vec::new(), segments: Vec::new(), style };
    for _ in 0..units {
        writer.unit();
        let then = if writer.random.chance(style.waits) { Then::Wait } else { Then::GoOn };
        writer.end_segment(then);
    }
    let mut segments = writer.segments;
    if random.chance(50) {
        if random.chance(80)
            && let Some(last) = segments.last_mut()
        {
            last.then = Then::Wait;
        }
        segments.push(Segment { bytes: frontend::TERMINATE.to_vec(), then: Then::Leave });
    }
    segments
}

struct Writer<'a> {
    random: &'a mut Random,
    client: u32,
    number: u32,
    names: u32,
    /// Names of prepared statements that have `$1` for their token.
    kept: Vec<String>,
    out: Vec<u8>,
    segments: Vec<Segment>,
    style: Style,
}

impl Writer<'_> {
    fn unit(&mut self) {
        match self.random.below(21) {
            0..=3 => self.simple(),
            4 => self.several(),
            5..=7 if self.style.blocks => self.block(),
            8..=11 => self.extended(),
            12 => self.copy_in_simple(),
            13 | 14 => self.copy_in_extended(),
            15 => self.set(),
            16 => self.show(),
            17 => self.stray(),
            18 => self.function(),
            19 if self.style.kept != Kept::No => self.deallocate(),
            _ => self.pipeline(),
        }
    }

    fn end_segment(&mut self, then: Then) {
        self.segments.push(Segment { bytes: std::mem::take(&mut self.out), then });
    }

    /// In the midst of a unit, a client that waits at all may wait for what it has asked for.
    fn wait_sometimes(&mut self) {
        if self.style.waits > 0 && self.random.chance(10) {
            self.end_segment(Then::Wait);
        }
    }

    fn token(&mut self) -> Token {
        self.number += 1;
        Token { client: self.client, number: self.number }
    }

    /// A statement that is no transaction statement and no COPY FROM.
    fn statement(&mut self) -> String {
        let token = self.token();
        let size = self.random.size(self.style.size_max);
        match self.random.below(16) {
            0 => format!("error {token}"),
            1 => format!("notice {token}"),
            2 => {
                format!("show {token} {}", self.parameter())
            }
            3 => format!("copyout {token} {} {}", self.random.below(4), size),
            4 => format!("-- {token}"),
            5 => format!("defer {token}"),
            6 => format!("syntax {token}"),
            7 => self.set_statement(),
            8 => format!("select {token} 1 1 {}", "y".repeat(size)),
            _ => format!("select {token} {} {size}", self.random.below(5)),
        }
    }

    fn set_statement(&mut self) -> String {
        let token = self.token();
        let (name, values) = self.random.pick(&PARAMETERS);
        let value = if self.random.chance(5) { "bad" } else { self.random.pick(&values) };
        format!("set {token} {name}={value}")
    }

    fn query(&mut self, sql: &str) {
        frontend::query(&mut self.out, sql);
    }

    fn simple(&mut self) {
        let sql = self.statement();
        self.query(&sql);
    }

    fn set(&mut self) {
        let sql = self.set_statement();
        self.query(&sql);
        if self.random.chance(50) {
            self.show();
        }
    }

    fn show(&mut self) {
        let token = self.token();
        let name = self.parameter();
        self.query(&format!("show {token} {name}"));
    }

    fn parameter(&mut self) -> &'static str {
        if self.random.chance(50) { self.random.pick(&PARAMETERS).0 } else { self.random.pick(&APPLIED).0 }
    }

    /// Several statements in one query, perhaps a transaction block among them.
    fn several(&mut self) {
        let mut parts: Vec<String> = (0..self.random.between(1, 4)).map(|_| self.statement()).collect();
        if self.style.blocks && self.random.chance(30) {
            let token = self.token();
            parts.insert(0, format!("begin {token}"));
            parts.push(format!("commit {token}"));
        }
        self.query(&parts.join(";"));
        // A block whose COMMIT was not reached.
        if self.style.blocks {
            let token = self.token();
            self.query(&format!("rollback {token}"));
        }
    }

    fn block(&mut self) {
        let token = self.token();
        self.edge(&format!("begin {token}"));
        for _ in 0..self.random.below(5) {
            match self.random.below(10) {
                0..=4 => self.simple(),
                5..=7 => self.extended(),
                8 => self.copy_in_simple(),
                _ => self.copy_in_extended(),
            }
        }
        let verb = self.random.pick(&["commit", "commit", "rollback"]);
        let token = self.token();
        self.edge(&format!("{verb} {token}"));
    }

    /// One end of a transaction block, in either protocol.
    fn edge(&mut self, sql: &str) {
        if self.random.chance(70) {
            self.query(sql);
        } else {
            self.parse("", sql);
            self.bind("", "");
            self.execute("", 0);
            self.sync();
        }
    }

    /// Requests of the extended protocol up to a Sync.
    fn extended(&mut self) {
        for _ in 0..self.random.between(1, 3) {
            if self.style.kept != Kept::No && self.random.chance(50) {
                self.kept_statement();
                continue;
            }
            let sql = self.statement();
            self.names += 1;
            let name = if self.random.chance(50) { String::new() } else { format!("s{}_{}", self.client, self.names) };
            self.parse(&name, &sql);
            if self.random.chance(30) {
                self.named(b'D', b'S', &name);
                if self.random.chance(30) {
                    self.message(b'H', b"");
                    self.wait_sometimes();
                }
            }
            let portal = self.random.pick(&["", "portal"]);
            // Now and then a statement that is not there.
            let is_missing = self.style.kept != Kept::ByProxy && self.random.chance(4);
            let bound = if is_missing { "nowhere" } else { &name };
            self.bind(portal, bound);
            if self.random.chance(50) {
                self.named(b'D', b'P', portal);
            }
            for _ in 0..self.random.between(1, 2) {
                let rows = self.random.below(4) as u32;
                self.execute(portal, rows);
            }
            if self.random.chance(20) {
                self.named(b'C', b'P', portal);
            }
            if !name.is_empty() {
                self.named(b'C', b'S', &name);
            }
            if self.random.chance(20) {
                self.message(b'H', b"");
                self.wait_sometimes();
            }
        }
        // A Query among them is skipped after an error.
        if self.random.chance(5) {
            self.simple();
        }
        self.sync();
    }

    /// Prepares a statement that clients have in common, or uses or closes one that was prepared before.
    fn kept_statement(&mut self) {
        let is_new = self.kept.len() < 4 && self.random.chance(40);
        let name = match () {
            () if is_new => self.new_statement(),
            () if self.kept.is_empty() => return,
            () => self.kept[self.random.below(self.kept.len())].clone(),
        };
        if self.random.chance(30) {
            self.named(b'D', b'S', &name);
        }
        for _ in 0..self.random.between(0, 2) {
            let token = self.token();
            self.bind_value("", &name, &token.to_string());
            self.execute("", 0);
        }
        // Where an error before it skips this, the name goes on to exist; so it is not given again.
        if self.random.chance(15) {
            self.named(b'C', b'S', &name);
            self.kept.retain(|kept| *kept != name);
        } else if is_new {
            self.kept.push(name.clone());
        }
    }

    fn new_statement(&mut self) -> String {
        self.names += 1;
        // Of two lengths, which clients do not have in common.
        let name = format!("k{}{}", self.names, self.random.pick(&["", "_long"]));
        let (rows, size) = (self.random.below(3), self.random.pick(&[5, 50]));
        let select = format!("select $1 {rows} {size}");
        let sql = self.random.pick(&[&select, &select, "notice $1", "error $1"]).to_owned();
        self.parse(&name, &sql);
        name
    }

    /// All prepared statements go, or one is made twice; what follows must know.
    fn deallocate(&mut self) {
        if self.style.waits == 0 {
            return;
        }
        self.end_segment(Then::Wait);
        match self.kept.first().cloned() {
            Some(name) if self.random.chance(20) => {
                self.parse(&name, "notice $1");
                self.sync();
            }
            _ => {
                let token = self.token();
                self.query(&format!("deallocate {token}"));
                self.kept.clear();
            }
        }
        self.end_segment(Then::Wait);
    }

    fn copy_statement(&mut self) -> String {
        let token = self.token();
        match self.random.below(8) {
            0 => format!("copyin {token} early"),
            1 => format!("error {token}"),
            _ => format!("copyin {token}"),
        }
    }

    fn copy_in_simple(&mut self) {
        let sql = self.copy_statement();
        let sql = if self.random.chance(30) { format!("{sql};{}", self.statement()) } else { sql };
        self.query(&sql);
        self.copy_data();
        if self.random.chance(4) {
            self.simple();
        }
        self.copy_end();
    }

    /// libpq and tokio-postgres send a Sync with the Execute, and another after the data.
    fn copy_in_extended(&mut self) {
        let sql = self.copy_statement();
        self.parse("", &sql);
        self.bind("", "");
        self.execute("", 0);
        match self.random.below(10) {
            0 => self.message(b'H', b""),
            1 | 2 => {}
            _ => self.sync(),
        }
        self.copy_data();
        if self.random.chance(4) {
            let sql = self.statement();
            self.parse("", &sql);
        }
        self.copy_end();
        self.sync();
    }

    fn copy_data(&mut self) {
        self.wait_sometimes();
        for _ in 0..self.random.below(5) {
            let mut body = if self.random.chance(8) { b"bad".to_vec() } else { b"good".to_vec() };
            body.resize(4 + self.random.size(self.style.size_max), b'.');
            self.message(b'd', &body);
        }
    }

    fn copy_end(&mut self) {
        if self.random.chance(15) {
            self.message(b'f', b"no more\0");
        } else {
            self.message(b'c', b"");
        }
    }

    /// What means nothing outside COPY.
    fn stray(&mut self) {
        for _ in 0..self.random.between(1, 3) {
            match self.random.below(4) {
                0 => self.message(b'H', b""),
                1 => self.copy_data(),
                2 => self.message(b'c', b""),
                _ => self.message(b'f', b"why\0"),
            }
        }
    }

    fn function(&mut self) {
        let token = self.token();
        self.message(b'F', format!("function {token}\0").as_bytes());
    }

    /// Many requests at once.
    fn pipeline(&mut self) {
        for _ in 0..self.random.between(2, 12) {
            match self.random.below(6) {
                0 | 1 => self.simple(),
                2 => self.sync(),
                3 => self.show(),
                _ => self.extended(),
            }
        }
    }

    // Messages.

    fn message(&mut self, kind: u8, body: &[u8]) {
        message(&mut self.out, kind, |out| out.extend_from_slice(body));
    }

    fn parse(&mut self, name: &str, sql: &str) {
        self.message(b'P', format!("{name}\0{sql}\0\0\0").as_bytes());
    }

    fn bind(&mut self, portal: &str, name: &str) {
        self.message(b'B', format!("{portal}\0{name}\0\0\0\0\0\0\0").as_bytes());
    }

    fn bind_value(&mut self, portal: &str, name: &str, value: &str) {
        let mut body = format!("{portal}\0{name}\0\0\0\0\x01").into_bytes();
        body.extend((value.len() as u32).to_be_bytes());
        body.extend_from_slice(value.as_bytes());
        body.extend([0, 0]);
        self.message(b'B', &body);
    }

    fn execute(&mut self, portal: &str, rows: u32) {
        let mut body = format!("{portal}\0").into_bytes();
        body.extend(rows.to_be_bytes());
        self.message(b'E', &body);
    }

    /// Describe and Close.
    fn named(&mut self, kind: u8, what: u8, name: &str) {
        let mut body = vec![what];
        body.extend_from_slice(name.as_bytes());
        body.push(0);
        self.message(kind, &body);
    }

    fn sync(&mut self) {
        self.message(b'S', b"");
    }
}
