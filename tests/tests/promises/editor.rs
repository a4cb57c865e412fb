//! Only peers that the policy allows reach the editor and other ports of an instance.

use std::{
    io::Read as _,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    flows::Flow, guard::Guard, netns::Network, node_red::Outcome, policy::Policy, record::Record, scene::Scene, wait,
};
use rustix::net::{AddressFamily, SocketType, bind, connect as ask, socket, sockopt};

/// Long enough for a connection on a cable inside this machine, and for two packets that ask for one.
const PATIENCE: Duration = Duration::from_millis(2500);

/// Where Node-RED is, seen from somebody in the world.
pub(super) fn home(seen_from: IpAddr) -> IpAddr {
    match seen_from {
        IpAddr::V4(world) => {
            let [a, b, c, _] = world.octets();
            IpAddr::from([a, b, c, 1])
        }
        IpAddr::V6(world) => {
            let mut octets = world.octets();
            octets[15] = 1;
            octets.into()
        }
    }
}

/// Connects to a port of Node-RED from an address in the world.
fn connect(network: &Network, from: IpAddr, port: u16) -> Result<TcpStream> {
    network.world.run(|| {
        let family = if from.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
        let socket = socket(family, SocketType::STREAM, None)?;
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(PATIENCE))?;
        bind(&socket, &SocketAddr::from((from, 0)))?;
        ask(&socket, &SocketAddr::from((home(from), port)))?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    })
}

/// Whether somebody at an address in the world gets a connection to a port of Node-RED.
pub(super) fn reaches(network: &Network, from: IpAddr, port: u16) -> bool {
    connect(network, from, port).is_ok()
}

fn alerts<'a>(records: &'a [Record], rule: &str) -> Vec<&'a Record> {
    records.iter().filter(|record| record.is_alert() && record.rule() == rule).collect()
}

/// Who a record says has knocked.
fn peer(record: &Record) -> Option<IpAddr> {
    record.pointer_text("/src_endpoint/ip").parse().ok()
}

#[test]
fn the_editor_is_reached_from_the_local_network_and_by_a_declared_proxy_only() -> Result<()> {
    const RULE: &str = "editor-outside";
    let mut scene = Scene::new()?;
    let (network, port) = (Arc::clone(&scene.network), scene.node_red.port());
    let reached = |from| reaches(&network, from, port);
    for from in [Network::FORBIDDEN, Network::PRIVATE, Network::ALLOWED] {
        ensure!(reached(from), "{from} does not reach the editor even without a guard");
    }
    let proxy = format!(
        "[[instance.ingress]]\nid = \"proxy\"\nfrom = [\"{}\"]\nports = [{port}]\nverdict = \"allow\"\n",
        Network::ALLOWED
    );
    let policy = Policy::preset("standard", &scene.node_red)?.with(&proxy);
    // The socket is there before the guard comes; after that Node-RED binds a new one.
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    for start in ["before", "after"] {
        ensure!(!reached(Network::FORBIDDEN), "bound {start} the guard came, the Internet reaches the editor");
        for from in [Network::PRIVATE, Network::ALLOWED] {
            ensure!(reached(from), "bound {start} the guard came, {from} does not reach the editor");
        }
        if start == "before" {
            scene.node_red.stop()?;
            scene.node_red.start()?;
        }
    }
    let records = guard.journal()?;
    let reported = alerts(&records, RULE);
    // One incident, however often somebody knocks.
    ensure!(reported.len() == 1, "{} records: {reported:#?}", reported.len());
    ensure!(reported[0].verdict() == "deny" && reported[0].sensor() == "cgroup", "{reported:#?}");
    ensure!(peer(reported[0]) == Some(Network::FORBIDDEN) && reported[0].process_name() == "node", "{reported:#?}");
    ensure!(reported[0].number("/dst_endpoint/port") == Some(port.into()), "{reported:#?}");
    ensure!(scene.node_red.alive()?, "Node-RED died for what others do");

    // In observe mode the peer is let in, and reported once, when the process accepts.
    let answer = guard.reload(&policy.but("mode = \"enforce\"", "mode = \"observe\"")?)?;
    ensure!(reached(Network::FORBIDDEN), "refused without being asked to: {answer}");
    let observed = |record: &Record| record.rule() == RULE && record.has_flag("observed");
    let record = guard.wait_for(wait::SOON, observed)?;
    ensure!(record.verdict() == "log" && peer(&record) == Some(Network::FORBIDDEN), "{record:#?}");
    let records = guard.stop()?;
    ensure!(records.iter().filter(|record| observed(record)).count() == 1, "{records:#?}");
    Ok(())
}

