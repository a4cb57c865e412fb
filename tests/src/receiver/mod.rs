//! Real receivers of alerts, on loopback ports of their own: they can be killed and started again.

pub mod dnsmasq;
pub mod journald;
pub mod kafka;
pub mod mail;
pub mod mosquitto;
pub mod nats;

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tempfile::TempDir;

use crate::{http, needs, wait};

const PATIENCE: Duration = wait::SOON;
/// Where receivers listen: below what the kernel gives to connections.
const OWN_PORTS: Range<u16> = 20_000..32_000;

/// How a syslog server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A plain connection.
    Tcp,
    /// TLS, and the client shows a certificate.
    Tls,
}

/// A certificate authority with a certificate for 127.0.0.1 and one for a client.
#[derive(Debug)]
pub struct Certificates {
    directory: TempDir,
}

impl Certificates {
    /// Makes all of them.
    pub fn new() -> Result<Self> {
        let certificates = Self { directory: tempfile::tempdir()? };
        let openssl = needs::program("openssl", "openssl")?;
        let run = |arguments: &str| {
            let mut command = Command::new(&openssl);
            needs::run(command.current_dir(certificates.directory.path()).args(arguments.split(' ')))
        };
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
        run(&format!("req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=test-ca"))?;
        fs::write(certificates.path("names"), "subjectAltName=IP:127.0.0.1\n")?;
        for name in ["server", "client"] {
            run(&format!("req {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"))?;
            run(&format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out {name}.pem -days 2 -extfile names"
            ))?;
        }
        Ok(certificates)
    }

    /// `ca.pem`, `server.pem`, `server.key`, `client.pem` or `client.key`.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }
}

/// A port on loopback that nobody has. The kernel gives it to nobody either: a receiver that was killed finds it free, however
/// many connections others make meanwhile.
fn free_port(transport: Transport) -> Result<u16> {
    // Where each process begins to look; a port is tried once.
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let given = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768_u16);
    ensure!(
        given > OWN_PORTS.start,
        "the kernel gives away every port from {given} on: type `sysctl net.ipv4.ip_local_port_range='32768 60999'`"
    );
    let count = given.min(OWN_PORTS.end) - OWN_PORTS.start;
    let begin = u16::try_from(std::process::id() % u32::from(count) * 97 % u32::from(count))?;
    for _ in 0..count {
        let offset = u32::from(begin) + u32::from(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = OWN_PORTS.start + u16::try_from(offset % u32::from(count))?;
        let address = (Ipv4Addr::LOCALHOST, port);
        let free = match transport {
            Transport::Udp => UdpSocket::bind(address).is_ok(),
            _ => TcpListener::bind(address).is_ok(),
        };
        if free {
            return Ok(port);
        }
    }
    bail!("no port of {OWN_PORTS:?} is free")
}

/// A program that is killed when this is dropped.
#[derive(Debug, Default)]
struct Program(Option<Child>);

impl Program {
    fn start(&mut self, command: &mut Command, log: &Path) -> Result<()> {
        let log = fs::File::options().append(true).create(true).open(log)?;
        let command = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.0 = Some(command.spawn().with_context(|| format!("{command:?} cannot be started"))?);
        Ok(())
    }

