//! What was learnt as the text of a policy: the present one with rules added and its defaults closed.

use std::{collections::BTreeMap, fmt::Write as _, path::Path};

use monitor_common::{Access, Verdict, policy::Class};

use super::{
    Learnt,
    fact::{Facts, Seen},
    net::{NetLine, egress, ingress},
};
use crate::{
    evidence::critical,
    policy::{
        model::{InstancePolicy, Policy},
        parse::parse,
        preset::{self, Found, Known},
    },
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
    #[error(
        "the present policy cannot be added to: {0}; write `default` on one line or as [instance.default], as `flowwarden init` does"
    )]
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
why = "keys are read by who declared them, and those of the host by nobody"
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
    let mut blocks = Blocks::of(text, policy)?;
    blocks.lines.retain_tables(&["sink", "metrics", "journal"]);
    let mut blocks = Blocks::of(&blocks.lines.text(), policy)?;
    let changes: Vec<_> = policy
        .instances
        .iter()
        .map(|instance| {
            let line = defaults(instance, |_, verdict| if verdict == Verdict::Allow { Verdict::Log } else { verdict });
            Added { lines: vec![line], ..Added::default() }
        })
        .collect();
    blocks.put(&changes)?;
    let text = blocks.lines.text();
    parse(&text).map_err(WriteError::Faulty)?;
    Ok(text)
}

/// The present policy with what was learnt. Rules that are there stay as they are.
pub fn draft(text: &str, policy: &Policy, learnt: &Learnt) -> Result<Draft, WriteError> {
    let mut blocks = Blocks::of(text, policy)?;
    let none = Facts::default();
    let added: Vec<_> = policy
        .instances
        .iter()
        .map(|instance| {
            let facts = learnt.instances.get(&instance.name).unwrap_or(&none);
            if facts.is_empty() { Added::default() } else { rules(instance, facts) }
        })
        .collect();
    let diff = blocks.put(&added)?;
    let text = blocks.lines.text();
    let written = parse(&text).map_err(WriteError::Faulty)?;
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
    fn is_empty(&self) -> bool {
        let Self { files, programs, egress, ingress, classes, refused, more: _ } = self;
        files.is_empty()
            && programs.is_empty()
            && egress.is_empty()
            && ingress.is_empty()
            && classes.is_empty()
            && refused.is_empty()
    }
}

/// The lines of a text.
#[derive(Debug)]
struct Lines(Vec<String>);

impl Lines {
    fn text(&self) -> String {
        let mut text = self.0.join("\n");
        text.push('\n');
        text
    }

    /// Leaves out the tables with these names, those below them included.
    fn retain_tables(&mut self, without: &[&str]) {
        let mut out = false;
        self.0.retain(|line| {
            if let Some(name) = header(line) {
                out = without.contains(&name.split('.').next().unwrap_or_default());
            }
            !out
        });
    }
}

/// The name of the table that a line begins.
fn header(line: &str) -> Option<&str> {
    let name = line.trim_start().strip_prefix('[')?.trim_start_matches('[');
    name.split(']').next().map(str::trim)
}

/// What is added to the text of an instance.
#[derive(Default)]
struct Added {
    /// Its defaults, which take the place of those that are there, and what goes with them.
    lines: Vec<String>,
    /// Rules for addresses by the name of their table: where there are no such tables yet they are written a line each.
    nets: Vec<(&'static str, Vec<NetLine>)>,
    /// Other tables.
    tables: Vec<String>,
}

/// Where the instances of a policy stand in its text.
struct Blocks {
    lines: Lines,
    /// First line of each instance and the line after its last.
    ranges: Vec<(usize, usize)>,
}

impl Blocks {
    fn of(text: &str, policy: &Policy) -> Result<Self, WriteError> {
        let lines: Vec<_> = text.lines().map(str::to_owned).collect();
        let starts: Vec<_> =
            lines.iter().enumerate().filter(|(_, line)| header(line) == Some("instance")).map(|(at, _)| at).collect();
        if starts.len() != policy.instances.len() {
            return Err(WriteError::Form("its instances are not written as [[instance]]".to_owned()));
        }
        let ends = starts.iter().skip(1).copied().chain([lines.len()]);
        Ok(Self { ranges: starts.iter().copied().zip(ends).collect(), lines: Lines(lines) })
    }

