//! A policy that was learnt on a day raises nothing on the next one, and lets nothing else through.

use std::{
    fs,
    process::{Child, Command, Stdio},
    sync::Arc,
};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    cli,
    console::Console,
    flows::Flow,
    guard::Guard,
    needs,
    netns::Network,
    node_red::{NodeRed, Outcome, RELEASES, Release},
    policy::Policy,
    scene::Scene,
    sink::Sink,
    user::User,
    wait,
};
use rustix::process::{Pid, Signal, kill_process};

use super::releases::{Broker, PASSWORD, Plant, make_key, no_alarms, palette, set_up, work};

#[test]
fn what_was_learnt_from_a_day_is_quiet_on_the_next() -> Result<()> {
    learn_and_enforce(RELEASES[0])
}

#[test]
#[ignore = "one release is enough for every run: `cargo xtask test --only promises -- --ignored`"]
fn what_was_learnt_from_a_day_of_node_22_is_quiet_on_the_next() -> Result<()> {
    learn_and_enforce(RELEASES[1])
}

#[test]
#[ignore = "one release is enough for every run: `cargo xtask test --only promises -- --ignored`"]
fn what_was_learnt_from_a_day_of_node_24_is_quiet_on_the_next() -> Result<()> {
    learn_and_enforce(RELEASES[2])
}

#[test]
fn what_is_learnt_from_a_plain_instance_fits_on_a_page_and_names_what_was_asked_for_by_name() -> Result<()> {
    let mut scene = Scene::new()?;
    let _resolver = super::dns::resolver(&scene.network)?;
    let sink = Sink::tcp(&scene.network, Network::ALLOWED)?;
    let place = Guard::new_directory()?;
    let file = place.path().join("learnt.toml").display().to_string();
    let root = scene.cgroup.path().display().to_string();
    let learning = Learning::start(&["--for", "1h", "--cgroup-root", &root, "--write", &file])?;
    let node_red = &mut scene.node_red;
    node_red.stop()?;
    node_red.start()?;
    let came = node_red.play(&Flow::http_get(&format!("http://web.plant.example:{}/", sink.address().port())))?;
    ensure!(came == Outcome::Answered("ok".to_owned()), "{came:?}");
    node_red.stop()?;
    learning.finish()?;
    let text = fs::read_to_string(&file)?;
    // Others that run on this machine have tables of their own.
    let user_dir = format!("user-dir = \"{}\"", node_red.home().user_dir().display());
    let own = text.split("[[instance]]").find(|own| own.contains(&user_dir)).context("it is not in the policy")?;
    // Beside where its flows go a person can read it aloud.
    let rules = own.split("\n\n").filter(|rule| !rule.starts_with("[[instance.egress]]"));
    let lines: usize = rules.map(|rule| rule.lines().filter(|line| !line.is_empty()).count()).sum();
    ensure!(lines < 60, "{lines} lines: {own}");
    ensure!(own.contains("to = [\"web.plant.example\"] #"), "{own}");
    ensure!(!own.contains(&Network::ALLOWED.to_string()), "{own}");
    Ok(())
}

/// `flowwarden learn` at work.
struct Learning {
    child: Child,
    console: Console,
}

impl Learning {
    fn start(arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(needs::flowwarden()?);
        command.arg("learn").args(arguments);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let console = Console::default();
        console.follow(&mut child);
        let mut learning = Self { child, console };
        wait::until("the watching to begin", wait::PATIENCE, || {
            let ended = learning.child.try_wait()?;
            ensure!(ended.is_none(), "it has ended: {}", learning.console.text());
            Ok(learning.console.find(0, |line| line.starts_with("ready:")))
        })?;
        Ok(learning)
    }

    /// Ends it as Ctrl-C does, and answers with what it said.
    fn finish(mut self) -> Result<String> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no pid")?;
        kill_process(pid, Signal::INT)?;
        let status = wait::until("the policy", wait::PATIENCE, || Ok(self.child.try_wait()?))?;
        let said = self.console.text();
        ensure!(status.success(), "{status}: {said}");
        Ok(said)
    }
}

impl Drop for Learning {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An instance on the morning of a day: set up by its administrator, started once, with its flows.
fn morning(node_red: &mut NodeRed, plant: &Plant) -> Result<()> {
    node_red.stop()?;
    for entry in fs::read_dir(node_red.home().user_dir())?.flatten() {
        let path = entry.path();
        if path.is_dir() { fs::remove_dir_all(path)? } else { fs::remove_file(path)? }
    }
    node_red.start()?;
    node_red.stop()?;
    set_up(node_red)?;
    make_key(node_red)?;
    node_red.start()?;
    node_red.log_in("admin", PASSWORD)?;
    node_red.replace_flows(&plant.text(), &["Started flows"])
}

fn learn_and_enforce(release: Release) -> Result<()> {
    // ssh-keygen works for nobody but an account.
    let user = User::create()?;
    let mut scene = Scene::of(user.uid(), release)?;
    let network = Arc::clone(&scene.network);
    let node_red = &mut scene.node_red;
    let plant = Plant::new(node_red, &node_red.home().directory("data")?);
    let _broker = Broker::start(&network)?;

    morning(node_red, &plant)?;
    let place = Guard::new_directory()?;
    let file = place.path().join("learnt.toml").display().to_string();
    let root = scene.cgroup.path().display().to_string();
    let learning = Learning::start(&["--for", "1h", "--cgroup-root", &root, "--write", &file])?;
    node_red.stop()?;
    node_red.start()?;
    work(node_red, &plant)?;
    palette(node_red)?;
    node_red.stop()?;
    let said = learning.finish()?;
    let text = fs::read_to_string(&file)?;
    println!("{said}\n{text}");
    // The palette changes in windows, and nobody gets used to anything else.
    ensure!(said.contains("the rule palette of the present policy forbids it"), "{said}");
    ensure!(!said.contains("critical: "), "something critical on an honest day: {said}");

    morning(node_red, &plant)?;
    node_red.stop()?;
    let learnt = Policy::written(text);
    let guard = Guard::start(Some(&learnt), &scene.cgroup, &["--enforce"])?;
    node_red.start()?;
    work(node_red, &plant)?;
    let instance = learnt.instance(&node_red.home().user_dir())?;
    guard.asks(&format!("open --for 10m --instance {instance}"))?;
    palette(node_red)?;
    guard.asks(&format!("close --instance {instance}"))?;
    node_red.stop()?;
    node_red.start()?;
    no_alarms(&guard, "under what was learnt")?;

    // What nobody did that day is closed.
    node_red.log_in("admin", PASSWORD)?;
    let evil = node_red.home().path().join("evil");
    node_red.play(&Flow::exec(&format!("touch '{}'", evil.display())))?;
    let met = guard.wait_for(wait::SOON, |record| record.is_alarm() && record.path().ends_with("evil"))?;
    ensure!(matches!(met.verdict(), "deny" | "log"), "{met:#?}");
    // And an event can be asked about.
    let number = met.json()["metadata"]["sequence"].to_string();
    let journal = guard.journal_directory().display().to_string();
    let policy = guard.policy_file().display().to_string();
    let told = cli::flowwarden(&["explain", &number, "--policy", &policy, "--journal", &journal])?;
    ensure!(told.code == Some(0) && told.text.contains("an exec node"), "{told:?}");
    guard.stop().map(drop)
}
