//! systemd units that start Node-RED, read from their files; systemd need not run.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::{
    arguments::{self, Arguments},
    settings::Environment,
};
use policy::machine::{account::Accounts, root::Root};

/// Where units are, the strongest last.
const DIRECTORIES: [&str; 5] = [
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
    "/usr/local/lib/systemd/system",
    "/run/systemd/system",
    "/etc/systemd/system",
];
/// Largest unit file that is read.
const LIMIT: u64 = 256 << 10;
/// Most units in one directory.
const MOST: usize = 4096;

/// A unit that starts Node-RED.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    /// `nodered.service`.
    pub(crate) name: String,
    /// `User=`; root when there is none.
    pub(crate) user: String,
    /// The command line.
    pub(crate) command: Vec<String>,
    /// `WorkingDirectory=`.
    pub(crate) working_directory: Option<PathBuf>,
    /// `Environment=` and what the files of `EnvironmentFile=` hold.
    pub(crate) environment: Environment,
    /// `EnvironmentFile=`.
    pub(crate) environment_files: Vec<PathBuf>,
    /// The other keys of its service, for the audit.
    pub(crate) keys: BTreeMap<String, String>,
}

impl Unit {
    /// Node-RED's part of the command line.
    pub(crate) fn arguments(&self) -> Arguments {
        Arguments::read(&self.command).unwrap_or_default()
    }
}

/// All units of a root that start Node-RED.
pub(crate) fn units(root: &Root, accounts: &Accounts) -> Vec<Unit> {
    let mut files: BTreeMap<String, PathBuf> = BTreeMap::new();
    for directory in DIRECTORIES {
        for name in root.list(Path::new(directory), MOST).unwrap_or_default() {
            if name.ends_with(".service") {
                files.insert(name.clone(), Path::new(directory).join(name));
            }
        }
    }
    files.iter().filter_map(|(name, file)| unit(root, accounts, name, file)).collect()
}

/// One unit with its drop-ins, when it starts Node-RED.
fn unit(root: &Root, accounts: &Accounts, name: &str, file: &Path) -> Option<Unit> {
    let mut service = Service::default();
    service.read(&root.text(file, LIMIT).ok()?);
    // Of two drop-ins of one name the one in the stronger directory counts, and all are read in the order of their names.
    let mut drop_ins: BTreeMap<String, PathBuf> = BTreeMap::new();
    for directory in DIRECTORIES {
        let directory = Path::new(directory).join(format!("{name}.d"));
        for drop_in in root.list(&directory, MOST).unwrap_or_default() {
            if drop_in.strip_suffix(".conf").is_some() {
                drop_ins.insert(drop_in.clone(), directory.join(drop_in));
            }
        }
    }
    for drop_in in drop_ins.values() {
        service.read(&root.text(drop_in, LIMIT).unwrap_or_default());
    }
    let user = service.keys.get("User").cloned().unwrap_or_else(|| "root".to_owned());
    let account = accounts.named(&user).or_else(|| accounts.with_uid(user.parse().ok()?));
    let home = account.map(|account| account.home.clone());
    let specifiers = Specifiers { unit: name, user: &user, home: home.as_deref() };
    let files: Vec<_> = service
        .environment_files
        .iter()
        .map(|file| PathBuf::from(specifiers.expand(file.trim_start_matches('-'))))
        .collect();
    let mut set = BTreeMap::new();
    set.extend(home.as_ref().map(|home| ("HOME".to_owned(), home.display().to_string())));
    set.insert("USER".to_owned(), user.clone());
    set.extend(service.environment.iter().filter_map(|entry| pair(&specifiers.expand(entry))));
    for file in &files {
        set.extend(environment_file(&root.text(file, LIMIT).unwrap_or_default()));
    }
    let mut command: Vec<String> = Vec::new();
    for word in words(&service.command) {
        for word in expand_variables(&specifiers.expand(&word), &set) {
            // A shell in between is given its words as one.
            let script = command.last().is_some_and(|option| option == "-c");
            if script { command.extend(words(&word)) } else { command.push(word) }
        }
    }
    command.iter().any(|word| arguments::is_program(word)).then_some(())?;
    let working_directory = service.keys.get("WorkingDirectory").map(|directory| {
        let directory = directory.trim_start_matches('-');
        if directory == "~" { home_of(&set) } else { PathBuf::from(specifiers.expand(directory)) }
    });
    Some(Unit {
        name: name.to_owned(),
        user,
        command,
        working_directory,
        // systemd hands nothing else on that settings would ask for.
        environment: Environment { set, complete: true },
        environment_files: files,
        keys: service.keys,
    })
}

