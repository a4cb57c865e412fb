//! The agent: starts the kernel side, keeps the compiled policy up to date with files and cgroups, and journals records.

mod adopt;
mod apply;
mod ended;
pub mod fatal;
mod healing;
mod peers;
mod respond;
mod say;
mod service;
mod takeover;
mod trouble;
mod windows;

#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    io::IsTerminal as _,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use aya::maps::{MapData, RingBuf};
use monitor_common::{
    Verdict, dns::MAX_REPORTED, event::Counters, scope::TaskLabel, security::SecurityHook, verdict::Sensor,
};
use serde_json::{Map, Value, json};
use tokio::{
    io::{Interest, unix::AsyncFd},
    signal::unix::{Signal, SignalKind, signal},
    time::{MissedTickBehavior, interval},
};

use crate::{
    config::{Config, ConfigError},
    control::{Answer, Asked, Listener, Refusal, Request},
    heal::Healer,
    kernel::{
        Kernel, census,
        enforcer::Enforcer,
        error::{KernelError, chain, first_line},
        inbound,
        pin::{PinError, Pins},
    },
    metrics,
    pipeline::{Matched, Pipeline},
    record::{enrich::Enricher, sentence},
};
use adopt::Adopted;
use apply::{Cause, InForce, own, read_config};
use ended::Because;
use fatal::Fatal;
use healing::Made;
use journal::{
    Journal, JournalError,
    ocsf::Stage,
    state::{State, StateError},
    stdio::complain,
    text::terminal,
};
use node_red::{
    change::{self, Changes},
    instance,
};
use policy::{
    compile::{Watched, selectors},
    host::{Host as _, System},
    machine::{memory, procs::Procs, scan},
    model::KillScope,
    own::Own,
    peers::Peers,
    settle::{Ages, Settling},
};
use respond::Responder;
use say::{say, say_incident};
use sinks::Sinks;
use takeover::Takeover;
use tokio_util::sync::CancellationToken;
use trouble::{Task, Troubles};
use windows::{Context, Windows};

/// The namespace in which processes have the kernel's own numbers: `PROC_PID_INIT_INO` of `include/linux/proc_ns.h`.
const FIRST_PIDS: &str = "pid:[4026531836]";
/// Interval of checks of files at which damage is expected.
const HEALING: Duration = Duration::from_millis(20);
/// Interval of checks of files, cgroups and counters.
const REFRESH: Duration = Duration::from_secs(1);
/// Most records that are handled before signals, timers and the policy are handled.
const MAX_RECORDS_PER_TURN: usize = 4096;
/// Events of one incident that are printed one by one.
const MAX_PRINTED_EVENTS: u64 = 10;
/// Most turns that drain the ring buffer when the guard stops.
const MAX_FINAL_TURNS: usize = 64;

/// Why the agent could not start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The process is not root.
    #[error("flowwarden run needs root: it loads kernel programs. Try: sudo flowwarden run")]
    NotRoot,
    /// The process runs in a PID namespace.
    #[error(
        "flowwarden runs in a PID namespace and cannot match the kernel's process ids: run it outside of the container, or \
         with the PID namespace of the host (docker run --pid=host)"
    )]
    PidNamespace,
    /// The policy is invalid.
    #[error(transparent)]
    Policy(#[from] ConfigError),
    /// The policy does not compile.
    #[error("{0}")]
    Compile(String),
    /// The kernel side failed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The journal failed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// Pins cannot be used.
    #[error(transparent)]
    Pin(#[from] PinError),
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

/// Options of the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// The policy file; `None` for the embedded policy.
    pub config: Option<PathBuf>,
    /// Directory of the journal.
    pub journal: PathBuf,
    /// State directory.
    pub state: PathBuf,
    /// Directory of pins: with it the programs stay attached when the guard stops.
    pub pin: Option<PathBuf>,
    /// Overrides the mode of the policy.
    pub enforce: Option<bool>,
    /// Directory in cgroup v2 below which traffic is judged.
    pub cgroup_root: Option<PathBuf>,
    /// The sensors on security hooks that may be used.
    pub sensors: Vec<Sensor>,
    /// Operations are journaled and not printed; other messages go to standard error.
    pub quiet: bool,
}

/// SIGTERM and SIGINT stop the guard, SIGHUP reloads the policy. Before the handlers are installed the default action applies.
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
pub struct Agent<E = Kernel> {
    options: Options,
    signals: Signals,
    kernel: E,
    /// The ring buffer; `None` at the start and while it is read.
    events: Option<RingBuf<MapData>>,
    host: System,
    sinks: Sinks,
    pipeline: Pipeline,
    /// The metrics server, if configured.
    metrics: Option<metrics::Server>,
    in_force: InForce,
    /// The names of the policy in force are stored, if the programs are pinned.
    names_kept: bool,
    state: State,
    windows: Windows,
    listener: Listener,
    own: Own,
    healer: Healer,
    changes: Changes,
    /// Lock of the pins, held while the guard runs.
    pins: Option<Pins>,
    settling: Settling,
    /// Files whose rules are in force and that are to be announced.
    made: Vec<Made>,
    /// The hosts that ingress rules name.
    peers: Peers,
    /// The proc file systems of instances.
    procs: Procs,
    /// Failing tasks.
    troubles: Troubles,
    /// Running processes may lack their label.
    unlabelled: bool,
    reported_lost: u64,
    /// Number of reported losses that is stored for the next run.
    noted_lost: u64,
    reported_unjudged: u64,
    reported_skipped: u64,
    colour: bool,
    /// Instances of the embedded policy; unused with a policy file.
    adopted: Adopted,
}

impl<E> std::fmt::Debug for Agent<E> {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Agent").field("options", &self.options).finish_non_exhaustive()
    }
}

