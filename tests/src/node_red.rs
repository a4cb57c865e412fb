//! A real Node-RED, as npm installs it.

use std::{
    env,
    ffi::OsString,
    fs,
    net::{Ipv4Addr, SocketAddr},
    os::unix::{fs::PermissionsExt as _, process::ExitStatusExt as _},
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::{
    confine::Confinement,
    console::Console,
    flows::{self, Flow},
    home::Home,
    http, needs, place,
    podman::Podman,
    wait,
};

/// A release of Node-RED, and the Node.js that runs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Release {
    /// The version of Node-RED.
    pub node_red: &'static str,
    /// The version of Node.js, which comes from npm; the machine's own when none is given.
    pub node: Option<&'static str>,
}

/// The release that the tests run against.
pub const VERSION: &str = "4.1.15";
/// The releases that have to be quiet; the first is that of all other tests.
pub const RELEASES: [Release; 3] = [
    Release { node_red: VERSION, node: None },
    Release { node_red: "5.0.7", node: Some("22.23.3") },
    Release { node_red: "5.0.7", node: Some("24.9.0") },
];
/// The Node.js that [`node_with_io_uring`] installs where the machine's own has no `io_uring`.
const NODE_VERSION: &str = "20.19.5";
/// How long an attack may take, which is over in milliseconds where no processor is emulated.
const ATTACK: Duration = Duration::from_mins(2);

/// Node-RED's `red.js` in this version, installed from npm once and then kept in [`cache`].
pub fn install(version: &str) -> Result<PathBuf> {
    let directory = npm_install(&format!("node-red@{version}"))?;
    Ok(directory.join("node_modules/node-red/red.js"))
}

/// Whether [`install`] has nothing to fetch.
#[must_use]
pub fn is_installed(version: &str) -> bool {
    package_directory(&format!("node-red@{version}")).is_dir()
}

/// A Node.js whose libuv does file operations through `io_uring` if configured: the machine's, or one from npm.
pub fn node_with_io_uring() -> Result<PathBuf> {
    let node = needs::executed("node")?;
    let libuv = needs::run(Command::new(&node).args(["--print", "process.versions.uv"]))?;
    let mut numbers = libuv.trim().split('.').map_while(|number| number.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) >= (Some(1), Some(45)) {
        return Ok(node);
    }
    node_from_npm(NODE_VERSION)
}

/// The Node.js of this version from npm, at a place where an instance may execute it.
fn node_from_npm(version: &str) -> Result<PathBuf> {
    place::program(&npm_install(&format!("node@{version}"))?.join("node_modules/node/bin/node"))
}

/// Where packages from npm are kept: `FLOWWARDEN_CACHE`, or the target directory, or a place that every uid can enter.
#[must_use]
pub fn cache() -> PathBuf {
    if let Some(directory) = env::var_os("FLOWWARDEN_CACHE") {
        return directory.into();
    }
    let target = needs::target();
    if is_open_to_all(&target) { target.join("cache") } else { PathBuf::from("/var/cache/flowwarden") }
}

fn is_open_to_all(directory: &Path) -> bool {
    // What is not there yet will be made open.
    let closed = |path: &Path| path.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o001 == 0);
    !directory.ancestors().any(closed)
}

fn package_directory(package: &str) -> PathBuf {
    cache().join(package.replace(['@', '/'], "-"))
}

/// The directory of a package and its version from npm, installed once and then kept in [`cache`].
pub fn npm_install(package: &str) -> Result<PathBuf> {
    let cache = cache();
    fs::create_dir_all(&cache).with_context(|| format!("{} cannot be made", cache.display()))?;
    let lock = fs::File::create(cache.join("lock"))?;
    lock.lock().context("the cache cannot be locked")?;
    let directory = package_directory(package);
    if directory.is_dir() {
        return Ok(directory);
    }
    // Under another name until it is whole.
    let unfinished = cache.join("unfinished");
    let _ = fs::remove_dir_all(&unfinished);
    let npm = needs::program("npm")?;
    let mut install = Command::new(npm);
    install.arg("install").arg("--prefix").arg(&unfinished);
    install.args(["--omit=dev", "--no-audit", "--no-fund", package]).current_dir(&cache);
    needs::run(&mut install)
        .with_context(|| format!("{package} comes from npm: see that npm reaches its registry, then try again"))?;
    needs::run(Command::new("chmod").args(["--recursive", "a+rX"]).arg(&unfinished))?;
    fs::rename(&unfinished, &directory)?;
    Ok(directory)
}

