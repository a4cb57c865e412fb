//! Rules about what comes in, with the names of hosts: who has the address that the machine's resolver gives is let in, and
//! no others.

use std::{net::IpAddr, sync::Arc, time::Duration};

use anyhow::{Result, ensure};
use flowwarden_tests::{
    guard::Guard,
    netns::Network,
    policy::{INSTANCE, Policy},
    receiver::dnsmasq::Dnsmasq,
    record::Record,
};
use serde_json::json;

use crate::{SCENE, dns::system_resolver, editor::reaches};

const PROXY: &str = "proxy.plant.example";
/// Longer than the guard waits until it tries once more.
const SOON: Duration = Duration::from_secs(15);

/// The resolver of the guard, who is at home in the world here, with what it says of the proxy.
fn resolver(network: &Network, addresses: &[IpAddr]) -> Result<Dnsmasq> {
    let hosts: Vec<_> = addresses.iter().map(|&address| (PROXY.to_owned(), address)).collect();
    Dnsmasq::start(&network.world, &[system_resolver()], &hosts, &[])
}

/// The event when a look-up of the proxy yields these addresses, or fails and keeps them.
fn tells(record: &Record, stage: &str, addresses: &[IpAddr]) -> bool {
    let own = &record.json()["unmapped"];
    record.pointer_text("/activity_name") == stage && own["name"] == PROXY && own["addresses"] == json!(addresses)
}

#[test]
fn a_proxy_is_let_in_by_its_name_wherever_it_moves_and_whether_its_resolver_lives() -> Result<()> {
    SCENE.with(|scene| {
        let (network, port) = (Arc::clone(&scene.network), scene.node_red.port());
        let system = system_resolver();
        if !system.is_loopback() {
            network.world.add_address(system)?;
        }
        scene.node_red.start()?;
        let everybody = [Network::FORBIDDEN, Network::ALLOWED, Network::PRIVATE];
        let reached = |from: &[IpAddr]| -> Result<()> {
            let who: Vec<_> = everybody.into_iter().filter(|&peer| reaches(&network, peer, port)).collect();
            ensure!(who == from, "{who:?} reach the editor, not {from:?}");
            Ok(())
        };
        reached(&everybody)?;
        let policy = Policy::enforce(&scene.node_red)
            .ingress("any", port, "deny", "closed")
            .ingress(PROXY, port, "allow", "proxy");
        let cgroup = &scene.cgroup;

        // There is no resolver yet, as when a machine boots.
        let guard = network.world.run(|| Guard::start(Some(&policy), cgroup, &[]))?;
        guard.wait_for(SOON, |record| tells(record, "Error", &[]))?;
        reached(&[])?;
        let first = resolver(&network, &[Network::ALLOWED])?;
        guard.wait_for(SOON, |record| tells(record, "Reload", &[Network::ALLOWED]))?;
        reached(&[Network::ALLOWED])?;

        // It moves; who asks for a new look need not wait. Where it was counts for a while yet.
        drop(first);
        let second = resolver(&network, &[Network::PRIVATE, Network::FORBIDDEN_V6])?;
        let moved = [Network::PRIVATE, Network::ALLOWED, Network::FORBIDDEN_V6];
        guard.reload(&policy)?;
        guard.wait_for(SOON, |record| tells(record, "Reload", &moved))?;
        reached(&[Network::ALLOWED, Network::PRIVATE])?;

        // Without a resolver it stays where it was, also for a guard that starts anew.
        drop(second);
        guard.reload(&policy)?;
        guard.wait_for(SOON, |record| tells(record, "Error", &moved))?;
        reached(&[Network::ALLOWED, Network::PRIVATE])?;
        let guard = network.world.run(|| guard.start_again(cgroup, &[]))?;
        reached(&[Network::ALLOWED, Network::PRIVATE])?;
        ensure!(scene.node_red.alive()?, "Node-RED died for what others do");

        let records = guard.stop()?;
        let reported = records.iter().filter(|record| record.is_alert());
        let others = reported.filter(|record| record.rule() != "closed" || record.instance() != INSTANCE).count();
        ensure!(others == 0, "{records:#?}");
        Ok(())
    })
}