    /// Puts into each instance what is added to it, before its first table. Answers with the difference.
    fn put(&mut self, added: &[Added]) -> Result<String, WriteError> {
        let mut diffs = Vec::new();
        // From the last one on, so that the others stay where they are.
        for (&(start, end), new) in self.ranges.iter().zip(added).rev() {
            if new.lines.is_empty() {
                continue;
            }
            let mut block: Vec<String> = self.lines.0[start..end].to_vec();
            let mut diff = format!("@@ {} @@\n", block.get(1).map_or("", String::as_str));
            for line in take_defaults(&mut block)? {
                let _ = writeln!(diff, "-{line}");
            }
            let (mut lines, mut tables) = (new.lines.clone(), Vec::new());
            for (table, rules) in &new.nets {
                if block.iter().any(|line| header(line) == Some(&format!("instance.{table}"))) {
                    tables.extend(rules.iter().flat_map(|rule| rule.table(table)));
                    continue;
                }
                let rules: Vec<_> = rules.iter().flat_map(NetLine::inline).collect();
                if let Some(end) = end_of_array(&block, table) {
                    for line in &rules {
                        let _ = writeln!(diff, "+{line}");
                    }
                    block.splice(end..end, rules);
                } else if !rules.is_empty() {
                    lines.push(format!("{table} = ["));
                    lines.extend(rules);
                    lines.push("]".to_owned());
                }
            }
            lines.extend(new.tables.iter().cloned().chain(tables));
            let at = block.iter().skip(1).position(|line| header(line).is_some()).map_or(block.len(), |at| at + 1);
            // Comments and an empty line before a table are the table's.
            let is_key = |line: &String| !line.trim().is_empty() && !line.trim_start().starts_with('#');
            let at = block[..at].iter().rposition(is_key).map_or(at, |last| last + 1);
            for line in &lines {
                let _ = writeln!(diff, "+{line}");
            }
            diffs.push(diff);
            block.splice(at..at, lines);
            self.lines.0.splice(start..end, block);
        }
        diffs.reverse();
        Ok(diffs.concat())
    }
}

/// Where rules of a table end that are written a line each, as here.
fn end_of_array(block: &[String], table: &str) -> Option<usize> {
    let keys = block.iter().enumerate().skip(1).take_while(|(_, line)| header(line).is_none());
    let mut inside = keys.skip_while(|(_, line)| line.trim_end() != format!("{table} = ["));
    inside.find(|(_, line)| line.trim_end() == "]").map(|(at, _)| at)
}

/// Takes the defaults out of the lines of an instance.
fn take_defaults(block: &mut Vec<String>) -> Result<Vec<String>, WriteError> {
    let mut removed = Vec::new();
    let mut inside = false;
    let mut kept = Vec::new();
    let mut before_tables = true;
    for (at, line) in block.drain(..).enumerate() {
        if at > 0
            && let Some(name) = header(&line)
        {
            before_tables = false;
            inside = name == "instance.default";
        }
        let is_line = before_tables && line.trim_start().starts_with("default") && line.contains('=');
        if is_line && line.matches('{').count() != line.matches('}').count() {
            return Err(WriteError::Form(format!("`{}` goes on after its line", line.trim())));
        }
        let comment = line.trim().is_empty() || line.trim_start().starts_with('#');
        if is_line || (inside && !comment) {
            removed.push(line);
        } else {
            kept.push(line);
        }
    }
    *block = kept;
    Ok(removed)
}

/// The defaults of an instance in one line; `of` makes them others.
fn defaults(instance: &InstancePolicy, of: impl Fn(Class, Verdict) -> Verdict) -> String {
    let all = Class::NAMES.iter().map(|&(name, class)| {
        let old = instance.defaults[class as usize];
        let verdict = of(class, old.verdict);
        let mut more = String::new();
        if verdict == Verdict::Deny && old.fallback > Verdict::Log {
            let _ = write!(more, ", fallback = \"{}\"", old.fallback.name());
        }
        if verdict == old.verdict && old.scope != crate::policy::model::KillScope::Process {
            let _ = write!(more, ", scope = \"{}\"", old.scope.name());
        }
        if more.is_empty() {
            format!("{name} = \"{}\"", verdict.name())
        } else {
            format!("{name} = {{ verdict = \"{}\"{more} }}", verdict.name())
        }
    });
    format!("default = {{ {} }}", all.collect::<Vec<_>>().join(", "))
}

/// What is added to an instance: its defaults, and the rules.
fn rules(instance: &InstancePolicy, facts: &Facts) -> Added {
    let mut lines = Vec::new();
    for (class, seen) in facts.classes.values() {
        lines.push(format!("# {} is allowed: {}", Class::NAMES[*class as usize].0, seen.comment()));
    }
    lines.push(defaults(instance, |class, old| {
        let seen = facts.classes.contains_key(&(class as usize));
        match class {
            // The kernel asks this one alone whether a socket may listen; ports are closed by a rule.
            Class::Ingress => old,
            // Programs are learnt one by one; what decides about them is their rule.
            _ if seen => Verdict::Allow.max(old.min(Verdict::Log)),
            _ => old.max(Verdict::Deny),
        }
    }));
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
        tables.extend([String::new(), "[[instance.files]]".to_owned(), format!("access = {names:?}")]);
        tables.push("verdict = \"allow\"".to_owned());
        list(&mut tables, "paths", &places(paths));
    }
    tables.extend(hooks(instance, facts));
    if !facts.programs.is_empty() {
        tables.extend([String::new(), "[[instance.exec]]".to_owned()]);
        tables.push("verdict = \"allow\"".to_owned());
        let programs = facts.programs.iter();
        let programs = programs.map(|(path, seen)| (quoted(path), format!("{}{}", seen.comment(), warning(path))));
        list(&mut tables, "paths", &programs.collect::<Vec<_>>());
    }
    let nets = vec![("egress", egress(&facts.egress)), ("ingress", ingress(instance, &facts.ingress))];
    Added { lines, nets, tables }
}