/// The directory of Python packages with these versions, installed once and then kept in [`cache`].
pub fn pip_install(name: &str, packages: &[&str]) -> Result<PathBuf> {
    let cache = cache();
    fs::create_dir_all(&cache).with_context(|| format!("{} cannot be made", cache.display()))?;
    let lock = fs::File::create(cache.join("lock"))?;
    lock.lock().context("the cache cannot be locked")?;
    let directory = cache.join(format!("pip-{name}-{}", packages.join("-").replace("==", "-")));
    if directory.is_dir() {
        return Ok(directory);
    }
    // Under another name until it is whole.
    let unfinished = cache.join("unfinished");
    let _ = fs::remove_dir_all(&unfinished);
    let mut install = Command::new(needs::program("python3")?);
    install.args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary=:all:", "--target"]).arg(&unfinished);
    needs::run(install.args(packages)).with_context(|| {
        format!(
            "{packages:?} come from PyPI: type `apt-get install python3-pip`, and see that pip reaches its registry"
        )
    })?;
    fs::rename(&unfinished, &directory)?;
    Ok(directory)
}

/// How an attack ended, seen from Node-RED.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The flow ran to its end with this message.
    Answered(String),
    /// A node reported this error.
    Failed(String),
    /// Node-RED's process ended.
    Died(ExitStatus),
}

impl Outcome {
    /// Whether Node-RED's own process was killed.
    #[must_use]
    pub fn is_killed(&self) -> bool {
        matches!(self, Self::Died(status) if status.signal() == Some(libc::SIGKILL))
    }

    /// What the flow or the failing node said.
    #[must_use]
    pub fn text(&self) -> &str {
        match self {
            Self::Answered(text) | Self::Failed(text) => text,
            Self::Died(_) => "",
        }
    }
}

/// One Node-RED: its home, and its process while that runs. The process ends with the value.
#[derive(Debug)]
pub struct NodeRed {
    confinement: Confinement,
    /// It runs in this container, as the user of its confinement.
    container: Option<Podman>,
    home: Home,
    port: u16,
    node: PathBuf,
    /// The version of Node.js, where it is not the machine's own.
    release: Option<&'static str>,
    red_js: PathBuf,
    console: Console,
    child: Option<Child>,
    /// What the admin API wants to see of who has logged in.
    token: Option<String>,
}

impl NodeRed {
    /// A Node-RED with an empty userDir, not started.
    pub fn new(confinement: Confinement) -> Result<Self> {
        Self::of(confinement, RELEASES[0])
    }

    /// The same of another release.
    pub fn of(confinement: Confinement, release: Release) -> Result<Self> {
        static PORT: AtomicU16 = AtomicU16::new(1880);
        needs::root()?;
        let node = match release.node {
            Some(version) => node_from_npm(version)?,
            None => needs::executed("node")?,
        };
        Ok(Self {
            home: Home::new(confinement.uid)?,
            confinement,
            container: None,
            port: PORT.fetch_add(1, Ordering::Relaxed),
            node,
            release: release.node,
            red_js: install(release.node_red)?,
            console: Console::default(),
            child: None,
            token: None,
        })
    }

    /// One in a container, which is made when it starts.
    pub fn contained(confinement: Confinement, container: Podman) -> Result<Self> {
        let mut node_red = Self::new(confinement)?;
        node_red.container = Some(container);
        Ok(node_red)
    }

    /// Its container.
    pub fn container(&self) -> Result<&Podman> {
        self.container.as_ref().context("this Node-RED is in no container")
    }

