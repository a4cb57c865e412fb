//! What flows declare: where they connect to, and which files they name.
//!
//! The file is read as a stream, node by node, and of each node only short values of known properties are kept: a file
//! of 50 MB with one string of 50 MB in it needs no more memory than that string.

use std::{
    collections::BTreeMap,
    fmt,
    io::BufReader,
    path::{Path, PathBuf},
};

use serde::{
    Deserialize, Serialize,
    de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use policy::machine::root::Root;

/// Largest flow file that is read.
const LIMIT: u64 = 256 << 20;
/// Longest value of a property that is kept, in bytes.
const MAX_VALUE: usize = 1024;
/// Most targets and files that are kept.
const MAX_FOUND: usize = 2000;

/// Somewhere that a node connects to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Target {
    /// A host name or an address.
    pub host: String,
    /// The port.
    pub port: Option<u16>,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// The type of the node.
    pub node: String,
}

/// What a node does with a file that it names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Use {
    /// It reads.
    Read,
    /// It writes or deletes.
    Write,
    /// It watches.
    Watch,
    /// A private key of a tls-config node.
    Key,
    /// A certificate of a tls-config node.
    Certificate,
}

/// A file that a node names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Declared {
    /// The file; absolute where the working directory is known.
    pub path: PathBuf,
    /// What for.
    pub r#use: Use,
    /// The type of the node.
    pub node: String,
}

/// What a flow file declares.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Flows {
    /// The file, inside the instance's root.
    pub file: Option<PathBuf>,
    /// How many nodes there are, tabs and configuration included.
    pub nodes: u64,
    /// Where they connect to.
    pub targets: Vec<Target>,
    /// The files that they name.
    pub files: Vec<Declared>,
    /// Ports that they listen on, with the protocol.
    pub listens: Vec<(u16, &'static str)>,
    /// How many nodes of a type there are, for those that reach the host.
    pub types: BTreeMap<String, u64>,
    /// Nodes whose target or file is computed, by type.
    pub computed: BTreeMap<String, u64>,
    /// Why the file could not be read to its end.
    pub problem: Option<String>,
}

/// Types that are counted.
const COUNTED: [&str; 7] = ["exec", "function", "http in", "ui_base", "ui-base", "tcp in", "websocket-listener"];