    fn kill(&mut self) -> Result<()> {
        if let Some(mut child) = self.0.take() {
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}

/// rsyslog, which writes what it gets into a file.
#[derive(Debug)]
pub struct Rsyslog {
    directory: TempDir,
    transport: Transport,
    port: u16,
    program: Program,
}

impl Rsyslog {
    /// Starts one.
    pub fn start(transport: Transport, certificates: &Certificates) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let port = free_port(transport)?;
        let path = |name: &str| directory.path().join(name).display().to_string();
        let certificate = |name: &str| certificates.path(name).display().to_string();
        let input = match transport {
            Transport::Udp => {
                format!("module(load=\"imudp\")\ninput(type=\"imudp\" address=\"127.0.0.1\" port=\"{port}\")")
            }
            Transport::Tcp => {
                format!("module(load=\"imtcp\")\ninput(type=\"imtcp\" address=\"127.0.0.1\" port=\"{port}\")")
            }
            Transport::Tls => format!(
                "module(load=\"imtcp\" StreamDriver.Name=\"gtls\" StreamDriver.Mode=\"1\" StreamDriver.AuthMode=\"x509/certvalid\")\n\
                 input(type=\"imtcp\" address=\"127.0.0.1\" port=\"{port}\")"
            ),
        };
        let config = format!(
            "global(workDirectory=\"{}\" maxMessageSize=\"64k\" DefaultNetstreamDriverCAFile=\"{}\" \
             DefaultNetstreamDriverCertFile=\"{}\" DefaultNetstreamDriverKeyFile=\"{}\")\n{input}\n\
             template(name=\"raw\" type=\"string\" string=\"%pri% %timestamp:::date-rfc3339% %app-name% %msgid% %msg%\\n\")\n\
             *.* action(type=\"omfile\" file=\"{}\" template=\"raw\")\n",
            directory.path().display(),
            certificate("ca.pem"),
            certificate("server.pem"),
            certificate("server.key"),
            path("received"),
        );
        fs::write(directory.path().join("rsyslog.conf"), config)?;
        let mut server = Self { directory, transport, port, program: Program::default() };
        server.restart()?;
        Ok(server)
    }

    /// Starts it again at the same port.
    pub fn restart(&mut self) -> Result<()> {
        let path = |name: &str| self.directory.path().join(name);
        let _ = fs::remove_file(path("pid"));
        let mut command = Command::new(needs::program("rsyslogd", "rsyslog rsyslog-gnutls")?);
        command.arg("-n").arg("-f").arg(path("rsyslog.conf")).arg("-i").arg(path("pid"));
        self.program.start(&mut command, &path("log"))?;
        if self.transport == Transport::Udp {
            // It is in the table of sockets when it listens.
            let socket = format!(":{:04X} ", self.port);
            return wait::until("rsyslog", PATIENCE, || {
                Ok(fs::read_to_string("/proc/net/udp")?.contains(&socket).then_some(()))
            });
        }
        listens(self.address(), "rsyslog")
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) -> Result<()> {
        self.program.kill()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// What it has received: `PRI TIME APP MSGID MESSAGE`, one a line.
    #[must_use]
    pub fn received(&self) -> Vec<String> {
        let text = fs::read(self.directory.path().join("received")).unwrap_or_default();
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }

    /// What it says about itself.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }
}

fn listens(address: SocketAddr, what: &str) -> Result<()> {
    wait::until(what, PATIENCE, || Ok(TcpStream::connect(address).ok().map(drop)))
}

/// Prometheus Alertmanager.
#[derive(Debug)]
pub struct Alertmanager {
    directory: TempDir,
    port: u16,
    program: Program,
}

impl Alertmanager {
    /// Starts one that sends nothing to anybody.
    pub fn start() -> Result<Self> {
        let directory = tempfile::tempdir()?;
        fs::write(directory.path().join("config.yml"), "route:\n  receiver: none\nreceivers:\n  - name: none\n")?;
        let mut server = Self { directory, port: free_port(Transport::Tcp)?, program: Program::default() };
        server.restart()?;
        Ok(server)
    }

    /// Starts it again at the same port.
    pub fn restart(&mut self) -> Result<()> {
        let path = |name: &str| self.directory.path().join(name).display().to_string();
        let mut command = Command::new(needs::program("prometheus-alertmanager", "prometheus-alertmanager")?);
        command.arg(format!("--config.file={}", path("config.yml"))).arg(format!("--storage.path={}", path("data")));
        command.arg(format!("--web.listen-address={}", self.address())).arg("--cluster.listen-address=");
        self.program.start(&mut command, &self.directory.path().join("log"))?;
        listens(self.address(), "Alertmanager")
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) -> Result<()> {
        self.program.kill()
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// The alerts that it holds.
    pub fn alerts(&self) -> Result<Vec<Value>> {
        let answer = http::request(self.address(), "GET", "/api/v2/alerts", &[], "")?;
        Ok(serde_json::from_str::<Value>(&answer.body)?.as_array().cloned().unwrap_or_default())
    }
}
