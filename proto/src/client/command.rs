//! SQL commands that are about a session and not about data. A client that gets one server after the other has its session
//! here, and so they are carried out here: LISTEN and UNLISTEN, PREPARE, EXECUTE and DEALLOCATE.
//!
//! Only the simple form is known: one command in a Query message, which begins with its keyword (white space may come before
//! it, comments only behind it). LISTEN and UNLISTEN are also known in a Parse message: they take effect with each Bind, and the server
//! gets [`NO_COMMAND`] instead. Anything else goes to the server as it is. What the kernel path leaves to the user path because
//! of this is in `bypass/src/bpf/requests.bpf.h`.

use std::ops::Range;

use crate::wire::frame::{HEADER_LEN, Header, MESSAGE_LEN_MAX};

/// Longest message that is carried out here, in bytes; a longer one goes to the server. EXECUTE may be longer: only its name is
/// looked at.
pub const COMMAND_LEN_MAX: usize = 16 * 1024;

/// Bytes of a text that are enough to see that it is no command, or to find the name after EXECUTE: white space, the keyword,
/// white space and a name that is longer than any PostgreSQL tells from others.
const HEAD_LEN: usize = 512;

/// Longest name that PostgreSQL tells from others, in bytes (`NAMEDATALEN` - 1).
const NAME_LEN_MAX: usize = 63;

/// What a server prepares instead of LISTEN or UNLISTEN, as in a Parse message behind the name: it has no parameters and no
/// result either, is refused in a failed transaction as well, and does nothing, since nobody listens to this.
pub(super) const NO_COMMAND: &[u8] = b"UNLISTEN \"~\"\0\0\0";

/// A command. Names are as PostgreSQL reads them: letters in lower case unless quoted, cut to their longest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// `LISTEN channel`
    Listen {
        /// What is listened to.
        channel: Vec<u8>,
        /// The command as it was sent.
        sql: &'a [u8],
    },
    /// `UNLISTEN channel`, or `UNLISTEN *` (none).
    Unlisten(Option<Vec<u8>>),
    /// `PREPARE name (types) AS statement`; not PREPARE TRANSACTION.
    Prepare {
        /// What it is to be called.
        name: Vec<u8>,
        /// All behind the name.
        definition: &'a [u8],
        /// How many characters are before that.
        before: usize,
    },
    /// `EXECUTE name (parameters)`
    Execute {
        /// What is executed.
        name: Vec<u8>,
        /// Where the name is in the message.
        at: Range<usize>,
    },
    /// `DEALLOCATE name`. DEALLOCATE ALL is the server's: what it removes is known by its tag.
    Deallocate(Vec<u8>),
}

/// What the start of a Query says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Look<'a> {
    /// No command.
    None,
    /// Too little of it is there to know.
    Later,
    Command(Command<'a>),
}

impl<'a> Command<'a> {
    /// The command that the Query at the start of `buf` is, and the length of the message. It is there as a whole, but for a
    /// long EXECUTE.
    pub fn read(buf: &'a [u8]) -> Option<(Self, usize)> {
        let header = Header::read(buf, MESSAGE_LEN_MAX).ok()??;
        match Self::look(header, buf) {
            Look::Command(command) if header.kind == b'Q' => Some((command, header.total())),
            _ => None,
        }
    }