impl Flows {
    /// Reads a flow file. Relative names of files begin at `working_directory`.
    #[must_use]
    pub fn read(root: &Root, path: &Path, working_directory: Option<&Path>) -> Self {
        let mut flows = Self { file: Some(path.to_owned()), ..Self::default() };
        let opened = root.find(path).and_then(|place| {
            if place.metadata.len() > LIMIT {
                return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, format!("more than {LIMIT} bytes")));
            }
            place.open()
        });
        let outcome = match opened {
            Ok(file) => {
                let reader = BufReader::with_capacity(64 << 10, std::io::Read::take(file, LIMIT));
                let mut json = serde_json::Deserializer::from_reader(reader);
                json.deserialize_any(File(&mut flows)).map_err(|error| error.to_string())
            }
            Err(error) => Err(error.to_string()),
        };
        flows.problem = outcome.err();
        for declared in &mut flows.files {
            if let Some(directory) = working_directory {
                declared.path = directory.join(&declared.path);
            }
        }
        flows.targets.sort();
        flows.targets.dedup();
        flows.files.sort();
        flows.files.dedup();
        flows.listens.sort_unstable();
        flows.listens.dedup();
        flows
    }

    fn node(&mut self, node: &Node) {
        self.nodes += 1;
        let Some(kind) = node.get("type") else { return };
        if node.get("d") == Some("true") {
            return;
        }
        if COUNTED.contains(&kind) {
            *self.types.entry(kind.to_owned()).or_default() += 1;
        }
        let is_client = |key: &str| node.get(key) == Some("client");
        match kind {
            "http request" => self.url(kind, node.get("url"), 80),
            "websocket-client" => self.url(kind, node.get("path"), 80),
            "mqtt-broker" => {
                let tls = if node.get("usetls") == Some("true") { 8883 } else { 1883 };
                // The broker may be a URL.
                match node.get("broker") {
                    Some(broker) if broker.contains("://") => self.url(kind, Some(broker), tls),
                    broker => self.target(kind, broker, node.get("port"), Some(tls), "tcp"),
                }
            }
            "tcp in" if is_client("server") => self.target(kind, node.get("host"), node.get("port"), None, "tcp"),
            "tcp in" => self.listen(kind, node.get("port"), "tcp"),
            "tcp out" if is_client("beserver") => self.target(kind, node.get("host"), node.get("port"), None, "tcp"),
            "tcp out" if node.get("beserver") == Some("server") => self.listen(kind, node.get("port"), "tcp"),
            "udp in" => self.listen(kind, node.get("port"), "udp"),
            "udp out" => self.target(kind, node.get("addr"), node.get("port"), None, "udp"),
            "tcp request" | "e-mail" | "e-mail in" => {
                self.target(kind, node.get("server"), node.get("port"), None, "tcp");
            }
            "file" => self.named(kind, node, "filename", Use::Write),
            "file in" => self.named(kind, node, "filename", Use::Read),
            "watch" => {
                for path in node.get("files").unwrap_or_default().split(',') {
                    self.file(kind, Some(path.trim()), Use::Watch);
                }
            }
            "tls-config" => {
                for (key, r#use) in [("key", Use::Key), ("cert", Use::Certificate), ("ca", Use::Certificate)] {
                    if let Some(path) = node.get(key).filter(|path| !path.is_empty()) {
                        self.file(kind, Some(path), r#use);
                    }
                }
            }
            _ => {}
        }
    }

    /// A file whose name may come from the message or the environment.
    fn named(&mut self, kind: &str, node: &Node, key: &str, r#use: Use) {
        let literal = matches!(node.get("filenameType"), None | Some("str"));
        self.file(kind, node.get(key).filter(|_| literal), r#use);
    }

    fn file(&mut self, kind: &str, path: Option<&str>, r#use: Use) {
        match path.filter(|path| is_literal(path)) {
            Some(path) if self.files.len() < MAX_FOUND => {
                self.files.push(Declared { path: PathBuf::from(path), r#use, node: kind.to_owned() });
            }
            Some(_) => {}
            None => self.computed(kind),
        }
    }

    fn target(
        &mut self,
        kind: &str,
        host: Option<&str>,
        port: Option<&str>,
        default: Option<u16>,
        protocol: &'static str,
    ) {
        let port = match port.filter(|port| !port.is_empty()) {
            None => default,
            Some(text) => match text.trim().parse() {
                Ok(port) => Some(port),
                Err(_) => return self.computed(kind),
            },
        };
        match host.map(str::trim).filter(|host| is_literal(host)) {
            Some(host) if self.targets.len() < MAX_FOUND => {
                let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
                self.targets.push(Target { host, port, protocol, node: kind.to_owned() });
            }
            Some(_) => {}
            None => self.computed(kind),
        }
    }

    /// `scheme://user@host:port/path`; without a scheme Node-RED means http.
    fn url(&mut self, kind: &str, url: Option<&str>, default: u16) {
        let Some(url) = url.map(str::trim).filter(|url| !url.is_empty()) else { return self.computed(kind) };
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        if kind == "websocket-client" && scheme.is_empty() {
            return self.computed(kind);
        }
        let default = match scheme {
            "https" | "wss" => 443,
            "mqtts" | "tls" | "ssl" => 8883,
            "mqtt" | "tcp" => 1883,
            "http" | "ws" => 80,
            _ => default,
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let place = authority.rsplit('@').next().unwrap_or_default();
        let (host, port) = match place.rsplit_once(':') {
            // The colons of an IPv6 address part no port.
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (place, None),
        };
        self.target(kind, Some(host), port, Some(default), "tcp");
    }

    fn listen(&mut self, kind: &str, port: Option<&str>, protocol: &'static str) {
        match port.and_then(|port| port.trim().parse().ok()) {
            Some(port) if self.listens.len() < MAX_FOUND => self.listens.push((port, protocol)),
            Some(_) => {}
            None => self.computed(kind),
        }
    }

    fn computed(&mut self, kind: &str) {
        *self.computed.entry(kind.to_owned()).or_default() += 1;
    }
}

/// Neither empty nor put together when the flow runs: `{{mustache}}`, `${ENVIRONMENT}`.
fn is_literal(text: &str) -> bool {
    !text.is_empty() && !text.contains("{{") && !text.contains("${") && !text.chars().any(char::is_control)
}

/// The properties of a node that matter here.
const PROPERTIES: [&str; 17] = [
    "type",
    "d",
    "url",
    "path",
    "broker",
    "port",
    "usetls",
    "server",
    "host",
    "beserver",
    "addr",
    "filename",
    "filenameType",
    "files",
    "key",
    "cert",
    "ca",
];

#[derive(Default)]
struct Node(BTreeMap<&'static str, Option<String>>);

impl Node {
    /// A property; none for what is not there, too long, or no plain value.
    fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key)?.as_deref()
    }
}

/// The file: an array of nodes, or an object that has one under `flows`.
struct File<'a>(&'a mut Flows);

impl<'de> Visitor<'de> for File<'_> {
    type Value = ();

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("an array of nodes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut nodes: A) -> Result<(), A::Error> {
        while let Some(node) = nodes.next_element::<Node>()? {
            self.0.node(&node);
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut keys: A) -> Result<(), A::Error> {
        while let Some(key) = keys.next_key::<Short>()? {
            if key.0.as_deref() == Some("flows") {
                keys.next_value_seed(Inside(self.0))?;
            } else {
                keys.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct Inside<'a>(&'a mut Flows);

impl<'de> DeserializeSeed<'de> for Inside<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_seq(File(self.0))
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Properties;

        impl<'de> Visitor<'de> for Properties {
            type Value = Node;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("a node")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut keys: A) -> Result<Node, A::Error> {
                let mut node = Node::default();
                while let Some(key) = keys.next_key::<Short>()? {
                    let key = key.0.as_deref().unwrap_or_default();
                    let known = PROPERTIES.iter().find(|property| **property == key);
                    match known {
                        // As in JavaScript, the last of two properties of one name counts.
                        Some(property) => drop(node.0.insert(property, keys.next_value::<Short>()?.0)),
                        None => drop(keys.next_value::<IgnoredAny>()?),
                    }
                }
                Ok(node)
            }
        }

        from.deserialize_map(Properties)
    }
}

/// A plain value as text, when it is short.
struct Short(Option<String>);

impl<'de> Deserialize<'de> for Short {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Plain;

        impl<'de> Visitor<'de> for Plain {
            type Value = Short;

            fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
                to.write_str("any value")
            }

            fn visit_str<E>(self, text: &str) -> Result<Short, E> {
                Ok(Short((text.len() <= MAX_VALUE).then(|| text.to_owned())))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Short, E> {
                Ok(Short(Some(value.to_string())))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Short, E> {
                Ok(Short(Some(value.to_string())))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Short, E> {
                Ok(Short(Some(value.to_string())))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Short, E> {
                Ok(Short(Some(value.to_string())))
            }

            fn visit_unit<E>(self) -> Result<Short, E> {
                Ok(Short(None))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Short, A::Error> {
                while items.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Short(None))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Short, A::Error> {
                while entries.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Short(None))
            }
        }

        from.deserialize_any(Plain)
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn read(text: &[u8]) -> Flows {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("flows.json"), text).unwrap();
        let root = Root::at(directory.path()).unwrap();
        Flows::read(&root, Path::new("/flows.json"), Some(Path::new("/work")))
    }

    fn targets(nodes: &serde_json::Value) -> Vec<String> {
        let flows = read(nodes.to_string().as_bytes());
        assert_eq!(flows.problem, None);
        let port = |target: &Target| target.port.map_or_else(String::new, |port| format!(":{port}"));
        flows.targets.iter().map(|target| format!("{}{}/{}", target.host, port(target), target.protocol)).collect()
    }

    #[test]
    fn every_node_that_connects_is_read() {
        for (node, target) in [
            (json!({"type": "http request", "url": "https://u:p@api.example:8443/x?y=z"}), "api.example:8443/tcp"),
            (json!({"type": "http request", "url": "api.example/path"}), "api.example:80/tcp"),
            (json!({"type": "http request", "url": "https://[2001:db8::1]/"}), "2001:db8::1:443/tcp"),
            (json!({"type": "mqtt-broker", "broker": "broker", "port": "1884"}), "broker:1884/tcp"),
            (json!({"type": "mqtt-broker", "broker": "broker", "port": "", "usetls": true}), "broker:8883/tcp"),
            (json!({"type": "mqtt-broker", "broker": "mqtts://broker"}), "broker:8883/tcp"),
            (json!({"type": "tcp in", "server": "client", "host": "h", "port": 7}), "h:7/tcp"),
            (json!({"type": "tcp out", "beserver": "client", "host": "h", "port": "7"}), "h:7/tcp"),
            (json!({"type": "tcp request", "server": "h", "port": "7"}), "h:7/tcp"),
            (json!({"type": "udp out", "addr": "224.0.0.1", "port": "7"}), "224.0.0.1:7/udp"),
            (json!({"type": "websocket-client", "path": "wss://h/x"}), "h:443/tcp"),
            (json!({"type": "e-mail", "server": "smtp.example", "port": "465"}), "smtp.example:465/tcp"),
        ] {
            assert_eq!(targets(&json!([node])), [target], "{node}");
        }
        assert_eq!(
            targets(&json!({"rev": "1", "flows": [{"type": "tcp request", "server": "h", "port": "7"}]})),
            ["h:7/tcp"]
        );
        assert_eq!(
            targets(&json!([{"type": "tcp request", "server": "h", "port": "7", "d": true}])),
            [""; 0],
            "disabled"
        );
    }

    #[test]
    fn files_are_read_with_what_they_are_for() {
        let flows = read(
            json!([
                {"type": "file", "filename": "/out", "filenameType": "str"},
                {"type": "file", "filename": "payload.name", "filenameType": "msg"},
                {"type": "file in", "filename": "in"},
                {"type": "watch", "files": "/a, b"},
                {"type": "tls-config", "key": "/k.pem", "cert": "/c.pem", "ca": ""},
                {"type": "file", "filename": "${HOME}/x"},
                {"type": "tcp in", "server": "server", "port": "9"},
                {"type": "function", "func": "return msg"},
            ])
            .to_string()
            .as_bytes(),
        );
        let found: Vec<_> = flows.files.iter().map(|file| (file.path.to_str().unwrap(), file.r#use)).collect();
        assert_eq!(
            found,
            [
                ("/a", Use::Watch),
                ("/c.pem", Use::Certificate),
                ("/k.pem", Use::Key),
                ("/out", Use::Write),
                ("/work/b", Use::Watch),
                ("/work/in", Use::Read),
            ]
        );
        assert_eq!(flows.computed, BTreeMap::from([("file".to_owned(), 2)]));
        assert_eq!((flows.nodes, flows.listens, flows.types["function"]), (8, vec![(9, "tcp")], 1));
    }

    #[test]
    fn what_is_computed_is_counted_and_not_guessed() {
        let flows = read(
            json!([
                {"type": "http request", "url": ""},
                {"type": "http request", "url": "http://{{host}}/"},
                {"type": "mqtt-broker", "broker": "${BROKER}", "port": "1883"},
                {"type": "udp out", "addr": "h", "port": "${PORT}"},
                {"type": "http request", "url": {"a": [1, {"b": null}]}},
            ])
            .to_string()
            .as_bytes(),
        );
        assert_eq!(flows.targets, []);
        assert_eq!(flows.computed.values().sum::<u64>(), 5);
    }

    #[test]
    fn a_broken_file_gives_what_stands_before_the_break() {
        let flows = read(br#"[{"type":"tcp request","server":"h","port":"7"},{"type":"#);
        assert_eq!(flows.targets.len(), 1);
        assert!(flows.problem.unwrap().contains("EOF"), "the problem is reported");
        for broken in [&b"\xff\xfe"[..], b"", b"17", b"[1, 2]", b"{\"flows\": 1}"] {
            assert!(read(broken).problem.is_some(), "{broken:?}");
        }
        let deep = "[".repeat(1 << 20);
        assert!(read(deep.as_bytes()).problem.is_some());
        let deep = format!("[{{\"type\":\"x\",\"y\":{deep}");
        assert!(read(deep.as_bytes()).problem.is_some());
    }

    #[test]
    fn fifty_megabytes_are_read_without_being_held() {
        // Memory is counted for the whole process, so that this test needs one of its own.
        if std::env::var_os("FLOWWARDEN_ALONE").is_none() {
            let name = "instance::flows::tests::fifty_megabytes_are_read_without_being_held";
            let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
            let status = alone.args(["--exact", name]).env("FLOWWARDEN_ALONE", "1").status().unwrap();
            return assert!(status.success(), "{status}");
        }
        let directory = tempfile::tempdir().unwrap();
        let mut file = fs::File::create(directory.path().join("flows.json")).unwrap();
        let code = "x".repeat(1 << 20);
        file.write_all(b"[").unwrap();
        for index in 0..50 {
            let node = json!({"id": index.to_string(), "type": "function", "func": code});
            write!(file, "{node},").unwrap();
        }
        file.write_all(br#"{"type":"tcp request","server":"h","port":"7"}]"#).unwrap();
        let (before, start) = (peak_kib(), std::time::Instant::now());
        let flows = Flows::read(&Root::at(directory.path()).unwrap(), Path::new("/flows.json"), None);
        let grown = peak_kib() - before;
        assert_eq!((flows.nodes, flows.targets.len(), flows.problem), (51, 1, None));
        assert!(grown < 16 << 10, "{grown} KiB");
        assert!(start.elapsed().as_secs() < 30, "{:?}", start.elapsed());
    }

    fn peak_kib() -> u64 {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            read(&bytes);
        }
    }
}
