//! The Node-RED instances of a machine: those that run, and those that are installed.
//!
//! [`discover`] is what the agent asks once a second: who runs, and where. [`survey`] reads everything there is to know
//! about each, for `flowwarden discover`, `audit` and `init`.

mod arguments;
pub mod audit;
mod container;
pub mod flows;
pub mod init;
mod installed;
pub mod network;
mod place;
mod running;
pub mod settings;
mod unit;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use arguments::Arguments;
use flows::Flows;
pub use installed::Installation;
use network::Listen;
use running::Running;
use serde::Serialize;
use settings::{Environment, Fact, Settings};

use policy::{
    machine::{account::Accounts, root::Root, scan},
    model::Select,
    preset::Found,
};

/// What started an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A systemd unit.
    Systemd,
    /// Docker.
    Docker,
    /// Podman.
    Podman,
    /// Another container engine.
    Container,
    /// An add-on of Home Assistant.
    HomeAssistant,
    /// The device agent of FlowFuse.
    FlowFuse,
    /// pm2.
    Pm2,
    /// A command line.
    Process,
    /// A userDir that nothing was found to use.
    UserDir,
}

impl Kind {
    /// The name that lists show.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Systemd => "systemd unit",
            Self::Docker => "Docker container",
            Self::Podman => "Podman container",
            Self::Container => "container",
            Self::HomeAssistant => "Home Assistant add-on",
            Self::FlowFuse => "FlowFuse device agent",
            Self::Pm2 => "pm2",
            Self::Process => "process",
            Self::UserDir => "user directory",
        }
    }
}

/// One Node-RED instance.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Instance {
    /// A name for it, unique among those found.
    pub name: String,
    /// What started it.
    pub kind: Kind,
    /// Its process, while it runs.
    pub pid: Option<u32>,
    /// Its uid, as the host counts.
    pub uid: Option<u32>,
    /// The name of that user.
    pub user: Option<String>,
    /// Its systemd unit.
    pub unit: Option<String>,
    /// Its container's id.
    pub container: Option<String>,
    /// Its cgroup below the mount, while it runs.
    pub cgroup: Option<String>,
    /// Its user directory, as it sees it.
    pub user_dir: Option<PathBuf>,
    /// The same as the host sees it.
    pub host_user_dir: Option<PathBuf>,
    /// Where relative names begin.
    pub working_directory: Option<PathBuf>,
    /// Its settings file, as it sees it.
    pub settings_file: Option<PathBuf>,
    /// The files that a unit takes its environment from.
    pub environment_files: Vec<PathBuf>,
    /// Node-RED's package, as it sees it.
    pub package: Option<PathBuf>,
    /// Its version.
    pub version: Option<String>,
    /// The program that runs it: node, as it sees it.
    pub executable: Option<PathBuf>,
    /// What the settings say.
    pub settings: Option<Settings>,
    /// The port given on the command line, which overrules the settings.
    pub port_argument: Option<u16>,
    /// What it listens on, while it runs.
    pub listens: Vec<Listen>,
    /// What the flows declare.
    pub flows: Option<Flows>,
    /// Keys of the unit's service, with which systemd confines it.
    #[serde(skip)]
    pub unit_keys: BTreeMap<String, String>,
    /// The unit's command line.
    #[serde(skip)]
    pub command: Vec<String>,
    /// Its home directory.
    pub home: Option<PathBuf>,
    /// What could not be known, each as a sentence.
    pub unknown: Vec<String>,
}

impl Instance {
    /// The port that the editor is served on, as far as it is known.
    #[must_use]
    pub fn port(&self) -> Option<u16> {
        let known = self.port_argument.or_else(|| self.settings.as_ref()?.ui_port.known().copied());
        match self.listens.as_slice() {
            // A command line that is hidden may have overruled the settings.
            [only] if known != Some(only.port) => Some(only.port),
            _ => known,
        }
    }

