//! Two runs of a script side by side.

use super::backend::Message;

/// Where they differ, with a few messages around it: `-` only PostgreSQL said, `+` only the proxy's client got.
pub(super) fn shown(expected: &[Message], got: &[Message]) -> String {
    let same = |pairs: &mut dyn Iterator<Item = (&Message, &Message)>| pairs.take_while(|(a, b)| a == b).count();
    let before = same(&mut expected.iter().zip(got));
    let after = same(&mut expected[before..].iter().rev().zip(got[before..].iter().rev()));
    let start = before.saturating_sub(AROUND);
    let end = expected.len() - after;
    let parts = [
        (" ", &expected[start..before]),
        ("-", &expected[before..end]),
        ("+", &got[before..got.len() - after]),
        (" ", &expected[end..expected.len().min(end + AROUND)]),
    ];
    let mut text = format!("  ({start} messages before)\n");
    for (mark, messages) in parts {
        messages.iter().take(SHOWN_MAX).for_each(|message| text += &format!("{mark} {message:?}\n"));
        if messages.len() > SHOWN_MAX {
            text += &format!("{mark} ... {} messages more\n", messages.len() - SHOWN_MAX);
        }
    }
    text
}

const AROUND: usize = 3;
/// More are of no use to a reader.
const SHOWN_MAX: usize = 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_the_same_is_cut_short() {
        let check = |expected: &str, got: &str, text: &str| {
            let [expected, got] = [expected, got]
                .map(|kinds| kinds.bytes().map(|kind| Message { kind, body: Vec::new() }).collect::<Vec<_>>());
            assert_eq!(shown(&expected, &got), text);
        };
        let same = ["  (1 messages before)\n  ParseComplete\n  BindComplete\n  ParseComplete\n", "  BindComplete\n"];
        check("1121n2", "1121332", &[same[0], "- NoData\n+ CloseComplete\n+ CloseComplete\n", same[1]].concat());
        check("1", "12", "  (0 messages before)\n  ParseComplete\n+ BindComplete\n");
    }
}
