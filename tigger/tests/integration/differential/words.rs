//! The words of a line of a script.

use std::iter::Peekable;
use std::str::Chars;

/// A part of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Word {
    /// Characters without a space, a bracket or a slash.
    Bare(String),
    /// What stood in double quotes, or in hex digits after `0x`.
    Bytes(Vec<u8>),
    /// `[`
    Open,
    /// `]`
    Close,
    /// `/`
    Slash,
}

impl Word {
    /// The bytes of a text, quoted or not.
    pub(super) fn into_bytes(self) -> Result<Vec<u8>, String> {
        match self {
            Self::Bare(text) => Ok(text.into_bytes()),
            Self::Bytes(bytes) => Ok(bytes),
            other => Err(format!("{other:?} is no text")),
        }
    }
}

/// Cuts a line into words.
pub(super) fn words(line: &str) -> Result<Vec<Word>, String> {
    let mut chars = line.chars().peekable();
    let mut words = Vec::new();
    while let Some(next) = chars.next_if(|_| true) {
        words.push(match next {
            '[' => Word::Open,
            ']' => Word::Close,
            '/' => Word::Slash,
            '"' => Word::Bytes(quoted(&mut chars)?),
            space if space.is_whitespace() => continue,
            first => bare(first, &mut chars)?,
        });
    }
    Ok(words)
}

/// The same line with each `{text*count}` in it replaced by the text so many times.
pub(super) fn repeated(line: &str) -> String {
    let Some((before, rest)) = line.split_once('{') else { return line.to_owned() };
    let expanded = rest.split_once('}').and_then(|(inside, after)| {
        let (text, count) = inside.rsplit_once('*')?;
        Some((text.repeat(count.parse().ok()?), after))
    });
    match expanded {
        Some((text, after)) => [before, &text, &repeated(after)].concat(),
        None => [before, "{", &repeated(rest)].concat(),
    }
}

fn bare(first: char, chars: &mut Peekable<Chars<'_>>) -> Result<Word, String> {
    let mut text = String::from(first);
    while let Some(next) = chars.next_if(|next| !next.is_whitespace() && !"[]/\"".contains(*next)) {
        text.push(next);
    }
    match text.strip_prefix("0x") {
        Some(digits) => hex(digits).map(Word::Bytes),
        None => Ok(Word::Bare(text)),
    }
}

fn hex(digits: &str) -> Result<Vec<u8>, String> {
    let pairs = digits.as_bytes().chunks(2).map(|pair| String::from_utf8_lossy(pair).into_owned());
    pairs.map(|pair| u8::from_str_radix(&pair, 16).map_err(|error| format!("{digits}: {error}"))).collect()
}

/// The rest of a quoted text, with `\n`, `\t`, `\"`, `\\` and `\xHH`.
fn quoted(chars: &mut Peekable<Chars<'_>>) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    let mut next = || chars.next().ok_or("a quote is not closed");
    loop {
        match next()? {
            '"' => return Ok(bytes),
            '\\' => match next()? {
                'n' => bytes.push(b'\n'),
                't' => bytes.push(b'\t'),
                'x' => bytes.extend(hex(&String::from_iter([next()?, next()?]))?),
                other => bytes.extend(other.to_string().bytes()),
            },
            other => bytes.extend(other.to_string().bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_all_kinds() {
        let bytes = |text: &[u8]| Word::Bytes(text.to_vec());
        let expected =
            [Word::Bare("Bind".into()), bytes(b""), Word::Open, Word::Bare("1".into()), bytes(b"a \"b\"\n\xff")];
        let rest = [bytes(b"\0\x10"), Word::Close, Word::Slash, Word::Bare("binary".into())];
        let line = r#"Bind "" [1 "a \"b\"\n\xff" 0x0010] / binary"#;
        assert_eq!(words(line).unwrap(), [&expected[..], &rest].concat());
        assert!(words("\"open").is_err() && words("0xg0").is_err());
    }

    #[test]
    fn repeats() {
        assert_eq!(repeated("a{xy*3}b{z*2}"), "axyxyxybzz");
        assert_eq!(repeated("'{1,2}' {a}"), "'{1,2}' {a}");
    }
}