impl Agent<Kernel> {
    /// Starts the guard; on an error nothing is left attached. The descriptor becomes readable when there are records.
    pub fn start(options: Options) -> Result<(Self, OwnedFd), AgentError> {
        if !rustix::process::geteuid().is_root() {
            return Err(AgentError::NotRoot);
        }
        if std::fs::read_link("/proc/self/ns/pid").is_ok_and(|namespace| namespace != Path::new(FIRST_PIDS)) {
            return Err(AgentError::PidNamespace);
        }
        say::aside(options.quiet);
        // A signal may arrive as soon as the guard is ready; an earlier one waits until then.
        let signals = Signals::listen()?;
        let mut host = System::new();
        let mut adopted = Adopted::default();
        let config = read_config(&options, &host, &mut adopted)?;
        let state = State::open(&options.state)?;
        // Answers arrive while the programs are loaded.
        let mut peers = peers::open(&state)?;
        peers.follow(&config.policy, Instant::now());
        let lookups = peers.turn(Instant::now());
        let pins = options.pin.as_deref().map(Pins::open).transpose()?;
        let journal = Journal::open(&options.journal, config.journal)?;
        let older = pins.as_ref().map_or_else(|| Ok(Vec::new()), Pins::generations)?;
        let begun = pins.as_ref().map(Pins::begin).transpose()?;
        let mut kernel = Kernel::load(begun.as_ref())?;
        #[cfg(feature = "trace")]
        kernel.drain_trace()?;
        // Before the kernel's types are parsed: both at once would be the guard's peak.
        memory::trim();
        let events = kernel.events()?;
        let waiting = events.as_fd().try_clone_to_owned().map_err(io("the ring buffer"))?;
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
        // After it is known what can be denied here.
        apply::warnings(&options, &config.policy, &host);
        let parts = Parts { options, kernel, host, state, journal, signals, peers, pins };
        let mut agent = Self::new(parts, &config, adopted)?;
        agent.report_lookups(&lookups);
        // After the steps that may fail: earlier programs keep enforcing until these are attached.
        let takeover = Takeover::begin(older, &agent.state)?;
        agent.kernel.begin_after(takeover.epoch);
        agent.in_force.names.slots.clone_from(&takeover.names.slots);
        takeover.teach(&mut agent.kernel);
        let (_, mut hands) = agent.windows();
        agent.windows = Windows::take_over(&takeover, &mut hands)?;
        agent.apply(config, Cause::Asked)?;
        agent.kernel.attach_scope()?;
        // The second pass finds processes that were created during the first.
        for _ in 0..2 {
            agent.label_inherited(&takeover)?;
            agent.label_running()?;
        }
        agent.kernel.attach_syscalls()?;
        // Files may have changed since the policy was compiled.
        agent.refresh()?;
        takeover.teach(&mut agent.kernel);
        if let Some(begun) = begun {
            agent.kernel.pin(&begun)?;
            begun.keep();
        }
        let Self { pipeline, healer, .. } = &mut agent;
        if takeover.finish(pipeline, |names, matched| healing::note(healer, names, matched))? > 0 {
            agent.healer.lost(true, Instant::now());
        }
        agent.events = Some(events);
        agent.healer.begin(Instant::now());
        agent.heal();
        agent.report_unguarded();
        agent.look_at_healed();
        // A failure has been reported.
        let _ = agent.serve_metrics();
        memory::trim();
        agent.announce();
        Ok((agent, waiting))
    }

