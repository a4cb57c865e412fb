//! What is told of a failure, on the console, in `sinks/NAME.cursor` and with dead letters.
//!
//! Much of it is the receiver's own words: they may be without end, hold what a terminal obeys, or repeat what they were
//! asked, with the secret that was in it.

use data_encoding::{BASE64, BASE64_NOPAD};

use super::{
    config::{Access, Login, Secret, Target, Url},
    secret,
};
use crate::text::terminal::plain;

/// What is told at most, in characters.
const LONGEST: usize = 400;
/// Parts of an address that are shorter are words, and no secrets.
const SHORTEST: usize = 8;
const HIDDEN: &str = "[secret]";

/// The reason as one line of text, without the sink's secrets.
pub(super) fn told(target: &Target, why: &str) -> String {
    let mut why = why.to_owned();
    for hidden in secrets(target) {
        if why.contains(&hidden) {
            why = why.replace(&hidden, HIDDEN);
        }
    }
    if let Some((end, _)) = why.char_indices().nth(LONGEST) {
        why.truncate(end);
        why.push('…');
    }
    plain(why.trim_end().as_bytes())
}

/// Everything that must not be shown, in the forms in which it goes over the wire; the longest first.
fn secrets(target: &Target) -> Vec<String> {
    let (url, user, kept) = match target {
        Target::File(_) | Target::Syslog(_) | Target::Journald(_) => (None, None, None),
        Target::Webhook(target) => (Some(&target.web.url), None, target.token.as_ref()),
        Target::Otlp(target) => (Some(&target.web.url), None, target.token.as_ref()),
        Target::Splunk(target) => (Some(&target.web.url), None, Some(&target.token)),
        Target::Elastic(target) => {
            let (user, kept) = access(target.access.as_ref());
            (Some(&target.web.url), user, kept)
        }
        Target::Nats(target) => {
            let (user, kept) = access(target.access.as_ref());
            (None, user, kept)
        }
        Target::Mqtt(target) => login(target.login.as_ref()),
        #[cfg(feature = "email")]
        Target::Email(target) => login(target.login.as_ref()),
        #[cfg(feature = "kafka")]
        Target::Kafka(target) => login(target.login.as_ref().map(|(_, login)| login)),
    };
    let mut found: Vec<String> = url.map(in_address).unwrap_or_default();
    // One that cannot be read has not been shown to anybody.
    if let Some(kept) = kept.and_then(|kept| secret(kept).ok()).filter(|kept| !kept.is_empty()) {
        found.push(BASE64_NOPAD.encode(kept.as_bytes()));
        if let Some(user) = user {
            for pair in [format!("{user}:{kept}"), format!("\0{user}\0{kept}")] {
                found.push(BASE64.encode(pair.as_bytes()));
            }
        }
        found.push(kept);
    }
    // As JSON may have it.
    let escaped: Vec<_> = found.iter().filter(|text| text.contains('/')).map(|text| text.replace('/', "\\/")).collect();
    found.extend(escaped);
    found.sort_by_key(|text| std::cmp::Reverse(text.len()));
    found
}

type Found<'a> = (Option<&'a Url>, Option<&'a str>, Option<&'a Secret>);

fn login(login: Option<&Login>) -> Found<'_> {
    (None, login.map(|login| login.user.as_str()), login.map(|login| &login.password))
}

fn access(access: Option<&Access>) -> (Option<&str>, Option<&Secret>) {
    match access {
        None => (None, None),
        Some(Access::Key(key)) => (None, Some(key)),
        Some(Access::Login(login)) => (Some(&login.user), Some(&login.password)),
    }
}

/// What an address has beside its server: who asks, where, and for what.
fn in_address(url: &Url) -> Vec<String> {
    let (_, rest) = url.as_str().split_once("://").unwrap_or_default();
    let (server, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let asker = server.rsplit_once('@').map_or("", |(asker, _)| asker);
    let mut found: Vec<_> = path.split(['/', '?', '&', '=', '#']).chain(asker.split(':')).map(str::to_owned).collect();
    if !asker.is_empty() {
        found.push(BASE64.encode(asker.as_bytes()));
    }
    found.retain(|text| text.len() >= SHORTEST);
    found
}
