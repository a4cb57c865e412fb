//! Secrets in texts that are shown to others: what looks like one is replaced, rather once too often.
//!
//! The same secret gets the same number in both versions of a file, so that a change of it shows, and nothing else does.

use std::{borrow::Cow, collections::HashMap, sync::LazyLock};

use regex::{Captures, Regex};

/// A value as settings, flows and code in flows write it: quoted (also inside of another string), a list, an object, or
/// some words.
const VALUE: &str = r#"(?:\\+"[^"]*?\\+"|\\+'[^']*?\\+'|"(?s:[^"\\]|\\.)*"|'(?s:[^'\\]|\\.)*'|`(?s:[^`\\]|\\.)*`|\[[^\]]*\]|\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}|[^\s,;"'`{}\[\]()+|?\\]+(?:[ \t]+[^\s,;"'`{}\[\]()+|?\\]+)*(?:\([^()\n]*\))?)"#;
/// A name whose value is a secret.
const NAME: &str = r"[\w$-]*(?:secret|passw|passphrase|pwd|token|api[_-]?key|access[_-]?key|private[_-]?key|authorization|credential|cookie)[\w$-]*";

/// A pattern that is written here, and tried by the tests.
#[expect(clippy::expect_used, reason = "a constant; no input reaches it")]
fn pattern(text: &str) -> Regex {
    Regex::new(text).expect("a pattern of this file")
}

struct Patterns {
    /// A private key, whole or cut off.
    key: Regex,
    /// A name and its value, or several values that make one.
    named: Regex,
    /// Hashes of bcrypt.
    bcrypt: Regex,
    /// User and password in an address.
    user: Regex,
    /// What goes into the header of a request.
    scheme: Regex,
    /// Anything long that may be one.
    long: Regex,
}

