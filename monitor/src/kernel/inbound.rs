//! Sockets that were bound before the guard came, by one look at the descriptors of a process.

use std::{
    fs,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
};

use monitor_common::{event::COMM_LEN, inbound::Owner, scope::TaskLabel};
use rustix::{
    net::{AddressFamily, getpeername, getsockname, ipproto, sockopt},
    process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open},
};

use policy::machine::scan::Process;

/// Ports that the kernel gives to who asks for none, where it does not tell.
const EPHEMERAL: (u16, u16) = (32_768, 60_999);

/// The cookies of the sockets of a process that others may send to, and who it is. What cannot be read is left out: the
/// process may have ended.
#[must_use]
pub fn owned(process: &Process, label: TaskLabel) -> Vec<(u64, Owner)> {
    let base = Path::new("/proc").join(process.tgid.to_string());
    let Ok(entries) = fs::read_dir(base.join("fd")) else { return Vec::new() };
    let is_socket =
        |path: &Path| fs::read_link(path).is_ok_and(|to| to.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
    let numbers: Vec<i32> = entries
        .flatten()
        .filter(|entry| is_socket(&entry.path()))
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    let pid = i32::try_from(process.tgid).ok().and_then(Pid::from_raw);
    let Some(pidfd) = pid.and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else { return Vec::new() };
    let ephemeral = ephemeral();
    let owner = Owner {
        label,
        start_ns: 0,
        cgroup: process.cgroups[0],
        tgid: process.tgid,
        uid: process.uid,
        gid: fs::metadata(&base).map_or(0, |meta| std::os::unix::fs::MetadataExt::gid(&meta)),
        euid: process.euid,
        comm: comm(&base),
    };
    let sockets = numbers.into_iter().filter_map(|number| pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()).ok());
    sockets.filter_map(|socket| Some((cookie(&socket, ephemeral)?, owner))).collect()
}

/// The cookie of an Internet socket that listens, or that takes datagrams at a port that was asked for.
fn cookie(socket: &OwnedFd, ephemeral: (u16, u16)) -> Option<u64> {
    let socket = socket.as_fd();
    if !matches!(sockopt::socket_domain(socket).ok()?, AddressFamily::INET | AddressFamily::INET6) {
        return None;
    }
    let protocol = sockopt::socket_protocol(socket).ok()??;
    let open = if protocol == ipproto::TCP {
        sockopt::socket_acceptconn(socket).ok()?
    } else {
        let port = SocketAddr::try_from(getsockname(socket).ok()?).ok()?.port();
        protocol == ipproto::UDP
            && port != 0
            && !(ephemeral.0..=ephemeral.1).contains(&port)
            && getpeername(socket).is_err()
    };
    open.then(|| sockopt::socket_cookie(socket).ok())?
}

fn ephemeral() -> (u16, u16) {
    let text = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut numbers = text.split_whitespace().map_while(|number| number.parse().ok());
    numbers.next().zip(numbers.next()).unwrap_or(EPHEMERAL)
}

fn comm(base: &Path) -> [u8; COMM_LEN] {
    let mut comm = [0; COMM_LEN];
    let text = fs::read(base.join("comm")).unwrap_or_default();
    // The last byte stays zero.
    for (to, &from) in comm[..COMM_LEN - 1].iter_mut().zip(text.iter().take_while(|&&byte| byte != b'\n')) {
        *to = from;
    }
    comm
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;

    #[test]
    fn sockets_that_others_may_send_to_are_known_from_those_that_only_send() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let sender = UdpSocket::bind("127.0.0.1:0").unwrap();
        let server = UdpSocket::bind("[::1]:0").unwrap();
        let port = sender.local_addr().unwrap().port();
        let known = |socket: OwnedFd, ephemeral| cookie(&socket, ephemeral).is_some();
        assert!(known(listener.into(), EPHEMERAL));
        assert!(!known(client.into(), EPHEMERAL));
        assert!(!known(sender.into(), (port, port)));
        // A port below those that the kernel gives was asked for.
        assert!(known(server.into(), (1, 1)));
        let (client, _server) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(!known(client.into(), EPHEMERAL));
    }
}
