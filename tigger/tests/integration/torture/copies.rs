//! COPY in both directions and both protocols, also when it fails. The data follows at once: no client here waits for
//! CopyInResponse unless its script is sent step by step.

use super::expect::{BIGINT, Expect, Framing};
use super::pieces::{Composer, not_a_number};
use super::script::Script;
use crate::wire::cstr;

/// The table for COPY FROM: rows stay, each with a token of its own.
pub(super) const CREATE_TABLE: &str =
    "create unlogged table torture(token text, number int); create index on torture(token)";

/// How a COPY is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Simple,
    /// Parse, Bind, Execute, the data, Sync.
    Extended,
    /// With a Sync before the data, too, as libpq sends it: COPY ignores that one (manual, 55.2.6).
    SyncedTwice,
}

/// How the data ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    /// CopyFail.
    Fail,
    /// A line that is not what the table takes, somewhere, then CopyDone.
    BadLine,
}

pub(super) fn copy_out(composer: &mut Composer, script: &mut Script) {
    let rows = composer.some_rows(Framing::CopyData, 1, OUT_MAX);
    let sql = format!("copy (select {}) to stdout", rows.sql(&format!("'{}'", rows.token)));
    let simple = composer.random.one_in(2);
    if simple {
        script.query(&sql);
    } else {
        script.parse("", &sql);
        script.bind("", "", None);
        script.execute("", 0);
        script.expect_kind("12");
    }
    script.expect(copy_response(b'H', 1));
    let tag = format!("COPY {}", rows.left());
    script.rows(rows);
    script.expect_kind("c");
    script.complete(&tag);
    if !simple {
        script.sync();
    }
    script.ready();
}

pub(super) fn copy_in(composer: &mut Composer, script: &mut Script) {
    let (token, lines) = copy(composer, script, End::Done);
    let column = composer.token();
    script.query(&format!("select count(*) as {column} from torture where token = '{token}'"));
    script.described(&column, BIGINT);
    script.row(&lines.to_string());
    script.complete("SELECT 1");
    script.ready();
}

pub(super) fn failing_copy_in(composer: &mut Composer, script: &mut Script) {
    let end = composer.random.pick(&[End::Fail, End::BadLine]);
    copy(composer, script, end);
}

/// The token and how many lines have it.
fn copy(composer: &mut Composer, script: &mut Script, end: End) -> (String, usize) {
    let (token, lines) = (composer.token(), composer.random.logarithmic(1, LINES_MAX));
    let all = [Protocol::Simple, Protocol::Extended, Protocol::SyncedTwice];
    let certain = end == End::Done || composer.calm;
    let protocol = composer.random.pick(if certain { &all } else { &all[..2] });
    let sql = "copy torture from stdin";
    match protocol {
        Protocol::Simple => script.query(sql),
        Protocol::Extended | Protocol::SyncedTwice => {
            script.parse("", sql);
            script.bind("", "", None);
            script.execute("", 0);
            script.expect_kind("12");
        }
    }
    if protocol == Protocol::SyncedTwice {
        script.sync();
    }
    script.expect(copy_response(b'G', 2));
    script.border();
    let bad = (end == End::BadLine).then(|| composer.random.range(0, lines - 1));
    let data: String = (0..lines)
        .map(|line| if Some(line) == bad { format!("x\t{token}\n") } else { format!("{token}\t{line}\n") })
        .collect();
    send_data(composer, script, data.as_bytes());
    match end {
        End::Fail => script.send(b'f', &cstr(&token)),
        End::Done | End::BadLine => script.send(b'c', &[]),
    }
    script.in_doubt |= protocol == Protocol::SyncedTwice && end != End::Done;
    match end {
        End::Done => script.complete(&format!("COPY {lines}")),
        End::Fail => script.fail("57014", format!("COPY from stdin failed: {token}")),
        End::BadLine => script.fail("22P02", not_a_number(&token)),
    }
    if protocol != Protocol::Simple {
        script.sync();
    }
    script.ready();
    (token, lines)
}

/// In messages that do not end where lines do.
fn send_data(composer: &mut Composer, script: &mut Script, mut data: &[u8]) {
    while !data.is_empty() {
        let len = composer.random.range(1, data.len());
        script.send(b'd', &data[..len]);
        data = &data[len..];
    }
}

/// CopyInResponse or CopyOutResponse: text, columns in text.
fn copy_response(kind: u8, columns: u8) -> Expect {
    Expect::Message { kind, body: [&[0, 0, columns][..], &vec![0; 2 * usize::from(columns)]].concat() }
}

/// Most bytes of a COPY TO.
const OUT_MAX: usize = 100_000;
/// Most lines of a COPY FROM.
const LINES_MAX: usize = 500;
