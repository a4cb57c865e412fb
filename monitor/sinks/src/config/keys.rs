//! Keys that sinks of several types have.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::address::{Server, Url};
use policy::toml_reader::{Reader, Table, Value};

/// Files for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates that the server's must come from; PEM.
    pub ca: PathBuf,
    /// Our own certificate and its key; PEM.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// A web server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Web {
    /// Where requests go.
    pub url: Url,
    /// Certificates that the server's must come from; those that come with the system when there is none.
    pub ca: Option<PathBuf>,
    /// Our own certificate and its key; PEM.
    pub own: Option<(PathBuf, PathBuf)>,
}

#[cfg(test)]
impl From<String> for Web {
    fn from(url: String) -> Self {
        Self { url: url.as_str().into(), ca: None, own: None }
    }
}

/// Where a secret is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Secret {
    /// In a file.
    File(PathBuf),
    /// In a credential of the systemd unit.
    Credential(String),
}

/// A user and where the password is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Login {
    /// The user.
    pub user: String,
    /// The password.
    pub password: Secret,
}

pub(super) fn path(reader: &mut Reader<'_>, value: &Value<'_>, what: &str) -> Option<PathBuf> {
    let text = reader.string(value, what)?;
    if !Path::new(text).is_absolute() {
        reader.fault(value.span().start, format!("{what} must be absolute; \"{text}\" is not"));
        return None;
    }
    Some(PathBuf::from(text))
}

pub(super) fn number(
    reader: &mut Reader<'_>,
    value: &Value<'_>,
    what: &str,
    range: std::ops::RangeInclusive<u32>,
) -> Option<u32> {
    let integer = value.get_ref().as_integer();
    let number = integer.and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
    let number = number.filter(|number| range.contains(number));
    if number.is_none() {
        reader.fault(value.span().start, format!("{what} is a number from {} to {}", range.start(), range.end()));
    }
    number
}

