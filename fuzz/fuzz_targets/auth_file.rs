//! The file of users and secrets: what was read can be written and read again, any user and secret can be written and
//! read, and an error repeats nothing of the file.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tigger::config::auth_file::parse;
use tigger_proto::auth::secret::Secret;

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Some((user, secret)) = text.split_once('\n')
        && user.len() <= 127
        && secret.len() <= 2047
        && !secret.contains('\n')
    {
        let entries = parse("f", &line(user, secret)).expect("what was written can be read");
        assert_eq!((entries[0].user.as_str(), entries[0].secret.expose()), (user, secret));
    }
    let entries = match parse("f", text) {
        Ok(entries) => entries,
        Err(error) => {
            assert!((1..=text.split('\n').count()).contains(&error.place.line));
            // Nothing that was written with a letter that our texts do not have.
            assert!(
                error.to_string().bytes().all(|b| b.is_ascii_lowercase() || b" :".contains(&b) || b.is_ascii_digit())
            );
            return;
        }
    };
    let mut again = String::new();
    for entry in &entries {
        assert!(entry.user.len() <= 127);
        let secret = entry.secret.expose();
        assert_eq!(Secret::parse(secret).is_empty(), secret.is_empty());
        again.push_str(&line(&entry.user, secret));
        assert!(!format!("{:?}", entry.secret).contains(secret) || "Secret(..)".contains(secret));
    }
    let again = parse("f", &again).expect("what was written can be read");
    assert_eq!(again.len(), entries.len());
    for (entry, again) in entries.iter().zip(&again) {
        assert_eq!((&entry.user, &entry.secret), (&again.user, &again.secret));
    }
});

fn line(user: &str, secret: &str) -> String {
    let quoted = |text: &str| format!("\"{}\"", text.replace('"', "\"\""));
    format!("{} {}\n", quoted(user), quoted(secret))
}
