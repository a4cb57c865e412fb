//! Policies that are written for an administrator: a preset, filled in for each instance that was found.
//!
//! A preset is a small template. `standard` adds to `home`, `multi-tenant` to `standard`, `strict` to `multi-tenant`: a rule
//! takes the place of the one with its id. The guard's own policy, when it is given none, is `home`.

use std::{
    fmt,
    fmt::Write as _,
    net::IpAddr,
    path::{Component, Path, PathBuf},
};

use monitor_common::dns::PORT;

use super::{
    model::{Policy, Select},
    name::DnsName,
    parse::parse,
};
use crate::toml_reader::Fault;
use journal::text::terminal::is_hidden;

/// Most ports of one address that declarations open: it has room for 16 ranges, other rules' included.
const MAX_PORTS: usize = 8;

/// Most ports of neighbours that have a rule of their own; the others are closed by the default for egress, which says less.
const MAX_NEIGHBOUR_PORTS: usize = 4;

/// How much a policy forbids.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Preset {
    /// What no flow has any business with.
    Home,
    /// And what makes more of a process than Node-RED is; the palette is closed outside of maintenance windows.
    Standard,
    /// And walls between instances; addresses that no flow declares are closed.
    MultiTenant,
    /// And the host's files and programs.
    Strict,
}

impl Preset {
    /// All of them, each with what it adds.
    const LAYERS: [(Self, &str); 4] = [
        (Self::Home, include_str!("presets/home.toml")),
        (Self::Standard, include_str!("presets/standard.toml")),
        (Self::MultiTenant, include_str!("presets/multi-tenant.toml")),
        (Self::Strict, include_str!("presets/strict.toml")),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Home => "home",
            Self::Standard => "standard",
            Self::MultiTenant => "multi-tenant",
            Self::Strict => "strict",
        }
    }

    /// What it says of itself.
    fn about(self) -> &'static str {
        let text = Self::LAYERS.iter().find(|(preset, _)| *preset == self).map_or("", |(_, text)| *text);
        text.split("\n\n").next().unwrap_or_default()
    }

    /// Its rules, with those of the presets that it adds to.
    fn blocks(self) -> Vec<&'static str> {
        let mut blocks: Vec<&'static str> = Vec::new();
        for (_, text) in Self::LAYERS.iter().filter(|(preset, _)| *preset <= self) {
            for block in text.split("\n\n").skip(1).map(str::trim_end) {
                match blocks.iter_mut().find(|known| key(known) == key(block)) {
                    Some(known) => *known = block,
                    None => blocks.push(block),
                }
            }
        }
        blocks
    }
}

/// The line that tells a block from others: the rule's id, or the header of the defaults.
fn key(block: &str) -> &str {
    block.lines().find(|line| line.starts_with("id = ")).or_else(|| block.lines().next()).unwrap_or_default()
}

/// An instance that was found on the machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// A name for it.
    pub name: String,
    /// What selects its processes.
    pub select: Select,
    /// Its user directory.
    pub user_dir: PathBuf,
}

/// What is known of an instance beside that, and becomes rules of its own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// What it is, in a line.
    pub about: String,
    /// Its home directory.
    pub home: Option<PathBuf>,
    /// The ports that its editor is served on.
    pub ports: Vec<u16>,
    /// The programs that it consists of.
    pub programs: Vec<PathBuf>,
    /// The settings close the palette.
    pub palette_closed: bool,
    /// Keys and certificates that are declared, each with who declares it.
    pub keys: Vec<(PathBuf, String)>,
    /// Where flows connect to, each with who declares it.
    pub targets: Vec<Target>,
    /// Resolvers of the machine.
    pub resolvers: Vec<IpAddr>,
    /// The user that it runs under.
    pub uid: Option<u32>,
    /// Other instances.
    pub neighbours: Vec<Neighbour>,
    /// What the administrator should know, a line each.
    pub notes: Vec<String>,
}

/// Another instance on the machine.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Neighbour {
    /// Its name.
    pub name: String,
    /// Its user directory.
    pub user_dir: PathBuf,
    /// Ports on this machine that its editor and its flows serve.
    pub ports: Vec<u16>,
}

/// Somewhere that a flow connects to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// A name or an address.
    pub host: String,
    /// The port; all when it is not known.
    pub port: Option<u16>,
    /// `tcp` or `udp`.
    pub protocol: &'static str,
    /// Who declares it.
    pub by: String,
}