    /// The root directory that it sees.
    pub fn root(&self) -> std::io::Result<Root> {
        match self.pid {
            Some(pid) => {
                Root::of_process(pid).or_else(|error| if self.is_contained() { Err(error) } else { Root::host() })
            }
            None => Root::host(),
        }
    }

    /// The host's name for a path that it sees; none when it has none.
    #[must_use]
    pub fn on_host(&self, path: &Path) -> Option<PathBuf> {
        match self.pid {
            Some(pid) => place::on_host(pid, path),
            None if self.is_contained() => None,
            None => Some(path.to_owned()),
        }
    }

    /// Whether it has a file system of its own.
    #[must_use]
    pub fn is_contained(&self) -> bool {
        matches!(self.kind, Kind::Docker | Kind::Podman | Kind::Container | Kind::HomeAssistant)
    }

    /// What selects its processes, for a policy.
    #[must_use]
    pub fn select(&self) -> Select {
        match (&self.unit, &self.container) {
            (_, Some(id)) => Select { container: Some(id.chars().take(12).collect()), ..Select::default() },
            (Some(unit), None) if self.kind == Kind::Systemd => {
                Select { unit: Some(unit.clone()), ..Select::default() }
            }
            // The uid may be shared with people; with the program it is Node-RED and what descends from it.
            _ => Select { uid: self.uid, exec: true, ..Select::default() },
        }
    }
}

/// All that was found on a machine.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Survey {
    /// The instances; those that run first.
    pub instances: Vec<Instance>,
    /// Packages of Node-RED that are installed for everybody or for one user.
    pub installations: Vec<Installation>,
    /// What could not be looked at.
    pub notes: Vec<String>,
}

/// The instances that run now, one for each uid and user directory.
#[must_use]
pub fn discover(cgroup_mount: &Path) -> Vec<Found> {
    let mut found: Vec<Found> = Vec::new();
    for running in Running::among(&scan::processes(cgroup_mount)) {
        let root = Root::of_process(running.pid).or_else(|_| Root::host());
        let Some(user_dir) = root.ok().and_then(|root| user_dir(&running.seed(), &root)) else { continue };
        let user_dir = place::on_host(running.pid, &user_dir).unwrap_or(user_dir);
        // The uid may be shared with people; with the program it is Node-RED and what descends from it.
        let select = Select { uid: Some(running.uid), exec: true, ..Select::default() };
        if !found.iter().any(|known| known.select == select && known.user_dir == user_dir) {
            found.push(Found { name: format!("node-red-{}", found.len() + 1), select, user_dir });
        }
    }
    found
}

/// What is known of an instance before its files are looked at.
#[derive(Clone, Debug, Default)]
struct Seed {
    arguments: Option<Arguments>,
    environment: Environment,
    working_directory: Option<PathBuf>,
    home: Option<PathBuf>,
}

impl Running {
    fn seed(&self) -> Seed {
        Seed {
            arguments: self.arguments.clone(),
            environment: self.environment.clone(),
            working_directory: self.working_directory.clone(),
            home: self.environment.set.get("HOME").map(PathBuf::from),
        }
    }
}

/// The user directory: `-u` or `--userDir`, else `.node-red` in the home. When a title has replaced the arguments, the
/// directory that holds Node-RED's files is taken.
fn user_dir(seed: &Seed, root: &Root) -> Option<PathBuf> {
    let working = seed.working_directory.clone().unwrap_or_default();
    let given = seed.arguments.as_ref().and_then(|arguments| arguments.user_dir.as_ref()).map(|dir| working.join(dir));
    let in_home = seed.home.as_ref().map(|home| home.join(".node-red"));
    // A parent's arguments are not surely its own, so that the directory must look like one.
    let candidates = [given, in_home, Some(PathBuf::from("/data")), Some(working)];
    let mut candidates = candidates.into_iter().flatten().filter(|dir| dir.is_absolute());
    let first = candidates.clone().next();
    let found = candidates.find(|dir| installed::is_user_dir(root, dir)).or(first)?;
    Some(root.real(&found).unwrap_or(found))
}