    /// Looks at the Query at the start of `buf`.
    pub(super) fn look(header: Header, buf: &'a [u8]) -> Look<'a> {
        let message = &buf[..buf.len().min(header.total())];
        let is_whole = message.len() == header.total();
        let mut text = Text::new(&message[HEADER_LEN..]);
        text.skip_space();
        if text.at >= HEAD_LEN {
            return Look::None;
        }
        let Some(keyword) = text.keyword() else {
            return if text.is_at_end() && !is_whole { Look::Later } else { Look::None };
        };
        let needed = match keyword {
            Keyword::Partial => return if is_whole { Look::None } else { Look::Later },
            Keyword::Execute => header.total().min(HEAD_LEN),
            _ if header.total() > COMMAND_LEN_MAX => return Look::None,
            _ => header.total(),
        };
        let Some(needed) = message.get(HEADER_LEN..needed) else { return Look::Later };
        text.bytes = needed.strip_suffix(b"\0").unwrap_or(needed);
        text.command(keyword).map_or(Look::None, Look::Command)
    }

    /// The LISTEN or UNLISTEN that this is, if it is one.
    pub fn read_listen(sql: &'a [u8]) -> Option<Self> {
        let mut text = Text::new(sql);
        text.skip_space();
        let keyword = text.keyword().filter(|keyword| matches!(keyword, Keyword::Listen | Keyword::Unlisten))?;
        text.command(keyword)
    }

    /// Whether a text that begins with `start` may be one.
    pub(super) fn may_be_listen(start: &[u8]) -> bool {
        let mut text = Text::new(start);
        text.skip_space();
        text.at < HEAD_LEN
            && match text.keyword() {
                Some(keyword) => matches!(keyword, Keyword::Listen | Keyword::Unlisten | Keyword::Partial),
                None => text.is_at_end(),
            }
    }

    /// Whether the request at the start of `buf`, a Query or the Parse of the unnamed statement, may be a command.
    pub(super) fn is_likely(header: Header, buf: &[u8]) -> bool {
        let message = &buf[..header.total().min(buf.len())];
        let mut text = Text::new(message.get(HEADER_LEN + usize::from(header.kind == b'P')..).unwrap_or_default());
        text.skip_space();
        text.keyword().is_some()
    }
}

#[derive(Clone, Copy)]
enum Keyword {
    Listen,
    Unlisten,
    Prepare,
    Execute,
    Deallocate,
    /// The text ends before it is known which.
    Partial,
}

const KEYWORDS: [(&[u8], Keyword); 5] = [
    (b"listen", Keyword::Listen),
    (b"unlisten", Keyword::Unlisten),
    (b"prepare", Keyword::Prepare),
    (b"execute", Keyword::Execute),
    (b"deallocate", Keyword::Deallocate),
];

/// A text, read from `at` on.
struct Text<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Text<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    fn rest(&self) -> &'a [u8] {
        &self.bytes[self.at.min(self.bytes.len())..]
    }

    fn is_at_end(&self) -> bool {
        self.rest().is_empty()
    }

    /// White space as in `scan.l`.
    fn skip_space(&mut self) -> bool {
        let n =
            self.rest().iter().take_while(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c)).count();
        self.at += n;
        n > 0
    }

    /// The keyword that the text begins with, which is left.
    fn keyword(&mut self) -> Option<Keyword> {
        let rest = self.rest();
        if rest.is_empty() {
            return None;
        }
        let is_start = |word: &[u8]| {
            let n = rest.len().min(word.len());
            rest[..n].eq_ignore_ascii_case(&word[..n])
        };
        let &(word, keyword) = KEYWORDS.iter().find(|(word, _)| is_start(word))?;
        match rest.get(word.len()) {
            None => Some(Keyword::Partial),
            Some(&next) if is_name_part(next) => None,
            Some(_) => {
                self.at += word.len();
                Some(keyword)
            }
        }
    }

    /// The command whose keyword was read. Nothing but white space and a semicolon may follow, or what follows is its own.
    fn command(&mut self, keyword: Keyword) -> Option<Command<'a>> {
        let is_apart = self.skip_space();
        if matches!(keyword, Keyword::Unlisten) && self.rest().first() == Some(&b'*') {
            self.at += 1;
            return self.is_over().then_some(Command::Unlisten(None));
        }
        let from = self.at;
        let mut name = self.name().filter(|_| is_apart || self.bytes[from] == b'"')?;
        if matches!(keyword, Keyword::Deallocate) {
            let is_quoted = self.bytes[from] == b'"';
            if !is_quoted && name == b"all" {
                return None;
            }
            if !is_quoted && name == b"prepare" && !self.is_over() {
                self.skip_space();
                let is_all = self.rest().first() != Some(&b'"');
                name = self.name().filter(|name| !is_all || name != b"all")?;
            }
        }
        match keyword {
            Keyword::Listen => self.is_over().then_some(Command::Listen { channel: name, sql: self.bytes }),
            Keyword::Unlisten => self.is_over().then_some(Command::Unlisten(Some(name))),
            Keyword::Deallocate => self.is_over().then_some(Command::Deallocate(name)),
            // Where it may go on, it is too long.
            Keyword::Execute if self.is_at_end() && self.bytes.len() == HEAD_LEN - HEADER_LEN => None,
            Keyword::Execute => Some(Command::Execute { name, at: HEADER_LEN + from..HEADER_LEN + self.at }),
            Keyword::Prepare => {
                let is_start = |byte: &&u8| **byte & 0xc0 != 0x80;
                let before = self.bytes[..self.at].iter().filter(is_start).count();
                Some(Command::Prepare { name, definition: self.definition()?, before })
            }
            Keyword::Partial => None,
        }
    }

    /// An identifier, if one is next (manual, section 4.1.1; `downcase_truncate_identifier`). Those with Unicode escapes are
    /// not known.
    fn name(&mut self) -> Option<Vec<u8>> {
        let rest = self.rest();
        let mut name = match rest.first()? {
            b'"' => {
                let mut name = Vec::new();
                let mut bytes = rest.iter().enumerate().skip(1);
                loop {
                    match bytes.next()? {
                        (_, 0) => return None,
                        (n, b'"') if rest.get(n + 1) != Some(&b'"') => {
                            self.at += n + 1;
                            break;
                        }
                        (_, b'"') => {
                            bytes.next();
                            name.push(b'"');
                        }
                        (_, &byte) => name.push(byte),
                    }
                }
                name
            }
            first if first.is_ascii_digit() || *first == b'$' || !is_name_part(*first) => return None,
            _ => {
                let n = rest.iter().take_while(|&&byte| is_name_part(byte)).count();
                // U&"…", and E'…' where it may stand.
                if matches!(rest.get(n), Some(b'&' | b'\'' | b'"')) {
                    return None;
                }
                self.at += n;
                rest[..n].to_ascii_lowercase()
            }
        };
        if name.len() > NAME_LEN_MAX {
            // Between two characters of UTF-8.
            let is_amid = |at: usize| name[at] & 0xc0 == 0x80;
            let len = (0..=NAME_LEN_MAX).rev().find(|&at| !is_amid(at)).unwrap_or(NAME_LEN_MAX);
            name.truncate(len);
        }
        (!name.is_empty()).then_some(name)
    }

    /// True if nothing follows that means anything.
    fn is_over(&self) -> bool {
        let mut rest = Text { bytes: self.bytes, at: self.at };
        loop {
            rest.skip_space();
            match rest.rest() {
                [] => return true,
                [b';', ..] => rest.at += 1,
                [b'-', b'-', line @ ..] => {
                    let len = line.iter().position(|byte| matches!(byte, b'\n' | b'\r')).unwrap_or(line.len());
                    rest.at += 2 + len;
                }
                [b'/', b'*', ..] if rest.skip_comment() => {}
                _ => return false,
            }
        }
    }

    /// A comment that begins here, with those inside (manual, section 4.1.5); false if it has no end.
    fn skip_comment(&mut self) -> bool {
        let mut depth = 0;
        loop {
            match self.rest() {
                [b'/', b'*', ..] => (self.at, depth) = (self.at + 2, depth + 1),
                [b'*', b'/', ..] => (self.at, depth) = (self.at + 2, depth - 1),
                [_, ..] => self.at += 1,
                [] => return false,
            }
            if depth == 0 {
                return true;
            }
        }
    }

    /// What is prepared, without what ends it. A semicolon inside may be the end of one command and the start of the next:
    /// whoever does not want to read all of SQL does not know.
    fn definition(&self) -> Option<&'a [u8]> {
        let text = self.rest();
        let start = text.trim_ascii_start();
        let is_as = |start: &[u8]| start.get(..2).is_some_and(|word| word.eq_ignore_ascii_case(b"as"));
        if start.first() != Some(&b'(') && (!is_as(start) || start.get(2).is_none_or(|&next| is_name_part(next))) {
            return None;
        }
        let is_end = |byte: &u8| byte.is_ascii_whitespace() || *byte == b';';
        let len = text.iter().rposition(|byte| !is_end(byte)).map_or(0, |last| last + 1);
        let definition = &text[..len];
        (!definition.contains(&b';') && !definition.contains(&0)).then_some(definition)
    }
}

