//! Addresses of servers. They are parsed once, by the library that the HTTP client uses, and what is kept can be reached.

use std::{
    fmt, io,
    net::{IpAddr, Ipv6Addr, SocketAddr, ToSocketAddrs as _},
};

use ureq::http::{
    Uri,
    uri::{Authority, Scheme},
};

/// Longest name, and longest part of one.
const MAX_NAME: usize = 253;
const MAX_LABEL: usize = 63;

/// A server by its host and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    host: Host,
    port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Host {
    Address(IpAddr),
    Name(String),
}

impl Server {
    /// Reads `HOST:PORT`, an IPv6 address in brackets; says what is wrong with it otherwise.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if text.contains("://") {
            return Err("it begins with the host, without a scheme");
        }
        let authority = authority(text)?;
        if authority.as_str().contains('@') {
            return Err("a user has a key of its own");
        }
        let (host, port) = host_and_port(&authority)?;
        Ok(Self { host, port: port.ok_or("it has no port")? })
    }

    /// The host as a certificate names it: an IPv6 address without brackets.
    #[must_use]
    pub(crate) fn host(&self) -> String {
        match &self.host {
            Host::Address(address) => address.to_string(),
            Host::Name(name) => name.clone(),
        }
    }

    /// Its addresses now.
    pub(crate) fn addresses(&self) -> io::Result<impl Iterator<Item = SocketAddr>> {
        (self.host().as_str(), self.port).to_socket_addrs()
    }
}

impl fmt::Display for Server {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(IpAddr::V6(address)) => write!(to, "[{address}]:{}", self.port),
            Host::Address(address) => write!(to, "{address}:{}", self.port),
            Host::Name(name) => write!(to, "{name}:{}", self.port),
        }
    }
}

#[cfg(test)]
impl From<&str> for Server {
    fn from(text: &str) -> Self {
        Self::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"))
    }
}

/// An address of a web server. What comes after the host may be a secret: [`fmt::Debug`] does not show it.
#[derive(Clone, PartialEq, Eq)]
pub struct Url {
    text: String,
    place: String,
}

impl Url {
    /// Reads a URL of HTTP; says what is wrong with it otherwise, with nothing of it that may be a secret.
    pub(super) fn parse(text: &str) -> Result<Self, &'static str> {
        if !(text.starts_with("https://") || text.starts_with("http://")) {
            return Err("it begins with https:// or http://");
        }
        check_letters(text)?;
        let uri: Uri = text.parse().map_err(|_| "it is no URL")?;
        let (Some(scheme), Some(authority)) = (uri.scheme(), uri.authority()) else { return Err("it has no host") };
        let server = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, server)| server);
        if authority.as_str().matches('@').count() > 1 {
            return Err("it has more than one @: a password is written with %40");
        }
        host_and_port(authority)?;
        Ok(Self { text: text.to_owned(), place: format!("{scheme}://{server}") })
    }

    /// The whole of it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Scheme, host and port: nothing secret.
    #[must_use]
    pub fn place(&self) -> String {
        self.place.clone()
    }

    /// Whether it is reached by TLS.
    #[must_use]
    pub fn is_secure(&self) -> bool {
        self.place.starts_with(&format!("{}:", Scheme::HTTPS))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(to, "Url({})", self.place)
    }
}

#[cfg(test)]
impl From<&str> for Url {
    fn from(text: &str) -> Self {
        Self::parse(text).unwrap_or_else(|why| panic!("{text}: {why}"))
    }
}

fn check_letters(text: &str) -> Result<(), &'static str> {
    if text.contains(|char: char| char.is_whitespace() || char.is_control()) {
        return Err("it has a blank or a control character in it");
    }
    if !text.is_ascii() {
        return Err("write the host in its ASCII form (xn--...), and everything else with %");
    }
    Ok(())
}

fn authority(text: &str) -> Result<Authority, &'static str> {
    check_letters(text)?;
    if text.is_empty() {
        return Err("it is empty");
    }
    let colons = text.matches(':').count();
    if !text.starts_with('[') && colons > 1 {
        return Err("an IPv6 address stands in brackets, and there is one port");
    }
    text.parse().map_err(|_| "it is not a host and a port")
}

/// The library leaves the port a text, and takes more for a host than has an address.
fn host_and_port(authority: &Authority) -> Result<(Host, Option<u16>), &'static str> {
    let server = authority.as_str().rsplit_once('@').map_or(authority.as_str(), |(_, server)| server);
    let (host, port) = match server.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or("the bracket of its IPv6 address is not closed")?;
            let address: Ipv6Addr = address.parse().map_err(|_| "no IPv6 address is in its brackets")?;
            (Host::Address(address.into()), port.strip_prefix(':').or(if port.is_empty() { None } else { Some("") }))
        }
        None => match server.split_once(':') {
            Some((name, port)) => (host(name)?, Some(port)),
            None => (host(server)?, None),
        },
    };
    let wrong = "its port is no number from 1 to 65535";
    let number = |port: &str| {
        let is_number = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
        port.parse().ok().filter(|&port: &u16| is_number && port != 0).ok_or(wrong)
    };
    Ok((host, port.map(number).transpose()?))
}

/// A host name, or an IPv4 address.
fn host(text: &str) -> Result<Host, &'static str> {
    if text.is_empty() {
        return Err("it has no host");
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(Host::Address(address));
    }
    let name = text.strip_suffix('.').unwrap_or(text);
    let fits = |label: &str| {
        (1..=MAX_LABEL).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_'))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > MAX_NAME || !name.split('.').all(fits) {
        return Err("its host is neither a name nor an address");
    }
    // No domain is a number: what ends so is meant for an address, and some libraries make one of it.
    if name.rsplit('.').next().is_some_and(|last| last.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err("its host ends in a number, and is no IPv4 address");
    }
    Ok(Host::Name(text.to_owned()))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn nothing_but_the_server_of_a_url_is_shown() {
        let url = Url::from("https://user:pass@hooks.example.net/T/B/secret?token=x");
        assert_eq!(url.place(), "https://hooks.example.net");
        assert_eq!(format!("{url:?}"), "Url(https://hooks.example.net)");
        assert!(url.is_secure() && !Url::from("http://https.example/").is_secure());
    }

    #[test]
    fn the_host_is_what_a_certificate_names() {
        let hosts = ["[::1]:6514", "a.example:1", "127.0.0.1:1"].map(|text| Server::from(text).host());
        assert_eq!(hosts, ["::1", "a.example", "127.0.0.1"]);
    }

    proptest! {
        #[test]
        fn what_is_taken_comes_back_and_has_a_port(text in "[a-z0-9:.\\[\\]@/_ -]{0,24}") {
            if let Ok(server) = Server::parse(&text) {
                prop_assert_eq!(Server::parse(&server.to_string()), Ok(server.clone()));
                prop_assert!(server.port != 0, "{}", text);
            }
            let url = format!("http://{text}");
            if Url::parse(&url).is_ok() {
                // The client goes to the host and port that were checked.
                let uri: Uri = url.parse().unwrap();
                let authority = uri.authority().unwrap();
                prop_assert!(!authority.host().is_empty());
                prop_assert_eq!(authority.port().is_some(), authority.port_u16().is_some());
            }
        }
    }
}
