//! Each way to a socket is seen, and denied where the kernel asks.

use std::{
    net::{TcpStream, UdpSocket},
    os::unix::process::ExitStatusExt as _,
    process::Command,
};

use anyhow::{Result, ensure};
use flowwarden_tests::{guard::Guard, netns::Network, policy::Policy, scene::Scene, sink::Sink, wait};

use crate::stage::{Actor, SIGKILL, act, run, saw};

const EPERM: i32 = 1;
const RULE: &str = "forbidden-net";

#[test]
fn a_raw_socket_is_denied() -> Result<()> {
    let scene = Scene::empty()?;
    let actor = Actor::root(&scene)?;
    ensure!(run(&scene, &mut actor.does("raw-socket"))?.success(), "there is no raw socket even without a guard");
    let policy = Policy::enforce(&scene.node_red).by_default("raw-socket", "deny");
    let (status, records) = act(&scene, &policy, &mut actor.does("raw-socket"))?;
    ensure!(status.code() == Some(EPERM), "{status}");
    ensure!(saw(&records, "socket", "deny")?.sensor() == "cgroup", "{records:#?}");
    Ok(())
}

#[test]
fn who_makes_a_packet_socket_is_killed() -> Result<()> {
    let scene = Scene::empty()?;
    let actor = Actor::root(&scene)?;
    ensure!(run(&scene, &mut actor.does("packet-socket"))?.success(), "there is no packet socket even without a guard");
    let policy = Policy::enforce(&scene.node_red).by_default("raw-socket", "kill");
    let (status, records) = act(&scene, &policy, &mut actor.does("packet-socket"))?;
    ensure!(status.signal() == Some(SIGKILL), "{status}");
    saw(&records, "socket", "kill")?;
    Ok(())
}

#[test]
fn a_listener_is_told_with_its_port() -> Result<()> {
    let scene = Scene::empty()?;
    let policy = Policy::enforce(&scene.node_red).by_default("ingress", "log");
    let (status, records) = act(&scene, &policy, &mut Actor::new(&scene)?.does("listen 127.0.0.1:4711"))?;
    ensure!(status.success(), "{status}");
    let listen = saw(&records, "listen", "log")?;
    ensure!(listen.number("/dst_endpoint/port") == Some(4711), "{listen:#?}");
    Ok(())
}

#[test]
fn a_bound_port_is_judged_by_the_rules_for_incoming_traffic() -> Result<()> {
    let scene = Scene::empty()?;
    let actor = Actor::new(&scene)?;
    ensure!(run(&scene, &mut actor.does("bind 127.0.0.1:4712"))?.success(), "the port cannot be had without a guard");
    let policy = Policy::enforce(&scene.node_red).ingress("127.0.0.1/32", 4712, "kill", "no-backdoor");
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    let spared = run(&scene, &mut actor.does("bind 127.0.0.1:4713"))?;
    let status = run(&scene, &mut actor.does("bind 127.0.0.1:4712"))?;
    let records = guard.stop()?;
    ensure!(spared.success() && status.signal() == Some(SIGKILL), "{spared}, {status}");
    let bind = saw(&records, "bind", "kill")?;
    ensure!(bind.number("/dst_endpoint/port") == Some(4712) && bind.rule() == "no-backdoor", "{bind:#?}");
    Ok(())
}

#[test]
fn a_unix_socket_is_a_file_that_is_made() -> Result<()> {
    let scene = Scene::empty()?;
    let path = scene.node_red.home().directory("run")?.join("spy.sock");
    let script = format!("require('net').createServer().listen({path:?}, () => process.exit(0))");
    ensure!(run(&scene, Command::new("node").arg("-e").arg(&script))?.success(), "there is no socket without a guard");
    std::fs::remove_file(&path).or_else(|error| if path.exists() { Err(error) } else { Ok(()) })?;
    let policy = Policy::enforce(&scene.node_red).file(&path.display().to_string(), &["create"], "kill", "spy");
    let (status, records) = act(&scene, &policy, Command::new("node").arg("-e").arg(&script))?;
    ensure!(status.signal() == Some(SIGKILL), "{status}");
    ensure!(saw(&records, "mknod", "kill")?.path() == path.display().to_string(), "{records:#?}");
    Ok(())
}

/// What these tests rest on: what was sent before has arrived when a sink has settled, and its own marks do not count.
#[test]
fn a_sink_that_has_settled_has_everything_that_was_sent_and_no_more() -> Result<()> {
    const SENT: usize = 20;
    let network = Network::new()?;
    for address in [Network::FORBIDDEN, Network::FORBIDDEN_V6] {
        let (tcp, udp) = (Sink::tcp(&network, address)?, Sink::udp(&network, address)?);
        let any = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
        let send = || {
            let socket = UdpSocket::bind(any)?;
            for _ in 0..SENT {
                socket.send_to(b"x", udp.address())?;
                TcpStream::connect(tcp.address())?;
            }
            Ok(())
        };
        for round in 0..=2 {
            for sink in [&tcp, &udp] {
                sink.settle(&network)?;
                ensure!(sink.count() == round * SENT, "{} in round {round}: {sink:?}", sink.count());
            }
            ensure!(udp.bytes().len() == round * SENT, "{udp:?}");
            network.home.run(send)?;
        }
    }
    Ok(())
}

/// Something arrives without a guard, nothing with one, and the call says that it was denied.
fn prove(operation: &str, hook: &str, sink: impl Fn(&Network) -> Result<Sink>) -> Result<()> {
    let scene = Scene::empty()?;
    let actor = Actor::new(&scene)?;
    let reached = sink(&scene.network)?;
    let free = run(&scene, &mut actor.does(&format!("{operation} {}", reached.address())))?;
    ensure!(free.success(), "{operation} does not work without a guard: {free}");
    wait::until("what was sent", wait::PATIENCE, || Ok((reached.count() > 0).then_some(())))?;

    let spared = sink(&scene.network)?;
    let policy = Policy::enforce(&scene.node_red).egress(&[Network::FORBIDDEN_NET], "deny", RULE);
    let (status, records) = act(&scene, &policy, &mut actor.does(&format!("{operation} {}", spared.address())))?;
    ensure!(status.code() == Some(EPERM), "{operation}: {status}");
    spared.settle(&scene.network)?;
    ensure!(spared.count() == 0, "{} bytes have left", spared.bytes().len());
    let record = saw(&records, hook, "deny")?;
    ensure!(record.ip() == Some(Network::FORBIDDEN) && record.rule() == RULE, "{record:#?}");
    Ok(())
}

#[test]
fn tcp_fast_open_is_denied() -> Result<()> {
    prove("fast-open", "connect", |network| Sink::tcp(network, Network::FORBIDDEN))
}

#[test]
fn many_datagrams_in_one_call_are_denied() -> Result<()> {
    prove("sendmmsg", "send", |network| Sink::udp(network, Network::FORBIDDEN))
}

#[test]
fn a_datagram_socket_cannot_be_connected() -> Result<()> {
    prove("send-connected", "connect", |network| Sink::udp(network, Network::FORBIDDEN))
}
