//! The walker: any chunking of any stream gives the messages that a reader of the whole stream finds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tigger_fuzz::Chunked;
use tigger_proto::wire::frame::{HEADER_LEN, Header, MESSAGE_LEN_MAX, Walker};

fuzz_target!(|data: &[u8]| {
    let Some((&limit, data)) = data.split_first() else { return };
    let Some(input) = Chunked::read(data) else { return };
    let len_max = [MESSAGE_LEN_MAX, 100, 4, 0, u32::MAX][usize::from(limit) % 5];
    let expected = reference(input.stream, len_max);
    for fed in [walk(input, len_max), walk(input.whole(), len_max)] {
        assert_eq!(fed, expected);
    }
});

/// Type and length of each message, how much of the stream was used, whether it went on to a bad header, and how many
/// bytes the last message still wants.
type Found = (Vec<(u8, u32)>, usize, bool, usize);

fn reference(stream: &[u8], len_max: u32) -> Found {
    let (mut found, mut at) = (Vec::new(), 0);
    while at + HEADER_LEN <= stream.len() {
        let len = u32::from_be_bytes(stream[at + 1..at + 5].try_into().expect("four bytes"));
        if len < 4 || len > len_max || len > 0x7fff_ffff {
            return (found, at, true, 0);
        }
        found.push((stream[at], len));
        at += 1 + len as usize;
    }
    (found, at.min(stream.len()), false, at.saturating_sub(stream.len()))
}

fn walk(input: Chunked<'_>, len_max: u32) -> Found {
    let (mut walker, mut found) = (Walker::default(), Vec::new());
    let fed = input.feed(|buf| {
        let mut at = walker.pass(buf.len());
        while walker.at_border() {
            match Header::read(&buf[at..], len_max) {
                Err(bad) => {
                    assert_eq!(bad.bytes, buf[at..at + HEADER_LEN]);
                    return (at, Some(()));
                }
                Ok(None) => break,
                Ok(Some(header)) => {
                    found.push((header.kind, header.len));
                    assert_eq!(header.total(), header.len as usize + 1);
                    at += walker.enter(header, buf.len() - at);
                }
            }
        }
        assert!(buf.len() - at < HEADER_LEN, "more than a header was left");
        (at, None)
    });
    let wanted = walker.pass(usize::MAX);
    assert!(walker.at_border());
    (found, fed.used, fed.end.is_some(), wanted)
}
