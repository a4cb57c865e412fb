//! The agent: brings the kernel side up, keeps the policy true to the file system, and carries records to the journal.

mod adopt;
mod apply;
mod peers;
mod pid_file;
mod respond;
mod say;
mod service;
mod takeover;
mod windows;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal as _,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use monitor_common::{
    Verdict,
    dns::MAX_TOLD,
    event::{FLAG_OBSERVED, Hook},
    scope::{Selector, TaskLabel},
    security::SecurityHook,
    verdict::Sensor,
};
use serde_json::{Map, Value, json};
use tokio::{
    io::unix::AsyncFd,
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use crate::{
    change::Changes,
    durable::PATIENCE,
    heal::{self, Healer},
    instance,
    journal::{
        Journal, JournalError,
        ocsf::Stage,
        response::{self, Because},
    },
    kernel::{
        inbound,
        load::{Kernel, KernelError, chain, first_line},
        pin::{PinError, Pins},
    },
    machine::{procs::Procs, scan},
    maintenance::{Asked, Listener},
    metrics,
    pipeline::{Pipeline, Told},
    policy::{
        PolicyError,
        compile::{Watched, selectors},
        host::{Host as _, System},
        model::{KillScope, Policy},
        own::Own,
        peers::Peers,
        settle::{Ages, Settling},
    },
    record::{enrich::Enricher, names::NameTable, sentence},
    sinks::Sinks,
    state::{State, StateError},
    stdio::complain,
    text::terminal,
};
use adopt::Adopted;
use apply::{own, read_policy};
use pid_file::PidFile;
use respond::Responder;
use say::{say, say_incident};
use takeover::Takeover;
use windows::{Hands, Windows};

/// The namespace in which processes have the kernel's own numbers: `PROC_PID_INIT_INO` of `include/linux/proc_ns.h`.
const FIRST_PIDS: &str = "pid:[4026531836]";
/// How often files that are suspected to have come to harm are looked at.
const HEALING: Duration = Duration::from_millis(20);
/// How often files, cgroups and counters are looked at.
const REFRESH: Duration = Duration::from_secs(1);
/// Most records that are handled before signals, the clock and the policy get their turn.
const TURN: usize = 4096;
/// How many events of one incident are said one by one.
const SAID: u64 = 10;
/// Most turns that are taken when the guard stops.
const LAST_TURNS: usize = 64;

/// Why the agent could not start or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// Not root.
    #[error("flowwarden run needs root: it loads kernel programs. Try: sudo flowwarden run")]
    NotRoot,
    /// In a container whose processes have numbers of their own.
    #[error(
        "processes have other numbers here than the kernel's: run flowwarden outside of this container, or give the \
         container the machine's own (docker run --pid=host)"
    )]
    PidNamespace,
    /// The policy is wrong.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The policy does not compile.
    #[error("{0}")]
    Compile(String),
    /// The kernel side failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// What is kept between runs cannot be.
    #[error(transparent)]
    State(#[from] StateError),
    /// Pins cannot be used.
    #[error(transparent)]
    Pin(#[from] PinError),
    /// Whoever asks for a reload would ask another guard.
    #[error("a guard runs already with the pid file {}: stop it first, or name another file with --pid-file", .0.display())]
    PidFileInUse(PathBuf),
    /// Nobody could ask the guard to reload.
    #[error("{}: the pid cannot be written: {source}; name another file with --pid-file", path.display())]
    PidFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The runtime failed.
    #[error("{what}: {source}")]
    Io {
        /// What was being done.
        what: &'static str,
        /// The cause.
        source: std::io::Error,
    },
}

fn io(what: &'static str) -> impl FnOnce(std::io::Error) -> AgentError {
    move |source| AgentError::Io { what, source }
}

/// What the command line asks for.
#[derive(Clone, Debug)]
pub struct Options {
    /// The policy file; the embedded policy when there is none.
    pub config: Option<PathBuf>,
    /// Directory of the journal.
    pub journal: PathBuf,
    /// Directory of what is kept from one run to the next.
    pub state: PathBuf,
    /// Directory of pins: with it the programs go on when the guard ends.
    pub pin: Option<PathBuf>,
    /// Overrules the policy's mode.
    pub enforce: Option<bool>,
    /// Directory in cgroup v2 below which traffic is judged.
    pub cgroup_root: Option<PathBuf>,
    /// The sensors on security hooks that may be used.
    pub sensors: Vec<Sensor>,
    /// Where the agent's pid is written, for `flowwarden reload`.
    pub pid_file: Option<PathBuf>,
    /// Operations are journaled and not told, and the rest is told on the standard error.
    pub quiet: bool,
}

/// What ends the guard, and what has it read its policy again. Before they are listened to, each of them kills.
#[derive(Debug)]
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self, AgentError> {
        let listen = |kind, name| signal(kind).map_err(io(name));
        Ok(Self {
            terminate: listen(SignalKind::terminate(), "SIGTERM")?,
            interrupt: listen(SignalKind::interrupt(), "SIGINT")?,
            hangup: listen(SignalKind::hangup(), "SIGHUP")?,
        })
    }
}

