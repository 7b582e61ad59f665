//! One line of a script as the bytes of frontend messages (manual, section 55.7).

use super::words::{Word, words};
use crate::wire::{cstr, message};

/// The messages of a line, as [`super::script`] describes them.
pub(super) fn read(line: &str) -> Result<Vec<u8>, String> {
    let (name, rest) = line.split_once(' ').unwrap_or((line, ""));
    if name == "Query" && !rest.starts_with('"') {
        return Ok(message(b'Q', &cstr(rest)));
    }
    let mut line = Line(words(rest)?.into_iter());
    let bytes = match name {
        "Query" => message(b'Q', &line.cstr()?),
        "Parse" => parse(&mut line)?,
        "Bind" => bind(&mut line)?,
        "Describe" => message(b'D', &line.statement_or_portal()?),
        "Execute" => execute(&mut line)?,
        "Close" => message(b'C', &line.statement_or_portal()?),
        "Extended" => extended(&mut line)?,
        "Sync" => message(b'S', &[]),
        "Flush" => message(b'H', &[]),
        "CopyData" => message(b'd', &line.text()?),
        "CopyDone" => message(b'c', &[]),
        "CopyFail" => message(b'f', &line.cstr()?),
        "FunctionCall" => function_call(&mut line)?,
        "Message" => other(&mut line)?,
        _ => return Err(format!("no such message: {name}")),
    };
    match line.0.next() {
        None => Ok(bytes),
        Some(word) => Err(format!("unexpected {word:?}")),
    }
}

/// Name, SQL, types.
fn parse(line: &mut Line) -> Result<Vec<u8>, String> {
    let (name, sql) = (line.cstr()?, line.cstr()?);
    let mut types = Vec::new();
    for word in line.0.by_ref() {
        types.push(type_oid(&String::from_utf8_lossy(&word.into_bytes()?))?);
    }
    let types = counted(types.into_iter().map(|oid| oid.to_be_bytes().to_vec()));
    Ok(message(b'P', &[name, sql, types].concat()))
}

/// Portal, statement, values, formats of the values, formats of the results.
fn bind(line: &mut Line) -> Result<Vec<u8>, String> {
    let (portal, statement, values) = (line.cstr()?, line.cstr()?, line.values()?);
    let formats = [line.formats()?, line.formats()?];
    let body = [portal, statement, counted(formats[0].clone()), counted(values), counted(formats[1].clone())];
    Ok(message(b'B', &body.concat()))
}

/// Portal, most rows.
fn execute(line: &mut Line) -> Result<Vec<u8>, String> {
    let (portal, rows) = (line.cstr()?, line.number()?.unwrap_or(0));
    Ok(message(b'E', &[portal, rows.to_be_bytes().to_vec()].concat()))
}

/// Parse, Bind, Describe and Execute of the unnamed statement and portal.
fn extended(line: &mut Line) -> Result<Vec<u8>, String> {
    let unnamed = cstr("");
    let parse = [&unnamed, &line.cstr()?[..], &[0, 0]].concat();
    let bind = [unnamed.clone(), unnamed.clone(), vec![0, 0], counted(line.values()?), vec![0, 0]].concat();
    let execute = [&unnamed[..], &[0; 4]].concat();
    Ok([(b'P', parse), (b'B', bind), (b'D', b"P\0".to_vec()), (b'E', execute)]
        .map(|(kind, body)| message(kind, &body))
        .concat())
}

/// Function, arguments, their formats, the result's format.
fn function_call(line: &mut Line) -> Result<Vec<u8>, String> {
    let function = line.number()?.ok_or("no function")?;
    let (values, formats, result) = (line.values()?, line.formats()?, line.formats()?);
    let result = result.into_iter().next().unwrap_or(vec![0, 0]);
    Ok(message(b'F', &[function.to_be_bytes().to_vec(), counted(formats), counted(values), result].concat()))
}

/// Type byte, body.
fn other(line: &mut Line) -> Result<Vec<u8>, String> {
    let kind = line.text()?;
    let [kind] = kind[..] else { return Err("a type has one byte".into()) };
    Ok(message(kind, &line.text()?))
}

/// The words of a line that are not read yet.
struct Line(std::vec::IntoIter<Word>);

impl Line {
    fn text(&mut self) -> Result<Vec<u8>, String> {
        self.0.next().ok_or("something is missing")?.into_bytes()
    }

    fn cstr(&mut self) -> Result<Vec<u8>, String> {
        Ok([self.text()?, vec![0]].concat())
    }

