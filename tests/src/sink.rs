//! Listeners in the world outside Node-RED's namespace: what reaches them has left.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::{netns::Network, wait};

const PAUSE: Duration = Duration::from_millis(5);

/// What has arrived at a sink.
#[derive(Debug, Default)]
struct Arrived {
    count: AtomicUsize,
    bytes: Mutex<Vec<u8>>,
    marks: Mutex<Marks>,
    stop: AtomicBool,
}

/// Messages of the harness itself, which count for nothing.
#[derive(Debug, Default)]
struct Marks {
    /// Where they come from.
    senders: Vec<SocketAddr>,
    /// How many have arrived.
    arrived: usize,
}

impl Arrived {
    fn add(&self, bytes: &[u8]) {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
    }

    fn marks(&self) -> MutexGuard<'_, Marks> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a message from there is a mark.
    fn is_mark(&self, sender: SocketAddr) -> bool {
        let mut marks = self.marks();
        let is_mark = marks.senders.contains(&sender);
        marks.arrived += usize::from(is_mark);
        is_mark
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Protocol {
    Tcp,
    Udp,
}

/// A socket that takes everything; it answers TCP with an empty HTTP response.
#[derive(Debug)]
pub struct Sink {
    address: SocketAddr,
    protocol: Protocol,
    arrived: Arc<Arrived>,
    thread: Option<JoinHandle<()>>,
}

impl Sink {
    /// Listens for TCP connections to `address`, at a free port.
    pub fn tcp(network: &Network, address: IpAddr) -> Result<Self> {
        Self::tcp_at(network, (address, 0).into())
    }

    /// The same at a certain port.
    pub fn tcp_at(network: &Network, address: SocketAddr) -> Result<Self> {
        let listener = network.world.run(|| TcpListener::bind(address).context("the sink cannot listen"))?;
        listener.set_nonblocking(true)?;
        Ok(Self::start(listener.local_addr()?, Protocol::Tcp, move |arrived| match listener.accept() {
            Ok((_, peer)) if arrived.is_mark(peer) => {}
            Ok((stream, _)) => {
                arrived.count.fetch_add(1, Ordering::Relaxed);
                // A peer that hangs up early has still been counted.
                let _ = answer(stream, arrived);
            }
            Err(_) => thread::sleep(PAUSE),
        }))
    }

    /// Listens for TCP connections to `address`, at a free port, and reads each to its end.
    pub fn reader(network: &Network, address: IpAddr) -> Result<Self> {
        let listener = network.world.run(|| TcpListener::bind((address, 0)).context("the sink cannot listen"))?;
        listener.set_nonblocking(true)?;
        Ok(Self::start(listener.local_addr()?, Protocol::Tcp, move |arrived| match listener.accept() {
            Ok((_, peer)) if arrived.is_mark(peer) => {}
            Ok((mut stream, _)) => {
                arrived.count.fetch_add(1, Ordering::Relaxed);
                // What has come before a peer goes away, or goes silent, counts.
                let _ = drain(&mut stream, arrived);
            }
            Err(_) => thread::sleep(PAUSE),
        }))
    }

    /// Listens for datagrams to `address`, at a free port.
    pub fn udp(network: &Network, address: IpAddr) -> Result<Self> {
        Self::udp_at(network, (address, 0).into())
    }

    /// The same at a certain port.
    pub fn udp_at(network: &Network, address: SocketAddr) -> Result<Self> {
        let socket = network.world.run(|| UdpSocket::bind(address).context("the sink cannot listen"))?;
        socket.set_read_timeout(Some(PAUSE))?;
        Ok(Self::start(socket.local_addr()?, Protocol::Udp, move |arrived| {
            let mut datagram = [0; 2048];
            if let Ok((length, sender)) = socket.recv_from(&mut datagram)
                && !arrived.is_mark(sender)
            {
                arrived.count.fetch_add(1, Ordering::Relaxed);
                arrived.add(&datagram[..length]);
            }
        }))
    }

    fn start(address: SocketAddr, protocol: Protocol, step: impl Fn(&Arrived) + Send + 'static) -> Self {
        let arrived = Arc::new(Arrived::default());
        let seen = Arc::clone(&arrived);
        let work = move || {
            while !seen.stop.load(Ordering::Relaxed) {
                step(&seen);
            }
        };
        Self { address, protocol, arrived, thread: Some(thread::spawn(work)) }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Waits until everything that was sent to it before has arrived: a message of the harness, from Node-RED's namespace,
    /// comes after it, and is not counted.
    pub fn settle(&self, network: &Network) -> Result<()> {
        let before = self.arrived.marks().arrived;
        // A full queue drops datagrams.
        wait::until("what was sent", wait::SOON, || {
            network.home.run(|| self.mark())?;
            let arrived = || Ok((self.arrived.marks().arrived > before).then_some(()));
            Ok(wait::until("a mark", Duration::from_secs(1), arrived).ok())
        })
    }

    fn mark(&self) -> Result<()> {
        // The sink does not look at a sender before it is known.
        let mut marks = self.arrived.marks();
        match self.protocol {
            Protocol::Tcp => {
                let stream = TcpStream::connect(self.address).context("the sink is not reached")?;
                marks.senders.push(stream.local_addr()?);
            }
            Protocol::Udp => {
                let any: IpAddr =
                    if self.address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
                let socket = UdpSocket::bind((any, 0))?;
                socket.connect(self.address)?;
                marks.senders.push(socket.local_addr()?);
                socket.send(b"mark")?;
            }
        }
        Ok(())
    }

    /// How many connections or datagrams have arrived.
    #[must_use]
    pub fn count(&self) -> usize {
        self.arrived.count.load(Ordering::Relaxed)
    }

    /// Every byte that has arrived.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.arrived.bytes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.arrived.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

fn drain(stream: &mut TcpStream, arrived: &Arrived) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut piece = [0; 16_384];
    loop {
        let length = stream.read(&mut piece)?;
        if length == 0 {
            return Ok(());
        }
        arrived.add(&piece[..length]);
    }
}

fn answer(mut stream: TcpStream, arrived: &Arrived) -> std::io::Result<()> {
    // On Linux an accepted socket does not inherit the listener's non-blocking mode.
    stream.set_read_timeout(Some(Duration::from_secs(1)))?;
    let mut request = [0; 4096];
    let length = match stream.read(&mut request) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        read => read?,
    };
    arrived.add(&request[..length]);
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
}
