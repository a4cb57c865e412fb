//! The agent without a kernel: a fake enforces, and fails where a test wants it to.

use std::{fs, os::unix::fs::MetadataExt as _, path::PathBuf};

use aya::maps::MapError;
use monitor_common::{
    event::Counters,
    inbound::Owner,
    policy::{InodeId, Maintenance},
};

use super::*;
use crate::{
    maintenance,
    record::{enrich::Names as _, names::NameTable},
};
use policy::compile::Compiled;

type KernelResult<T> = Result<T, KernelError>;

/// A step of the kernel that can fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Identify,
    Install,
    Volume,
    Label,
    Window,
    Counters,
    Skipped,
    Reported,
}

/// Enforces nothing, and remembers what it was asked to.
#[derive(Default)]
struct Fake {
    fails: Option<Step>,
    epoch: u32,
    /// Ids of the rules in force.
    rules: Vec<String>,
    labels: BTreeMap<u32, TaskLabel>,
    windows: BTreeMap<(u16, &'static str), u64>,
    lost: u64,
}

impl Fake {
    fn step(&self, step: Step) -> KernelResult<()> {
        if self.fails == Some(step) {
            return Err(KernelError::Map { name: "FAKE", source: MapError::ElementNotFound });
        }
        Ok(())
    }
}

impl Enforcer for Fake {
    fn next_epoch(&self) -> u32 {
        self.epoch + 1
    }
    fn epoch(&self) -> u32 {
        self.epoch
    }
    fn identify(&mut self, path: &Path) -> KernelResult<Option<InodeId>> {
        self.step(Step::Identify)?;
        let id = |meta: fs::Metadata| InodeId { ino: meta.ino(), ..InodeId::default() };
        Ok(fs::symlink_metadata(path).ok().map(id))
    }
    fn install(&mut self, policy: &Compiled) -> KernelResult<()> {
        self.step(Step::Install)?;
        self.epoch += 1;
        self.rules = policy.rules.iter().map(|rule| rule.id.clone()).collect();
        Ok(())
    }
    fn attach_volume(&mut self, _: &Path) -> KernelResult<()> {
        self.step(Step::Volume)
    }
    fn degrade(&mut self, _: &str, _: String) {}
    fn label(&mut self, tgid: u32, label: TaskLabel) -> KernelResult<()> {
        self.step(Step::Label)?;
        self.labels.insert(tgid, label);
        Ok(())
    }
    fn labels(&self) -> Vec<(u32, TaskLabel)> {
        self.labels.iter().map(|(tgid, label)| (*tgid, *label)).collect()
    }
    fn is_labelled(&self, tgid: u32) -> bool {
        self.labels.contains_key(&tgid)
    }
    fn forget_task(&mut self, tgid: u32) {
        self.labels.remove(&tgid);
    }
    fn own_socket(&mut self, _: u64, _: Owner) -> KernelResult<()> {
        Ok(())
    }
    fn set_window(&mut self, slot: u16, maintenance: Maintenance, until_ns: u64) -> KernelResult<()> {
        self.step(Step::Window)?;
        self.windows.insert((slot, maintenance.name()), until_ns);
        Ok(())
    }
    fn counters(&mut self) -> KernelResult<Vec<Counters>> {
        self.step(Step::Counters)?;
        Ok(vec![Counters { lost: self.lost, ..Counters::default() }])
    }
    fn skipped_names(&mut self) -> KernelResult<u64> {
        self.step(Step::Skipped).map(|()| 0)
    }
    fn tell_lost(&mut self, _: u64) -> KernelResult<()> {
        self.step(Step::Reported)
    }
}

/// What a step of a scene does with the file of the state directory that it is about.
const NAMES: &str = "names.json";
const WINDOWS: &str = "maintenance.json";

/// An agent in a directory of its own, with its policy in force.
struct Scene {
    directory: tempfile::TempDir,
    agent: Agent<Fake>,
    _runtime: tokio::runtime::Runtime,
}

/// A policy for these instances, each with a rule `ID` about settings.js that a maintenance lifts.
fn text(rule: &str, names: &[&str]) -> String {
    let instance = |name| {
        format!(
            "[[instance]]\nname = \"{name}\"\nselect = [{{ uid = 61999 }}]\nuser-dir = \"/nowhere/{name}\"\n\
             [[instance.files]]\nid = \"{rule}-{name}\"\npaths = [\"settings.js\"]\naccess = [\"write\"]\n\
             verdict = \"kill\"\nmaintenance = \"settings\"\n"
        )
    };
    let instances = names.iter().map(instance).collect::<Vec<_>>().concat();
    format!("version = 1\nmode = \"enforce\"\n{instances}")
}

impl Scene {
    /// Two instances, with a window that is open for the second.
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| -> PathBuf { directory.path().join(name) };
        fs::write(path("policy.toml"), text("old", &["a", "b"])).unwrap();
        let options = Options {
            config: Some(path("policy.toml")),
            journal: path("journal"),
            state: path("state"),
            pin: Some(path("pins")),
            enforce: None,
            cgroup_root: None,
            sensors: Vec::new(),
            quiet: true,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let entered = runtime.enter();
        let state = State::open(&options.state).unwrap();
        let journal = Journal::open(&options.journal, journal::Limits::default()).unwrap();
        let peers = Peers::new(&BTreeMap::new(), Instant::now());
        let signals = Signals::listen().unwrap();
        let (kernel, host) = (Fake::default(), System::new());
        let mut adopted = Adopted::default();
        let config = read_config(&options, &host, &mut adopted).unwrap();
        let parts = Parts { options, kernel, host, state, journal, signals, peers, pins: None };
        let mut agent = Agent::new(parts, &config, adopted).unwrap();
        agent.apply(config, Cause::Asked).unwrap();
        drop(entered);
        let mut scene = Self { directory, agent, _runtime: runtime };
        scene.open("b").unwrap();
        scene
    }