    /// Starts the process and waits until it serves the editor and its flows run.
    pub fn start(&mut self) -> Result<()> {
        if self.alive()? {
            return Ok(());
        }
        let mark = self.console.mark();
        let mut child = match &self.container {
            Some(container) => {
                let Confinement { uid, network, .. } = &self.confinement;
                container.start(*uid, &network.home, &self.home.user_dir(), &self.red_js, self.port)?
            }
            None => self.spawn()?,
        };
        self.console.follow(&mut child);
        self.child = Some(child);
        wait::until("Node-RED's start", wait::PATIENCE, || {
            if let Some(ended) = self.child.as_mut().map(Child::try_wait).transpose()?.flatten() {
                bail!("Node-RED ended at its start ({ended}):\n{}", self.console.since(mark).join("\n"));
            }
            let started = self.console.find(mark, |line| line.ends_with("Started flows")).is_some();
            Ok((started && self.http("GET", "/", "").is_ok_and(|answer| answer.status == 200)).then_some(()))
        })
    }

    fn spawn(&self) -> Result<Child> {
        let mut command = Command::new(&self.node);
        command.arg(&self.red_js).arg("-u").arg(self.home.user_dir()).arg("-p").arg(self.port.to_string());
        command.env_clear().env("PATH", self.search_path()?).env("HOME", self.home.path());
        command.current_dir(self.home.path()).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        self.confinement.spawn(&mut command)
    }

    /// The harness's `PATH`, so that a flow finds what the step declares and nothing else; npm and what it runs find the
    /// node of the release.
    fn search_path(&self) -> Result<OsString> {
        let inherited = env::var_os("PATH").unwrap_or_default();
        let own = self.release.and_then(|_| self.node.parent()).map(Path::to_owned);
        Ok(env::join_paths(own.into_iter().chain(env::split_paths(&inherited)))?)
    }

    /// Asks the process to end, and waits for it.
    pub fn stop(&mut self) -> Result<()> {
        if let Some(pid) = self.pid().and_then(|pid| Pid::from_raw(pid.try_into().ok()?)) {
            kill_process(pid, Signal::TERM)?;
            self.wait_exit(wait::PATIENCE)?;
        }
        Ok(())
    }

    /// Whether the process runs.
    pub fn alive(&mut self) -> Result<bool> {
        let Some(child) = &mut self.child else { return Ok(false) };
        Ok(child.try_wait()?.is_none())
    }

    /// Waits for the end of the process.
    pub fn wait_exit(&mut self, timeout: Duration) -> Result<ExitStatus> {
        let child = self.child.as_mut().context("Node-RED was not started")?;
        let status = wait::until("Node-RED's end", timeout, || Ok(child.try_wait()?))?;
        self.child = None;
        Ok(status)
    }

    /// The port of its editor.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The pid, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Who it runs as, and where.
    #[must_use]
    pub fn confinement(&self) -> &Confinement {
        &self.confinement
    }

    /// Its home directory.
    #[must_use]
    pub fn home(&self) -> &Home {
        &self.home
    }

    /// The file that the first promise is about.
    #[must_use]
    pub fn settings(&self) -> PathBuf {
        self.home.user_dir().join("settings.js")
    }

    /// What it has printed, over all its starts.
    #[must_use]
    pub fn console(&self) -> &Console {
        &self.console
    }

    /// Sends a request to the admin API, from inside its namespace.
    pub fn http(&self, method: &str, path: &str, body: &str) -> Result<http::Response> {
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let mut headers = vec!["Content-Type: application/json", "Node-RED-Deployment-Type: full"];
        let token = self.authorization();
        headers.extend(token.as_deref());
        self.confinement.network.home.run(|| http::request(server, method, path, &headers, body))
    }

    /// Logs in at the editor; from now on requests are this user's.
    pub fn log_in(&mut self, user: &str, password: &str) -> Result<()> {
        let body = json!({
            "client_id": "node-red-admin", "grant_type": "password", "scope": "*", "username": user,
            "password": password,
        });
        let answer = self.http("POST", "/auth/token", &body.to_string())?;
        let token: Value = serde_json::from_str(&answer.body).with_context(|| format!("no login: {answer:?}"))?;
        self.token = Some(token["access_token"].as_str().context("a login without a token")?.to_owned());
        Ok(())
    }

    fn authorization(&self) -> Option<String> {
        Some(format!("Authorization: Bearer {}", self.token.as_ref()?))
    }