/// A server for both families, and one for datagrams, in a Function node.
pub(super) fn servers(port: u16) -> Flow {
    let code = format!(
        "const socket = dgram.createSocket('udp4');
         socket.on('message', text => node.warn('datagram ' + text));
         net.createServer(client => client.end('served')).listen({port}, '::', () =>
             socket.bind({port}, () => node.send(msg)));
         return;"
    );
    Flow::function(&code, &["net", "dgram"])
}

#[test]
fn what_flows_serve_is_closed_for_both_families_and_for_datagrams_but_answers_come_in() -> Result<()> {
    const PORT: u16 = 4720;
    /// That of sockets that are bound when the guard is there.
    const LATER: u16 = 4721;
    let mut scene = Scene::new()?;
    let network = Arc::clone(&scene.network);
    let outcome = scene.node_red.play(&servers(PORT))?;
    ensure!(matches!(outcome, Outcome::Answered(_)), "{outcome:?}");
    let everybody = [Network::FORBIDDEN, Network::FORBIDDEN_V6, Network::PRIVATE];
    let served = |from, port| -> Result<bool> {
        let Ok(mut stream) = connect(&network, from, port) else { return Ok(false) };
        let mut text = String::new();
        stream.read_to_string(&mut text).context("a connection that is not served")?;
        Ok(text == "served")
    };
    let send = |from: IpAddr, text: &str| -> Result<()> {
        let socket = network.world.run(|| Ok(UdpSocket::bind((from, 0))?))?;
        socket.send_to(text.as_bytes(), (home(from), PORT))?;
        Ok(())
    };
    for from in everybody {
        ensure!(served(from, PORT)?, "{from} is not served even without a guard");
    }
    let console = scene.node_red.console().clone();
    send(Network::FORBIDDEN, "free")?;
    console.wait_for(0, "datagram free", PATIENCE)?;

    let rules = "[[instance.ingress]]\nid = \"closed\"\nfrom = [\"any\"]\nverdict = \"deny\"\nfallback = \"log\"\n\
                 [[instance.ingress]]\nid = \"open\"\nfrom = [\"private\", \"loopback\", \"0.0.0.0/32\", \"::/128\"]\nverdict = \"allow\"\n";
    let policy = Policy::enforce(&scene.node_red).with(rules);
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let outcome = scene.node_red.play(&servers(LATER))?;
    ensure!(matches!(outcome, Outcome::Answered(_)), "{outcome:?}");
    for (from, port) in everybody.iter().flat_map(|from| [(*from, PORT), (*from, LATER)]) {
        ensure!(served(from, port)? == (from == Network::PRIVATE), "{from}: {port} is open or closed");
    }
    // One after the other: what comes from the last is there when the first would have been.
    send(Network::FORBIDDEN, "stolen")?;
    send(Network::PRIVATE, "local")?;
    console.wait_for(0, "datagram local", PATIENCE)?;
    ensure!(console.find(0, |line| line.contains("datagram stolen")).is_none(), "a datagram came through");

    // What the instance asks for comes back to it, from wherever.
    let echo = network.world.run(|| Ok(UdpSocket::bind((Network::FORBIDDEN, 0))?))?;
    echo.set_read_timeout(Some(Duration::from_secs(20)))?;
    let to = echo.local_addr()?;
    let ask = format!(
        "const socket = dgram.createSocket('udp4');
         socket.on('message', () => {{ socket.close(); node.send(msg); }});
         socket.send('asked', {}, '{}'); return;",
        to.port(),
        to.ip()
    );
    let answers = std::thread::spawn(move || -> Result<()> {
        let (length, asker) = echo.recv_from(&mut [0; 64])?;
        echo.send_to(&vec![b'a'; length], asker)?;
        Ok(())
    });
    let outcome = scene.node_red.play(&Flow::function(&ask, &["dgram"]))?;
    answers.join().map_err(|_| anyhow::anyhow!("the echo panicked"))??;
    ensure!(matches!(outcome, Outcome::Answered(_)), "no answer comes in: {outcome:?}");

    let records = guard.stop()?;
    let reported: Vec<_> = alerts(&records, "closed")
        .iter()
        .map(|it| {
            let protocol = it.pointer_text("/connection_info/protocol_name").to_owned();
            (peer(it), it.number("/dst_endpoint/port"), protocol)
        })
        .collect();
    let expected = [
        (Network::FORBIDDEN, PORT, "tcp"),
        (Network::FORBIDDEN, LATER, "tcp"),
        (Network::FORBIDDEN_V6, PORT, "tcp"),
        (Network::FORBIDDEN_V6, LATER, "tcp"),
        (Network::FORBIDDEN, PORT, "udp"),
    ];
    let expected = expected.map(|(peer, port, protocol)| (Some(peer), Some(u64::from(port)), protocol.to_owned()));
    ensure!(reported == expected, "{reported:#?}");
    Ok(())
}