/// Looks at the whole machine. Needs no privilege, and sees more as root.
#[must_use]
pub fn survey(cgroup_mount: &Path) -> Survey {
    let mut survey = Survey::default();
    let root = match Root::host() {
        Ok(root) => root,
        Err(error) => {
            survey.notes.push(format!("the root directory cannot be opened: {error}"));
            return survey;
        }
    };
    if rustix::process::geteuid().is_root() {
        survey.notes.extend(installed::closed(&root, &Accounts::read(&root)));
    } else {
        survey.notes.push("not run as root: processes and files of other users are seen in part only".to_owned());
    }
    let running = Running::among(&scan::processes(cgroup_mount));
    survey.add_all(&root, &running);
    survey.installations = installed::installations(&root, &Accounts::read(&root));
    survey.name();
    survey
}

/// What is installed below a directory, as if it were the root of a machine on which nothing runs.
pub fn survey_at(directory: &Path) -> std::io::Result<Survey> {
    let root = Root::at(directory)?;
    let mut survey = Survey { notes: installed::closed(&root, &Accounts::read(&root)), ..Survey::default() };
    survey.add_all(&root, &[]);
    survey.installations = installed::installations(&root, &Accounts::read(&root));
    survey.name();
    Ok(survey)
}

impl Survey {
    fn add_all(&mut self, root: &Root, running: &[Running]) {
        let accounts = Accounts::read(root);
        let units = unit::units(root, &accounts);
        let containers = container::stored(root, &accounts);
        let pm2 = installed::pm2(root, &accounts);
        for process in running {
            self.running(process, &accounts, &units, &containers, &pm2);
        }
        for unit in units {
            if !self.instances.iter().any(|known| known.unit.as_ref() == Some(&unit.name)) {
                self.unit(root, &accounts, &unit);
            }
        }
        for stored in containers {
            if !self.instances.iter().any(|known| known.container.as_ref() == Some(&stored.id)) {
                self.container(root, &stored);
            }
        }
        for process in pm2 {
            self.pm2(root, &accounts, process);
        }
        for (uid, directory) in installed::user_dirs(root, &accounts) {
            if !self.knows(root, &directory) {
                let seed = Seed {
                    home: directory.parent().map(Path::to_owned),
                    arguments: Some(Arguments {
                        user_dir: Some(directory.display().to_string()),
                        ..Arguments::default()
                    }),
                    ..Seed::default()
                };
                let mut instance = inspect(&seed, root, Kind::UserDir);
                instance.set_user(Some(uid), &accounts);
                self.instances.push(instance);
            }
        }
    }

    fn knows(&self, root: &Root, user_dir: &Path) -> bool {
        let real = root.real(user_dir).unwrap_or_else(|_| user_dir.to_owned());
        self.instances.iter().any(|known| known.host_user_dir.as_ref() == Some(&real))
    }