/// A policy file for these instances.
#[must_use]
pub fn text(preset: Preset, instances: &[(Found, Known)], enforce: bool) -> String {
    let mode = if enforce { "enforce" } else { "observe" };
    let mut text = format!("{}\n\nversion = 1\nmode = \"{mode}\"\n", preset.about());
    for (found, known) in instances {
        let mut about: Vec<_> = Some(known.about.as_str()).filter(|about| !about.is_empty()).into_iter().collect();
        about.extend(known.notes.iter().map(String::as_str));
        for line in about {
            let _ = write!(text, "\n# {}", plain(line));
        }
        let _ = write!(
            text,
            "\n[[instance]]\nname = {}\nselect = [{{ {} }}]\nuser-dir = {}\n\n{}\n",
            quoted(&found.name),
            select(&found.select),
            quoted(&found.user_dir.to_string_lossy()),
            rules(preset, found, known).join("\n\n"),
        );
    }
    text
}

/// A selector as a policy has it.
#[must_use]
pub fn select(select: &Select) -> String {
    let Select { user, uid, unit, container, cgroup, exec, at: _ } = select;
    let mut parts = Vec::new();
    parts.extend(uid.map(|uid| format!("uid = {uid}")));
    let named = [("user", user), ("unit", unit), ("container", container), ("cgroup", cgroup)];
    parts.extend(named.into_iter().filter_map(|(key, value)| Some(format!("{key} = {}", quoted(value.as_ref()?)))));
    if *exec {
        parts.push("exec = \"node-red\"".to_owned());
    }
    parts.join(", ")
}

/// The rules for one instance: those of the preset, then those that follow from what it declares.
fn rules(preset: Preset, found: &Found, known: &Known) -> Vec<String> {
    let in_home =
        found.user_dir.parent().filter(|home| found.user_dir.ends_with(".node-red") && home.as_os_str() != "/");
    let home = known.home.as_deref().or(in_home);
    let mut blocks = preset.blocks();
    if preset == Preset::Home && known.palette_closed {
        let palette = |block: &&str| ["id = \"palette\"", "id = \"packages\""].contains(&key(block));
        let (closed, packages): (Vec<_>, Vec<_>) =
            Preset::Standard.blocks().into_iter().filter(palette).partition(|block| key(block) == "id = \"palette\"");
        blocks.retain(|block| !palette(block));
        blocks.extend(closed.into_iter().chain(packages));
    }
    let mut rules: Vec<_> = blocks.into_iter().filter_map(|block| fill(block, home, known)).collect();
    rules.extend(declared_keys(known, home));
    rules.extend(declared_targets(preset, known));
    if preset >= Preset::MultiTenant {
        let mut room = MAX_NEIGHBOUR_PORTS;
        for other in &known.neighbours {
            // What an instance serves itself it may reach.
            let mut ports: Vec<_> = other.ports.iter().copied().filter(|port| !known.ports.contains(port)).collect();
            ports.truncate(room);
            room -= ports.len();
            rules.extend(neighbour(other, &ports));
        }
    }
    rules
}

/// A block of a template with what is known put in. Without a home directory the rules about one are left out.
fn fill(block: &str, home: Option<&Path>, known: &Known) -> Option<String> {
    let mut block = block.to_owned();
    if block.contains("\"~/") {
        let home = writable(home?).ok()?;
        block = block.replace("\"~/", &format!("{}/", quoted(&home).trim_end_matches('"')));
    }
    // The sockets of a user's own services are where the uid says.
    block = match known.uid {
        Some(uid) => block.replace("/run/user/UID/", &format!("/run/user/{uid}/")),
        None => block.lines().filter(|line| !line.contains("/run/user/UID/")).collect::<Vec<_>>().join("\n"),
    };
    if block.contains("to = DOH\n") {
        let to: Vec<_> = doh().map(|address| format!("\"{address}\",")).collect();
        let lines: Vec<_> = to.chunks(5).map(|line| format!("    {}\n", line.join(" "))).collect();
        block = block.replace("to = DOH\n", &format!("to = [\n{}]\n", lines.concat()));
    }
    if !known.ports.is_empty() {
        block = block.replace("ports = [1880]", &format!("ports = {:?}", known.ports));
    }
    if key(&block) == "id = \"node\"" && !known.programs.is_empty() {
        let programs: Vec<_> =
            known.programs.iter().filter_map(|path| writable(path).ok()).map(|path| quoted(&path)).collect();
        block = block.replace("\"/usr/bin/node\"", &programs.join(", "));
    }
    Some(block)
}

/// Addresses that answer names over https.
fn doh() -> impl Iterator<Item = &'static str> {
    include_str!("presets/doh.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#'))
}

