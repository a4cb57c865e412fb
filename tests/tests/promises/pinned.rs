//! Peers, names and bytes when the guard is killed: what is pinned judges on, and the next guard knows what was learnt.

use std::{
    net::UdpSocket,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Result, ensure};
use flowwarden_tests::{
    bpffs::BpfFs,
    flows::Flow,
    guard::Guard,
    needs,
    netns::Network,
    node_red::{NodeRed, Outcome},
    policy::Policy,
    scene::Scene,
    sink::Sink,
    wait,
};

use crate::{
    dns::{resolver, system_resolver},
    editor::{home, reaches, servers},
    volume::upload,
};

/// Where a flow takes datagrams.
const PORT: u16 = 4730;
const MIB: usize = 1 << 20;

/// Somebody who sends a datagram to Node-RED again and again, and must not.
struct Knocker {
    sent: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Knocker {
    fn start(network: &Network) -> Result<Self> {
        let socket = network.world.run(|| Ok(UdpSocket::bind((Network::FORBIDDEN, 0))?))?;
        let (sent, stop) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let (count, stopped) = (Arc::clone(&sent), Arc::clone(&stop));
        let work = move || {
            while !stopped.load(Ordering::Relaxed) {
                if socket.send_to(b"stolen", (home(Network::FORBIDDEN), PORT)).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
                thread::sleep(Duration::from_millis(1));
            }
        };
        Ok(Self { sent, stop, thread: Some(thread::spawn(work)) })
    }

    /// Waits until it has sent some more.
    fn goes_on(&self) -> Result<()> {
        let before = self.sent.load(Ordering::Relaxed);
        wait::until("more datagrams", wait::PATIENCE, || {
            Ok((self.sent.load(Ordering::Relaxed) >= before + 100).then_some(()))
        })
    }
}

impl Drop for Knocker {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// One peer is allowed in; names and two addresses with bounds are allowed out.
fn policy(scene: &Scene, bound: &str) -> Policy {
    let (system, peer) = (system_resolver(), Network::ALLOWED);
    let bounded = [Network::FORBIDDEN, Network::PRIVATE].map(|address| address.to_string());
    Policy::enforce(&scene.node_red)
        .by_default("egress", "deny")
        .egress(&["loopback", &system.to_string()], "allow", "resolver")
        .egress(&["*.plant.example"], "allow", "names")
        .with(&format!(
            "[[instance.egress]]\nid = \"uploads\"\nto = {bounded:?}\nverdict = \"allow\"\n{bound}\n\
             [[instance.ingress]]\nid = \"closed\"\nfrom = [\"any\"]\nverdict = \"deny\"\nfallback = \"log\"\n\
             [[instance.ingress]]\nid = \"open\"\nfrom = [\"loopback\", \"{peer}\", \"0.0.0.0/32\", \"::/128\"]\nverdict = \"allow\"\n"
        ))
}

/// Whether the outcome is an answer, and not that the kernel has refused something.
fn answered(outcome: &Outcome) -> bool {
    matches!(outcome, Outcome::Answered(_))
}

#[test]
fn peers_names_and_bytes_are_judged_on_without_the_guard_and_by_the_next_as_if_nothing_had_been() -> Result<()> {
    let mut scene = Scene::new()?;
    let (network, editor) = (Arc::clone(&scene.network), scene.node_red.port());
    let _resolver = resolver(&network)?;
    let web = Sink::tcp(&network, Network::ALLOWED)?;
    let [first, second] = [Network::FORBIDDEN, Network::PRIVATE].map(|address| Sink::reader(&network, address));
    let (first, second) = (first?, second?);
    let bpf = BpfFs::new()?;
    let pins = bpf.pins().display().to_string();
    let flags = ["--pin", &pins];

    let by_name = Flow::http_get(&format!("http://web.plant.example:{}/", web.address().port()));
    let by_address = Flow::http_get(&format!("http://{}/", web.address()));
    // How many of so many bytes arrive.
    let send = |node_red: &mut NodeRed, to: &Sink, bytes: usize| -> Result<usize> {
        let before = to.bytes().len();
        // What is held back in the middle may count as sent for the sender: it is queued in the kernel.
        node_red.play(&upload(to.address(), bytes))?;
        Ok(to.bytes().len() - before)
    };
    let closed = |when: &str| {
        ensure!(!reaches(&network, Network::FORBIDDEN, editor), "{when}: a forbidden peer reaches the editor");
        ensure!(reaches(&network, Network::ALLOWED, editor), "{when}: an allowed peer does not reach the editor");
        Ok(())
    };
    let named = |node_red: &mut NodeRed, when: &str| {
        // Who connects has asked long ago, and does not ask again.
        let outcome = node_red.play(&by_address)?;
        ensure!(answered(&outcome), "{when}: the address that a name gave is not reached: {outcome:?}");
        let outcome = node_red.play(&Flow::http_get(&format!("http://{}:9/", Network::METADATA)))?;
        ensure!(outcome.text().contains("EPERM"), "{when}: an address that no name gave: {outcome:?}");
        Ok(())
    };

    // What counts bytes comes with a reload.
    let mut guard = Guard::start(Some(&policy(&scene, "")), &scene.cgroup, &flags)?;
    guard.reload(&policy(&scene, "max-bytes = \"1 MiB\"\nbeyond = \"deny\""))?;
    let refused = scene.node_red.play(&by_address)?;
    ensure!(refused.text().contains("EPERM"), "an address that no name gave yet: {refused:?}");
    let named_first = scene.node_red.play(&by_name)?;
    ensure!(answered(&named_first), "{named_first:?}");
    ensure!(send(&mut scene.node_red, &first, MIB / 2)? == MIB / 2, "less than the bound is held back");
    closed("with the guard")?;

    let console = scene.node_red.console().clone();
    let outcome = scene.node_red.play(&servers(PORT))?;
    ensure!(answered(&outcome), "{outcome:?}");
    let knocker = Knocker::start(&network)?;
    guard.kill()?;
    knocker.goes_on()?;
    closed("without a guard")?;
    named(&mut scene.node_red, "without a guard")?;
    let [half, whole] = [MIB / 2, MIB].map(|bytes| send(&mut scene.node_red, &second, bytes));
    let (half, whole) = (half?, whole?);
    ensure!(half == MIB / 2 && whole < MIB / 2, "bytes are not counted without a guard: {half}, {whole}");

    let guard = guard.start_again(&scene.cgroup, &flags)?;
    knocker.goes_on()?;
    // One that may comes through, after all that may not.
    let friend = network.world.run(|| Ok(UdpSocket::bind((Network::ALLOWED, 0))?))?;
    friend.send_to(b"local", (home(Network::ALLOWED), PORT))?;
    console.wait_for(0, "datagram local", wait::PATIENCE)?;
    ensure!(console.find(0, |line| line.contains("datagram stolen")).is_none(), "a datagram came through");
    drop(knocker);
    closed("after the takeover")?;
    named(&mut scene.node_red, "after the takeover")?;
    let [quarter, half] = [MIB / 4, MIB / 2].map(|bytes| send(&mut scene.node_red, &first, bytes));
    let (quarter, half) = (quarter?, half?);
    ensure!(quarter == MIB / 4 && half < MIB / 4, "the bytes before the takeover do not count: {quarter}, {half}");
    let more = send(&mut scene.node_red, &second, 1024)?;
    ensure!(more == 0, "what was held back goes out after a takeover: {more} bytes");
    ensure!(scene.node_red.alive()?, "Node-RED died");

    let records = guard.stop()?;
    let passed: Vec<_> = records.iter().filter(|record| record.hook() == "volume").collect();
    let whom: Vec<_> = passed.iter().filter_map(|record| record.ip()).collect();
    ensure!(whom == [Network::PRIVATE, Network::FORBIDDEN], "each bound is reported once: {passed:#?}");
    ensure!(passed.iter().all(|record| record.rule() == "uploads" && record.verdict() == "deny"), "{passed:#?}");

    needs::run(Command::new(needs::flowwarden()?).args(["detach", "--pin", &pins]))?;
    ensure!(!bpf.pins().exists(), "something is still pinned");
    ensure!(reaches(&network, Network::FORBIDDEN, editor), "the peer is not refused");
    ensure!(send(&mut scene.node_red, &second, 1024)? == 1024, "the bytes are not held back");
    Ok(())
}