    fn running(
        &mut self,
        process: &Running,
        accounts: &Accounts,
        units: &[unit::Unit],
        containers: &[container::Stored],
        pm2: &[installed::Pm2],
    ) {
        let root = match Root::of_process(process.pid) {
            Ok(root) => root,
            Err(error) => {
                self.notes.push(format!("process {} (uid {}) cannot be looked at: {error}", process.pid, process.uid));
                return;
            }
        };
        let contained = container::of_cgroup(&process.cgroup);
        let unit = units.iter().find(|unit| process.cgroup.split('/').any(|part| part == unit.name));
        let mut seed = process.seed();
        if let Some(unit) = unit {
            // The unit knows what the title hides.
            seed.arguments = seed.arguments.or_else(|| Some(unit.arguments()));
        }
        let hidden = seed.arguments.is_none();
        let kind = match (contained, unit) {
            _ if process.by_flowfuse => Kind::FlowFuse,
            (Some(_), _) if process.environment.set.contains_key("SUPERVISOR_TOKEN") => Kind::HomeAssistant,
            (Some((kind, _)), _) => kind,
            (None, Some(_)) => Kind::Systemd,
            (None, None) if process.environment.set.contains_key("PM2_HOME") => Kind::Pm2,
            (None, None) => Kind::Process,
        };
        let mut instance = inspect(&seed, &root, kind);
        instance.pid = Some(process.pid);
        instance.cgroup = Some(process.cgroup.clone());
        instance.executable.clone_from(&process.executable);
        instance.set_user(Some(process.uid), accounts);
        instance.listens = network::listens(process.pid);
        instance.host_user_dir =
            instance.user_dir.as_ref().and_then(|directory| place::on_host(process.pid, directory));
        if let Some((_, id)) = contained {
            instance.container = Some(id.to_owned());
            instance.name = containers
                .iter()
                .find(|stored| stored.id == id)
                .map_or_else(|| id.chars().take(12).collect(), |stored| stored.name.clone());
        } else if let Some(unit) = unit {
            instance.unit = Some(unit.name.clone());
            instance.set_unit(unit);
        } else if kind == Kind::Pm2
            && let Some(remembered) = pm2.iter().find(|one| one.uid == process.uid)
        {
            instance.name.clone_from(&remembered.name);
        }
        if instance.package.is_none() {
            instance.package = process.packages().into_iter().find(|package| root.exists(&package.join("red.js")));
            instance.version = instance.package.as_ref().and_then(|package| installed::version(&root, package));
        }
        if hidden {
            instance.unknown.push(
                "its title hides its command line: -u, -s, -p and -D are not known, what is in the user directory is taken"
                    .to_owned(),
            );
        }
        self.instances.push(instance);
    }

    fn unit(&mut self, root: &Root, accounts: &Accounts, unit: &unit::Unit) {
        let account = accounts.named(&unit.user).or_else(|| accounts.with_uid(unit.user.parse().ok()?));
        let seed = Seed {
            arguments: Some(unit.arguments()),
            environment: unit.environment.clone(),
            working_directory: unit.working_directory.clone().or_else(|| Some(PathBuf::from("/"))),
            home: unit.environment.set.get("HOME").map(PathBuf::from),
        };
        let mut instance = inspect(&seed, root, Kind::Systemd);
        instance.set_user(account.map(|account| account.uid), accounts);
        instance.unit = Some(unit.name.clone());
        instance.set_unit(unit);
        if account.is_none() {
            instance.unknown.push(format!("User={} of {} is no user here", unit.user, unit.name));
        }
        self.instances.push(instance);
    }

    fn container(&mut self, root: &Root, stored: &container::Stored) {
        let arguments = Arguments::read(&stored.command);
        let inside = arguments.as_ref().and_then(|arguments| arguments.user_dir.clone()).unwrap_or("/data".to_owned());
        let host = stored.on_host(Path::new(&inside));
        // The container's own root is gone while it is stopped; its user directory lies on the host.
        let seed = Seed {
            arguments: host
                .as_ref()
                .map(|directory| Arguments { user_dir: Some(directory.display().to_string()), ..Arguments::default() }),
            environment: stored.environment.clone(),
            ..Seed::default()
        };
        let mut instance = inspect(&seed, root, stored.kind);
        if host.is_none() {
            instance.user_dir = None;
            instance.settings_file = None;
            instance.unknown.push(format!("{inside} is on no mount, and the container does not run"));
        }
        instance.name.clone_from(&stored.name);
        instance.container = Some(stored.id.clone());
        instance.uid = stored.uid;
        instance.working_directory.clone_from(&stored.working_directory);
        self.instances.push(instance);
    }

