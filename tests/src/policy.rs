//! Policies for one instance, as the guard reads them.

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, Result, ensure};

use crate::{cli, node_red::NodeRed};

/// The name of the instance in these policies.
pub const INSTANCE: &str = "plant-a";

/// A policy that grows rule by rule.
#[derive(Clone, Debug)]
pub struct Policy {
    text: String,
}

impl Policy {
    /// A policy without rules, in `enforce` mode, for the Node-RED with this uid.
    #[must_use]
    pub fn enforce(node_red: &NodeRed) -> Self {
        Self::for_user(node_red.confinement().uid, &node_red.home().user_dir())
    }

    /// The same for this uid and user directory.
    #[must_use]
    pub fn for_user(uid: u32, user_dir: &Path) -> Self {
        let text = format!(
            r#"version = 1
mode = "enforce"

[[instance]]
name = "{INSTANCE}"
select = [{{ uid = {} }}]
user-dir = "{}"
default = {{ files = "allow", egress = "log", ingress = "allow", exec = "allow" }}
"#,
            uid,
            user_dir.display(),
        );
        Self { text }
    }

    /// A policy that somebody else has written.
    #[must_use]
    pub fn written(text: String) -> Self {
        Self { text }
    }

    /// What `flowwarden init` writes for one of the instances that run, in `enforce` mode, and for no other.
    pub fn preset(preset: &str, node_red: &NodeRed) -> Result<Self> {
        Self::only(&cli::init(preset, &["--enforce"])?, &node_red.home().user_dir())
    }

    /// What a policy for a machine says about the instance with this user directory, and about no other.
    pub fn only(all: &str, user_dir: &Path) -> Result<Self> {
        const HEADER: &str = "\n[[instance]]\n";
        let directory = format!("user-dir = \"{}\"", user_dir.display());
        let (head, instances) = all.split_once(HEADER).context("a policy without instances")?;
        let own = instances.split(HEADER).find(|text| text.contains(&directory));
        let own = own.with_context(|| format!("no instance has {directory}:\n{all}"))?;
        Ok(Self { text: format!("{head}{HEADER}{own}") })
    }

    /// The same policy with `from` replaced, which has to be in it.
    pub fn but(mut self, from: &str, to: &str) -> Result<Self> {
        ensure!(self.text.contains(from), "{from:?} is not in the policy:\n{}", self.text);
        self.text = self.text.replace(from, to);
        Ok(self)
    }

    /// Name of the instance with this user directory. A policy for a machine may have other instances, too.
    pub fn instance(&self, user_dir: &Path) -> Result<&str> {
        let directory = format!("user-dir = \"{}\"", user_dir.display());
        let instances = self.text.split("[[instance]]").filter(|text| text.contains(&directory));
        let mut names =
            instances.flat_map(str::lines).filter_map(|line| line.strip_prefix("name = \"")?.split('"').next());
        names.next().with_context(|| format!("no instance has {directory}:\n{}", self.text))
    }

    /// The rule for the first promise, called `settings-js`: who touches settings.js is killed.
    #[must_use]
    pub fn guard_settings(self) -> Self {
        self.file("settings.js", &["write", "delete", "rename", "link", "attr"], "kill", "settings-js")
    }

    /// Adds a rule for files.
    #[must_use]
    pub fn file(mut self, path: &str, access: &[&str], verdict: &str, id: &str) -> Self {
        let text = format!(
            "\n[[instance.files]]\npath = {path:?}\naccess = {access:?}\nverdict = \"{verdict}\"\nid = \"{id}\"\n"
        );
        self.text.push_str(&text);
        self
    }

    /// Adds a rule that denies, and kills where the sensor cannot.
    #[must_use]
    pub fn deny(self, path: &str, access: &[&str], id: &str) -> Self {
        let mut policy = self.file(path, access, "deny", id);
        policy.text.push_str("fallback = \"kill\"\n");
        policy
    }

    /// Has the files of the rule that was added last put back when they came to harm.
    #[must_use]
    pub fn heal(mut self) -> Self {
        self.text.push_str("heal = true\n");
        self
    }