static PATTERNS: LazyLock<Patterns> = LazyLock::new(|| Patterns {
    key: pattern(r"(?s)-----BEGIN [A-Z0-9 ]*PRIVATE KEY-----.*?(?:-----END [A-Z0-9 ]*PRIVATE KEY-----|\z)"),
    named: pattern(&format!(r#"(?i)({NAME}(?:\\*["'])?\s*[:=,(]\s*)({VALUE}(?:\s*(?:\+|\|\||\?\?)\s*{VALUE})*)"#)),
    bcrypt: pattern(r"\$2[abxy]?\$\d\d\$[./A-Za-z0-9]{20,53}"),
    user: pattern(r#"(\b[A-Za-z][A-Za-z0-9+.-]*://)[^\s/?#"'`\\]+(@)"#),
    scheme: pattern(r"(?i)\b((?:bearer|basic|digest)\s+)[A-Za-z0-9._~+/=-]{6,}"),
    long: pattern(r"\beyJ[\w-]+\.[\w-]+\.[\w-]*|[A-Za-z0-9+/_-]{32,}={0,2}"),
});

/// Replaces secrets; remembers which it has seen.
#[derive(Debug, Default)]
pub struct Masker {
    known: HashMap<String, usize>,
}

impl Masker {
    /// The text without what looks like a secret.
    pub fn mask(&mut self, text: &str) -> String {
        let patterns = &*PATTERNS;
        let text = patterns.key.replace_all(text, |found: &Captures<'_>| self.number(&found[0]));
        let text = patterns.named.replace_all(&text, |found: &Captures<'_>| {
            let (name, value) = (&found[1], &found[2]);
            if is_harmless(value) { found[0].to_owned() } else { format!("{name}{}", self.number(value)) }
        });
        let text = patterns.bcrypt.replace_all(&text, |found: &Captures<'_>| self.number(&found[0]));
        let text = patterns
            .user
            .replace_all(&text, |found: &Captures<'_>| format!("{}{}{}", &found[1], self.number(&found[0]), &found[2]));
        let text = patterns
            .scheme
            .replace_all(&text, |found: &Captures<'_>| format!("{}{}", &found[1], self.number(&found[0])));
        let text: Cow<'_, str> = patterns.long.replace_all(&text, |found: &Captures<'_>| {
            if is_random(&found[0]) { self.number(&found[0]) } else { found[0].to_owned() }
        });
        text.into_owned()
    }

    fn number(&mut self, secret: &str) -> String {
        let next = self.known.len() + 1;
        format!("[secret {}]", self.known.entry(secret.to_owned()).or_insert(next))
    }
}

/// Nothing that could be kept: a word of the language, or the name of a variable of the environment.
fn is_harmless(value: &str) -> bool {
    let variable = value.strip_prefix("process.env.");
    matches!(value, "true" | "false" | "null" | "undefined" | "function" | "\"\"" | "''" | "{}" | "[]")
        || variable.is_some_and(|name| name.chars().all(|char| char.is_ascii_alphanumeric() || char == '_'))
}

/// Long names of files have fewer kinds of letters.
fn is_random(text: &str) -> bool {
    let has = |kind: fn(&char) -> bool| text.chars().any(|char| kind(&char));
    let hexadecimal = text.chars().all(|char| char.is_ascii_hexdigit());
    text.starts_with("eyJ")
        || hexadecimal
        || (has(char::is_ascii_lowercase) && has(char::is_ascii_uppercase) && has(char::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECRET: &str = "Hunter2-do-not-show";

    /// Every way of writing a secret that is known to be used.
    const WAYS: [&str; 24] = [
        "credentialSecret: \"%\",",
        "// credentialSecret: '%',",
        "\"credentialSecret\" : `%`",
        "credentialSecret: process.env.NR || '%',",
        "credentialSecret: \"a\" + '%',",
        "adminAuth: { users: [{ username: 'a', password: '%' }] }",
        "passwords: [\n  'x',\n  '%',\n]",
        "tls: { passphrase: \"%\" }",
        "apiKey = %;",
        "api_key: '%'",
        "headers: { Authorization: 'Bearer %' }",
        "headers: { 'Authorization': \"Basic %\" }",
        "\"func\":\"msg.headers = { Authorization: \\\"Bearer %\\\" };\"",
        "\"func\":\"const password = '%';\"",
        "\"func\":\"node.setPassword(\\\"%\\\")\"",
        "set(\"token\", \"%\")",
        "url: 'mqtts://user:%@broker.example:8883/x'",
        "url: 'https://%@api.example/'",
        "https://api.example/?access_token=%&x=1",
        "\"credentials\": { \"broker\": { \"user\": \"a\", \"key\": { \"x\": \"%\" } } }",
        "Authorization: Bearer %",
        "key: \"-----BEGIN RSA PRIVATE KEY-----\\nabc\\n%\\n-----END RSA PRIVATE KEY-----\"",
        "-----BEGIN PRIVATE KEY-----\n%",
        "x-auth-token: %",
    ];

    #[test]
    fn no_known_way_of_writing_a_secret_shows_it() {
        for way in WAYS {
            let text = way.replace('%', SECRET);
            let shown = Masker::default().mask(&text);
            assert!(!shown.contains(SECRET) && shown.contains("[secret "), "{text} became {shown}");
        }
        for secret in [
            "$2b$08$wuAqPiKJlVN27eF5qJp.RuQYuy6ZYONW7a/UWYxDTtwKFCdB8F19y",
            "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
            "wJalrXUtnFEMIK7MDENGbPxRfiCYEXAMPLEKEY12",
            "0123456789abcdef0123456789abcdef",
        ] {
            let shown = Masker::default().mask(&format!("x('{secret}')"));
            assert_eq!(shown, "x('[secret 1]')");
        }
    }

    #[test]
    fn what_is_no_secret_stays_readable() {
        for text in [
            "uiPort: process.env.PORT || 1880,",
            "functionExternalModules: true,",
            "credentialSecret: false,",
            "credentialSecret: process.env.NODE_RED_SECRET,",
            "https: { key: require('fs').readFileSync('/home/nodered/.node-red/certificates/key.pem') }",
            "{\"id\":\"f6f2187d.f17ca8\",\"type\":\"mqtt in\",\"broker\":\"10e78a89.5b4fd5\"}",
            "https://nodered.org/docs/user-guide/runtime/configuration",
        ] {
            assert_eq!(Masker::default().mask(text), text);
        }
    }

    #[test]
    fn a_secret_that_changes_shows_that_it_did_and_no_more() {
        let mut masker = Masker::default();
        let versions = ["one-secret", "two-secret", "one-secret"].map(|it| masker.mask(&format!("password: '{it}'")));
        assert_eq!(versions[0], versions[2]);
        assert_ne!(versions[0], versions[1]);
        assert_eq!(versions[1], "password: [secret 2]");
    }

    proptest! {
        #[test]
        fn a_quoted_password_never_shows(secret in "[ -~é]{8,40}", before in "[ -~\n]{0,30}") {
            prop_assume!(!secret.contains(['"', '\\']));
            let shown = Masker::default().mask(&format!("{before}\npassword: \"{secret}\"\n"));
            let quoted = before.contains(['"', '\'', '`']);
            prop_assert!(quoted || !shown.contains(&secret), "{shown}");
        }
    }
}