/// A running guard.
pub struct Agent {
    options: Options,
    signals: Signals,
    pid_file: Option<PidFile>,
    kernel: Kernel,
    host: System,
    sinks: Sinks,
    pipeline: Pipeline,
    /// The page for Prometheus, where there is one.
    metrics: Option<metrics::Server>,
    names: NameTable,
    policy: Policy,
    state: State,
    windows: Windows,
    listener: Listener,
    own: Own,
    healer: Healer,
    changes: Changes,
    /// Locked for as long as the guard runs.
    pins: Option<Pins>,
    watched: Vec<Watched>,
    settling: Settling,
    selectors: Vec<Selector>,
    /// The hosts that ingress rules name.
    peers: Peers,
    /// The proc file systems that instances see.
    procs: Procs,
    /// Slots of instances with rules about what is in there.
    about_proc: BTreeSet<u16>,
    /// Where this machine looks names up, as it was when the policy was compiled.
    resolvers: Vec<IpAddr>,
    reported_lost: u64,
    reported_unjudged: u64,
    reported_skipped: u64,
    colour: bool,
    /// The instances that the embedded policy is for; no use with a policy file.
    adopted: Adopted,
}

impl std::fmt::Debug for Agent {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Agent").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Agent {
    /// Brings everything up; on an error nothing stays behind.
    pub fn start(options: Options) -> Result<(Self, RingBuf<MapData>), AgentError> {
        if !rustix::process::geteuid().is_root() {
            return Err(AgentError::NotRoot);
        }
        if std::fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace != Path::new(FIRST_PIDS)) {
            return Err(AgentError::PidNamespace);
        }
        say::aside(options.quiet);
        // Whoever is told that the guard is ready may send one at once; one that comes earlier waits until it is.
        let signals = Signals::listen()?;
        let mut host = System::new();
        let mut adopted = Adopted::default();
        let policy = read_policy(&options, &host, &mut adopted)?;
        let state = State::open(&options.state)?;
        // Answers come while the programs are loaded.
        let mut peers = peers::open(&state)?;
        peers.follow(&policy, Instant::now());
        let told = peers.turn(Instant::now());
        let pins = options.pin.as_deref().map(Pins::open).transpose()?;
        let journal = Journal::open(&options.journal, policy.journal)?;
        let older = pins.as_ref().map_or_else(|| Ok(Vec::new()), Pins::generations)?;
        let begun = pins.as_ref().map(Pins::begin).transpose()?;
        let mut kernel = Kernel::load(begun.as_ref())?;
        let events = kernel.events()?;
        let root = options.cgroup_root.clone().unwrap_or_else(|| host.cgroup_mount.clone());
        if let Err(error) = kernel.attach_cgroup(&root) {
            kernel.degrade("cgroup", chain(&error));
        }
        if let Err(error) = kernel.attach_dns(&root) {
            kernel.degrade("names", chain(&error));
        }
        if let Err(error) = kernel.attach_inbound(&root) {
            kernel.degrade("inbound", chain(&error));
        }
        kernel.attach_security(&options.sensors)?;
        kernel.load_syscalls()?;
        host.can_deny = kernel.can_deny();
        let own = own(&options, &host);
        let pipeline = Pipeline::new(Enricher::new(host.cgroup_mount.clone()), journal);
        let sinks = Sinks::start(&policy.sinks, pipeline.spool());
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        let mut agent = Self {
            options,
            signals,
            pid_file: None,
            kernel,
            host,
            sinks,
            pipeline,
            metrics: None,
            names: NameTable::default(),
            policy: Policy::default(),
            own,
            healer: Healer::open(&state)?,
            changes: Changes::open(&state)?,
            listener: Listener::open(&state)?,
            state,
            windows: Windows::default(),
            pins,
            watched: Vec::new(),
            settling: Settling::default(),
            selectors: Vec::new(),
            peers,
            procs: Procs::default(),
            about_proc: BTreeSet::new(),
            resolvers: Vec::new(),
            reported_lost: 0,
            reported_unjudged: 0,
            reported_skipped: 0,
            colour,
            adopted,
        };
        agent.tell_peers(&told);
        // After what may fail for a reason of its own: earlier programs go on unless these are in place.
        let takeover = Takeover::begin(older, &agent.state)?;
        agent.kernel.begin_after(takeover.epoch);
        agent.names.slots.clone_from(&takeover.names.slots);
        takeover.teach(&mut agent.kernel);
        let (_, mut hands) = agent.windows();
        agent.windows = Windows::take_over(&takeover, &mut hands)?;
        agent.apply(policy)?;
        agent.kernel.attach_scope()?;
        // A process that is made while the first pass runs is met by the second.
        for _ in 0..2 {
            agent.label_inherited(&takeover)?;
            agent.label_running()?;
        }
        agent.kernel.attach_syscalls()?;
        // What was compiled before the programs ran may be old by now.
        agent.refresh()?;
        takeover.teach(&mut agent.kernel);
        agent.pid_file = agent.options.pid_file.as_deref().map(|path| PidFile::write(path, PATIENCE)).transpose()?;
        if let Some(begun) = begun {
            agent.kernel.pin(&begun)?;
            begun.keep();
        }
        takeover.finish(&mut agent.pipeline)?;
        agent.look_at_healed();
        agent.serve_metrics();
        // SAFETY: no arguments that could be wrong; gives memory of the start back to the system.
        unsafe { libc::malloc_trim(0) };
        agent.announce();
        Ok((agent, events))
    }

    /// The maintenance windows, and what is needed to open and close them.
    fn windows(&mut self) -> (&mut Windows, Hands<'_>) {
        let Self { windows, kernel, pipeline, state, policy, names, .. } = self;
        (windows, Hands { kernel, pipeline, state, policy, slots: &names.slots })
    }

    fn announce(&self) {
        for degraded in self.kernel.degraded() {
            complain(&format_args!("{} does not run here: {}", degraded.hook, first_line(&degraded.why)));
        }
        let mode = if self.policy.enforce { "enforce" } else { "observe" };
        let degraded: Vec<_> =
            self.kernel.degraded().iter().map(|it| json!({ "hook": it.hook, "why": first_line(&it.why) })).collect();
        let details = Map::from_iter([
            ("mode".to_owned(), Value::from(mode)),
            ("instances".to_owned(), self.instance_names().into()),
            ("sensors".to_owned(), json!(self.sensors())),
            ("hooks".to_owned(), json!(self.hooks())),
            ("degraded".to_owned(), json!(degraded)),
            ("processes".to_owned(), json!(self.kernel.labels().len())),
            ("epoch".to_owned(), json!(self.kernel.epoch())),
        ]);
        self.pipeline.lifecycle(Stage::Start, "Flowwarden started", &details);
        let journal = self.pipeline.journal_path().display();
        let status = if self.policy.instances.is_empty() {
            format!("no Node-RED runs on this machine; waiting for one (Ctrl-C ends), journal {journal}")
        } else {
            let (names, processes) = (self.instance_names(), self.kernel.labels().len());
            format!("{mode}, instances {names}, {processes} processes in scope, journal {journal}")
        };
        say(&format!("ready: {status}"));
        service::ready(&status);
    }

    /// The sensors that run.
    fn sensors(&self) -> Vec<&'static str> {
        let mut sensors: Vec<_> = self.kernel.served().sensors().map(Sensor::name).collect();
        if self.kernel.can_deny_network() {
            sensors.push(Sensor::Cgroup.name());
        }
        sensors.push(Sensor::Tracepoint.name());
        sensors
    }

    /// The sensor that serves each security hook, by the hook's name.
    fn hooks(&self) -> BTreeMap<&'static str, &'static str> {
        let served = self.kernel.served();
        SecurityHook::NAMES.iter().map(|&(name, hook)| (name, served.name(hook))).collect()
    }

    fn instance_names(&self) -> String {
        let names: Vec<_> = self.policy.instances.iter().map(|instance| instance.name.as_str()).collect();
        names.join(", ")
    }

    /// Marks what an earlier run had in scope, and is no instance's by itself.
    fn label_inherited(&mut self, takeover: &Takeover) -> Result<(), AgentError> {
        let in_use: BTreeSet<_> = self.names.slots.values().copied().collect();
        let known: BTreeSet<_> = self.kernel.labels().into_iter().map(|(tgid, _)| tgid).collect();
        for (tgid, label) in takeover.labels() {
            if in_use.contains(&label.instance) && !known.contains(&tgid) {
                self.kernel.label(tgid, label)?;
                if let Some(process) = scan::process(tgid, &self.host.cgroup_mount) {
                    self.own_sockets(&process, label)?;
                }
                self.pipeline.enricher().seed(tgid);
            }
        }
        Ok(())
    }

    /// Marks what already runs.
    fn label_running(&mut self) -> Result<(), AgentError> {
        let own = std::process::id();
        let known: BTreeSet<_> = self.kernel.labels().into_iter().map(|(tgid, _)| tgid).collect();
        let processes = scan::processes(&self.host.cgroup_mount);
        for (tgid, label) in scan::labels(&processes, &self.selectors, own) {
            if !known.contains(&tgid) {
                self.kernel.label(tgid, label)?;
                if let Some(process) = processes.iter().find(|process| process.tgid == tgid) {
                    self.own_sockets(process, label)?;
                }
                self.pipeline.enricher().seed(tgid);
            }
        }
        // Started from inside an instance, the guard would have inherited its mark.
        self.kernel.forget_task(own);
        Ok(())
    }

    /// Notes the sockets that a process has bound already.
    fn own_sockets(&mut self, process: &scan::Process, label: TaskLabel) -> Result<(), AgentError> {
        let sockets = inbound::owned(process, label);
        Ok(sockets.into_iter().try_for_each(|(cookie, owner)| self.kernel.own_socket(cookie, owner))?)
    }

    /// Looks at what the policy rests on, and puts it in force anew where that has changed.
    fn refresh(&mut self) -> Result<(), AgentError> {
        let told = self.peers.turn(Instant::now());
        let renewed = self.renew();
        self.tell_peers(&told);
        renewed
    }

    /// Looks for instances that the embedded policy is not about yet.
    fn adopt(&mut self) -> bool {
        let new = self.adopted.look(instance::discover(&self.host.cgroup_mount), &self.host);
        for message in self.adopted.untold.drain(..) {
            let message = terminal::plain(message.as_bytes());
            complain(&message);
            self.pipeline.lifecycle(Stage::Error, &message, &Map::new());
        }
        new
    }

    /// Recompiles when a file that rules rest on was replaced, came or went, or a cgroup did, or a host that they name has
    /// another address.
    fn renew(&mut self) -> Result<(), AgentError> {
        if self.options.config.is_none() && self.adopt() {
            let mut policy = self.adopted.policy()?;
            policy.enforce = self.options.enforce.unwrap_or(policy.enforce);
            self.apply(policy)?;
            self.label_running()?;
            let names = self.instance_names();
            say(&format!("found a new Node-RED; instances now: {names}"));
            let details = Map::from_iter([("instances".to_owned(), names.into())]);
            self.pipeline.lifecycle(Stage::Reload, "A new instance was found", &details);
            return Ok(());
        }
        let (mut changed, now) = (self.host.resolvers() != self.resolvers, Instant::now());
        if changed {
            self.peers.hurry(now);
        }
        changed |= self.peers.table() != self.host.peers;
        let procs = self.procs.look(&self.about_proc, || self.kernel.labels());
        changed |= procs != self.host.procs;
        for Watched { path, id, waits } in &self.watched {
            let found = self.kernel.identify(path)?;
            changed |= found != *id || (*waits && self.settling.is_made(path, Ages::of(path), now));
        }
        let by_cgroup = self
            .policy
            .instances
            .iter()
            .flat_map(|instance| &instance.select)
            .any(|select| select.unit.is_some() || select.container.is_some() || select.cgroup.is_some());
        if !changed && !by_cgroup {
            return Ok(());
        }
        if !changed {
            let now = selectors(&self.policy, &self.names.slots, &self.host);
            if now.map_err(|fault| AgentError::Compile(self.located(&fault)))? == self.selectors {
                return Ok(());
            }
        }
        let before = std::mem::replace(&mut self.host.procs, procs);
        if let Err(error) = self.apply(self.policy.clone()) {
            self.host.procs = before;
            return Err(error);
        }
        self.label_running()
    }

    /// Gives figures where the policy wants them. An address that cannot be had is told, and keeps nobody from guarding.
    fn serve_metrics(&mut self) {
        self.metrics = None;
        let Some(address) = self.policy.metrics else { return };
        let counts = Arc::clone(self.pipeline.counts());
        match metrics::Server::start(address, counts, self.pipeline.spool()) {
            Ok(server) => self.metrics = Some(server),
            Err(error) => {
                let message = format!("[metrics] {address}: {error}; free the address or name another, then reload");
                complain(&message);
                self.pipeline.lifecycle(Stage::Error, &message, &Map::new());
            }
        }
    }

    /// Tells about records that were lost since the last time.
    fn report_loss(&mut self) -> Result<(), AgentError> {
        let counters = self.kernel.counters()?;
        let sum = |of: fn(&monitor_common::event::Counters) -> u64| counters.iter().map(of).sum::<u64>();
        let (produced, emitted, lost) = (sum(|it| it.produced), sum(|it| it.emitted), sum(|it| it.lost));
        let unjudged = sum(|it| it.unjudged);
        self.pipeline.counts().kernel(lost, unjudged);
        if unjudged > self.reported_unjudged {
            let new = unjudged - self.reported_unjudged;
            self.reported_unjudged = unjudged;
            let message = format!("{new} operations were refused unjudged: too many at once on one CPU");
            say(&message);
            let details = Map::from_iter([("unjudged".to_owned(), new.into())]);
            self.pipeline.lifecycle(Stage::Loss, &message, &details);
        }
        let skipped = self.kernel.skipped_names()?;
        if skipped > self.reported_skipped {
            let new = skipped - self.reported_skipped;
            self.reported_skipped = skipped;
            let message = format!(
                "{new} questions to resolvers, or answers, were not read: one instance had more than {MAX_TOLD} a second"
            );
            say(&message);
            let details = Map::from_iter([("skipped".to_owned(), new.into())]);
            self.pipeline.lifecycle(Stage::Loss, &message, &details);
        }
        if lost > self.reported_lost {
            let new = lost - self.reported_lost;
            self.reported_lost = lost;
            let details = Map::from_iter([
                ("lost".to_owned(), new.into()),
                ("lost_total".to_owned(), lost.into()),
                ("emitted_total".to_owned(), emitted.into()),
                ("produced_total".to_owned(), produced.into()),
            ]);
            let message = format!("{new} records were lost: the ring buffer was full");
            say(&message);
            self.pipeline.lifecycle(Stage::Loss, &message, &details);
            self.kernel.tell_lost(lost)?;
        }
        Ok(())
    }

    /// Takes records from the ring buffer, up to [`TURN`] of them; true when there may be more.
    fn drain(&mut self, events: &mut RingBuf<MapData>) -> bool {
        for _ in 0..TURN {
            let Some(item) = events.next() else {
                self.heal();
                return false;
            };
            match self.pipeline.record(&item, &self.names) {
                Ok(Some(told)) => {
                    if !self.options.quiet {
                        self.say_met(&told);
                    }
                    self.respond(&told);
                }
                Ok(None) => {}
                // One bad record must not end the guard: enforcement goes on in the kernel.
                Err(error) => complain(&error),
            }
        }
        self.heal();
        true
    }

    /// Tells which settings and flows have changed.
    fn look_at_changes(&mut self) {
        let instances = self.policy.instances.iter().map(|it| (it.name.as_str(), it.user_dir.as_path()));
        for change in self.changes.look(instances, Instant::now()) {
            say(&terminal::plain(change.sentence().as_bytes()));
            self.pipeline.response(response::changed(&change));
        }
    }

    /// Says what was met, as long as that is news: of a storm the incident is told.
    fn say_met(&mut self, told: &Told) {
        let Told { record, sentence, nth, uid, .. } = told;
        for path in [Some(&record.path), record.other.as_ref()].into_iter().flatten() {
            self.changes.met(path, uid);
        }
        if *nth <= SAID {
            say(&if self.colour { sentence::coloured(record.verdict, sentence) } else { sentence.clone() });
        }
        if *nth == SAID {
            say("more of this is in the journal; how often it comes is told here while it goes on");
        }
        if let Some(said) = &told.incident {
            // Its first event has just been said.
            say_incident(said, *nth > 1);
        }
    }

    /// Does what a rule asks for beyond the operation itself.
    fn respond(&mut self, told: &Told) {
        let Told { record, instance, rule, .. } = told;
        let event = &record.event;
        let scope = if record.verdict == Verdict::Kill { self.names.scope(record) } else { KillScope::Process };
        if scope != KillScope::Process {
            let lineage = self.pipeline.enricher().lineage();
            let responder = Responder { kernel: &self.kernel, lineage, host: &self.host };
            let ended = responder.kill(record, scope, &self.policy, instance);
            let because = Because { instance, rule, scope: scope.name(), actor: event.tgid };
            for process in &ended {
                let sentence = format!(
                    "instance {instance}: {} (pid {}) killed too: rule {rule} kills the whole {}",
                    process.name,
                    process.pid,
                    scope.name()
                );
                say(&terminal::shown(sentence.as_bytes()));
                self.pipeline.response(response::ended(process, because, &sentence));
            }
        }
        // What was denied has done no harm, and who only observes changes nothing.
        if record.wanted >= Verdict::Deny && record.verdict != Verdict::Deny && event.flags & FLAG_OBSERVED == 0 {
            self.healer.suspect(instance, rule, record.hook == Hook::Link, Instant::now());
        }
    }

    /// Puts back what came to harm.
    fn heal(&mut self) {
        if self.healer.is_busy() {
            let told = self.healer.heal(Instant::now());
            let restored = told.iter().filter(|told| told.outcome == heal::Outcome::Restored);
            let restored: Vec<_> = restored.map(|told| &told.file.path).collect();
            for path in &restored {
                self.settling.put_back(path);
            }
            let renewed = if restored.is_empty() { Ok(()) } else { self.refresh() };
            // Whoever hears that a file is healed may rely on it that it is closed.
            self.tell_healing(&told);
            if let Err(error) = renewed {
                complain(&format_args!("the policy could not be renewed, the old one stays in force: {error}"));
            }
        }
    }

    /// Takes first copies, and tells what is not as it should be.
    fn look_at_healed(&mut self) {
        let watched = &self.watched;
        let is_made = |path: &Path| watched.iter().any(|it| it.path == path && it.id.is_some() && !it.waits);
        let told = self.healer.look(is_made);
        self.tell_healing(&told);
    }

    fn tell_healing(&mut self, all: &[heal::Told]) {
        for told in all {
            say(&terminal::plain(told.message.as_bytes()));
            self.pipeline.response(response::healing(told));
        }
    }

    /// Runs until SIGTERM or SIGINT.
    pub async fn run(mut self, events: RingBuf<MapData>) -> Result<(), AgentError> {
        let (mut refresh, mut healing) = (interval(REFRESH), interval(HEALING));
        healing.set_missed_tick_behavior(MissedTickBehavior::Delay);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // SAFETY: the ring buffer owns its map's descriptor and keeps it open for as long as it lives itself.
        let registered = unsafe { AsyncFd::register(events) };
        let mut events = registered.map_err(|error| io("the ring buffer")(error.into_parts().1))?;
        loop {
            tokio::select! {
                guard = events.readable_mut() => {
                    let mut guard = guard.map_err(io("the ring buffer"))?;
                    if self.drain(guard.get_inner_mut()) {
                        // Without a pause the runtime would never look for signals and timers.
                        tokio::task::yield_now().await;
                    } else {
                        guard.clear_ready();
                    }
                }
                _ = healing.tick(), if self.healer.is_busy() => self.heal(),
                _ = refresh.tick() => {
                    if let Err(error) = self.refresh() {
                        complain(&format_args!("the policy could not be renewed, the old one stays in force: {error}"));
                    }
                    self.look_at_healed();
                    self.look_at_changes();
                    let (windows, mut hands) = self.windows();
                    if let Err(error) = windows.expire(&mut hands) {
                        complain(&error);
                    }
                    for said in self.pipeline.tick(Instant::now()) {
                        say_incident(&said, true);
                    }
                    self.report_loss()?;
                    if let Err(error) = self.pipeline.check() {
                        complain(&error);
                    }
                }
                Some(Asked { request, by, answer }) = self.listener.next() => {
                    let (windows, mut hands) = self.windows();
                    // Who has gone away meanwhile sees it by `status`.
                    let _ = answer.send(windows.answer(&request, &by, &mut hands));
                }
                _ = self.signals.hangup.recv() => self.reload()?,
                _ = self.signals.terminate.recv() => break,
                _ = self.signals.interrupt.recv() => break,
            }
        }
        service::stopping();
        // Whoever floods the guard does not keep it from stopping: what is there now is taken, not what keeps coming.
        for _ in 0..LAST_TURNS {
            if !self.drain(events.get_mut()) {
                break;
            }
        }
        self.report_loss()?;
        for said in self.pipeline.end() {
            say_incident(&said, true);
        }
        let message = if self.pins.is_some() { "Flowwarden stopped; its programs go on" } else { "Flowwarden stopped" };
        self.pipeline.lifecycle(Stage::Stop, message, &Map::new());
        self.pipeline.close()?;
        drop(self.pid_file.take());
        match &self.options.pin {
            Some(path) => say(&format!(
                "stopped; the kernel goes on to judge: `flowwarden detach --pin {}` ends it",
                path.display()
            )),
            None => say("stopped"),
        }
        Ok(())
    }
}
