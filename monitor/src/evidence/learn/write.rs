//! What was learnt as the text of a policy: the present one with rules added and its defaults closed.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use monitor_common::{Access, Verdict, policy::Class};
use similar::TextDiff;
use toml_edit::{ArrayOfTables, DocumentMut};

use super::{
    Learnt, edit,
    fact::{Facts, Seen},
    net::{NetLine, egress, ingress},
};
use crate::{config, evidence::critical};
use policy::{
    model::{ClassDefault, InstancePolicy, KillScope, Policy},
    preset::{self, Found, Known},
    toml_reader::Fault,
};

/// Everything that is done with a file that is kept: it is made anew and moved over the old one.
const KEEPING: Access = Access::READ
    .union(Access::WRITE)
    .union(Access::CREATE)
    .union(Access::DELETE)
    .union(Access::RENAME)
    .union(Access::ATTR);
/// Programs that run whatever they are given.
const TOOLS: [&str; 9] = ["curl", "wget", "nc", "ncat", "socat", "python3", "perl", "ssh", "sudo"];

/// Why no policy could be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The text has a form that rules cannot be put into.
    #[error("the present policy cannot be added to: {0}")]
    Form(String),
    /// What was written is no policy.
    #[error("what was learnt makes no policy: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Faulty(Vec<Fault>),
}

/// A policy with what was learnt.
#[derive(Clone, Debug)]
pub struct Draft {
    /// The whole text.
    pub text: String,
    /// The difference from the present one, line by line.
    pub diff: String,
}

/// What a policy begins with where there is none yet: what no flow has any business with.
#[must_use]
pub fn base(instances: &[(Found, Known)]) -> String {
    let mut text = "version = 1\nmode = \"observe\"\n".to_owned();
    for (found, known) in instances {
        let home = found.user_dir.parent().filter(|_| found.user_dir.ends_with(".node-red"));
        let home = known.home.as_deref().or(home);
        let ssh = home.and_then(Path::to_str).map(|home| quoted(&format!("{home}/.ssh/id_*")));
        let keys =
            ["**/*.pem", "**/*.key", "**/*.p12", "**/*.pfx", "/etc/shadow", "/etc/ssl/private/**", "/etc/ssh/**"];
        let keys: Vec<_> = keys.map(quoted).into_iter().chain(ssh).collect();
        let _ = write!(
            text,
            r#"
[[instance]]
name = {name}
select = [{{ {select} }}]
user-dir = {user_dir}

[[instance.files]]
id = "settings-js"
why = "most of Node-RED's security is configured in settings.js"
paths = ["settings.js", "environment"]
access = ["write", "create", "delete", "rename", "link", "attr"]
verdict = "deny"
fallback = "kill"
maintenance = "settings"
heal = true

[[instance.files]]
id = "private-keys"
why = "keys are read only where they are declared, and keys of the host are not read"
paths = [{keys}]
access = ["read", "write", "delete", "rename", "link"]
verdict = "deny"
fallback = "kill"

[[instance.files]]
id = "palette"
why = "packages are code: they change when an administrator opens a maintenance window"
paths = ["node_modules/**", "externalModules/**", "nodes/**", "package*"]
access = ["write", "create", "delete", "rename", "link", "attr"]
verdict = "deny"
fallback = "kill"
maintenance = "palette"

[[instance.files]]
paths = ["node_modules/**", "externalModules/**", "projects/**"]
access = ["read"]
verdict = "allow"
"#,
            name = quoted(&found.name),
            select = preset::select(&found.select),
            user_dir = quoted(&found.user_dir.to_string_lossy()),
            keys = keys.join(", "),
        );
        for rule in preset::declared_keys(known, home) {
            let _ = write!(text, "\n{rule}\n");
        }
    }
    text
}