    /// Uploads a package as the palette manager of the editor does.
    pub fn upload(&self, name: &str, tarball: &[u8]) -> Result<http::Response> {
        const BOUNDARY: &str = "fw-part-of-the-upload";
        let server = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let head = format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"tarball\"; filename=\"{name}\"\r\n\
             Content-Type: application/gzip\r\n\r\n"
        );
        let body = [head.as_bytes(), tarball, format!("\r\n--{BOUNDARY}--\r\n").as_bytes()].concat();
        let kind = format!("Content-Type: multipart/form-data; boundary={BOUNDARY}");
        let token = self.authorization();
        let headers: Vec<_> = [kind.as_str()].into_iter().chain(token.as_deref()).collect();
        self.confinement.network.home.run(|| http::request(server, "POST", "/nodes", &headers, &body))
    }

    /// Replaces all flows, and waits until the new ones run.
    pub fn deploy(&self, flow: &Flow) -> Result<()> {
        // The old ones go first: a node that keeps its id and gets other wires can make Node-RED 4.1 fail in the middle of
        // starting ("reading 'wires'"), with the catch node not yet there.
        self.replace_flows("[]", &["Started flows"])?;
        let lines: Vec<_> = ["Started flows"].into_iter().chain(flow.ready()).collect();
        self.replace_flows(&flow.to_json(), &lines)?;
        if flow.ready().is_some() {
            // `udp out` says that it is ready a moment before it takes messages.
            wait::pause(Duration::from_millis(300))?;
        }
        Ok(())
    }

    /// Replaces all flows, and waits until Node-RED prints these lines.
    pub fn replace_flows(&self, flows: &str, lines: &[&str]) -> Result<()> {
        let mark = self.console.mark();
        let answer = self.http("POST", "/flows", flows)?;
        if !answer.is_success() {
            bail!("Node-RED refuses the flow ({}): {}", answer.status, answer.body);
        }
        lines.iter().try_for_each(|line| self.console.wait_for(mark, line, wait::PATIENCE).map(drop))
    }

    /// Presses the button of an inject node.
    pub fn inject(&self, id: &str) -> Result<()> {
        let answer = self.http("POST", &format!("/inject/{id}"), "")?;
        if !answer.is_success() {
            bail!("Node-RED refuses to inject ({}): {}", answer.status, answer.body);
        }
        Ok(())
    }

    /// Deploys the flow, sets it off, and waits for its end, or Node-RED's.
    pub fn play(&mut self, flow: &Flow) -> Result<Outcome> {
        self.deploy(flow)?;
        let mark = self.console.mark();
        // A Node-RED that is killed while it takes the request cannot answer it.
        if let Err(error) = self.inject(flows::INJECT) {
            let status = self.wait_exit(Duration::from_secs(5));
            return status.map(Outcome::Died).map_err(|_| error);
        }
        let played = wait::until("the end of the flow", ATTACK, || {
            let status = self.child.as_mut().map(Child::try_wait).transpose()?.flatten();
            Ok(status.map(Outcome::Died).or_else(|| self.outcome(mark)))
        });
        if matches!(played, Ok(Outcome::Died(_))) {
            self.child = None;
        }
        if matches!(played, Ok(Outcome::Answered(_))) {
            // A file node that cannot append passes its message on, and tells the error a moment later.
            wait::pause(Duration::from_millis(200))?;
            return self.outcome(mark).context("the console forgets");
        }
        played.with_context(|| format!("Node-RED says:\n{}", self.console.since(mark).join("\n")))
    }

    /// What the flow's debug nodes have printed after `mark`.
    fn outcome(&self, mark: usize) -> Option<Outcome> {
        let lines = self.console.since(mark);
        let said = |marker: &str| {
            let (first, rest) =
                lines.iter().enumerate().find_map(|(at, line)| Some((at, line.split_once(marker)?.1)))?;
            // A message may have several lines; the next entry of the log begins with its time.
            let more = lines[first + 1..].iter().take_while(|line| !line.contains(" - ["));
            let text = std::iter::once(rest).chain(more.map(String::as_str)).collect::<Vec<_>>().join("\n");
            Some(text.trim().to_owned())
        };
        let failed = said("[debug:failed]").map(Outcome::Failed);
        failed.or_else(|| said("[debug:done]").map(Outcome::Answered))
    }
}

impl Drop for NodeRed {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
