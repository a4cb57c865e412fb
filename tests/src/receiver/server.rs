//! Programs that listen: how they are started, killed and started again.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    ops::Range,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
};

use anyhow::{Context as _, Result, bail, ensure};
use tempfile::TempDir;

use crate::wait;

/// Where receivers listen: below what the kernel gives to connections.
const OWN_PORTS: Range<u16> = 20_000..32_000;

/// How a server is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Datagrams.
    Udp,
    /// A plain connection.
    Tcp,
    /// TLS, and the client shows a certificate.
    Tls,
}

/// A program that is killed when this is dropped.
#[derive(Debug, Default)]
pub(super) struct Program(Option<Child>);

impl Program {
    pub(super) fn start(&mut self, command: &mut Command, log: &Path) -> Result<()> {
        let log = fs::File::options().append(true).create(true).open(log)?;
        let command = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        self.0 = Some(command.spawn().with_context(|| format!("{command:?} cannot be started"))?);
        Ok(())
    }

    pub(super) fn kill(&mut self) -> Result<()> {
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

/// A program that listens at a loopback port of its own, and has a directory for what it writes. It can be killed and started
/// again, and goes with its directory when this is dropped.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    transport: Transport,
    address: SocketAddr,
    command: Command,
    // Before its directory: it is dead when that is removed.
    program: Program,
    directory: TempDir,
}

impl Server {
    /// Starts one. `command` gets the directory and the address.
    pub(super) fn start(
        name: &'static str,
        transport: Transport,
        command: impl FnOnce(&Path, SocketAddr) -> Result<Command>,
    ) -> Result<Self> {
        Self::start_at(name, transport, free_address(transport)?, command)
    }

    /// The same at an address that is taken from [`free_address`].
    pub(super) fn start_at(
        name: &'static str,
        transport: Transport,
        address: SocketAddr,
        command: impl FnOnce(&Path, SocketAddr) -> Result<Command>,
    ) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let command = command(directory.path(), address)?;
        let mut server = Self { name, transport, address, command, program: Program::default(), directory };
        server.restart()?;
        Ok(server)
    }

    /// Starts it again at the same address.
    pub fn restart(&mut self) -> Result<()> {
        let log = self.path("log");
        self.program.start(&mut self.command, &log)?;
        self.listens().with_context(|| self.log())
    }

    /// Waits until it listens.
    fn listens(&self) -> Result<()> {
        if self.transport != Transport::Udp {
            return listens(self.address, self.name);
        }
        // It is in the table of sockets when it listens.
        let socket = format!(":{:04X} ", self.address.port());
        wait::until(self.name, wait::SOON, || Ok(fs::read_to_string("/proc/net/udp")?.contains(&socket).then_some(())))
    }

    /// Ends it as a crash does.
    pub fn kill(&mut self) -> Result<()> {
        self.program.kill()
    }

    /// Where it is reached.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it writes.
    pub(super) fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// A file in its directory.
    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory().join(name)
    }

    /// What it says about itself.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }
}

pub(super) fn listens(address: SocketAddr, what: &str) -> Result<()> {
    wait::until(what, wait::SOON, || Ok(TcpStream::connect(address).ok().map(drop)))
}

/// An unused port on loopback. The kernel does not assign it either: a receiver that was killed finds it free, however
/// many connections others make meanwhile.
pub(super) fn free_address(transport: Transport) -> Result<SocketAddr> {
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
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let free = match transport {
            Transport::Udp => UdpSocket::bind(address).is_ok(),
            _ => TcpListener::bind(address).is_ok(),
        };
        if free {
            return Ok(address);
        }
    }
    bail!("no port of {OWN_PORTS:?} is free")
}