/// Paths that no declaration opens, since every user who edits flows can declare keys.
fn is_critical(path: &Path, home: Option<&Path>) -> bool {
    let never = ["/etc/shadow", "/etc/gshadow", "/etc/ssh", "/etc/sudoers", "/root", "/proc", "/sys", "/dev"];
    never.iter().any(|place| path.starts_with(place))
        || home.is_some_and(|home| path.starts_with(home.join(".ssh")))
        || path.components().any(|part| part.as_os_str() == ".ssh")
}

/// Rules that allow to read what is declared.
#[must_use]
pub fn declared_keys(known: &Known, home: Option<&Path>) -> Vec<String> {
    let rule = |(at, (path, by)): (usize, &(PathBuf, String))| {
        let refused = match writable(path) {
            Ok(_) if is_critical(path, home) => "no declaration opens this place",
            Ok(_) => "",
            Err(why) => why,
        };
        if !refused.is_empty() {
            return format!("# not allowed: {}, {}: {refused}", plain(&path.to_string_lossy()), plain(by));
        }
        format!(
            "[[instance.files]]\nid = \"declared-{}\"\nwhy = {}\npath = {}\naccess = [\"read\"]\nverdict = \"allow\"",
            at + 1,
            quoted(&cut(by)),
            quoted(&path.to_string_lossy())
        )
    };
    known.keys.iter().enumerate().map(rule).collect()
}

fn declared_targets(preset: Preset, known: &Known) -> Vec<String> {
    let mut rules = Vec::new();
    if !known.resolvers.is_empty() {
        let to: Vec<_> = known.resolvers.iter().map(|address| format!("\"{address}\"")).collect();
        rules.push(format!(
            "[[instance.egress]]\nid = \"resolvers\"\nwhy = \"names are asked of the resolvers of this machine\"\nto = [{}]\nports = [53]\nverdict = \"allow\"",
            to.join(", ")
        ));
    }
    let theirs = |address: IpAddr, port: Option<u16>| {
        let serves = |neighbour: &&Neighbour| {
            port.is_none_or(|port| neighbour.ports.contains(&port) && !known.ports.contains(&port))
        };
        let here = preset >= Preset::MultiTenant && address.is_loopback();
        known.neighbours.iter().filter(|neighbour| here && !neighbour.ports.is_empty()).find(serves)
    };
    for (at, target) in known.targets.iter().enumerate() {
        let ports = target.port.map_or_else(String::new, |port| format!("ports = [{port}]\n"));
        let shown = || {
            let port = target.port.map_or_else(String::new, |port| format!(" port {port}"));
            format!("{}{port} over {}, {}", plain(&target.host), target.protocol, plain(&target.by))
        };
        let place = place(&target.host);
        // The other rules of an address need room too.
        let before = known.targets.iter().take(at).filter(|other| self::place(&other.host) == place).count();
        let refused = match &place {
            Ok(_) if before >= MAX_PORTS => {
                rules.push(format!("# more ports than fit: {}", shown()));
                continue;
            }
            Ok(Place::Address(address)) => match theirs(*address, target.port) {
                Some(neighbour) => format!("there the instance {} is", plain(&neighbour.name)),
                None if is_metadata(*address) => "it hands out credentials".to_owned(),
                None => String::new(),
            },
            Ok(Place::Name(_)) => String::new(),
            Err(why) => plain(why),
        };
        rules.push(match place {
            Ok(place) if refused.is_empty() => format!(
                "[[instance.egress]]\nid = \"target-{}\"\nwhy = {}\nto = [{}]\n{ports}protocol = \"{}\"\nverdict = \"allow\"",
                at + 1,
                quoted(&cut(&target.by)),
                quoted(&place.to_string()),
                target.protocol
            ),
            _ => format!("# not allowed: {}: {refused}", shown()),
        });
    }
    let is_name = |target: &Target| matches!(place(&target.host), Ok(Place::Name(_)));
    if known.targets.iter().any(is_name) && !known.ports.contains(&PORT) {
        rules.push(FORGED_NAMES.to_owned());
    }
    rules
}

/// A rule for instances with rules about names.
const FORGED_NAMES: &str = "\
[[instance.ingress]]
id = \"forged-names\"
why = \"a process that serves port 53 here can answer for the resolvers, and an allowed name would lead to any address\"
technique = \"T1557\"
from = [\"any\", \"loopback\", \"private\", \"link-local\"]
ports = [53]
verdict = \"deny\"
fallback = \"kill\"";

/// Where a flow goes.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Place {
    Address(IpAddr),
    Name(DnsName),
}