fn home_of(set: &BTreeMap<String, String>) -> PathBuf {
    set.get("HOME").map(PathBuf::from).unwrap_or_default()
}

/// The section `[Service]`.
#[derive(Default)]
struct Service {
    keys: BTreeMap<String, String>,
    command: String,
    environment: Vec<String>,
    environment_files: Vec<String>,
}

impl Service {
    /// Takes in a file; what it says overrules what was said before. An empty value empties a list.
    fn read(&mut self, text: &str) {
        let mut section = String::new();
        let mut lines = text.lines();
        while let Some(first) = lines.next() {
            let mut line = first.trim().to_owned();
            if line.starts_with(['#', ';']) {
                continue;
            }
            while line.ends_with('\\') {
                line.pop();
                let Some(next) = lines.next() else { break };
                line.push(' ');
                line.push_str(next.trim());
            }
            if line.starts_with('[') {
                section = line;
                continue;
            }
            let Some((key, value)) = line.split_once('=').filter(|_| section == "[Service]") else { continue };
            let (key, value) = (key.trim(), value.trim());
            match key {
                // Of several commands of an oneshot unit the last one is taken.
                "ExecStart" => value.trim_start_matches(['@', '-', ':', '+', '!', '|']).clone_into(&mut self.command),
                "Environment" if value.is_empty() => self.environment.clear(),
                "Environment" => self.environment.extend(words(value)),
                "EnvironmentFile" if value.is_empty() => self.environment_files.clear(),
                "EnvironmentFile" => self.environment_files.push(value.to_owned()),
                _ => drop(self.keys.insert(key.to_owned(), value.to_owned())),
            }
        }
    }
}

struct Specifiers<'a> {
    unit: &'a str,
    user: &'a str,
    home: Option<&'a Path>,
}

impl Specifiers<'_> {
    /// systemd.unit(5), "Specifiers", as far as they occur with Node-RED.
    fn expand(&self, text: &str) -> String {
        let stem = self.unit.rsplit_once('.').map_or(self.unit, |(stem, _)| stem);
        let (prefix, instance) = stem.split_once('@').unwrap_or((stem, ""));
        let mut expanded = String::new();
        let mut chars = text.chars();
        while let Some(char) = chars.next() {
            if char != '%' {
                expanded.push(char);
                continue;
            }
            match chars.next() {
                Some('h') => {
                    expanded.push_str(&self.home.map_or_else(|| "%h".to_owned(), |home| home.display().to_string()));
                }
                Some('u') => expanded.push_str(self.user),
                Some('n') => expanded.push_str(self.unit),
                Some('N') => expanded.push_str(stem),
                Some('p') => expanded.push_str(prefix),
                Some('i' | 'I') => expanded.push_str(instance),
                Some('t') => expanded.push_str("/run"),
                Some('S') => expanded.push_str("/var/lib"),
                Some('%') | None => expanded.push('%'),
                Some(other) => expanded.extend(['%', other]),
            }
        }
        expanded
    }
}

/// Splits a line into words, with quotes and backslashes as systemd knows them.
fn words(line: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = line.chars();
    while let Some(char) = chars.next() {
        match (char, quote) {
            ('\\', _) => word.get_or_insert_default().extend(chars.next()),
            (_, Some(open)) if char == open => quote = None,
            ('"' | '\'', None) => {
                quote = Some(char);
                word.get_or_insert_default();
            }
            (_, None) if char.is_whitespace() => found.extend(word.take()),
            _ => word.get_or_insert_default().push(char),
        }
    }
    found.extend(word);
    found
}

/// `$NAME` as a whole word becomes as many words as it holds, `${NAME}` is put in its place.
fn expand_variables(word: &str, set: &BTreeMap<String, String>) -> Vec<String> {
    if let Some(name) = word.strip_prefix('$').filter(|name| !name.starts_with('{')) {
        return set.get(name).map(|value| words(value)).unwrap_or_default();
    }
    let mut expanded = String::new();
    let mut rest = word;
    while let Some((before, after)) = rest.split_once("${") {
        let Some((name, after)) = after.split_once('}') else { break };
        expanded.push_str(before);
        expanded.push_str(set.get(name).map_or("", String::as_str));
        rest = after;
    }
    expanded.push_str(rest);
    vec![expanded]
}