    fn pm2(&mut self, root: &Root, accounts: &Accounts, process: installed::Pm2) {
        let runs =
            |known: &Instance| known.kind == Kind::Pm2 && known.uid == Some(process.uid) && known.name == process.name;
        if self.instances.iter().any(runs) {
            return;
        }
        let seed = Seed {
            arguments: Arguments::read(&process.command),
            home: process.environment.set.get("HOME").map(PathBuf::from),
            environment: process.environment,
            working_directory: process.working_directory,
        };
        let mut instance = inspect(&seed, root, Kind::Pm2);
        if !process.name.is_empty() {
            instance.name = process.name;
        }
        instance.set_user(Some(process.uid), accounts);
        self.instances.push(instance);
    }

    /// Gives each instance a name of its own that a policy can use.
    fn name(&mut self) {
        self.instances.sort_by_key(|instance| (instance.pid.is_none(), instance.kind, instance.host_user_dir.clone()));
        let mut taken = BTreeSet::new();
        for instance in &mut self.instances {
            let plain: String = instance
                .name
                .chars()
                .map(|char| if char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.') { char } else { '-' })
                .take(48)
                .collect();
            let base = if plain.is_empty() { "node-red".to_owned() } else { plain };
            let mut name = base.clone();
            let mut count = 1;
            while !taken.insert(name.clone()) {
                count += 1;
                name = format!("{base}-{count}");
            }
            instance.name = name;
        }
    }
}

impl Instance {
    fn set_user(&mut self, uid: Option<u32>, accounts: &Accounts) {
        self.uid = uid;
        self.user = uid.and_then(|uid| accounts.with_uid(uid)).map(|account| account.name.clone());
        if self.home.is_none() {
            self.home = uid.and_then(|uid| accounts.with_uid(uid)).map(|account| account.home.clone());
        }
        if self.name.is_empty() {
            let user = self.user.clone().or_else(|| uid.map(|uid| format!("uid{uid}"))).unwrap_or_default();
            self.name = format!("node-red-{user}");
        }
    }

