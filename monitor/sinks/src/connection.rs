//! Connections to servers that are no web servers, plain or by TLS.

use std::{
    io::{self, Read, Write},
    net::{Shutdown, TcpStream},
    time::{Duration, Instant},
};

use rustls::{ClientConnection, StreamOwned};

use super::{
    config::{Server, TlsFiles},
    tls,
};

/// How long a server may take to do anything.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);

/// A connection.
pub(super) struct Connection {
    stream: Box<dyn Stream>,
    /// What carries it.
    pub(super) socket: TcpStream,
}

trait Stream: Read + Write + Send {
    /// Says that nothing more will be written.
    fn end(&mut self) -> io::Result<()>;
}

impl Stream for TcpStream {
    fn end(&mut self) -> io::Result<()> {
        self.shutdown(Shutdown::Write)
    }
}

impl Stream for StreamOwned<ClientConnection, TcpStream> {
    fn end(&mut self) -> io::Result<()> {
        self.conn.send_close_notify();
        self.flush()?;
        self.sock.end()
    }
}

impl Connection {
    /// Connects to a server, by TLS where there are files for it.
    pub(super) fn open(server: &Server, files: Option<&TlsFiles>) -> io::Result<Self> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for address in server.addresses()? {
            let connected = TcpStream::connect_timeout(&address, PATIENCE).and_then(Self::plain);
            let connected = connected.and_then(|plain| match files {
                Some(files) => plain.secure(server, files),
                None => Ok(plain),
            });
            match connected {
                Ok(connection) => return Ok(connection),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn plain(socket: TcpStream) -> io::Result<Self> {
        // No server listens, and the kernel chose the same port for this end (TCP simultaneous open).
        if socket.local_addr()? == socket.peer_addr()? {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.set_write_timeout(Some(PATIENCE))?;
        // What is written is a whole batch.
        socket.set_nodelay(true)?;
        Ok(Self { stream: Box::new(socket.try_clone()?), socket })
    }

    /// Goes on by TLS.
    pub(super) fn secure(self, server: &Server, files: &TlsFiles) -> io::Result<Self> {
        let stream = tls::connect(self.socket.try_clone()?, &server.host(), files)?;
        Ok(Self { stream: Box::new(stream), socket: self.socket })
    }

    /// Reads what comes within `patience`; nothing when nothing comes.
    pub(super) fn read_within(&mut self, bytes: &mut [u8], patience: Duration) -> io::Result<Option<usize>> {
        self.socket.set_read_timeout(Some(patience.max(Duration::from_millis(1))))?;
        match self.stream.read(bytes) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::ConnectionAborted, "the server has closed the connection")),
            Ok(length) => Ok(Some(length)),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Ends the connection, and waits until the server has ended it too: then it has read everything. False when it does not
    /// within `patience`.
    pub(super) fn close(mut self, patience: Duration) -> io::Result<bool> {
        self.stream.end()?;
        let start = Instant::now();
        while let Some(left) = patience.checked_sub(start.elapsed()) {
            match self.read_within(&mut [0; 64], left) {
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::UnexpectedEof) =>
                {
                    return Ok(true);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

impl Write for Connection {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

    use super::*;

    #[test]
    fn a_connection_to_oneself_is_no_connection() {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&socket, &SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        let own = TcpStream::from(socket);
        connect(&own, &own.local_addr().unwrap()).unwrap();
        let error = Connection::plain(own).err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