fn pair(entry: &str) -> Option<(String, String)> {
    entry.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()))
}

/// The lines of an `EnvironmentFile`.
fn environment_file(text: &str) -> impl Iterator<Item = (String, String)> + '_ {
    text.lines().map(str::trim).filter(|line| !line.starts_with(['#', ';'])).filter_map(|line| {
        let (name, value) = line.split_once('=')?;
        Some((name.trim().to_owned(), words(value).join(" ")))
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use policy::testing::root;

    const PASSWD: (&str, &str) = ("etc/passwd", "root:x:0:0::/root:/bin/sh\npi:x:1000:1000::/home/pi:/bin/bash\n");
    /// The unit that the Raspberry Pi and Debian script installs.
    const DEBIAN: &str = "[Unit]\nDescription=Node-RED\n[Service]\nType=simple\nUser=pi\nGroup=pi\nWorkingDirectory=/home/pi\n\
        Environment=\"NODE_OPTIONS=--max_old_space_size=512\"\n# Environment=\"X=1\"\n\
        EnvironmentFile=-/home/pi/.node-red/environment\n\
        ExecStart=/usr/bin/env node-red-pi $NODE_OPTIONS $NODE_RED_OPTIONS\nRestart=on-failure\n[Install]\nWantedBy=multi-user.target\n";

    #[test]
    fn the_unit_of_the_debian_script_is_read_with_its_environment() {
        let (_keep, root) = root(&[
            PASSWD,
            ("lib/systemd/system/nodered.service", DEBIAN),
            ("lib/systemd/system/ssh.service", "[Service]\nExecStart=/usr/sbin/sshd -D\n"),
            (
                "home/pi/.node-red/environment",
                "# comment\nPORT=1990\nNODE_RED_OPTIONS='-v  --userDir=/srv/nr'\nbroken\n",
            ),
        ]);
        let units = units(&root, &Accounts::read(&root));
        assert_eq!(units.len(), 1);
        let unit = &units[0];
        assert_eq!((unit.name.as_str(), unit.user.as_str()), ("nodered.service", "pi"));
        assert_eq!(unit.arguments().user_dir.as_deref(), Some("/srv/nr"));
        assert_eq!(unit.environment.set["PORT"], "1990");
        assert_eq!(unit.environment.set["HOME"], "/home/pi");
        assert_eq!(unit.environment_files, [Path::new("/home/pi/.node-red/environment")]);
        assert_eq!(unit.working_directory.as_deref(), Some(Path::new("/home/pi")));
    }

    #[test]
    fn drop_ins_and_stronger_directories_overrule() {
        let (_keep, root) = root(&[
            PASSWD,
            ("lib/systemd/system/nodered.service", DEBIAN),
            (
                "etc/systemd/system/nodered.service.d/10-a.conf",
                "[Service]\nExecStart=\nExecStart=node-red -s \\\n  \"%h/my settings.js\"\n",
            ),
            ("usr/lib/systemd/system/nodered.service.d/20-b.conf", "[Service]\nUser=root\nProtectSystem=strict\n"),
            (
                "etc/systemd/system/nr@.service",
                "[Service]\nUser=pi\nExecStart=/bin/sh -c 'exec node /opt/red.js -u /srv/%i -p ${PORT}'\nEnvironment=PORT=7\n",
            ),
        ]);
        let units = units(&root, &Accounts::read(&root));
        assert_eq!(units[0].arguments().settings.as_deref(), Some("/root/my settings.js"));
        assert_eq!((units[0].user.as_str(), units[0].keys["ProtectSystem"].as_str()), ("root", "strict"));
        let arguments = units[1].arguments();
        assert_eq!((arguments.user_dir.as_deref(), arguments.port), (Some("/srv/"), Some(7)));
    }

    #[test]
    fn what_is_broken_or_a_link_elsewhere_is_left_out() {
        let (keep, root) =
            root(&[PASSWD, ("etc/systemd/system/a.service", "ExecStart=node-red\n[Service\nExecStart=node-red\n")]);
        std::os::unix::fs::symlink("/nowhere", keep.path().join("etc/systemd/system/b.service")).unwrap();
        fs::create_dir(keep.path().join("etc/systemd/system/c.service")).unwrap();
        assert_eq!(units(&root, &Accounts::read(&root)), []);
    }
}