fn is_name_part(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'$' | 0x80..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frontend;

    fn query(sql: &[u8]) -> (Header, Vec<u8>) {
        let mut buf = Vec::new();
        crate::wire::backend::message(&mut buf, b'Q', |out| {
            out.extend_from_slice(sql);
            out.push(0);
        });
        (Header::read(&buf, u32::MAX).unwrap().unwrap(), buf)
    }

    #[expect(clippy::needless_pass_by_value, reason = "made at the call")]
    fn check(sql: &str, expected: Option<Command<'_>>) {
        let (header, buf) = query(sql.as_bytes());
        let found = match Command::look(header, &buf) {
            Look::Command(command) => Some(command),
            Look::None => None,
            Look::Later => panic!("{sql:?} is there as a whole"),
        };
        assert_eq!(found, expected, "{sql:?}");
        assert!(found.is_none() || Command::is_likely(header, &buf));
        // Whatever is seen of it first, it does not become something else later, and nothing waits for more than comes.
        for end in HEADER_LEN..buf.len() {
            match (Command::look(header, &buf[..end]), &found) {
                (Look::Later, _) | (Look::None, None) => {}
                (Look::Command(early), Some(command)) => assert_eq!(early, *command, "{sql:?} up to {end}"),
                (early, _) => panic!("{sql:?} up to {end}: {early:?}"),
            }
        }
    }

    #[test]
    fn listen() {
        let check = |sql: &str, channel: Option<&str>| {
            check(sql, channel.map(|channel| Command::Listen { channel: channel.into(), sql: sql.as_bytes() }));
            assert_eq!(Command::read_listen(sql.as_bytes()).is_some(), channel.is_some(), "{sql:?}");
            let may_be = |end| Command::may_be_listen(&sql.as_bytes()[..end]);
            assert!(channel.is_none() || (0..=sql.len()).all(may_be), "{sql:?}");
        };
        check("LISTEN x", Some("x"));
        check("  \n\tlisten   Jobs_1 ;\n", Some("jobs_1"));
        check("listen \"Jobs \"\"1\"\"\"", Some("Jobs \"1\""));
        check("LISTEN\"x\"", Some("x"));
        check("LISTEN Täglich", Some("täglich"));
        check(&format!("LISTEN {}", "x".repeat(70)), Some(&"x".repeat(63)));
        check(&format!("LISTEN {}ä", "x".repeat(62)), Some(&"x".repeat(62)));
        for sql in [
            "LISTEN",
            "LISTEN 1x",
            "LISTEN x y",
            "LISTEN x; select 1",
            "LISTENx",
            "LISTEN \"x",
            "LISTEN U&\"x\"",
            "LISTEN \"\"",
            "/* */ LISTEN x",
            "LISTEN x /* open",
            "LISTEN x /* /* */ open",
            "LISTEN x -- more\ny",
            "LISTEN x - y",
            "LISTEN x /",
            "LISTEN 'x'",
            "LISTEN *",
            "listener",
            "lis",
            "",
        ] {
            check(sql, None);
        }
    }

    #[test]
    fn unlisten() {
        check("UNLISTEN x;;", Some(Command::Unlisten(Some(b"x".to_vec()))));
        check("UNLISTEN x /*a/*b*/;*/; -- end\n;--", Some(Command::Unlisten(Some(b"x".to_vec()))));
        check("unlisten * ;", Some(Command::Unlisten(None)));
        check("UNLISTEN *, x", None);
    }

    #[test]
    fn texts_that_are_no_listen() {
        for sql in ["select 1", "PREPARE p AS select 1", "listener", "LISTEN"] {
            assert_eq!(Command::read_listen(sql.as_bytes()), None, "{sql}");
        }
        assert!(!Command::may_be_listen(b"select") && !Command::may_be_listen(&[b' '; HEAD_LEN]));
    }

    #[test]
    fn prepare_execute_deallocate() {
        let prepare = |name: &str, definition, before| Some(Command::Prepare { name: name.into(), definition, before });
        check("PREPARE P (int) AS select $1;", prepare("p", b" (int) AS select $1", 9));
        check("prepare p(int)as select 1", prepare("p", b"(int)as select 1", 9));
        check(" prepare \"ä\" as(select 1)", prepare("ä", b" as(select 1)", 12));
        for sql in ["PREPARE TRANSACTION 'x'", "PREPARE p select 1", "PREPARE p assume", "PREPARE p as"] {
            check(sql, None);
        }
        check("PREPARE p AS select 1; EXECUTE p", None);
        check("PREPARE p", None);
        let execute = |name: &str, at| Some(Command::Execute { name: name.into(), at });
        check("EXECUTE p", execute("p", 13..14));
        check("execute \"P p\" (1, 'a;b')", execute("P p", 13..18));
        check("EXECUTE", None);
        check("EXECUTE (1)", None);
        let deallocate = |name: &str| Some(Command::Deallocate(name.into()));
        check("DEALLOCATE p", deallocate("p"));
        check("DEALLOCATE PREPARE p;", deallocate("p"));
        check("DEALLOCATE prepare", deallocate("prepare"));
        check("DEALLOCATE \"all\"", deallocate("all"));
        check("DEALLOCATE PREPARE \"all\"", deallocate("all"));
        for sql in ["DEALLOCATE ALL", "DEALLOCATE PREPARE ALL", "DELETE FROM x", "DEALLOCATE p, q"] {
            check(sql, None);
        }
    }

    #[test]
    fn long_ones() {
        let mut sql = format!("PREPARE p AS select '{}'", "x".repeat(COMMAND_LEN_MAX));
        check_start(&sql, &Look::None);
        sql = format!("EXECUTE p ('{}')", "x".repeat(COMMAND_LEN_MAX));
        check_start(&sql, &Look::Command(Command::Execute { name: b"p".to_vec(), at: 13..14 }));
        sql = format!("{}LISTEN x", " ".repeat(COMMAND_LEN_MAX));
        check_start(&sql, &Look::None);
        let mut buf = Vec::new();
        frontend::query(&mut buf, "select 1");
        assert!(!Command::is_likely(Header::read(&buf, u32::MAX).unwrap().unwrap(), &buf));
    }

    /// With the first kilobyte.
    fn check_start(sql: &str, expected: &Look<'_>) {
        let (header, buf) = query(sql.as_bytes());
        assert_eq!(Command::look(header, &buf[..1024]), *expected, "{}", &sql[..20]);
    }
}