impl fmt::Display for Place {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Address(address) => address.fmt(to),
            Self::Name(name) => name.fmt(to),
        }
    }
}

/// What a flow names; why that cannot be in a rule otherwise.
fn place(host: &str) -> Result<Place, String> {
    if host == "localhost" {
        return Ok(Place::Address([127, 0, 0, 1].into()));
    }
    if let Ok(address) = host.parse() {
        return Ok(Place::Address(address));
    }
    if host.contains('*') {
        return Err("a flow goes to one name".to_owned());
    }
    DnsName::parse(host).map(Place::Name)
}

/// The addresses that cloud machines get credentials from.
fn is_metadata(address: IpAddr) -> bool {
    let metadata: [IpAddr; 2] = [[169, 254, 169, 254].into(), [0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254].into()];
    metadata.contains(&address.to_canonical())
}

/// The rules that keep an instance from another: its files, and its ports on this machine.
fn neighbour(neighbour: &Neighbour, ports: &[u16]) -> Vec<String> {
    let Neighbour { name, user_dir, .. } = neighbour;
    let id: String =
        name.to_ascii_lowercase().chars().map(|char| if char.is_ascii_alphanumeric() { char } else { '-' }).collect();
    let mut rules = vec![match writable(user_dir) {
        Ok(path) => format!(
            "[[instance.files]]\nid = \"neighbour-{id}\"\nwhy = {}\ntechnique = \"T1552.001\"\npaths = [{}, {}]\naccess = \"all\"\nverdict = \"deny\"\nfallback = \"kill\"",
            quoted(&cut(&format!("these are the files of the instance {name}"))),
            quoted(&path),
            quoted(&format!("{path}/**")),
        ),
        Err(why) => format!("# no rule for the instance {}: {why}", plain(name)),
    }];
    if !ports.is_empty() {
        rules.push(format!(
            "[[instance.egress]]\nid = \"neighbour-ports-{id}\"\nwhy = {}\ntechnique = \"T1021\"\nto = [\"loopback\"]\nports = {ports:?}\nprotocol = \"tcp\"\nverdict = \"deny\"\nfallback = \"kill\"",
            quoted(&cut(&format!("these ports are the instance {name}'s"))),
        ));
    }
    rules
}

/// A path as a rule can name it, or why it cannot.
fn writable(path: &Path) -> Result<String, &'static str> {
    let text = path.to_str().ok_or("a path that is not UTF-8 cannot be written in a rule")?;
    if !path.is_absolute() {
        Err("it is relative to a directory that is not known")
    } else if path.components().any(|part| part == Component::ParentDir) {
        Err("`..` is not followed: write the path out")
    } else if text.contains(['*', '?', '[']) {
        Err("a path with wildcard characters in it cannot be written in a rule")
    } else {
        Ok(text.to_owned())
    }
}

/// A text that cannot leave its comment.
fn plain(text: &str) -> String {
    text.chars().map(|char| if is_hidden(char) { '?' } else { char }).take(300).collect()
}

/// A reason that fits a rule.
fn cut(text: &str) -> String {
    plain(text).chars().take(60).collect()
}

/// A TOML string.
#[must_use]
pub fn quoted(text: &str) -> String {
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match (char, u32::from(char)) {
            ('"' | '\\', _) => quoted.extend(['\\', char]),
            // What a reader of the policy could not see, or would see in another order.
            (_, code @ 0x1_0000..) if is_hidden(char) => {
                let _ = write!(quoted, "\\U{code:08X}");
            }
            (_, code) if is_hidden(char) => {
                let _ = write!(quoted, "\\u{code:04X}");
            }
            _ => quoted.push(char),
        }
    }
    quoted + "\""
}