/// Where git works in repositories they are taken as a whole, and its hooks are closed: what is written there runs by itself.
fn hooks(instance: &InstancePolicy, facts: &Facts) -> Vec<String> {
    const ID: &str = "git-hooks";
    let works = facts.files.get("projects/**").is_some_and(|seen| seen.access != Access::READ);
    if !works || instance.files.iter().any(|rule| rule.action.id == ID) {
        return Vec::new();
    }
    let paths = critical::HOOKS.map(|name| format!("projects/**/*{name}"));
    let rule = format!(
        "\n[[instance.files]]\nid = \"{ID}\"\nwhy = \"git runs these by itself at the next commit, pull or checkout\"\n\
         paths = {paths:?}\naccess = [\"write\", \"create\", \"rename\", \"link\"]\nverdict = \"deny\"\nfallback = \"kill\""
    );
    rule.lines().map(str::to_owned).collect()
}

/// What to say about a program that runs anything.
fn warning(path: &str) -> &'static str {
    let name = path.rsplit('/').next().unwrap_or(path);
    if crate::evidence::idiom::SHELLS.contains(&name) {
        "; a shell: whoever edits flows can run command lines with it"
    } else if TOOLS.contains(&name) {
        "; look twice: it does whatever it is told"
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
    crate::text::terminal::shown(text.as_bytes())
}
