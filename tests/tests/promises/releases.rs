//! No false alarms on the releases of Node-RED and Node.js that are in use: a day with everything in it that an honest
//! editor does, under the presets `home` and `standard`, with what they forbid carried out.

use std::{
    fs,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    cli,
    flows::Flow,
    guard::Guard,
    needs,
    netns::Network,
    node_red::{NodeRed, RELEASES, Release},
    package,
    policy::Policy,
    record::Record,
    scene::Scene,
    user::User,
    wait,
};
use serde_json::{Value, json};

/// The password that this is the hash of, as Node-RED's documentation has both.
pub(super) const PASSWORD: &str = "password";
pub(super) const HASH: &str = "$2a$08$zZWtXTja0fB1pzD4sHCMyOCMYz2Z6dNbM6tl8sJogENOMcxWV9DN.";
/// Ports in the instance's own network: far from those of editors, which the harness counts up from 1880.
const MQTT: u16 = 9000;
const TCP: u16 = 9001;
const UDP: u16 = 9002;

#[test]
fn a_day_of_node_red_4_on_node_20() -> Result<()> {
    day(RELEASES[0])
}

#[test]
fn a_day_of_node_red_5_on_node_22() -> Result<()> {
    day(RELEASES[1])
}

#[test]
fn a_day_of_node_red_5_on_node_24() -> Result<()> {
    day(RELEASES[2])
}

/// A broker in the network of an instance. It ends with the value.
pub(super) struct Broker(Child);

