//! Error texts of sinks for the console, `sinks/NAME.cursor` and dead letters: secrets masked, length bounded.
//!
//! Much of it is the receiver's own words: they may be without end, hold what a terminal obeys, or repeat what they were
//! asked, with the secret that was in it.

use data_encoding::{BASE64, BASE64_NOPAD};

use super::{
    config::{Access, Login, Secret, Target, Url},
    secret,
};
use journal::text::terminal::plain;

/// Most characters of an error text.
const MAX_CHARS: usize = 400;
/// Parts of an address that are shorter are words, and no secrets.
const SHORTEST: usize = 8;
const HIDDEN: &str = "[secret]";

/// The reason as one line of text, without the sink's secrets.
pub(super) fn masked(target: &Target, why: &str) -> String {
    let mut why = why.to_owned();
    for hidden in secrets(target) {
        if why.contains(&hidden) {
            why = why.replace(&hidden, HIDDEN);
        }
    }
    if let Some((end, _)) = why.char_indices().nth(MAX_CHARS) {
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

#[cfg(test)]
mod tests {
    use super::{
        super::{
            config::{Body, ElasticTarget, MqttTarget, MqttVersion, NatsTarget, Web, WebhookTarget},
            stub,
        },
        *,
    };

    /// Everything that a receiver may repeat, in each form in which it was sent.
    #[test]
    fn no_secret_is_reported_in_any_form_in_which_it_was_sent() {
        let file = stub::secret("hunt/er2hunter2");
        let kept = || Secret::File(file.path().to_owned());
        let login = || Login { user: "me".to_owned(), password: kept() };
        let web =
            || Web { url: "http://asker:url-pass@h.example/T0KEN-IN-PATH?key=QUERY-KEY".into(), ca: None, own: None };
        let webhook = Target::Webhook(WebhookTarget { web: web(), body: Body::Text, token: Some(kept()) });
        let elastic =
            Target::Elastic(ElasticTarget { web: web(), index: "x".to_owned(), access: Some(Access::Login(login())) });
        let nats = Target::Nats(NatsTarget {
            server: "n:1".into(),
            tls: None,
            subject: "s".to_owned(),
            access: Some(Access::Key(kept())),
        });
        let mqtt = Target::Mqtt(MqttTarget {
            server: "m:1".into(),
            tls: None,
            version: MqttVersion::V5,
            login: Some(login()),
            topic: None,
            discovery: None,
        });
        let secret = "hunt/er2hunter2";
        let plain = BASE64_NOPAD.encode(secret.as_bytes());
        let pairs = ["me:", "\0me\0"].map(|user| BASE64.encode(format!("{user}{secret}").as_bytes()));
        let asker = BASE64.encode(b"asker:url-pass");
        let of_url = ["url-pass", "T0KEN-IN-PATH", "QUERY-KEY", &asker];
        for (target, forms) in [
            (&webhook, [&[secret, "hunt\\/er2hunter2", &plain][..], &of_url].concat()),
            (&elastic, [&[secret, &plain, &pairs[0]][..], &of_url].concat()),
            (&nats, vec![secret, &plain]),
            (&mqtt, vec![secret, &plain, &pairs[0], &pairs[1]]),
        ] {
            for form in forms {
                let said = masked(target, &format!("you said <{form}> to me"));
                assert_eq!(said, format!("you said <{HIDDEN}> to me"), "{form}");
            }
        }
        // With the padding that some forms have, and without a word that is in the address by chance.
        assert_eq!(masked(&webhook, &BASE64.encode(secret.as_bytes())).replace('=', ""), HIDDEN);
        assert_eq!(masked(&webhook, "no route to asker"), "no route to asker");
        assert_eq!(masked(&webhook, "x\u{1b}[2J\n"), "x\\u{1b}[2J");
        assert_eq!(masked(&webhook, &"y".repeat(1000)).chars().count(), MAX_CHARS + 1);
    }
}
