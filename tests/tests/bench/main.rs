//! Figures, for `cargo xtask bench`, which puts them into docs/explanation/benchmarks.md. A machine that is emulated gives counts
//! only, never times.

use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{guard::Guard, needs, policy::Policy, stand_in::StandIn, wait};

const WRITERS: usize = 10_000;
/// How many there are at a time: an emulated machine has little memory.
const AT_A_TIME: usize = 250;
const CHANGES: [&str; 5] = ["write", "delete", "rename", "link", "attr"];
const SENSORS: [&str; 4] = ["lsm", "fentry", "kprobe", "tracepoint"];
/// Calls of each kind in one measurement, and how often each is taken; the least of them counts.
const CALLS: usize = 200_000;
const ROUNDS: usize = 5;
/// How often settings.js is brought to harm and healed.
const HEALS: usize = 300;

fn stand_in() -> Result<StandIn> {
    StandIn::new(option_env!("CARGO_BIN_EXE_actor"))
}

fn policy(stand_in: &StandIn) -> Policy {
    stand_in.policy().deny("settings.js", &CHANGES, "settings-js")
}

/// `a=1 b=2` as a map.
fn figures(stand_in: &StandIn, file: &str) -> Result<BTreeMap<String, u64>> {
    let text = fs::read_to_string(stand_in.user_dir().join(file)).context("the stand-in left no figures")?;
    let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
    Ok(pairs.filter_map(|(key, value)| Some((key.to_owned(), value.parse().ok()?))).collect())
}

#[test]
fn ten_thousand_writers() -> Result<()> {
    let stand_in = stand_in()?;
    let race = format!("race settings.js {WRITERS} {AT_A_TIME} figures");
    stand_in.does(&race)?;
    let free = figures(&stand_in, "figures")?;
    ensure!(free.get("wrote").copied() == Some(WRITERS as u64), "without a guard all should write: {free:?}");
    let mut raced = Vec::new();
    for sensor in SENSORS {
        stand_in.restore()?;
        let Ok(mut guard) = Guard::start(Some(&policy(&stand_in)), &stand_in.cgroup, &["--sensors", sensor]) else {
            continue;
        };
        let sensors =
            guard.wait_for(Duration::from_mins(1), |record| record.json().pointer("/unmapped/sensors").is_some())?;
        let best = sensors.json().pointer("/unmapped/sensors/0").and_then(|name| name.as_str().map(str::to_owned));
        if best.as_deref() != Some(sensor) && sensor != "tracepoint" {
            continue;
        }
        stand_in.does(&race)?;
        let figures = figures(&stand_in, "figures")?;
        let figure = |key: &str| figures.get(key).copied().unwrap_or_default();
        let intact = stand_in.is_intact();
        guard.terminate()?;
        println!(
            "race: {sensor} | {} | {} | {} | {}",
            figure("refused"),
            figure("killed"),
            figure("wrote"),
            if intact { "none" } else { "some" }
        );
        ensure!(intact && figure("wrote") == 0, "{sensor}: some got through: {figures:?}");
        raced.push(sensor.to_owned());
    }
    // A guard that does not start for a sensor is taken for a kernel without it: not for the one that has to run here.
    let expected = needs::expected_sensor().unwrap_or_else(|| "tracepoint".to_owned());
    ensure!(raced.contains(&expected), "{expected} runs here, and was not tried: {raced:?}");
    Ok(())
}

/// How long settings.js stays in harm's way where it can only be healed: from the end of who has cut it, killed on the
/// way out of the call, until it is what it was.
#[test]
fn healing() -> Result<()> {
    if needs::is_bare() {
        return Ok(());
    }
    let stand_in = stand_in()?;
    let guard = Guard::start(Some(&policy(&stand_in).heal()), &stand_in.cgroup, &["--sensors", "tracepoint"])?;
    let mut times = Vec::new();
    for _ in 0..HEALS {
        let (_, status) = stand_in.does("cut-open settings.js")?;
        let start = Instant::now();
        ensure!(!status.success(), "it was not killed: {status}");
        wait::until("settings.js to be healed", Duration::from_secs(10), || {
            Ok(stand_in.is_healed().then_some(())).inspect(|_| thread::yield_now())
        })?;
        times.push(start.elapsed().as_micros());
    }
    guard.stop()?;
    times.sort_unstable();
    let at = |part: usize| times.get((times.len() - 1) * part / 100).copied().unwrap_or_default();
    println!("heal: {HEALS} | {} | {} | {} | {}", at(0), at(50), at(99), at(100));
    Ok(())
}