    fn set_unit(&mut self, unit: &unit::Unit) {
        unit.name.trim_end_matches(".service").clone_into(&mut self.name);
        self.environment_files.clone_from(&unit.environment_files);
        self.unit_keys.clone_from(&unit.keys);
        self.command.clone_from(&unit.command);
    }
}

/// Reads settings, flows and package of an instance.
fn inspect(seed: &Seed, root: &Root, kind: Kind) -> Instance {
    let arguments = seed.arguments.clone().unwrap_or_default();
    let working = seed.working_directory.as_deref();
    let absolute = |path: &str| working.unwrap_or(Path::new("/")).join(path);
    let mut unknown = Vec::new();
    let mut user_dir = user_dir(seed, root);
    let settings_file =
        arguments.settings.as_deref().map(absolute).or_else(|| Some(user_dir.as_ref()?.join("settings.js")));
    let settings = settings_file.as_ref().and_then(|file| {
        let read = Settings::read(root, file, &seed.environment, working);
        read.map_err(|error| unknown.push(format!("settings: {error}"))).ok()
    });
    if let Some(settings) = &settings {
        unknown.extend(settings.unknown().into_iter().map(|line| format!("settings: {line}")));
        if arguments.user_dir.is_none()
            && let Fact::Known(Some(directory)) = &settings.user_dir
        {
            user_dir = Some(absolute(directory));
        }
    }
    if arguments.defines {
        unknown.push("-D on the command line overrules settings that are not looked at".to_owned());
    }
    let flows = user_dir.as_ref().and_then(|directory| {
        let file = flow_file(root, directory, settings.as_ref(), &arguments, working)?;
        Some(Flows::read(root, &file, working))
    });
    if let Some(flows) = &flows {
        unknown.extend(flows.problem.iter().map(|problem| format!("flows: {problem}")));
        let computed = flows.computed.iter();
        unknown
            .extend(computed.map(|(kind, count)| format!("flows: {count} of type {kind} are computed when they run")));
    }
    let package = arguments.program.as_deref().and_then(|program| package(root, &absolute(program)));
    Instance {
        name: String::new(),
        kind,
        pid: None,
        uid: None,
        user: None,
        unit: None,
        container: None,
        cgroup: None,
        host_user_dir: user_dir.clone(),
        user_dir,
        working_directory: seed.working_directory.clone(),
        settings_file,
        environment_files: Vec::new(),
        version: package.as_ref().and_then(|package| installed::version(root, package)),
        package,
        executable: None,
        settings,
        port_argument: arguments.port,
        listens: Vec::new(),
        flows,
        unit_keys: BTreeMap::new(),
        command: Vec::new(),
        home: seed.home.clone(),
        unknown,
    }
}

/// Where the flows are: of a project, by the settings, or by the old default with the host's name.
fn flow_file(
    root: &Root,
    user_dir: &Path,
    settings: Option<&Settings>,
    arguments: &Arguments,
    working_directory: Option<&Path>,
) -> Option<PathBuf> {
    if settings.is_some_and(|settings| !settings.projects.is(&false))
        && let Some(file) = project_flows(root, user_dir)
    {
        return Some(file);
    }
    let given = match settings.map(|settings| &settings.flow_file) {
        _ if arguments.flow_file.is_some() => arguments.flow_file.clone(),
        Some(Fact::Known(file)) => file.clone(),
        // What cannot be known is most often what it always is.
        Some(Fact::Unknown { .. }) | None => Some("flows.json".to_owned()),
    };
    let name = given.unwrap_or_else(|| {
        let host = root.text(Path::new("/etc/hostname"), 256).unwrap_or_default();
        format!("flows_{}.json", host.trim())
    });
    let places = [working_directory.map(|directory| directory.join(&name)), Some(user_dir.join(&name))];
    let mut places = places.into_iter().flatten().chain([user_dir.join("flows.json")]);
    places.find(|file| root.exists(file))
}

/// Where the flows of a user directory are, as far as the files there tell.
#[must_use]
pub fn flows_of(root: &Root, user_dir: &Path) -> Option<PathBuf> {
    let settings = Settings::read(root, &user_dir.join("settings.js"), &Environment::default(), Some(user_dir)).ok();
    flow_file(root, user_dir, settings.as_ref(), &Arguments::default(), None)
}

/// The flow file of the project that is active.
fn project_flows(root: &Root, user_dir: &Path) -> Option<PathBuf> {
    let json = |path: &Path| serde_json::from_slice::<serde_json::Value>(&root.read(path, 1 << 20).ok()?).ok();
    let projects = json(&user_dir.join(".config.projects.json"))?;
    let active = projects.get("activeProject")?.as_str()?;
    // A name, and no way out of the directory.
    (!active.contains('/') && active != "..").then_some(())?;
    let directory = user_dir.join("projects").join(active);
    let package = json(&directory.join("package.json"));
    let file = package.as_ref().and_then(|package| package.pointer("/node-red/settings/flowFile")?.as_str());
    Some(directory.join(file.unwrap_or("flows.json")))
}

/// The package that a program belongs to: `red.js` stands in it, and `node-red` is a link to that.
fn package(root: &Root, program: &Path) -> Option<PathBuf> {
    let search = |name: &str| {
        let places = ["/usr/bin", "/usr/local/bin"].map(|place| Path::new(place).join(name));
        places.into_iter().find(|path| root.exists(path))
    };
    let program = if root.exists(program) { program.to_owned() } else { search(program.file_name()?.to_str()?)? };
    let real = root.real(&program).ok()?;
    // bin/node-red-pi.sh, or red.js itself.
    real.ancestors().skip(1).take(3).find(|directory| root.exists(&directory.join("red.js"))).map(Path::to_owned)
}

#[cfg(test)]
mod tests;
