//! Keys that sinks of several types have.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use crate::toml_reader::{Reader, Table, Value};

/// Files for TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// Certificates that the server's must come from; PEM.
    pub ca: PathBuf,
    /// Our own certificate and its key; PEM.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// An address of a web server. What comes after the host may be a secret: [`fmt::Debug`] does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Url(String);

impl Url {
    /// The whole of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Scheme, host and port: nothing secret.
    #[must_use]
    pub fn place(&self) -> String {
        let (scheme, rest) = self.0.split_once("://").unwrap_or(("", &self.0));
        let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        format!("{scheme}://{host}")
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Url({})", self.place())
    }
}

impl From<&str> for Url {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
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
        Self { url: Url(url), ca: None, own: None }
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

pub(super) fn server(reader: &mut Reader<'_>, value: &Value<'_>) -> Option<String> {
    let text = reader.string(value, "`server`")?;
    address(reader, text, value.span().start)
}

/// `HOST:PORT`.
pub(super) fn address(reader: &mut Reader<'_>, text: &str, at: usize) -> Option<String> {
    let port =
        text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none_or(|port| port == 0) {
        reader.fault(at, format!("`server` is HOST:PORT, like \"siem.example.net:6514\", not \"{text}\""));
        return None;
    }
    Some(text.to_owned())
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
        if !(text.starts_with("https://") || text.starts_with("http://")) {
            let shown = text.split("://").next().unwrap_or_default();
            reader.fault(value.span().start, format!("`url` begins with https:// or http://; \"{shown}\" does not"));
            return None;
        }
        let plain = text.starts_with("http://");
        Some((Url::from(text), plain))
    });
    let ca = table.take("ca");
    let own = own_certificate(reader, table);
    if let (Some((_, true)), Some(value)) = (&url, ca) {
        reader.fault(value.span().start, "certificates are for https:// only");
    }
    let ca = match ca {
        Some(value) => Some(path(reader, value, "`ca`")?),
        None => None,
    };
    Some(Web { url: url?.0, ca, own: own? })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_the_server_of_a_url_is_shown() {
        let url = Url::from("https://user:pass@hooks.example.net/T/B/secret?token=x");
        assert_eq!(url.place(), "https://hooks.example.net");
        assert_eq!(format!("{url:?}"), "Url(https://hooks.example.net)");
    }
}