/// Rules about files, and others about networks, so many of each.
fn many(stand_in: &StandIn, count: usize) -> Policy {
    let rules = (0..count).map(|at| {
        // The same ten are in both: the first is about what the benchmark opens, and connects to.
        let (high, low) = (at / 256, at % 256);
        format!(
            "[[instance.files]]\npath = \"many/{high}/{low}.json\"\naccess = [\"write\"]\nverdict = \"deny\"\n\
             [[instance.egress]]\nto = [\"127.{high}.{low}.0/24\"]\nverdict = \"allow\"\n"
        )
    });
    stand_in.policy().with(&rules.collect::<String>())
}

/// What a policy of ten thousand rules costs beside one of ten: the hooks, in turns, and to put it in force.
#[test]
fn ten_rules_and_ten_thousand() -> Result<()> {
    const SIZES: [usize; 2] = [10, 10_000];
    if needs::is_bare() {
        return Ok(());
    }
    let stand_in = stand_in()?;
    let directory = stand_in.user_dir().join("many/0");
    fs::create_dir_all(&directory)?;
    fs::write(directory.join("0.json"), "{}")?;
    let policies = SIZES.map(|count| many(&stand_in, count));
    let guard = Guard::start(Some(&policies[0]), &stand_in.cgroup, &[])?;
    let mut least: [BTreeMap<String, u64>; 2] = Default::default();
    for _ in 0..ROUNDS {
        for (policy, least) in policies.iter().zip(&mut least) {
            let start = Instant::now();
            let answer = guard.reload(policy)?;
            let loaded = u64::try_from(start.elapsed().as_millis())?;
            ensure!(answer.contains("in force"), "{answer}");
            stand_in.does(&format!("cost-rules many/0/0.json 127.0.0.1:9 {CALLS} figures"))?;
            let figures = figures(&stand_in, "figures")?;
            for (what, cost) in figures.into_iter().chain([("load".to_owned(), loaded)]) {
                let known = least.entry(what).or_insert(cost);
                *known = cost.min(*known);
            }
        }
    }
    guard.stop()?;
    let [few, many] = least;
    for (what, unit) in [("open", "ns"), ("connect", "ns"), ("load", "ms")] {
        let figure = |least: &BTreeMap<String, u64>| least.get(what).copied().context("a figure is missing");
        println!("rules: {what}, {unit} | {} | {}", figure(&few)?, figure(&many)?);
    }
    Ok(())
}

/// What each program is for the kernel's verifier.
#[test]
fn programs() -> Result<()> {
    print!("{}", needs::run(Command::new(needs::flowwarden()?).args(["doctor", "--programs"]))?);
    Ok(())
}

/// What the guard costs those that it watches and those that it does not.
#[test]
fn costs() -> Result<()> {
    if needs::is_bare() {
        // An emulated machine's times mean nothing.
        return Ok(());
    }
    let (watched, other) = (stand_in()?, stand_in()?);
    let least = || -> Result<BTreeMap<String, u64>> {
        let mut all = BTreeMap::new();
        for _ in 0..ROUNDS {
            for (who, stand_in) in [("watched", &watched), ("other", &other)] {
                // What was opened is none of any rule.
                stand_in.file("flows.json", b"[]", 0o644)?;
                stand_in.does(&format!("cost flows.json {CALLS} figures"))?;
                for (call, cost) in figures(stand_in, "figures")? {
                    let least = all.entry(format!("{who} {call}")).or_insert(cost);
                    *least = cost.min(*least);
                }
            }
        }
        Ok(all)
    };
    let before = least()?;
    let guard = Guard::start(Some(&policy(&watched)), &watched.cgroup, &[])?;
    let with = least()?;
    guard.stop()?;
    for (what, without) in before {
        println!("cost: {what} | {without} | {}", with.get(&what).copied().unwrap_or_default());
    }
    Ok(())
}