    /// Reports programs that earlier runs pinned elsewhere, which this run does not take over.
    fn report_unguarded(&self) {
        for found in census::take().iter().filter(|found| !found.guarded) {
            let message = terminal::plain(found.to_string().as_bytes());
            complain(&message);
            self.pipeline.lifecycle(Stage::Error, &message, &Map::new());
        }
    }

    fn announce(&self) {
        for degraded in self.kernel.degraded() {
            complain(&format_args!("{} does not run here: {}", degraded.hook, first_line(&degraded.why)));
        }
        let mode = if self.in_force.config.policy.enforce { "enforce" } else { "observe" };
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
            ("logged".to_owned(), json!(self.in_force.config.policy.logged())),
        ]);
        self.pipeline.lifecycle(Stage::Start, "Flowwarden started", &details);
        let journal = self.pipeline.journal_path().display();
        let status = if self.in_force.config.policy.instances.is_empty() {
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

    /// Marks what an earlier run had in scope, and is no instance's by itself.
    fn label_inherited(&mut self, takeover: &Takeover) -> Result<(), AgentError> {
        let in_use: BTreeSet<_> = self.in_force.names.slots.values().copied().collect();
        let known = self.kernel.labelled();
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
}

/// What an agent is made of.
struct Parts<E> {
    options: Options,
    kernel: E,
    host: System,
    state: State,
    journal: Journal,
    signals: Signals,
    peers: Peers,
    pins: Option<Pins>,
}

impl<E: Enforcer> Agent<E> {
    /// An agent without a policy in force, with the sinks of the first one.
    fn new(parts: Parts<E>, config: &Config, adopted: Adopted) -> Result<Self, AgentError> {
        let Parts { options, kernel, host, state, journal, signals, peers, pins } = parts;
        let own = own(&options, &host);
        let pipeline = Pipeline::new(Enricher::new(host.cgroup_mount.clone()), journal);
        let sinks = Sinks::start(&config.sinks, pipeline.spool());
        let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        Ok(Self {
            options,
            signals,
            kernel,
            events: None,
            host,
            sinks,
            pipeline,
            metrics: None,
            in_force: InForce::default(),
            names_kept: true,
            own,
            healer: Healer::open(&state)?,
            changes: Changes::open(&state)?,
            listener: Listener::open(&state)?,
            state,
            windows: Windows::default(),
            pins,
            settling: Settling::default(),
            made: Vec::new(),
            peers,
            procs: Procs::default(),
            troubles: Troubles::default(),
            unlabelled: false,
            reported_lost: 0,
            noted_lost: 0,
            reported_unjudged: 0,
            reported_skipped: 0,
            colour,
            adopted,
        })
    }

    /// The maintenance windows and their context.
    fn windows(&mut self) -> (&mut Windows, Context<'_>) {
        let Self { windows, kernel, pipeline, state, in_force, .. } = self;
        let InForce { config, names, .. } = in_force;
        (windows, Context { kernel, pipeline, state, policy: &config.policy, slots: &names.slots })
    }

    fn instance_names(&self) -> String {
        let names: Vec<_> =
            self.in_force.config.policy.instances.iter().map(|instance| instance.name.as_str()).collect();
        names.join(", ")
    }

    /// Labels running processes. A failure does not affect the other processes.
    fn label_running(&mut self) -> Result<(), AgentError> {
        let own = std::process::id();
        let known = self.kernel.labelled();
        let processes = scan::processes(&self.host.cgroup_mount);
        let mut labelled = Ok(());
        for (tgid, label) in scan::labels(&processes, &self.in_force.selectors, own) {
            if known.contains(&tgid) {
                continue;
            }
            let mut done = self.kernel.label(tgid, label).map_err(AgentError::from);
            if let Some(process) = processes.iter().find(|process| process.tgid == tgid) {
                done = done.and(self.own_sockets(process, label));
            }
            self.pipeline.enricher().seed(tgid);
            labelled = labelled.and(done);
        }
        // A guard that was started by an instance would have inherited its label.
        self.kernel.forget_task(own);
        labelled
    }

    /// Labels running processes. A failure is reported and retried.
    fn label(&mut self) -> Result<(), AgentError> {
        let labelled = self.label_running();
        self.unlabelled = labelled.is_err();
        self.note(Task::Label, &labelled);
        labelled
    }

    /// Registers sockets that a process has bound before.
    fn own_sockets(&mut self, process: &scan::Process, label: TaskLabel) -> Result<(), AgentError> {
        let sockets = inbound::owned(process, label);
        Ok(sockets.into_iter().try_for_each(|(cookie, owner)| self.kernel.own_socket(cookie, owner))?)
    }

    /// Checks what the policy depends on, and applies it again if that has changed.
    fn refresh(&mut self) -> Result<(), AgentError> {
        let lookups = self.peers.turn(Instant::now());
        let renewed = self.renew();
        self.report_lookups(&lookups);
        renewed
    }

    /// The same in a running guard.
    fn keep_up(&mut self) {
        let renewed = self.refresh();
        self.note(Task::Renew, &renewed);
        if self.unlabelled {
            let _ = self.label();
        }
    }

    /// Looks for instances that the embedded policy is not about yet; true when there are any.
    fn adopt(&mut self) -> bool {
        self.adopted.look(instance::discover(&self.host.cgroup_mount), &self.host);
        for message in self.adopted.untold.drain(..) {
            let message = terminal::plain(message.as_bytes());
            complain(&message);
            self.pipeline.lifecycle(Stage::Error, &message, &Map::new());
        }
        !self.adopted.are_in(&self.in_force.config.policy)
    }

    /// Recompiles when a file that rules rest on was replaced, came or went, or a cgroup did, or a host that they name has
    /// another address.
    fn renew(&mut self) -> Result<(), AgentError> {
        if self.options.config.is_none() && self.adopt() {
            let mut policy = self.adopted.policy()?;
            policy.enforce = self.options.enforce.unwrap_or(policy.enforce);
            self.apply(policy.into(), Cause::Changed)?;
            let _ = self.label();
            let names = self.instance_names();
            say(&format!("found a new Node-RED; instances now: {names}"));
            let details = Map::from_iter([
                ("instances".to_owned(), names.into()),
                ("logged".to_owned(), self.in_force.config.policy.logged().into()),
            ]);
            self.pipeline.lifecycle(Stage::Reload, "A new instance was found", &details);
            return Ok(());
        }
        let (mut changed, now) = (self.host.resolvers() != self.in_force.resolvers, Instant::now());
        if changed {
            self.peers.hurry(now);
        }
        changed |= self.peers.table() != self.host.peers;
        let procs = self.procs.look(&self.in_force.about_proc, || self.kernel.labels());
        changed |= procs != self.host.procs;
        for Watched { path, id, waits } in &self.in_force.watched {
            let found = self.kernel.identify(path)?;
            changed |= found != *id || (*waits && self.settling.is_made(path, Ages::of(path), now));
        }
        let by_cgroup = self
            .in_force
            .config
            .policy
            .instances
            .iter()
            .flat_map(|instance| &instance.select)
            .any(|select| select.unit.is_some() || select.container.is_some() || select.cgroup.is_some());
        if !changed && !by_cgroup {
            return Ok(());
        }
        if !changed {
            let now = selectors(&self.in_force.config.policy, &self.in_force.names.slots, &self.host);
            if now.map_err(|fault| AgentError::Compile(self.located(&fault)))? == self.in_force.selectors {
                return Ok(());
            }
        }
        let before = std::mem::replace(&mut self.host.procs, procs);
        if let Err(error) = self.apply(self.in_force.config.clone(), Cause::Changed) {
            self.host.procs = before;
            return Err(error);
        }
        let _ = self.label();
        Ok(())
    }

    /// Gives figures where the policy wants them. An address that cannot be had is reported, and is the answer; the guard goes
    /// on without.
    fn serve_metrics(&mut self) -> Option<String> {
        self.metrics = None;
        let address = self.in_force.config.metrics?;
        let counts = Arc::clone(self.pipeline.counts());
        match metrics::Server::start(address, counts, self.pipeline.spool()) {
            Ok(server) => {
                self.metrics = Some(server);
                None
            }
            Err(error) => {
                let message = format!("[metrics] {address}: {error}; free the address or name another, then reload");
                complain(&message);
                self.pipeline.lifecycle(Stage::Error, &message, &Map::new());
                Some(message)
            }
        }
    }

    /// Reports records that were lost since the last call.
    fn report_loss(&mut self) {
        let counters = self.kernel.counters();
        self.note(Task::Counters, &counters.as_ref().map(drop));
        if let Ok(counters) = counters {
            self.report_counters(&counters);
        }
        let skipped = self.kernel.skipped_names();
        self.note(Task::Skipped, &skipped.as_ref().map(drop));
        let skipped = skipped.unwrap_or_default();
        if skipped > self.reported_skipped {
            let new = skipped - self.reported_skipped;
            self.reported_skipped = skipped;
            let message = format!("{new} DNS messages were not read: an instance exceeded {MAX_REPORTED} per second");
            say(&message);
            let details = Map::from_iter([("skipped".to_owned(), new.into())]);
            self.pipeline.lifecycle(Stage::Loss, &message, &details);
        }
        if self.reported_lost > self.noted_lost {
            let noted = self.kernel.tell_lost(self.reported_lost);
            if noted.is_ok() {
                self.noted_lost = self.reported_lost;
            }
            self.note(Task::Reported, &noted);
        }
    }

    fn report_counters(&mut self, counters: &[Counters]) {
        let sum = |of: fn(&Counters) -> u64| counters.iter().map(of).sum::<u64>();
        let (produced, emitted, lost) = (sum(|it| it.produced), sum(|it| it.emitted), sum(|it| it.lost));
        let unjudged = sum(|it| it.unjudged);
        self.pipeline.counts().kernel(lost, unjudged);
        if unjudged > self.reported_unjudged {
            let new = unjudged - self.reported_unjudged;
            self.reported_unjudged = unjudged;
            let message = format!("{new} operations were refused without evaluation: too many at once on one CPU");
            say(&message);
            let details = Map::from_iter([("unjudged".to_owned(), new.into())]);
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
            self.healer.lost(false, Instant::now());
        }
    }

    /// Reads up to [`MAX_RECORDS_PER_TURN`] records from the ring buffer; true if there may be more.
    fn drain(&mut self) -> bool {
        let more = self.take_records(MAX_RECORDS_PER_TURN);
        self.heal();
        more
    }

    /// Reads up to `most` records from the ring buffer; true if there may be more.
    fn take_records(&mut self, most: usize) -> bool {
        let Some(mut events) = self.events.take() else { return false };
        let mut left = most;
        while left > 0
            && let Some(item) = events.next()
        {
            left -= 1;
            let recorded = self.pipeline.record(&item, &self.in_force.names);
            self.note(Task::Records, &recorded.as_ref().map(drop));
            if let Ok(Some(matched)) = recorded {
                if !self.options.quiet {
                    self.log_match(&matched);
                }
                self.respond(&matched);
            }
        }
        self.events = Some(events);
        left == 0
    }

    /// Reports changes of settings and flows.
    fn report_changes(&mut self) {
        let instances =
            self.in_force.config.policy.instances.iter().map(|it| (it.name.as_str(), it.user_dir.as_path()));
        for change in self.changes.look(instances, Instant::now()) {
            say(&terminal::plain(change.sentence().as_bytes()));
            self.pipeline.response(change::event::changed(&change));
        }
    }

    /// Prints a matched operation. Of many alike, the first ones and then the incident are printed.
    fn log_match(&mut self, matched: &Matched) {
        let Matched { record, sentence, nth, uid, .. } = matched;
        for path in [Some(&record.path), record.other.as_ref()].into_iter().flatten() {
            self.changes.met(path, uid);
        }
        if *nth <= MAX_PRINTED_EVENTS {
            say(&if self.colour { sentence::coloured(record.verdict, sentence) } else { sentence.clone() });
        }
        if *nth == MAX_PRINTED_EVENTS {
            say("further events of this incident are in the journal; their count is printed here");
        }
        if let Some(said) = &matched.incident {
            // Its first event has just been printed.
            say_incident(said, *nth > 1);
        }
    }

    /// Carries out what a rule demands beyond the operation itself.
    fn respond(&mut self, matched: &Matched) {
        let Matched { record, instance, rule, .. } = matched;
        let event = &record.event;
        let scope =
            if record.verdict == Verdict::Kill { self.in_force.names.scope(record) } else { KillScope::Process };
        if scope != KillScope::Process {
            let lineage = self.pipeline.enricher().lineage();
            let responder = Responder { kernel: &self.kernel, lineage, host: &self.host };
            let ended = responder.kill(record, scope, &self.in_force.config.policy, instance);
            let because = Because { instance, rule, scope: scope.name(), actor: event.tgid };
            for process in &ended {
                let sentence = format!(
                    "instance {instance}: {} (pid {}) killed too: rule {rule} kills the whole {}",
                    process.name,
                    process.pid,
                    scope.name()
                );
                say(&terminal::shown(sentence.as_bytes()));
                self.pipeline.response(ended::ended(process, because, &sentence));
            }
        }
        healing::note(&mut self.healer, &self.in_force.names, matched);
    }

    /// Runs the periodic tasks, once a second.
    fn tick(&mut self) {
        self.keep_up();
        self.look_at_healed();
        self.report_changes();
        let (windows, mut hands) = self.windows();
        windows.expire(&mut hands);
        let kept = self.windows.keep(&self.state);
        self.note(Task::Windows, &kept);
        self.keep_names();
        for said in self.pipeline.tick(Instant::now()) {
            say_incident(&said, true);
        }
        self.report_loss();
        let written = self.pipeline.check();
        self.note(Task::Journal, &written);
    }

    /// Answers a request of the command line.
    fn answer(&mut self, Asked { request, by, answer }: Asked) {
        let outcome = match request {
            Request::Maintenance(request) => {
                let (windows, mut hands) = self.windows();
                windows.answer(&request, &by, &mut hands).map(Answer::Windows).map_err(Refusal::Failed)
            }
            Request::Reload => self.reload(&by).map(Answer::Reloaded),
        };
        let kept = self.windows.keep(&self.state);
        self.note(Task::Windows, &kept);
        // The peer may have disconnected; the journal has the result.
        let _ = answer.send(outcome);
    }

    /// Runs until SIGTERM, SIGINT or a cancelled token.
    pub async fn run(mut self, waiting: OwnedFd, stop: CancellationToken) -> Result<(), Fatal> {
        let (mut refresh, mut healing) = (interval(REFRESH), interval(HEALING));
        healing.set_missed_tick_behavior(MissedTickBehavior::Delay);
        refresh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // SAFETY: the registered value owns the descriptor and keeps it open until it is dropped.
        let registered = unsafe { AsyncFd::register_with_interest(waiting, Interest::READABLE) };
        let mut waiting = registered.map_err(|error| Fatal::Records(error.into_parts().1))?;
        loop {
            tokio::select! {
                guard = waiting.readable_mut() => {
                    let mut guard = guard.map_err(Fatal::Records)?;
                    if self.drain() {
                        // Lets the runtime poll signals and timers.
                        tokio::task::yield_now().await;
                    } else {
                        guard.clear_ready();
                    }
                }
                _ = healing.tick(), if self.healer.is_busy(Instant::now()) => self.heal(),
                _ = refresh.tick() => self.tick(),
                Some(asked) = self.listener.next() => self.answer(asked),
                // The result has been reported.
                _ = self.signals.hangup.recv() => drop(self.reload("SIGHUP")),
                () = stop.cancelled() => break,
                _ = self.signals.terminate.recv() => break,
                _ = self.signals.interrupt.recv() => break,
            }
        }
        service::stopping();
        // A flood of records must not keep the guard from stopping: the number of turns is bounded.
        for _ in 0..MAX_FINAL_TURNS {
            if !self.drain() {
                break;
            }
        }
        self.stop()
    }

    /// Flushes the journal, and prints what stays attached.
    fn stop(mut self) -> Result<(), Fatal> {
        self.report_loss();
        for said in self.pipeline.end() {
            say_incident(&said, true);
        }
        let message =
            if self.pins.is_some() { "Flowwarden stopped; its programs keep enforcing" } else { "Flowwarden stopped" };
        self.pipeline.lifecycle(Stage::Stop, message, &Map::new());
        let closed = self.pipeline.close();
        match &self.options.pin {
            Some(path) => say(&format!(
                "stopped; the kernel programs keep enforcing: `flowwarden detach --pin {}` detaches them",
                path.display()
            )),
            None => say("stopped"),
        }
        Ok(closed?)
    }
}