pub(super) fn server(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<Server> {
    let text = reader.string(value, "`server`")?;
    address(reader, text, value.span().start)
}

/// `HOST:PORT`.
pub(super) fn address(reader: &mut Reader<'_>, text: &str, at: usize) -> Option<Server> {
    let server = Server::parse(text);
    let fault = |why| format!("`server` is HOST:PORT, like \"siem.example.net:6514\", not \"{text}\": {why}");
    server.map_err(|why| reader.fault(at, fault(why))).ok()
}

/// `cert` and `key`: the outer one is none when something is wrong with them.
#[expect(clippy::option_option, reason = "a fault, nothing, or both files")]
pub(super) fn own_certificate(
    reader: &mut Reader<'_>,
    table: &mut Table<'_, '_>,
) -> Option<Option<(PathBuf, PathBuf)>> {
    match (table.take("cert"), table.take("key")) {
        (Some(cert), Some(key)) => {
            let (cert, key) = (path(reader, cert, "`cert`"), path(reader, key, "`key`"));
            Some(Some((cert?, key?)))
        }
        (None, None) => Some(None),
        (Some(one), None) | (None, Some(one)) => {
            reader.fault(one.span().start, "`cert` and `key` go together");
            None
        }
    }
}

/// `transport` by its name, and the files that TLS needs: none for a plain connection. `secure` are the names of what ends in
/// TLS, the first of them when none is given; `plain` those of what does not.
pub(super) fn transport<'p>(
    reader: &mut Reader<'_>,
    table: &mut Table<'_, '_>,
    secure: &[&'p str],
    plain: &[&'p str],
) -> Option<(&'p str, Option<TlsFiles>)> {
    let value = table.take("transport");
    let text = match value {
        Some(value) => reader.string(value, "`transport`")?,
        None => secure.first()?,
    };
    let ca = table.take("ca");
    if let Some(&found) = secure.iter().find(|&&name| name == text) {
        let own = own_certificate(reader, table);
        let Some(ca) = ca else {
            reader.fault(table.at, "`ca` is missing: the certificates that the server's must come from");
            return None;
        };
        return Some((found, Some(TlsFiles { ca: path(reader, ca, "`ca`")?, own: own? })));
    }
    let Some(&found) = plain.iter().find(|&&name| name == text) else {
        let at = value.map_or(table.at, |value| value.span().start);
        let known: Vec<_> = secure.iter().chain(plain).map(|name| format!("\"{name}\"")).collect();
        reader.fault(at, format!("`transport` is {}, not \"{text}\"", known.join(" or ")));
        return None;
    };
    if let Some(value) = ca.or(table.take("cert")).or(table.take("key")) {
        reader.fault(value.span().start, "certificates are for transport = \"tls\" only");
    }
    Some((found, None))
}

/// A time of a day at most: `1min`, `30s`.
#[cfg_attr(not(feature = "email"), expect(dead_code, reason = "mail alone has times"))]
pub(super) fn time(reader: &mut Reader<'_>, value: &Value<'_>, what: &str) -> Option<Duration> {
    let text = reader.string(value, what)?;
    let time = humantime::parse_duration(text).ok().filter(|&time| time <= Duration::from_hours(24));
    if time.is_none() {
        reader.fault(
            value.span().start,
            format!("{what} is a time like \"1min\" or \"0s\", a day at most, not \"{text}\""),
        );
    }
    time
}

/// `url`, `ca`, `cert` and `key`.
pub(super) fn web(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<Web> {
    let url = reader.required(table, "url").and_then(|value| {
        let text = reader.string(value, "`url`")?;
        // The address may have a secret in it.
        let fault = |why| format!("`url` is an address like \"https://siem.example.net/\": {why}");
        Url::parse(text).map_err(|why| reader.fault(value.span().start, fault(why))).ok()
    });
    let ca = table.take("ca");
    let own = own_certificate(reader, table);
    if let (Some(url), Some(value)) = (&url, ca)
        && !url.is_secure()
    {
        reader.fault(value.span().start, "certificates are for https:// only");
    }
    let ca = match ca {
        Some(value) => Some(path(reader, value, "`ca`")?),
        None => None,
    };
    Some(Web { url: url?, ca, own: own? })
}

/// A secret by its two keys: `NAME-file` and `NAME-credential`.
pub(super) fn secret(
    reader: &mut Reader<'_>,
    table: &mut Table<'_, '_>,
    [file, credential]: [&'static str; 2],
) -> Option<Secret> {
    match (table.take(file), table.take(credential)) {
        (None, None) => None,
        (Some(value), None) => path(reader, value, &format!("`{file}`")).map(Secret::File),
        (None, Some(value)) => {
            let text = reader.string(value, &format!("`{credential}`"))?;
            if text.is_empty() || text.contains('/') {
                reader.fault(value.span().start, format!("`{credential}` is the name of a credential, without a `/`"));
            }
            Some(Secret::Credential(text.to_owned()))
        }
        (Some(_), Some(value)) => {
            reader.fault(value.span().start, format!("`{file}` and `{credential}` in one sink: use one of them"));
            None
        }
    }
}

pub(super) const TOKEN: [&str; 2] = ["token-file", "token-credential"];
const PASSWORD: [&str; 2] = ["password-file", "password-credential"];

/// `user` and the password, which go together.
pub(super) fn login(reader: &mut Reader<'_>, table: &mut Table<'_, '_>) -> Option<Login> {
    let user = table.take("user");
    let password = secret(reader, table, PASSWORD);
    match (user, password) {
        (Some(user), Some(password)) => {
            let user = reader.string(user, "`user`")?.to_owned();
            Some(Login { user, password })
        }
        (None, None) => None,
        (Some(value), None) => {
            reader.fault(value.span().start, "`user` goes with `password-file` or `password-credential`");
            None
        }
        (None, Some(_)) => {
            reader.fault(table.at, "a password without `user`");
            None
        }
    }
}

/// A text that `fits`; `what` says what fits.
pub(super) fn text_like(
    reader: &mut Reader<'_>,
    value: &Value<'_>,
    what: &str,
    fits: impl FnOnce(&str) -> bool,
) -> Option<String> {
    let key = what.split(' ').next().unwrap_or(what);
    let text = reader.string(value, key)?;
    if !fits(text) {
        reader.fault(value.span().start, format!("{what}, not \"{text}\""));
        return None;
    }
    Some(text.to_owned())
}