    fn ask(&mut self, request: Request) -> Result<Answer, Refusal> {
        let (answer, mut answered) = tokio::sync::oneshot::channel();
        self.agent.answer(Asked { request, by: "me".to_owned(), answer });
        answered.try_recv().unwrap()
    }

    fn open(&mut self, instance: &str) -> Result<Answer, Refusal> {
        let instance = Some(instance.to_owned());
        self.ask(Request::Maintenance(maintenance::Request::Open { instance, class: "settings".into(), seconds: 60 }))
    }

    /// The instances with a window that is open, as the agent says.
    fn open_windows(&mut self) -> Vec<String> {
        match self.ask(Request::Maintenance(maintenance::Request::Status)) {
            Ok(Answer::Windows(windows)) => windows.into_iter().map(|window| window.instance).collect(),
            other => panic!("{other:?}"),
        }
    }

    fn state(&self, name: &str) -> PathBuf {
        self.directory.path().join("state").join(name)
    }

    /// Has every write of a file of the state directory fail, also those of root.
    fn block(&self, name: &str) {
        let _ = fs::remove_file(self.state(name));
        fs::create_dir(self.state(name)).unwrap();
    }

    fn unblock(&self, name: &str) {
        fs::remove_dir(self.state(name)).unwrap();
    }

    fn write(&self, policy: &str) {
        fs::write(self.directory.path().join("policy.toml"), policy).unwrap();
    }

    /// That kernel, agent and, where they can be written, files hold the same policy: the one with this rule.
    fn holds(&mut self, rule: &str, what: &str) {
        let (instances, windows): (&[&str], &[&str]) =
            if rule == "old" { (&["a", "b"], &["b"]) } else { (&["a", "c"], &[]) };
        let rules: Vec<_> = instances.iter().map(|name| format!("{rule}-{name}")).collect();
        let is_ours = |id: &&String| id.starts_with(rule);
        let mut installed: Vec<_> = self.agent.kernel.rules.iter().filter(is_ours).cloned().collect();
        installed.dedup();
        assert_eq!(installed, rules, "{what}: the kernel");
        assert_eq!(self.open_windows(), windows, "{what}: windows");
        let in_force = &self.agent.in_force;
        let ids = in_force.config.policy.instances.iter().flat_map(|it| &it.files).map(|it| it.action.id.clone());
        assert_eq!(ids.collect::<Vec<_>>(), rules, "{what}: the policy");
        assert_eq!(in_force.names.slots.keys().collect::<Vec<_>>(), instances, "{what}: slots");
        let watched: Vec<_> =
            instances.iter().map(|name| PathBuf::from(format!("/nowhere/{name}/settings.js"))).collect();
        let found = |path: &PathBuf| in_force.watched.iter().any(|it| it.path == *path);
        assert!(watched.iter().all(found), "{what}: {:?}", in_force.watched);
        let slot = in_force.names.slots.values().copied().collect::<Vec<_>>();
        assert!(in_force.selectors.iter().all(|it| slot.contains(&it.instance)), "{what}: selectors");
        let open = self.agent.kernel.windows.iter().filter(|(_, until)| **until > 0);
        let slots: Vec<_> = open.map(|((slot, _), _)| *slot).collect();
        let wanted: Vec<_> = windows.iter().map(|name| in_force.names.slots[*name]).collect();
        assert_eq!(slots, wanted, "{what}: windows of the kernel");
        // The next run finds the names of the epoch that the kernel is in.
        if self.state(NAMES).is_file() && self.agent.names_kept {
            let names = NameTable::from_text(&fs::read(self.state(NAMES)).unwrap());
            for (instance, slot) in &in_force.names.slots {
                assert_eq!(names.slots.get(instance), Some(slot), "{what}: kept slots");
            }
            assert_eq!(names.rule(self.agent.kernel.epoch, 1).id, in_force.names.rule(self.agent.kernel.epoch, 1).id);
        }
        if self.state(WINDOWS).is_file() {
            let kept: Vec<maintenance::Window> =
                serde_json::from_slice(&fs::read(self.state(WINDOWS)).unwrap()).unwrap();
            assert_eq!(kept.iter().map(|window| &window.instance).collect::<Vec<_>>(), windows, "{what}: kept windows");
        }
    }