/// The same policy as one that is to learn from: every default that allows logs instead, and no events leave the machine.
pub fn observing(text: &str, policy: &Policy) -> Result<String, WriteError> {
    let mut document = document(text)?;
    for key in ["sink", "metrics", "journal"] {
        document.remove(key);
    }
    for (table, instance) in instances(&mut document, policy)?.iter_mut().zip(&policy.instances) {
        let of = |_, verdict| if verdict == Verdict::Allow { Verdict::Log } else { verdict };
        edit::set_defaults(table, &defaults(instance, of));
    }
    let text = document.to_string();
    config::parse(&text).map_err(WriteError::Faulty)?;
    Ok(text)
}

/// A policy as a document that can be edited.
fn document(text: &str) -> Result<DocumentMut, WriteError> {
    text.parse().map_err(|error: toml_edit::TomlError| WriteError::Form(error.message().to_owned()))
}

/// The instances in a document, in the order of the policy.
fn instances<'d>(document: &'d mut DocumentMut, policy: &Policy) -> Result<&'d mut ArrayOfTables, WriteError> {
    let found = edit::tables(document, "instance").filter(|tables| tables.len() == policy.instances.len());
    found.ok_or_else(|| WriteError::Form("its instances are not where they were".to_owned()))
}

/// The present policy with what was learnt. Rules that are there stay as they are.
pub fn draft(text: &str, policy: &Policy, learnt: &Learnt) -> Result<Draft, WriteError> {
    let mut document = document(text)?;
    for (table, instance) in instances(&mut document, policy)?.iter_mut().zip(&policy.instances) {
        if let Some(facts) = learnt.instances.get(&instance.name).filter(|facts| !facts.is_empty()) {
            rules(instance, facts).put(table)?;
        }
    }
    let old = text;
    let text = document.to_string();
    let diff = TextDiff::from_lines(old, &text).unified_diff().context_radius(2).to_string();
    let written = config::parse(&text).map_err(WriteError::Faulty)?.policy;
    for (old, new) in policy.instances.iter().zip(&written.instances) {
        let kept = old.files.iter().all(|rule| {
            new.files.iter().any(|it| {
                (&it.path, &it.names, it.access, it.action.verdict)
                    == (&rule.path, &rule.names, rule.access, rule.action.verdict)
            })
        });
        let nets = old.nets.iter().all(|rule| {
            new.nets.iter().any(|it| {
                (&it.prefixes, &it.names, &it.ports, it.action.verdict)
                    == (&rule.prefixes, &rule.names, &rule.ports, rule.action.verdict)
            })
        });
        if !kept || !nets || old.name != new.name {
            return Err(WriteError::Form(format!("rules of the instance \"{}\" would get lost", old.name)));
        }
    }
    Ok(Draft { text, diff })
}

impl Facts {
    /// Whether nothing is known of what the instance needs. What was refused says nothing about that.
    pub(super) fn is_empty(&self) -> bool {
        let Self { files, programs, egress, ingress, classes, refused: _, more: _, logged } = self;
        logged.is_empty()
            || files.is_empty() && programs.is_empty() && egress.is_empty() && ingress.is_empty() && classes.is_empty()
    }
}