impl Broker {
    pub(super) fn start(network: &Arc<Network>) -> Result<Self> {
        let mut command = Command::new(needs::program("mosquitto")?);
        command.arg("-p").arg(MQTT.to_string());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        network.home.run(|| Ok(Self(command.spawn()?)))
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Everything at once: one press of the button sends a message down each way, and a debug node tells that it has come.
pub(super) struct Plant {
    nodes: Vec<Value>,
    /// Names of the debug nodes.
    ends: Vec<&'static str>,
}

impl Plant {
    pub(super) fn new(node_red: &NodeRed, data: &Path) -> Self {
        let mut plant = Self { nodes: Vec::new(), ends: Vec::new() };
        let home = node_red.home();
        let (key, certificate) = (key(home.path()), home.path().join("tls/plant.crt"));
        plant.nodes.push(json!({ "id": "tab", "type": "tab", "label": "plant" }));
        plant.nodes.push(json!({
            "id": "tls", "type": "tls-config", "name": "", "cert": certificate, "key": key, "ca": "", "certname": "",
            "keyname": "", "caname": "", "servername": "", "verifyservercert": true, "alpnprotocol": "",
        }));
        plant.nodes.push(json!({
            "id": "broker", "type": "mqtt-broker", "name": "", "broker": "127.0.0.1", "port": MQTT.to_string(),
            "clientid": "", "autoConnect": true, "usetls": false, "protocolVersion": "4", "keepalive": "60",
            "cleansession": true, "birthTopic": "", "closeTopic": "", "willTopic": "",
        }));
        let port = node_red.port();
        plant
            .nodes
            .push(json!({ "id": "ws-server", "type": "websocket-listener", "path": "/ws/plant", "wholemsg": "false" }));
        plant.nodes.push(json!({
            "id": "ws-client", "type": "websocket-client", "path": format!("ws://127.0.0.1:{port}/ws/plant"), "tls": "",
            "wholemsg": "false", "hb": "0", "subprotocol": "", "headers": [],
        }));
        plant.node("mqtt out", "", &json!({ "topic": "plant", "qos": "0", "retain": "false", "broker": "broker" }));
        plant.node(
            "mqtt in",
            "mqtt",
            &json!({
                "topic": "plant", "qos": "0", "datatype": "auto-detect", "broker": "broker", "nl": false, "rap": true,
                "rh": 0, "inputs": 0,
            }),
        );
        plant.node("tcp out", "", &json!({
            "host": "127.0.0.1", "port": TCP.to_string(), "beserver": "client", "base64": false, "end": true, "tls": "",
        }));
        plant.node(
            "tcp in",
            "tcp",
            &json!({
                "server": "server", "host": "", "port": TCP.to_string(), "datamode": "stream", "datatype": "utf8",
                "newline": "", "topic": "", "trim": false, "base64": false, "tls": "",
            }),
        );
        plant.node("udp out", "", &json!({
            "addr": "127.0.0.1", "port": UDP.to_string(), "ipv": "udp4", "iface": "", "outport": (UDP + 1).to_string(), "base64": false,
            "multicast": "false",
        }));
        plant.node("udp in", "udp", &json!({
            "port": UDP.to_string(), "ipv": "udp4", "iface": "", "multicast": "false", "group": "", "datatype": "utf8",
        }));
        plant.node("websocket out", "", &json!({ "server": "", "client": "ws-client" }));
        plant.node("websocket in", "websocket", &json!({ "server": "ws-server", "client": "" }));
        plant.node(
            "http request",
            "http",
            &json!({
                "method": "GET", "ret": "txt", "paytoqs": "ignore", "url": format!("http://127.0.0.1:{port}/plant"),
                "tls": "", "persist": false, "authType": "",
            }),
        );
        plant.node(
            "exec",
            "exec",
            &json!({
                "command": "date", "addpay": "", "append": "", "useSpawn": "false", "timer": "", "winHide": false,
                "oldrc": false,
            }),
        );
        plant.node(
            "file",
            "file",
            &json!({
                "filename": data.join("log.txt"), "filenameType": "str", "appendNewline": true, "createDir": false,
                "overwriteFile": "false", "encoding": "none",
            }),
        );
        plant.node("watch", "watch", &json!({ "files": data, "recursive": "" }));
        let count = "const n = (flow.get('n') || 0) + 1; flow.set('n', n); global.set('n', n); return msg;";
        plant.node("function", "function", &json!({ "func": count, "outputs": 1, "libs": [] }));
        // What the http request reaches.
        plant.nodes.push(json!({
            "id": "http-in", "z": "tab", "type": "http in", "url": "/plant", "method": "get", "upload": false,
            "swaggerDoc": "", "wires": [["http-response"]],
        }));
        plant.nodes.push(json!({
            "id": "http-response", "z": "tab", "type": "http response", "statusCode": "", "headers": {}, "wires": [],
        }));
        let receivers: Vec<_> = plant.nodes.iter().filter(|node| is_pressed(node)).map(|it| it["id"].clone()).collect();
        plant.nodes.push(json!({
            "id": "button", "z": "tab", "type": "inject", "props": [{ "p": "payload" }], "payload": "pressed",
            "payloadType": "str", "repeat": "", "crontab": "", "once": false, "wires": [receivers],
        }));
        plant
    }

    /// A node of a type, whose output a debug node with this name prints.
    fn node(&mut self, kind: &str, end: &'static str, properties: &Value) {
        let mut node = properties.clone();
        // Node-RED takes a property whose value is an id for a use of that node.
        node["id"] = format!("plant-{}", kind.replace(' ', "-")).into();
        node["z"] = "tab".into();
        node["type"] = kind.into();
        node["wires"] = if end.is_empty() { json!([]) } else { json!([[format!("end-{end}")]]) };
        self.nodes.push(node);
        if !end.is_empty() {
            self.ends.push(end);
            self.nodes.push(json!({
                "id": format!("end-{end}"), "z": "tab", "type": "debug", "name": end, "active": true,
                "tosidebar": false, "console": true, "complete": "payload", "targetType": "msg", "wires": [],
            }));
        }
    }

    pub(super) fn text(&self) -> String {
        json!(self.nodes).to_string()
    }

    /// Presses the button, and waits until a message has come out of every end.
    fn press(&self, node_red: &NodeRed) -> Result<()> {
        let mark = node_red.console().mark();
        node_red.inject("button")?;
        for end in &self.ends {
            node_red
                .console()
                .wait_for(mark, &format!("[debug:{end}]"), wait::SOON)
                .with_context(|| format!("{end}: {}", node_red.console().since(mark).join("\n")))?;
        }
        Ok(())
    }
}

/// Whether the button sets this node off.
fn is_pressed(node: &Value) -> bool {
    let kind = node["type"].as_str().unwrap_or_default();
    kind.ends_with(" out") || matches!(kind, "http request" | "exec" | "file" | "function")
}

/// The private key that a tls-config node declares.
fn key(home: &Path) -> PathBuf {
    home.join(".node-red/certs/plant.key")
}

/// Makes the key and its certificate, as an administrator does.
pub(super) fn make_key(node_red: &NodeRed) -> Result<()> {
    let home = node_red.home();
    home.directory(".node-red/certs")?;
    let certificate = home.directory("tls")?.join("plant.crt");
    let mut openssl = Command::new(needs::program("openssl")?);
    openssl.args(
        "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=plant -keyout".split(' '),
    );
    needs::run(openssl.arg(key(home.path())).arg("-out").arg(certificate))?;
    let uid = node_red.confinement().uid;
    Ok(chown(key(home.path()), Some(0), Some(uid)).and_then(|()| {
        use std::os::unix::fs::PermissionsExt as _;
        fs::set_permissions(key(home.path()), fs::Permissions::from_mode(0o640))
    })?)
}

fn success(node_red: &NodeRed, method: &str, path: &str, body: &Value) -> Result<()> {
    let answer = node_red.http(method, path, &body.to_string())?;
    ensure!(answer.is_success(), "{method} {path}: {answer:?}\n{}", node_red.console().text());
    Ok(())
}

/// Installs a package from a tarball, uses its node, and removes it.
pub(super) fn palette(node_red: &NodeRed) -> Result<()> {
    let tarball = package::tarball("1.0.0", &json!({ "postinstall": "node -e 0" }))?;
    let answer = node_red.upload(&format!("{}-1.0.0.tgz", package::NAME), &tarball)?;
    ensure!(answer.is_success(), "the package is refused: {answer:?}\n{}", node_red.console().text());
    success(node_red, "DELETE", &format!("/nodes/{}", package::NAME), &json!({}))
}

pub(super) fn no_alarms(guard: &Guard, when: &str) -> Result<()> {
    let alarms: Vec<_> = guard.journal()?.into_iter().filter(Record::is_alarm).collect();
    let reported: Vec<_> = alarms.iter().map(|record| record.pointer_text("/message")).collect();
    ensure!(alarms.is_empty(), "false alarms {when}: {reported:#?}\n{:#?}", alarms.first());
    Ok(())
}

/// A login, projects, a context that is kept.
pub(super) fn set_up(node_red: &NodeRed) -> Result<()> {
    let settings = fs::read_to_string(node_red.settings())?;
    let more = format!(
        "adminAuth: {{ type: 'credentials', users: [{{ username: 'admin', password: '{HASH}', permissions: '*' }}] }},
         contextStorage: {{ default: {{ module: 'localfilesystem', config: {{ flushInterval: 1 }} }} }},
         editorTheme: {{ projects: {{ enabled: true }} }},"
    );
    Ok(fs::write(
        node_red.settings(),
        settings
            .replacen("module.exports = {", &format!("module.exports = {{\n{more}"), 1)
            // There is one already, and the last one counts.
            .replace("editorTheme: {\n", "unusedTheme: {\n"),
    )?)
}

/// What an editor does on a day: deploys, messages, the library, settings, a project.
pub(super) fn work(node_red: &mut NodeRed, plant: &Plant) -> Result<()> {
    node_red.log_in("admin", PASSWORD)?;
    for _ in 0..2 {
        node_red.replace_flows("[]", &["Started flows"])?;
        let mark = node_red.console().mark();
        node_red.replace_flows(&plant.text(), &["Started flows", "Connected to broker", "udp ready:"])?;
        // `udp out` says that it is ready a moment before it takes messages.
        wait::pause(Duration::from_millis(300))?;
        ensure!(node_red.console().find(mark, |line| line.contains("[tls-config")).is_none(), "the key is not read");
        plant.press(node_red)?;
    }
    let stored = node_red.home().user_dir().join("context/global/global.json");
    wait::until("the context to be stored", wait::PATIENCE, || Ok(stored.exists().then_some(())))?;
    success(node_red, "POST", "/library/local/flows/kept.json", &json!([]))?;
    let git = json!({ "user": { "name": "Admin", "email": "admin@plant.example" } });
    success(node_red, "POST", "/settings/user", &json!({ "menu-menu-item-sidebar": true, "git": git }))?;

    // Projects: a key, a repository, a commit.
    success(
        node_red,
        "POST",
        "/settings/user/keys",
        &json!({ "name": "plant", "comment": "", "password": "", "size": 2048 }),
    )?;
    let project = json!({
        "name": "plant", "summary": "all of it", "files": { "flow": "flows.json", "credentials": "flows_cred.json" },
        "credentialSecret": "secret",
    });
    success(node_red, "POST", "/projects", &project)?;
    node_red.replace_flows(&Flow::exec("date").to_json(), &["Started flows"])?;
    success(node_red, "POST", "/projects/plant/stage", &json!({ "files": ["flows.json"] }))?;
    success(node_red, "POST", "/projects/plant/commit", &json!({ "message": "a new flow" }))?;
    let commits = node_red.http("GET", "/projects/plant/commits", "")?;
    ensure!(commits.body.contains("a new flow"), "no commit: {commits:?}");
    Ok(())
}

fn day(release: Release) -> Result<()> {
    // ssh-keygen needs an account.
    let user = User::create()?;
    let mut scene = Scene::of(user.uid(), release)?;
    let network = Arc::clone(&scene.network);
    let node_red = &mut scene.node_red;
    let data = node_red.home().directory("data")?;
    let plant = Plant::new(node_red, &data);

    // What `init` finds is an instance with its flows.
    node_red.start()?;
    node_red.replace_flows(&plant.text(), &["Started flows"])?;
    let [home, standard] = ["home", "standard"].map(|preset| cli::init(preset, &["--enforce"]).map(Policy::written));
    let (home, standard) = (home?, standard?);
    ensure!(home.text().contains("declared-1"), "the key is not declared:\n{}", home.text());
    node_red.stop()?;
    for entry in fs::read_dir(node_red.home().user_dir())?.flatten() {
        let path = entry.path();
        if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    let _broker = Broker::start(&network)?;

    // At home: the first start, packages at any time.
    let guard = Guard::start(Some(&home), &scene.cgroup, &[])?;
    node_red.start()?;
    palette(node_red)?;
    node_red.stop()?;
    no_alarms(&guard, "at home")?;

    // The administrator asks for a login, projects, a context that is kept, and lays the key down.
    set_up(node_red)?;
    make_key(node_red)?;
    let answer = guard.reload(&standard)?;
    ensure!(answer.contains("in force"), "{answer}");

    node_red.start()?;
    work(node_red, &plant)?;

    let instance = standard.instance(&node_red.home().user_dir())?;
    guard.asks(&format!("open --for 10m --instance {instance}"))?;
    palette(node_red)?;
    guard.asks(&format!("close --instance {instance}"))?;
    node_red.stop()?;
    node_red.start()?;
    no_alarms(&guard, "under standard")?;

    // The guard works: a forbidden operation is denied.
    node_red.log_in("admin", PASSWORD)?;
    let theft = Flow::exec(&format!("cat '{}'", node_red.home().user_dir().join("other.key").display()));
    node_red.home().file(".node-red/other.key", "secret")?;
    node_red.play(&theft)?;
    guard.wait_for(wait::SOON, |record| {
        record.is_alarm() && record.rule() == "private-keys" && record.path().ends_with("other.key")
    })?;
    guard.stop().map(drop)
}
