//! What Node-RED, npm and git do on an honest day, and what on the side of flows a process typically is.

use std::path::Path;

/// Something that Node-RED does by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idiom {
    /// The files that it is about, as a policy names them.
    pub pattern: String,
    /// What is done with them.
    pub sentence: &'static str,
}

/// Names in the user directory.
const USER_DIR: &[(&str, &str)] = &[
    ("node_modules/**", "npm installs packages of the palette here"),
    ("externalModules/**", "modules that Function nodes declare are installed here"),
    ("context/**", "context that is kept on the disk is stored here, one directory for each node and flow"),
    ("lib/**", "the library of the editor keeps flows and functions here"),
    ("projects/**", "Projects keeps its repositories here, and git works in them"),
    (".npm/**", "npm keeps what it has downloaded here"),
    ("*.$$$", "Node-RED writes a new version under such a name and moves it over the old one"),
    ("*.backup", "Node-RED keeps the version before this one as a backup"),
    (".config.*", "Node-RED keeps its own settings and those of its users here"),
    (".sessions.json", "Node-RED keeps who is logged in here"),
    ("flows*", "the flows and their credentials, written at each deploy"),
    ("package.json", "the list of installed packages, written by npm and by Node-RED's first start"),
    ("package-lock.json", "the list of installed packages, written by npm"),
];

/// Places elsewhere.
const ELSEWHERE: &[(&str, &str)] = &[
    ("/tmp/node-compile-cache", "Node.js keeps compiled code of npm here"),
    ("/tmp/node-watch-", "the watch node tries out here what the file system can tell"),
    ("/tmp/npm-", "npm unpacks packages here"),
    ("/tmp/node-red-git-askpass-", "Projects asks for git's passwords through such a socket"),
];

/// The idiom that a path belongs to.
#[must_use]
pub fn of_path(path: &str, user_dir: &Path) -> Option<Idiom> {
    let inside = Path::new(path).strip_prefix(user_dir).ok().and_then(Path::to_str);
    if let Some(inside) = inside {
        let found = USER_DIR.iter().find(|(pattern, _)| fits(pattern, inside))?;
        return Some(Idiom { pattern: found.0.to_owned(), sentence: found.1 });
    }
    if let Some(&(place, sentence)) = ELSEWHERE.iter().find(|(place, _)| path.starts_with(place)) {
        let pattern = if place.ends_with('-') { format!("{place}*") } else { format!("{place}/**") };
        return Some(Idiom { pattern, sentence });
    }
    let home = user_dir.parent().filter(|_| user_dir.ends_with(".node-red"))?;
    let npm = home.join(".npm");
    Path::new(path).starts_with(&npm).then(|| Idiom {
        pattern: format!("{}/**", npm.display()),
        sentence: "npm keeps its logs and what it has downloaded here",
    })
}

/// Whether a name below the user directory is meant: `dir/**`, or one `*` in a name of the directory itself.
fn fits(pattern: &str, inside: &str) -> bool {
    if let Some(directory) = pattern.strip_suffix("/**") {
        return Path::new(inside).starts_with(directory);
    }
    match pattern.split_once('*') {
        Some((before, after)) => {
            !inside.contains('/')
                && inside.len() >= before.len() + after.len()
                && inside.starts_with(before)
                && inside.ends_with(after)
        }
        None => inside == pattern,
    }
}

/// A process in the chain from the one that acted upwards.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Link {
    /// Its program's name.
    pub name: String,
    /// Its arguments.
    pub command: String,
    /// Its pid.
    pub pid: u64,
}

/// Names of shells.
pub const SHELLS: [&str; 7] = ["sh", "bash", "dash", "ash", "zsh", "busybox", "ksh"];

impl Link {
    fn is_node(&self) -> bool {
        self.name == "node" || self.name == "node-red" || self.name.starts_with("nodejs")
    }

    fn is_npm(&self) -> bool {
        self.name == "npm" || self.command.contains("npm-cli.js")
    }