/// The policy that is used when there is none: `home` for these instances, without their declared keys, since no administrator has
/// looked at it.
pub fn policy(instances: &[Found], enforce: bool) -> Result<Policy, Vec<Fault>> {
    let nameless = instances.iter().find(|found| found.user_dir.to_str().is_none());
    if let Some(found) = nameless {
        let what = format!("{}: a user directory whose name is not UTF-8 cannot be guarded", found.user_dir.display());
        return Err(vec![Fault { line: 0, column: 0, what }]);
    }
    let instances: Vec<_> = instances.iter().map(|found| (found.clone(), Known::default())).collect();
    parse(&text(Preset::Home, &instances, enforce))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use monitor_common::{
        Access, Verdict, decide,
        policy::{Maintenance, NetKey},
    };

    use super::*;
    use crate::compile::{
        compile,
        tests::{EPOCH, Everything, Tables, file, seen, text as by_name},
    };

    fn found(user_dir: &str) -> Found {
        let select = Select { uid: Some(990), exec: true, ..Select::default() };
        Found { name: "a".into(), select, user_dir: user_dir.into() }
    }

    /// The embedded policy on a machine where everything is there but `missing`.
    fn tables(user_dir: &str, missing: &[&str]) -> Tables {
        compiled(&policy(&[found(user_dir)], true).unwrap(), missing)
    }

    /// A preset with what is known of an instance, on a machine where everything is there.
    fn of(preset: Preset, known: Known) -> Tables {
        compiled(&parse(&text(preset, &[(found(UD), known)], true)).unwrap(), &[])
    }

    fn compiled(policy: &Policy, missing: &[&str]) -> Tables {
        let slots = BTreeMap::from([("a".to_owned(), 0)]);
        let mut identify = |path: &Path| (!missing.iter().any(|gone| path == Path::new(gone))).then(|| seen(path));
        Tables::new(compile(policy, EPOCH, &slots, &Everything, &mut identify).unwrap())
    }

    fn judge(tables: &Tables, path: &str, access: Access) -> Verdict {
        file(tables, path, access).0.max(by_name(tables, "/", path.trim_start_matches('/'), access))
    }

    const READ: Access = Access::READ;
    const MAKE: Access = Access::WRITE.union(Access::CREATE).union(Access::ATTR);
    const REPLACE: Access = Access::RENAME.union(Access::CREATE).union(Access::DELETE);
    const UD: &str = "/home/n/.node-red";

    /// Start, deploy, context, library: storage writes aside and renames.
    const ORDINARY: &[(&str, Access)] = &[
        ("settings.js", READ),
        ("flows.json", READ.union(REPLACE)),
        ("flows.json.$$$", MAKE.union(REPLACE)),
        (".flows.json.backup", MAKE.union(REPLACE)),
        ("flows_cred.json", READ.union(REPLACE)),
        (".config.runtime.json.$$$", MAKE.union(REPLACE)),
        (".sessions.json", READ.union(MAKE).union(REPLACE)),
        ("context/global/global.json.17.tmp", MAKE.union(REPLACE)),
        ("context/1a2b", REPLACE),
        ("lib/flows/x.json", READ.union(MAKE)),
        ("node_modules/x/index.js", READ),
        ("node_modules/x/test/server.key", READ),
        ("package.json", READ),
    ];
    /// npm writes packages, among them ones with keys for their tests, and moves their directories.
    const PALETTE: &[(&str, Access)] = &[
        ("package.json", READ.union(MAKE)),
        ("node_modules/x/test/fixtures/server.key", READ.union(MAKE).union(REPLACE).union(Access::LINK)),
        ("node_modules/.x-Ab3dEf/ca.pem", READ.union(MAKE).union(REPLACE)),
        ("node_modules/x", REPLACE),
        ("node_modules/.bin/tool", Access::EXEC.union(READ)),
    ];
    /// git checks out whatever a repository holds; ssh-keygen makes keys, the editor shows public ones.
    const PROJECTS: &[(&str, Access)] = &[
        ("projects/p/certs/dev.pem", READ.union(MAKE).union(REPLACE).union(Access::LINK)),
        ("projects/p/.git/objects/ab/cd", READ.union(MAKE).union(REPLACE).union(Access::LINK)),
        ("projects/.sshkeys", READ.union(Access::CREATE)),
        ("projects/.sshkeys/admin_key", MAKE.union(Access::DELETE)),
        ("projects/.sshkeys/admin_key.pub", READ.union(MAKE).union(Access::DELETE)),
    ];
    /// What it does elsewhere.
    const ELSEWHERE: &[(&str, Access)] = &[
        ("/tmp/node-compile-cache/v24/x", MAKE.union(REPLACE)),
        ("/tmp/node-watch-1", MAKE.union(REPLACE)),
        ("/home/n/.npm", Access::CREATE),
        ("/home/n/.npm/_cacache/tmp/1", MAKE.union(REPLACE).union(Access::LINK)),
        ("/home/n/.ssh", READ),
        ("/home/n/.ssh/id_rsa.pub", READ),
        ("/home/n/.bashrc", READ),
        ("/home/n/.gitconfig", READ),
        ("/etc/ssl/certs/ca-certificates.crt", READ),
        ("/etc/passwd", READ),
        ("/usr/bin/node", Access::EXEC.union(READ)),
        ("/dev/null", Access::WRITE),
        ("/run/nscd/socket", Access::WRITE),
    ];

    #[test]
    fn what_node_red_really_does_raises_nothing() {
        let settings = format!("{UD}/settings.js");
        let sshkeys = format!("{UD}/projects/.sshkeys");
        let quiet = |tables: &Tables, paths: &[(&str, Access)], about: &str| {
            for (path, access) in paths {
                let path = if path.starts_with('/') { (*path).to_owned() } else { format!("{UD}/{path}") };
                assert_eq!(judge(tables, &path, *access), Verdict::Allow, "{path} {access:?}, {about}");
            }
        };
        let (shell, known_hosts) = (("/bin/bash", Access::EXEC), ("/home/n/.ssh/known_hosts", READ.union(MAKE)));
        for missing in [&[][..], &[settings.as_str()], &[UD, &settings], &[&sshkeys]] {
            let tables = tables(UD, missing);
            for paths in [ORDINARY, PALETTE, PROJECTS, ELSEWHERE, &[shell, known_hosts]] {
                quiet(&tables, paths, &format!("without {missing:?}"));
            }
        }
        for paths in [ORDINARY, PROJECTS, ELSEWHERE, &[shell, known_hosts]] {
            quiet(&of(Preset::Standard, Known::default()), paths, "standard");
        }
        for paths in [ORDINARY, ELSEWHERE, &[shell, known_hosts]] {
            quiet(&of(Preset::MultiTenant, Known::default()), paths, "multi-tenant");
        }
        for paths in [ORDINARY, ELSEWHERE] {
            quiet(&of(Preset::Strict, Known::default()), paths, "strict");
        }
        for preset in [Preset::Standard, Preset::MultiTenant, Preset::Strict] {
            let mut tables = of(preset, Known::default());
            tables.window = Some(Maintenance::Palette);
            for (path, access) in PALETTE.iter().filter(|(_, access)| !access.contains(Access::EXEC)) {
                let verdict = judge(&tables, &format!("{UD}/{path}"), *access);
                assert_eq!(verdict, Verdict::Log, "{path} {access:?}, {} in a window", preset.name());
            }
        }
        // The first start makes its settings file and everything above it.
        let tables = tables(UD, &[UD, &settings]);
        assert_eq!(judge(&tables, UD, Access::CREATE), Verdict::Allow);
        assert_eq!(judge(&tables, &settings, MAKE), Verdict::Allow);
    }

    #[test]
    fn each_preset_denies_what_it_is_there_for() {
        let user_dir = PathBuf::from("/srv/b");
        let neighbours = vec![Neighbour { name: "plant-b".to_owned(), user_dir, ports: vec![1881] }];
        for (preset, path, access) in [
            (Preset::Home, "/home/n/.node-red/environment", Access::CREATE),
            (Preset::Home, "/home/n/.bashrc", Access::WRITE),
            (Preset::Home, "/home/n/.gitconfig", Access::RENAME),
            (Preset::Home, "/home/n/.config/git/config", Access::CREATE),
            (Preset::Home, "/home/n/.config/systemd/user/x.service", Access::CREATE),
            (Preset::Home, "/home/n/.local/share/systemd/user/x.service", Access::CREATE),
            (Preset::Home, "/home/n/.zshenv", Access::CREATE),
            (Preset::Home, "/etc/cron.d/x", Access::CREATE),
            (Preset::Home, "/etc/systemd/system/x.service", Access::CREATE),
            (Preset::Standard, "/run/docker.sock", Access::WRITE),
            (Preset::Standard, "/run/containerd/containerd.sock", Access::WRITE),
            (Preset::Standard, "/var/snap/lxd/common/lxd/unix.socket", Access::WRITE),
            (Preset::Standard, "/run/dbus/system_bus_socket", Access::WRITE),
            (Preset::Standard, "/proc/1/environ", READ),
            (Preset::Standard, "/tmp/x", Access::EXEC),
            (Preset::Standard, "/home/n/.node-red/node_modules/x/index.js", Access::WRITE),
            (Preset::Standard, "/home/n/.node-red/node_modules/new", Access::CREATE),
            (Preset::Standard, "/home/n/.node-red/node_modules/x/ca.pem", Access::WRITE),
            (Preset::Standard, "/home/n/.node-red/nodes/x.js", Access::CREATE),
            (Preset::Standard, "/home/n/.node-red/.npmrc", Access::CREATE),
            (Preset::Standard, "/home/n/.node-red/package.json", Access::RENAME),
            (Preset::Standard, "/home/n/.node-red/node_modules", Access::RENAME),
            (Preset::MultiTenant, "/srv/b/flows_cred.json", READ),
            (Preset::MultiTenant, "/srv/b", Access::RENAME),
            (Preset::Strict, "/usr/local/bin/x", Access::CREATE),
            (Preset::Strict, "/home/n/other", Access::CREATE),
            (Preset::Strict, "/bin/bash", Access::EXEC),
        ] {
            let layers = [Preset::Home, Preset::Standard, Preset::MultiTenant, Preset::Strict];
            for layer in layers.into_iter().filter(|layer| *layer >= preset) {
                let tables = of(layer, Known { neighbours: neighbours.clone(), ..Known::default() });
                assert_eq!(judge(&tables, path, access), Verdict::Deny, "{}: {path} {access:?}", layer.name());
            }
            for layer in layers.into_iter().filter(|layer| *layer < preset) {
                let tables = of(layer, Known { neighbours: neighbours.clone(), ..Known::default() });
                assert_eq!(judge(&tables, path, access), Verdict::Allow, "{}: {path} {access:?}", layer.name());
            }
        }
    }

    #[test]
    fn a_neighbour_is_not_reached_whatever_a_flow_declares() {
        let neighbours = vec![Neighbour { name: "b".into(), user_dir: "/srv/b".into(), ports: vec![1881, 9000] }];
        let target = |host: &str, port| Target { host: host.into(), port, protocol: "tcp", by: "a flow".into() };
        let targets = ["127.0.0.1", "localhost", "::1"].map(|host| target(host, Some(1881)));
        let targets = targets.into_iter().chain([target("127.0.0.1", None), target("127.0.0.1", Some(1883))]).collect();
        let known = Known { targets, neighbours, ..Known::default() };
        let tables = of(Preset::MultiTenant, known.clone());
        let verdict = |address: [u8; 16], port| {
            let key = NetKey { epoch: EPOCH, instance: 0, direction: 0, address };
            decide::net(&tables, &tables.subject(), &key, port, 6).verdict
        };
        let v6 = "::1".parse::<std::net::Ipv6Addr>().unwrap().octets();
        for port in [1881, 9000] {
            assert_eq!(verdict(decide::map_v4([127, 0, 0, 1]), port), Verdict::Deny, "{port}");
            assert_eq!(verdict(v6, port), Verdict::Deny, "{port}");
        }
        assert_eq!(verdict(decide::map_v4([127, 0, 0, 1]), 1883), Verdict::Allow);
        let text = text(Preset::MultiTenant, &[(found(UD), known)], true);
        assert!(
            text.contains("# not allowed: 127.0.0.1 port 1881 over tcp, a flow: there the instance b is"),
            "{text}"
        );
    }

    #[test]
    fn many_neighbours_fit() {
        let neighbour =
            |at: u16| Neighbour { name: format!("n{at}"), user_dir: format!("/n/{at}").into(), ports: vec![at] };
        let known = Known { neighbours: (2000..2060).map(neighbour).collect(), ports: vec![2001], ..Known::default() };
        let tables = of(Preset::Strict, known);
        let verdict = |port| {
            let key = NetKey { epoch: EPOCH, instance: 0, direction: 0, address: decide::map_v4([127, 0, 0, 1]) };
            decide::net(&tables, &tables.subject(), &key, port, 6)
        };
        assert_eq!((verdict(2000).verdict, verdict(2059).verdict), (Verdict::Deny, Verdict::Deny));
        assert!(verdict(2000).rule != 0 && verdict(2059).rule == 0 && verdict(2001).rule == 0);
    }

    #[test]
    fn the_sockets_of_the_users_own_services_are_closed_where_the_user_is_known() {
        let tables = of(Preset::Standard, Known { uid: Some(1000), ..Known::default() });
        for path in ["/run/user/1000/docker.sock", "/run/user/1000/podman/podman.sock", "/run/user/1000/bus"] {
            assert_eq!(judge(&tables, path, Access::WRITE), Verdict::Deny, "{path}");
        }
        // What is not known is left out, and the rest stays.
        let tables = of(Preset::Standard, Known::default());
        assert_eq!(judge(&tables, "/run/docker.sock", Access::WRITE), Verdict::Deny);
        assert!(!text(Preset::Standard, &[(found(UD), Known::default())], true).contains("/run/user"));
    }

    #[test]
    fn the_three_cards_are_covered() {
        let tables = tables(UD, &[]);
        for (path, access) in [
            ("/home/n/.node-red/settings.js", Access::WRITE),
            ("/home/n/.node-red/settings.js", Access::DELETE),
            ("/home/n/.node-red/settings.js", Access::RENAME),
            ("/home/n/.node-red/settings.js", Access::LINK),
            ("/home/n/.node-red/settings.js", Access::ATTR),
            ("/home/n/.node-red", Access::RENAME),
            ("/home/n/.node-red/key.pem", READ),
            ("/home/n/.node-red/certs/a/server.key", READ),
            ("/home/n/.node-red/x.p12", READ),
            ("/home/n/.node-red/x.pfx", Access::WRITE),
            ("/home/n/.ssh/id_ed25519", READ),
            ("/root/.ssh/id_rsa", READ),
            ("/etc/ssl/private/ssl-cert-snakeoil.key", READ),
            ("/etc/letsencrypt/live/x/privkey.pem", READ),
            ("/etc/letsencrypt/archive/x/privkey1.pem", READ),
            ("/etc/shadow", READ),
            ("/etc/ssh/ssh_host_ed25519_key", READ),
        ] {
            assert_eq!(judge(&tables, path, access), Verdict::Deny, "{path} {access:?}");
        }
        let denied = policy(&[found(UD)], true).unwrap().instances.remove(0).files;
        for rule in denied.iter().filter(|rule| rule.action.verdict == Verdict::Deny) {
            assert_eq!(rule.action.fallback, Verdict::Kill, "{}", rule.action.id);
        }
        // A pull over SSH is what this key is for: seen, not stopped.
        assert_eq!(judge(&tables, "/home/n/.node-red/projects/.sshkeys/admin_key", READ), Verdict::Log);
        let net = |address: &str| {
            let address = match address.parse().unwrap() {
                IpAddr::V4(address) => decide::map_v4(address.octets()),
                IpAddr::V6(address) => address.octets(),
            };
            let key = NetKey { epoch: EPOCH, instance: 0, direction: 0, address };
            let decision = decide::net(&tables, &tables.subject(), &key, 80, 6);
            (decision.verdict, decision.fallback)
        };
        assert_eq!(net("203.0.113.9"), (Verdict::Log, Verdict::Unset));
        assert_eq!(net("127.0.0.53"), (Verdict::Allow, Verdict::Unset));
        assert_eq!(net("::1"), (Verdict::Allow, Verdict::Unset));
        for metadata in ["169.254.169.254", "::ffff:169.254.169.254", "fd00:ec2::254"] {
            assert_eq!(net(metadata), (Verdict::Deny, Verdict::Kill), "{metadata}");
        }
    }

    #[test]
    fn an_explicit_rule_declares_a_key() {
        let text = text(Preset::Home, &[(found(UD), Known::default())], true)
            + "[[instance.files]]\npath = \"tls/own.pem\"\naccess = [\"read\"]\nverdict = \"allow\"\n";
        let slots = BTreeMap::from([("a".to_owned(), 0)]);
        let policy = parse(&text).unwrap();
        let tables = Tables::new(compile(&policy, EPOCH, &slots, &Everything, &mut |path| Some(seen(path))).unwrap());
        assert_eq!(judge(&tables, "/home/n/.node-red/tls/own.pem", READ), Verdict::Allow);
        assert_eq!(judge(&tables, "/home/n/.node-red/tls/own.pem", Access::WRITE), Verdict::Deny);
        assert_eq!(judge(&tables, "/home/n/.node-red/tls/other.pem", READ), Verdict::Deny);
    }

    #[test]
    fn any_directory_and_any_selector_can_be_written_down() {
        for user_dir in ["/data", "/srv/a \"b\"\\c\u{301}\t\n\u{7f}'d'/.node-red", "/srv/[x]*/.node-red"] {
            let policy = policy(&[found(user_dir)], false).unwrap();
            assert_eq!(policy.instances[0].user_dir, PathBuf::from(user_dir));
            assert_eq!(policy.instances[0].files[0].path, PathBuf::from(user_dir).join("settings.js"));
            assert!(!policy.enforce);
        }
        let select =
            |select| policy(&[Found { select, ..found("/data") }], true).unwrap().instances.remove(0).select.remove(0);
        let user = select(Select { user: Some("nodered".into()), ..Select::default() });
        assert_eq!(user.user.as_deref(), Some("nodered"));
        let container = select(Select { container: Some("0123456789ab".into()), ..Select::default() });
        assert_eq!(container.container.as_deref(), Some("0123456789ab"));
    }

    #[test]
    fn a_directory_that_is_no_text_is_refused() {
        use std::os::unix::ffi::OsStringExt as _;
        let user_dir = PathBuf::from(std::ffi::OsString::from_vec(b"/srv/\xff".to_vec()));
        let faults = policy(&[Found { user_dir, ..found("/data") }], true).unwrap_err();
        assert!(faults[0].what.contains("is not UTF-8"), "{faults:?}");
    }
}
