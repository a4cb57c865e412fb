//! What leaves for one address is counted: more than a rule allows is reported once, and denied if the rule says so.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use flowwarden_tests::{
    flows::Flow, guard::Guard, netns::Network, node_red::Outcome, policy::Policy, record::Record, sink::Sink, wait,
};

use crate::SCENE;

const RULE: &str = "uploads";
const MIB: usize = 1 << 20;

/// A Function node that sends so many bytes over one connection.
pub(super) fn upload(to: SocketAddr, bytes: usize) -> Flow {
    let code = format!(
        "const socket = net.connect({{ host: '{}', port: {} }}, () => socket.end(Buffer.alloc({bytes})));
         socket.resume();
         socket.setTimeout(2000, () => socket.destroy(new Error('stalled')));
         socket.on('error', error => node.error(error.message, msg));
         socket.on('close', failed => {{ if (!failed) node.send(msg); }}); return;",
        to.ip(),
        to.port()
    );
    Flow::function(&code, &["net"])
}

/// A Function node that sends so many datagrams of 1 KiB, one after the other, until one is refused.
fn datagrams(to: SocketAddr, count: usize) -> Flow {
    let code = format!(
        "const socket = dgram.createSocket('udp4');
         const end = error => {{ socket.close(); error ? node.error(error.message, msg) : node.send(msg); }};
         const next = left => socket.send(Buffer.alloc(1024), {}, '{}', error =>
             error || left === 1 ? end(error) : next(left - 1));
         next({count}); return;",
        to.port(),
        to.ip()
    );
    Flow::function(&code, &["dgram"])
}

fn reported(guard: &Guard) -> Result<Vec<Record>> {
    // What comes a moment later would be one too many.
    wait::pause(Duration::from_millis(300))?;
    Ok(guard.journal()?.into_iter().filter(|record| record.hook() == "volume").collect())
}

#[test]
fn more_than_a_rule_lets_out_is_told_once_and_held_back_where_the_rule_says_so() -> Result<()> {
    SCENE.with(|scene| {
        let [bounded, other] =
            [Network::FORBIDDEN, Network::ALLOWED].map(|address| Sink::reader(&scene.network, address));
        let (bounded, other) = (bounded?, other?);
        let rule = format!(
            "[[instance.egress]]\nid = \"{RULE}\"\nto = [\"{}\"]\nverdict = \"allow\"\nmax-bytes = \"1 MiB\"\n",
            Network::FORBIDDEN_NET
        );
        let policy = Policy::enforce(&scene.node_red).with(&rule);
        scene.node_red.start()?;
        let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
        let mut send = |to: &Sink, bytes: usize| scene.node_red.play(&upload(to.address(), bytes));

        let first = send(&bounded, MIB / 2)?;
        ensure!(
            matches!(first, Outcome::Answered(_)) && reported(&guard)?.is_empty(),
            "{first:?}, {:#?}",
            reported(&guard)?
        );
        // Another connection to the address, and it is too much; what goes elsewhere is not counted with it.
        let outcomes = [send(&other, 2 * MIB)?, send(&bounded, MIB)?, send(&bounded, MIB)?];
        ensure!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Answered(_))), "{outcomes:?}");
        ensure!(bounded.bytes().len() == 5 * MIB / 2, "a rule that logs holds back: {}", bounded.bytes().len());
        let records = reported(&guard)?;
        ensure!(records.len() == 1, "{records:#?}");
        let record = &records[0];
        ensure!((record.rule(), record.verdict()) == (RULE, "log"), "{record:#?}");
        ensure!(record.ip() == Some(Network::FORBIDDEN) && record.process_name() == "node", "{record:#?}");
        let (counted, packet) = (record.number("/traffic/bytes_out").unwrap_or_default(), 1 << 16);
        ensure!((MIB as u64..=(MIB + packet) as u64).contains(&counted), "{record:#?}");

        // A new policy counts on.
        let before = bounded.bytes().len();
        let strict = policy.but("max-bytes = \"1 MiB\"", "max-bytes = \"1 MiB\"\nbeyond = \"deny\"")?;
        guard.reload(&strict)?;
        let refused = scene.node_red.play(&upload(bounded.address(), MIB))?;
        ensure!(matches!(refused, Outcome::Failed(_)) && bounded.bytes().len() == before, "{refused:?}");
        let records = reported(&guard)?;
        ensure!(
            records.len() == 2 && records[1].verdict() == "deny" && records[1].sensor() == "cgroup",
            "{records:#?}"
        );
        guard.stop().map(drop)
    })
}

#[test]
fn datagrams_to_whomever_they_are_sent_count_as_well() -> Result<()> {
    SCENE.with(|scene| {
        let (most, sent) = (100, 400);
        let sink = Sink::udp(&scene.network, Network::FORBIDDEN)?;
        let rule = format!(
            "[[instance.egress]]\nid = \"{RULE}\"\nto = [\"any\"]\nprotocol = \"udp\"\nverdict = \"allow\"\n\
             max-bytes = \"{most} KiB\"\nbeyond = \"deny\"\n"
        );
        scene.node_red.start()?;
        let guard = Guard::start(Some(&Policy::enforce(&scene.node_red).with(&rule)), &scene.cgroup, &[])?;
        let outcome = scene.node_red.play(&datagrams(sink.address(), sent))?;
        // The headers count: a few less than have room come through.
        ensure!(matches!(outcome, Outcome::Failed(_)), "{outcome:?}");
        sink.settle(&scene.network)?;
        ensure!((most * 9 / 10..=most).contains(&sink.count()), "{} have arrived", sink.count());
        let records = reported(&guard)?;
        ensure!(records.len() == 1 && records[0].verdict() == "deny", "{records:#?}");
        guard.stop().map(drop)
    })
}