    fn events(&mut self) -> Vec<Value> {
        self.agent.pipeline.close().unwrap();
        let text = fs::read_to_string(self.directory.path().join("journal/journal-00000001.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A reload that another policy is in force after, or the old one: never half of each.
#[test]
fn a_reload_is_all_or_nothing_whichever_step_fails() {
    let new = text("new", &["a", "c"]);
    let limits = "[[instance.egress]]\nid = \"up\"\nto = [\"any\"]\nverdict = \"allow\"\nmax-bytes = \"1 MiB\"\n";
    let mut scene = Scene::new();
    scene.write(&new);
    scene.agent.reload("me").unwrap();
    scene.holds("new", "nothing fails");
    let faults = [Some(Step::Identify), Some(Step::Install), Some(Step::Window), None, None];
    let files = [None, None, None, Some(NAMES), Some(WINDOWS)];
    for (step, file) in faults.into_iter().zip(files) {
        let what = format!("{step:?} {file:?}");
        let mut scene = Scene::new();
        scene.write(&new);
        scene.agent.kernel.fails = step;
        let _ = file.map(|file| scene.block(file));
        let refused = scene.agent.reload("me").unwrap_err();
        assert!(matches!(refused, Refusal::Failed(_)), "{what}: {refused}");
        scene.holds("old", &what);
        // Nothing that has failed stands in the way later.
        scene.agent.kernel.fails = None;
        let _ = file.map(|file| scene.unblock(file));
        scene.agent.tick();
        scene.holds("old", &what);
        scene.agent.reload("me").unwrap();
        scene.holds("new", &what);
    }
    // What the kernel only counts, or takes later, is no reason to refuse.
    for step in [Step::Volume, Step::Label, Step::Counters, Step::Skipped, Step::Reported] {
        let mut scene = Scene::new();
        scene.write(&(new.clone() + limits));
        scene.agent.kernel.fails = Some(step);
        scene.agent.reload("me").unwrap();
        scene.holds("new", &format!("{step:?}"));
    }
}

#[test]
fn a_faulty_policy_is_refused_with_all_its_faults() {
    let mut scene = Scene::new();
    scene.write(&(text("new", &["a"]) + "acess = 1\nmode = 2\n"));
    let Err(Refusal::Policy(faults)) = scene.ask(Request::Reload) else { panic!("not refused") };
    let path = scene.directory.path().join("policy.toml").display().to_string();
    assert_eq!(faults.len(), 2, "{faults:?}");
    assert!(faults.iter().all(|fault| fault.starts_with(&format!("{path}:1"))), "{faults:?}");
    fs::remove_file(&path).unwrap();
    let Err(Refusal::Policy(faults)) = scene.ask(Request::Reload) else { panic!("not refused") };
    assert!(faults[0].starts_with(&path), "{faults:?}");
    scene.holds("old", "a faulty policy");
    scene.write(&text("new", &["a", "c"]));
    let Ok(Answer::Reloaded(reloaded)) = scene.ask(Request::Reload) else { panic!("refused") };
    assert_eq!((reloaded.enforce, reloaded.instances), (true, vec!["a".to_owned(), "c".to_owned()]));
    assert!(reloaded.warnings.iter().all(|warning| warning.starts_with(&path)), "{:?}", reloaded.warnings);
    assert_eq!(reloaded.warnings.len(), 4, "two directories and two files are not there");
}

/// What comes after the policy is in force, and does not hold it up, is in the answer as well.
#[test]
fn an_address_that_is_taken_is_a_warning() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let mut scene = Scene::new();
    scene.write(&(text("new", &["a", "c"]) + &format!("[metrics]\nlisten = \"{address}\"\n")));
    let reloaded = scene.agent.reload("me").unwrap();
    scene.holds("new", "without figures");
    let warning = reloaded.warnings.last().unwrap();
    assert!(warning.contains(&address.to_string()) && warning.contains("name another"), "{warning}");
}

/// What a policy rests on has changed, and the state directory is full: it is put in force all the same.
#[test]
fn protection_does_not_wait_for_the_state_directory() {
    let mut scene = Scene::new();
    let epoch = scene.agent.kernel.epoch;
    scene.block(NAMES);
    scene.agent.in_force.watched[0].id = Some(InodeId { ino: 1, ..InodeId::default() });
    scene.agent.tick();
    assert!(scene.agent.kernel.epoch > epoch, "not renewed");
    assert!(!scene.agent.names_kept);
    scene.holds("old", "renewed");
    scene.unblock(NAMES);
    scene.agent.tick();
    assert!(scene.agent.names_kept && scene.state(NAMES).is_file(), "not tried again");
    scene.holds("old", "kept");
}

#[test]
fn a_window_that_the_kernel_or_the_disk_refuses_is_not_open() {
    let mut scene = Scene::new();
    scene.agent.kernel.fails = Some(Step::Window);
    scene.open("a").unwrap_err();
    let close = maintenance::Request::Close { instance: None, class: None };
    scene.ask(Request::Maintenance(close.clone())).unwrap_err();
    scene.holds("old", "refused by the kernel");
    scene.agent.kernel.fails = None;
    scene.block(WINDOWS);
    scene.open("a").unwrap_err();
    scene.holds("old", "refused by the disk");
    // A window can be closed while nothing can be written.
    scene.ask(Request::Maintenance(close)).unwrap();
    assert!(scene.open_windows().is_empty() && scene.agent.kernel.windows.values().all(|until| *until == 0));
    scene.unblock(WINDOWS);
    scene.agent.tick();
    assert_eq!(fs::read(scene.state(WINDOWS)).unwrap(), b"[]", "not tried again");
}

/// No task of a running guard ends it; each is reported once, however long it fails, and once when it is over.
#[test]
fn whatever_fails_is_reported_once_and_the_guard_goes_on() {
    let failed = [
        (Step::Identify, "the policy could not be renewed", "the policy is up to date again"),
        (Step::Counters, "lost records cannot be counted", "lost records are counted again"),
        (Step::Skipped, "skipped names cannot be counted", "skipped names are counted again"),
        (Step::Reported, "a later run may report lost records again", "reported losses are kept again"),
    ];
    for (step, begins, ends) in failed {
        let mut scene = Scene::new();
        scene.agent.kernel.lost = 7;
        scene.agent.kernel.fails = Some(step);
        (0..20).for_each(|_| scene.agent.tick());
        scene.agent.kernel.fails = None;
        (0..20).for_each(|_| {
            // Only what is to be done again can be over.
            scene.agent.kernel.lost += 1;
            scene.agent.tick();
        });
        let events = scene.events();
        let errors: Vec<_> = events.iter().filter(|event| event["activity_name"] == "Error").collect();
        let messages: Vec<_> = errors.iter().filter_map(|event| event["message"].as_str()).collect();
        assert!(matches!(messages[..], [first, last] if first.starts_with(begins) && last == ends), "{messages:?}");
    }
}

/// A process that cannot be marked is no reason to end, or to refuse a policy that is in force; it is marked later.
#[test]
fn a_process_that_cannot_be_marked_is_marked_later() {
    use std::os::unix::process::CommandExt as _;
    // Only root starts a process of another user.
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let mut scene = Scene::new();
    let mut command = std::process::Command::new("sleep");
    let mut child = command.arg("60").uid(61_999).spawn().unwrap();
    scene.agent.kernel.fails = Some(Step::Label);
    scene.write(&text("new", &["a", "c"]));
    let reloaded = scene.agent.reload("me");
    scene.agent.tick();
    let unmarked = !scene.agent.kernel.is_labelled(child.id());
    scene.agent.kernel.fails = None;
    scene.agent.tick();
    let marked = scene.agent.kernel.is_labelled(child.id());
    child.kill().unwrap();
    child.wait().unwrap();
    let warnings = reloaded.unwrap().warnings;
    assert!(warnings.iter().any(|it| it.contains("could not be marked")), "{warnings:?}");
    assert!(unmarked && marked, "{unmarked} {marked}");
}

/// An instance that could not be taken up is taken up later, and not forgotten.
#[test]
fn a_new_instance_is_tried_again_until_it_is_guarded() {
    let mut scene = Scene::new();
    scene.agent.options.config = None;
    let select = policy::model::Select { uid: Some(61_997), exec: true, ..Default::default() };
    let found = policy::preset::Found { name: String::new(), select, user_dir: "/nowhere/new".into() };
    scene.agent.adopted.look(vec![found], &scene.agent.host);
    scene.agent.kernel.fails = Some(Step::Install);
    scene.agent.tick();
    scene.agent.kernel.fails = None;
    scene.agent.tick();
    let mut instances = scene.agent.in_force.config.policy.instances.iter();
    assert!(instances.any(|instance| instance.user_dir == Path::new("/nowhere/new")), "forgotten");
    assert!(scene.agent.kernel.rules.iter().any(|rule| rule == "settings-js"), "{:?}", scene.agent.kernel.rules);
}