/// What is added to the text of an instance.
struct Added {
    /// Its defaults, which take the place of those that are there.
    defaults: Vec<(&'static str, ClassDefault)>,
    /// Comments on them.
    comments: Vec<String>,
    /// Rules for addresses by the name of their table: where there are no such tables yet they are written a line each.
    nets: Vec<(&'static str, Vec<NetLine>)>,
    /// Other rules by the name of their table, each as the lines of one.
    tables: Vec<(&'static str, Vec<String>)>,
}

impl Added {
    /// Puts all of it into the table of an instance.
    fn put(&self, table: &mut toml_edit::Table) -> Result<(), WriteError> {
        let faulty = |error: toml_edit::TomlError| WriteError::Form(error.message().to_owned());
        edit::set_defaults(table, &self.defaults);
        edit::comment_on_defaults(table, &self.comments);
        for (name, rules) in self.nets.iter().filter(|(_, rules)| !rules.is_empty()) {
            if edit::are_tables(table, name) {
                for rule in rules {
                    edit::add_table(table, name, &rule.table()).map_err(faulty)?;
                }
            } else {
                let lines: Vec<_> = rules.iter().flat_map(NetLine::inline).collect();
                edit::add_elements(table, name, &lines).map_err(faulty)?;
            }
        }
        for (name, lines) in &self.tables {
            edit::add_table(table, name, lines).map_err(faulty)?;
        }
        Ok(())
    }
}

/// The defaults of an instance; `of` makes them others.
fn defaults(instance: &InstancePolicy, of: impl Fn(Class, Verdict) -> Verdict) -> Vec<(&'static str, ClassDefault)> {
    let each = |&(name, class): &(&'static str, Class)| {
        let old = instance.defaults[class as usize];
        let verdict = of(class, old.verdict);
        let fallback = if verdict == Verdict::Deny { old.fallback } else { Verdict::Unset };
        let scope = if verdict == old.verdict { old.scope } else { KillScope::default() };
        (name, ClassDefault { verdict, fallback, scope })
    };
    Class::NAMES.iter().map(each).collect()
}

/// What is added to an instance: its defaults, and the rules. Nothing is closed that the journal's policy did not log: what
/// was done there is not known.
fn rules(instance: &InstancePolicy, facts: &Facts) -> Added {
    let comments = facts.classes.values();
    let comments = comments
        .map(|(class, seen)| format!("# {} is allowed: {}", Class::NAMES[*class as usize].0, seen.comment()))
        .collect();
    let defaults = defaults(instance, |class, old| {
        let seen = facts.classes.contains_key(&(class as usize));
        match class {
            _ if !facts.logged.contains(&(class as usize)) => old,
            // The kernel asks this one alone whether a socket may listen; ports are closed by a rule.
            Class::Ingress => old,
            // Programs are learnt one by one; what decides about them is their rule.
            _ if seen => Verdict::Allow.max(old.min(Verdict::Log)),
            _ => old.max(Verdict::Deny),
        }
    });
    let mut tables = Vec::new();
    let read: Vec<_> = facts.files.iter().filter(|(_, seen)| seen.access == Access::READ).collect();
    let linked: Vec<_> = facts.files.iter().filter(|(_, seen)| seen.access.contains(Access::LINK)).collect();
    let kept = |seen: &Seen| seen.access != Access::READ && !seen.access.contains(Access::LINK);
    let kept: Vec<_> = facts.files.iter().filter(|(_, seen)| kept(seen)).collect();
    for (access, paths) in [(Access::READ, read), (KEEPING, kept), (KEEPING.union(Access::LINK), linked)] {
        if paths.is_empty() {
            continue;
        }
        let names: Vec<_> = access.names().collect();
        let mut lines = vec![format!("access = {names:?}"), "verdict = \"allow\"".to_owned()];
        list(&mut lines, "paths", &places(paths));
        tables.push(("files", lines));
    }
    tables.extend(hooks(instance, facts).map(|lines| ("files", lines)));
    if !facts.programs.is_empty() {
        let mut lines = vec!["verdict = \"allow\"".to_owned()];
        let programs = facts.programs.iter();
        let programs = programs.map(|(path, seen)| (quoted(path), format!("{}{}", seen.comment(), warning(path))));
        list(&mut lines, "paths", &programs.collect::<Vec<_>>());
        tables.push(("exec", lines));
    }
    let mut nets = vec![("egress", egress(&facts.egress))];
    if facts.logged.contains(&(Class::Ingress as usize)) {
        nets.push(("ingress", ingress(instance, &facts.ingress)));
    }
    Added { defaults, comments, nets, tables }
}

/// Where git works in repositories they are taken as a whole, and its hooks are closed: what is written there runs by itself.
fn hooks(instance: &InstancePolicy, facts: &Facts) -> Option<Vec<String>> {
    const ID: &str = "git-hooks";
    let works = facts.files.get("projects/**").is_some_and(|seen| seen.access != Access::READ);
    if !works || instance.files.iter().any(|rule| rule.action.id == ID) {
        return None;
    }
    let paths = critical::HOOKS.map(|name| format!("projects/**/*{name}"));
    let rule = format!(
        "id = \"{ID}\"\nwhy = \"git runs these by itself at the next commit, pull or checkout\"\n\
         paths = {paths:?}\naccess = [\"write\", \"create\", \"rename\", \"link\"]\nverdict = \"deny\"\nfallback = \"kill\""
    );
    Some(rule.lines().map(str::to_owned).collect())
}

/// What to say about a program that runs anything.
fn warning(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or(path);
    if crate::evidence::idiom::SHELLS.contains(&name) {
        "; a shell: users who edit flows can run commands with it"
    } else if TOOLS.contains(&name) {
        "; check this: it runs whatever it is given"
    } else {
        ""
    }
}

/// A list with a comment on each line; one that is short is a line.
pub(super) fn list(out: &mut Vec<String>, key: &str, items: &[(String, String)]) {
    if let [(item, comment)] = items {
        out.push(format!("{key} = [{item}] # {comment}"));
        return;
    }
    out.push(format!("{key} = ["));
    out.extend(items.iter().map(|(item, comment)| format!("    {item}, # {comment}")));
    out.push("]".to_owned());
}

/// Where files are, in the order in which they are listed; those of one place share a line.
fn place(path: &str) -> &'static str {
    let system =
        ["/usr/", "/etc/", "/lib", "/bin/", "/sbin/", "/proc/", "/sys/", "/dev/", "/run/", "/var/run/", "/var/lib/"];
    if system.iter().any(|begin| path.starts_with(begin)) {
        "the system's"
    } else if path.starts_with('/') && path.trim_end_matches("/**").ends_with("/node_modules") {
        "programs'"
    } else if path.starts_with("/tmp/") || path.starts_with("/var/tmp/") {
        "temporary"
    } else if !path.starts_with('/') {
        "the user directory's"
    } else {
        ""
    }
}

/// Files, those of one place on a line.
fn places(files: Vec<(&String, &Seen)>) -> Vec<(String, String)> {
    let mut grouped: BTreeMap<&str, (Vec<String>, Seen)> = BTreeMap::new();
    let mut single = Vec::new();
    let whole: Vec<_> = files.iter().filter_map(|(path, _)| path.strip_suffix("**")).map(str::to_owned).collect();
    let is_below = |path: &str| whole.iter().any(|it| path.starts_with(it.as_str()) && path != format!("{it}**"));
    let is_covered = |path: &str| is_below(path) && !critical::is_hook(path);
    for (path, seen) in files.into_iter().filter(|(path, _)| !is_covered(path)) {
        match place(path) {
            "" => single.push((quoted(path), seen.comment())),
            place => {
                let (paths, all) = grouped.entry(place).or_default();
                paths.push(quoted(path));
                all.join(seen);
            }
        }
    }
    let grouped =
        grouped.into_iter().map(|(place, (paths, seen))| (paths.join(", "), format!("{place}: {}", seen.comment())));
    grouped.chain(single).collect()
}

/// A TOML string; on one line, whatever is in it.
pub(super) fn quoted(text: &str) -> String {
    preset::quoted(text)
}

/// What was refused, a line each.
#[must_use]
pub(super) fn refused(facts: &Facts) -> Vec<String> {
    let line = |((what, why), seen): (&(String, String), &Seen)| {
        let names: Vec<_> = seen.access.names().collect();
        let access = if names.is_empty() { String::new() } else { format!("{} of ", names.join(", ")) };
        format!("{access}{}: {} ({})", plain_long(what), plain_long(why), seen.comment())
    };
    facts.refused.iter().map(line).collect()
}

fn plain_long(text: &str) -> String {
    journal::text::terminal::shown(text.as_bytes())
}