    /// Has the rule that was added last only log in windows for this maintenance.
    #[must_use]
    pub fn maintenance(mut self, maintenance: &str) -> Self {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "maintenance = \"{maintenance}\"");
        self
    }

    /// Has the rule that was added last kill more than the process that acts.
    #[must_use]
    pub fn scope(mut self, scope: &str) -> Self {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "scope = \"{scope}\"");
        self
    }

    /// Adds a rule for outgoing connections; where it cannot be denied, the process is killed.
    #[must_use]
    pub fn egress(mut self, to: &[&str], verdict: &str, id: &str) -> Self {
        let text = format!("\n[[instance.egress]]\nto = {to:?}\nverdict = \"{verdict}\"\nid = \"{id}\"\n");
        self.text.push_str(&text);
        if verdict == "deny" {
            // Writing to a String cannot fail.
            let _ = writeln!(self.text, "fallback = \"kill\"");
        }
        self
    }

    /// What Node-RED prints goes to this file, or to the `journal`.
    #[must_use]
    pub fn audit_log(mut self, place: &str) -> Self {
        self.text = self.text.replace("default = { ", &format!("audit-log = \"{place}\"\ndefault = {{ "));
        self
    }

    /// The instance looks names up there.
    #[must_use]
    pub fn resolvers(mut self, addresses: &[&str]) -> Self {
        self.text = self.text.replace("default = { ", &format!("resolvers = {addresses:?}\ndefault = {{ "));
        self
    }

    /// Adds a rule for incoming traffic at one port.
    #[must_use]
    pub fn ingress(mut self, from: &str, port: u16, verdict: &str, id: &str) -> Self {
        let text = format!(
            "\n[[instance.ingress]]\nfrom = [{from:?}]\nports = [{port}]\nverdict = \"{verdict}\"\nid = \"{id}\"\n"
        );
        self.text.push_str(&text);
        self
    }

    /// Adds a rule for a program.
    #[must_use]
    pub fn exec(mut self, path: &str, verdict: &str, id: &str) -> Self {
        let text = format!("\n[[instance.exec]]\npath = {path:?}\nverdict = \"{verdict}\"\nid = \"{id}\"\n");
        self.text.push_str(&text);
        self
    }

    /// Adds a rule that refuses to run a program, and kills what has become it where the sensor cannot refuse.
    #[must_use]
    pub fn deny_exec(self, path: &str, id: &str) -> Self {
        let mut policy = self.exec(path, "deny", id);
        policy.text.push_str("fallback = \"kill\"\n");
        policy
    }

    /// Another default verdict for a class.
    #[must_use]
    pub fn by_default(mut self, class: &str, verdict: &str) -> Self {
        let wanted = format!("{class} = \"{verdict}\"");
        let given = ["allow", "log"].map(|verdict| format!("{class} = \"{verdict}\""));
        self.text = match given.iter().find(|given| self.text.contains(*given)) {
            Some(given) => self.text.replace(given, &wanted),
            None => self.text.replace("default = { ", &format!("default = {{ {wanted}, ")),
        };
        self
    }

    /// Refuses a class of operations, and kills where the sensor cannot refuse.
    #[must_use]
    pub fn deny_by_default(mut self, class: &str) -> Self {
        let default = format!("default = {{ {class} = {{ verdict = \"deny\", fallback = \"kill\" }}, ");
        self.text = self.text.replace("default = { ", &default);
        self
    }

    /// Selects the instance otherwise, for example `{ cgroup = "/a" }`.
    #[must_use]
    pub fn select(mut self, selector: &str) -> Self {
        let uid = self.text.find("select = [").zip(self.text.find("}]"));
        if let Some((from, to)) = uid {
            self.text.replace_range(from..to + 2, &format!("select = [{selector}]"));
        }
        self
    }

    /// Adds other tables.
    #[must_use]
    pub fn with(mut self, tables: &str) -> Self {
        self.text.push('\n');
        self.text.push_str(tables);
        self
    }

    /// Adds a sink; `keys` are the lines of its table.
    #[must_use]
    pub fn sink(mut self, keys: &str) -> Self {
        // Writing to a String cannot fail.
        let _ = writeln!(self.text, "\n[[sink]]\n{keys}");
        self
    }

    /// The policy file's content.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }
}