    fn number(&mut self) -> Result<Option<u32>, String> {
        let Some(word) = self.0.next() else { return Ok(None) };
        let text = String::from_utf8_lossy(&word.into_bytes()?).into_owned();
        text.parse().map(Some).map_err(|_| format!("{text} is no number"))
    }

    fn statement_or_portal(&mut self) -> Result<Vec<u8>, String> {
        let which = match &self.text()?[..] {
            b"statement" => b'S',
            b"portal" => b'P',
            other => return Err(format!("{other:?} is neither statement nor portal")),
        };
        Ok([vec![which], self.cstr()?].concat())
    }

    /// Values in brackets, each with its length, and the slash behind them.
    fn values(&mut self) -> Result<Vec<Vec<u8>>, String> {
        let mut values = Vec::new();
        match self.0.next() {
            None => return Ok(values),
            Some(Word::Open) => {}
            Some(other) => return Err(format!("{other:?} instead of [")),
        }
        loop {
            match self.0.next().ok_or("a bracket is not closed")? {
                Word::Close => break,
                Word::Bare(null) if null == "null" => values.push((-1_i32).to_be_bytes().to_vec()),
                value => {
                    let value = value.into_bytes()?;
                    let len = u32::try_from(value.len()).map_err(|error| error.to_string())?;
                    values.push([len.to_be_bytes().to_vec(), value].concat());
                }
            }
        }
        match self.0.next() {
            None | Some(Word::Slash) => Ok(values),
            Some(other) => Err(format!("{other:?} instead of /")),
        }
    }

    /// Format codes up to the next slash, or the end.
    fn formats(&mut self) -> Result<Vec<Vec<u8>>, String> {
        let codes = self.0.by_ref().take_while(|word| *word != Word::Slash);
        codes
            .map(|word| match &word.into_bytes()?[..] {
                b"text" => Ok(vec![0, 0]),
                b"binary" => Ok(vec![0, 1]),
                other => Err(format!("{other:?} is no format")),
            })
            .collect()
    }
}

/// Parts behind their number.
fn counted(parts: impl IntoIterator<Item = Vec<u8>>) -> Vec<u8> {
    let parts: Vec<_> = parts.into_iter().collect();
    let count = u16::try_from(parts.len()).expect("no line has so many words");
    [count.to_be_bytes().to_vec(), parts.concat()].concat()
}

fn type_oid(name: &str) -> Result<u32, String> {
    let known = TYPES.iter().find(|(known, _)| *known == name).map(|(_, oid)| *oid);
    known.or_else(|| name.parse().ok()).ok_or_else(|| format!("no such type: {name}"))
}

/// From `pg_type.dat`; others are written as numbers.
const TYPES: [(&str, u32); 13] = [
    ("bool", 16),
    ("bytea", 17),
    ("int8", 20),
    ("int2", 21),
    ("int4", 23),
    ("text", 25),
    ("json", 114),
    ("float8", 701),
    ("varchar", 1043),
    ("date", 1082),
    ("timestamptz", 1184),
    ("numeric", 1700),
    ("_int4", 1007),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let check = |line: &str, expected: &[u8]| assert_eq!(read(line).unwrap(), expected, "{line}");
        check("Query select '\"'", b"Q\0\0\0\x0fselect '\"'\0");
        check("Query \"\\xff\"", b"Q\0\0\0\x06\xff\0");
        check("Parse \"\" \"a b\" int4 25", b"P\0\0\0\x13\0a b\0\0\x02\0\0\0\x17\0\0\0\x19");
        check(
            "Bind p s [1 null] / text binary",
            b"B\0\0\0\x1bp\0s\0\0\x02\0\0\0\x01\0\x02\0\0\0\x011\xff\xff\xff\xff\0\0",
        );
        check("Bind \"\" \"\" [] / / binary", b"B\0\0\0\x0e\0\0\0\0\0\0\0\x01\0\x01");
        check("Execute p 5", b"E\0\0\0\x0ap\0\0\0\0\x05");
        check("Close statement s1", b"C\0\0\0\x08Ss1\0");
        check("FunctionCall 177 [1] / / binary", b"F\0\0\0\x13\0\0\0\xb1\0\0\0\x01\0\0\0\x011\0\x01");
        check("Sync", b"S\0\0\0\x04");
        for bad in ["Sync 1", "Parse \"\"", "Bind \"\" \"\" [1", "Execute p x", "Close s1", "select 1"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }
}