    fn is_git(&self) -> bool {
        self.name.starts_with("git") || self.name == "ssh-keygen"
    }
}

/// What on the side of flows a chain of processes typically is; the one that acted comes first. `talks` when it is about
/// the network.
#[must_use]
pub fn of_chain(chain: &[Link], talks: bool) -> &'static str {
    // Ancestors of Node-RED started it.
    let root = chain.iter().rposition(Link::is_node).unwrap_or(chain.len());
    let below = chain.get(..root).unwrap_or(chain);
    let own = chain.get(..=root).unwrap_or(chain);
    if let Some(npm) = own.iter().position(Link::is_npm) {
        return if npm == 0 {
            "npm, which Node-RED starts: at each start to ask its version, and when packages are installed or removed in the editor or for a Function node"
        } else {
            "a program that npm has started: most likely the install script of a package"
        };
    }
    if below.iter().any(Link::is_git) {
        return "git or ssh-keygen: Projects starts them when somebody works with versions in the editor";
    }
    if below.is_empty() {
        return match (root < chain.len(), talks) {
            (true, true) => {
                "Node-RED's own process: an http request, MQTT, TCP or UDP node, a Function node, or a node that was installed"
            }
            (true, false) => {
                "Node-RED's own process: the editor's server, a file node, a Function node, or a node that was installed"
            }
            (false, _) => "a process of the instance of which no parent is known any more",
        };
    }
    if below.iter().any(|link| SHELLS.contains(&link.name.as_str())) {
        return "a command line in a shell: an exec node, or a Function node or installed node that uses child_process.exec";
    }
    if root == chain.len() {
        return "a program without Node-RED above it: it was started by one that is gone";
    }
    "a program that was started directly: an exec node in spawn mode, a daemon node, or code that uses child_process.spawn"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(links: &[(&str, &str)]) -> Vec<Link> {
        links.iter().map(|&(name, command)| Link { name: name.into(), command: command.into(), pid: 1 }).collect()
    }

    #[test]
    fn idioms_are_known_by_their_paths() {
        let user_dir = Path::new("/home/a/.node-red");
        for (path, pattern) in [
            ("/home/a/.node-red/node_modules/x/y.js", Some("node_modules/**")),
            ("/home/a/.node-red/flows.json.$$$", Some("*.$$$")),
            ("/home/a/.node-red/.flows.json.backup", Some("*.backup")),
            ("/home/a/.node-red/context/a1b2/flow.json.17.tmp", Some("context/**")),
            ("/home/a/.node-red/settings.js", None),
            ("/home/a/.npm/_cacache/x", Some("/home/a/.npm/**")),
            ("/tmp/node-watch-1234", Some("/tmp/node-watch-*")),
            ("/etc/shadow", None),
        ] {
            assert_eq!(of_path(path, user_dir).map(|idiom| idiom.pattern).as_deref(), pattern, "{path}");
        }
    }

    #[test]
    fn who_acts_is_told_by_what_it_descends_from() {
        let red = ("node", "node /usr/lib/node_modules/node-red/red.js");
        for (links, talks, said) in [
            (vec![("cat", "cat x"), ("sh", "/bin/sh -c cat x"), red], false, "an exec node, or"),
            (vec![red, ("systemd", "")], false, "Node-RED's own process: the editor"),
            (vec![red, ("bash", ""), ("sshd", "")], true, "an http request"),
            (vec![("npm", "node npm-cli.js install"), red], false, "npm, which"),
            (vec![("curl", ""), ("sh", ""), ("node", "node /x/npm-cli.js install y"), red], true, "install script"),
            (vec![("git", "git commit"), red], false, "Projects"),
            (vec![("python3", "python3 x"), red], false, "started directly"),
            (vec![("nc", "")], true, "without Node-RED above"),
        ] {
            let text = of_chain(&chain(&links), talks);
            assert!(text.contains(said), "{links:?}: {text}");
        }
    }
}
