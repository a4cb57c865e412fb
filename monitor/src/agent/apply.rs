//! Reads, compiles and applies a policy, as a whole or not at all.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    path::Path,
    time::Instant,
};

use monitor_common::{policy::MAX_INSTANCES, scope::Selector};
use serde_json::Map;

use super::{
    Agent, AgentError, Options,
    adopt::{Adopted, EMBEDDED},
    healing::Made,
    say::say,
    takeover,
    trouble::Task,
    windows::{self, Context},
};
use crate::{
    config::{self, Config, ConfigError},
    control::{Refusal, Reloaded},
    heal::Healed,
    kernel::{
        enforcer::Enforcer,
        error::{chain, first_line},
    },
    record::names::NameTable,
};
use journal::{ocsf::Stage, stdio::complain};
use node_red::{deploys::editor::Source, instance};
use policy::{
    compile::{Compiled, Seen, Watched, compile, presence},
    host::{Host as _, System},
    model::Policy,
    own::Own,
    settle::{Ages, GONE, GRACE, YOUNG},
    toml_reader::{Fault, Located},
};

/// The policy in force and what was compiled from it. Replaced as a whole, by one assignment.
#[derive(Debug, Default)]
pub(super) struct InForce {
    pub(super) config: Config,
    /// Names of its rules and of those of recent policies.
    pub(super) names: NameTable,
    /// The paths that it depends on.
    pub(super) watched: Vec<Watched>,
    pub(super) selectors: Vec<Selector>,
    /// Slots of instances with rules about files in proc file systems.
    pub(super) about_proc: BTreeSet<u16>,
    /// Resolvers of this machine when the policy was compiled.
    pub(super) resolvers: Vec<IpAddr>,
}

/// Why a policy is applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// On request. The caller gets an error if the state directory cannot be written.
    Asked,
    /// Files, cgroups or addresses have changed. A full disk must not delay protection.
    Changed,
}

/// A compiled policy that is ready to be installed.
struct Ready {
    in_force: InForce,
    compiled: Compiled,
}

impl<E: Enforcer> Agent<E> {
    /// Compiles a policy with the known addresses of the hosts that it names, and applies it, all or nothing.
    pub(super) fn apply(&mut self, config: Config, cause: Cause) -> Result<(), AgentError> {
        let before = std::mem::replace(&mut self.host.peers, self.peers.table());
        let applied = self.put_in_force(config, cause);
        let now = Instant::now();
        if applied.is_ok() {
            self.peers.follow(&self.in_force.config.policy, now);
            self.host.peers = self.peers.table();
        } else {
            // A policy that cannot be applied is not retried each second.
            self.peers.keep(&before, now);
            self.host.peers = before;
        }
        applied
    }

    /// All steps that can fail come before the kernel takes the policy; later steps cannot fail.
    fn put_in_force(&mut self, config: Config, cause: Cause) -> Result<(), AgentError> {
        let ready = self.prepare(config)?;
        self.count_volumes(&ready.compiled);
        let written = self.write_ahead(&ready.in_force, cause);
        let installed = written.and_then(|()| Ok(self.kernel.install(&ready.compiled)?));
        if installed.is_ok() {
            self.commit(ready);
        }
        // Restores the list of windows if the policy was not applied.
        let kept = self.windows.keep(&self.state);
        self.note(Task::Windows, &kept);
        installed
    }

    /// Compiles a policy. Changes no state that is in use.
    fn prepare(&mut self, config: Config) -> Result<Ready, AgentError> {
        let policy = &config.policy;
        let mut guarded = policy.clone();
        self.own.protect(&mut guarded);
        let slots = slots(&self.in_force.names.slots, policy);
        let resolvers = self.host.resolvers();
        let mut compiled = self.compile(&guarded, &slots)?;
        // An instance must not inherit the window of another that had its slot.
        let former = &self.in_force.names.slots;
        // An instance in force keeps its window, since later steps can fail.
        let is_free = |slot: &u16| former.values().all(|used| used != slot);
        for (_, &slot) in slots.iter().filter(|(name, slot)| !former.contains_key(*name) && is_free(slot)) {
            windows::shut(slot, &mut self.kernel)?;
        }
        let mut names = self.in_force.names.clone();
        names.add(self.kernel.next_epoch(), &compiled);
        names.assign(slots, policy);
        let in_force = InForce {
            config,
            names,
            watched: std::mem::take(&mut compiled.watched),
            selectors: compiled.selectors.clone(),
            about_proc: std::mem::take(&mut compiled.about_proc),
            resolvers,
        };
        Ok(Ready { in_force, compiled })
    }

    /// Writes state for the next run, compatible with the policy that is still in force.
    fn write_ahead(&mut self, next: &InForce, cause: Cause) -> Result<(), AgentError> {
        let windows = self.windows.leave(|window| next.names.slots.contains_key(&window.instance), &self.state);
        let names = match self.options.pin {
            Some(_) => takeover::keep_names(&self.state, &next.names, &self.in_force.names.slots),
            None => Ok(()),
        };
        self.names_kept = names.is_ok();
        if cause == Cause::Asked {
            windows?;
            return Ok(names?);
        }
        self.note(Task::Names, &names);
        Ok(())
    }

    /// Makes the policy that the kernel has taken the one in force here.
    fn commit(&mut self, Ready { in_force, compiled }: Ready) {
        let before = std::mem::replace(&mut self.in_force, in_force);
        let Self { windows, kernel, pipeline, state, in_force, .. } = self;
        let slots = &in_force.names.slots;
        let mut hands = Context { kernel, pipeline, state, policy: &before.config.policy, slots: &before.names.slots };
        windows.drop_gone(|window| slots.contains_key(&window.instance), &mut hands);
        let gone: BTreeSet<_> =
            before.names.slots.values().filter(|slot| !slots.values().any(|used| used == *slot)).collect();
        for (tgid, label) in kernel.labels() {
            if gone.contains(&label.instance) {
                kernel.forget_task(tgid);
            }
        }
        let policy = &in_force.config.policy;
        let logs = policy.instances.iter().filter_map(|it| Some((it.name.as_str(), Source::of(it, &self.host)?)));
        pipeline.editors().watch(logs);
        let rule = |index: u16| compiled.rules.get(usize::from(index).checked_sub(1)?);
        let healed = compiled.healed.iter().filter_map(|(index, path)| {
            let rule = rule(*index)?;
            Some(Healed { instance: rule.instance.clone(), rule: rule.id.clone(), path: path.clone() })
        });
        self.healer.guard(healed.collect(), policy.enforce);
        let sinks = in_force.config.sinks.iter().map(|sink| sink.name.clone()).collect();
        pipeline.counts().policy(policy.enforce, sinks);
        self.report_settled(&before.watched);
        self.settle();
    }

    /// Writes the names of the policy in force if that has failed before.
    pub(super) fn keep_names(&mut self) {
        if !self.names_kept {
            let names = &self.in_force.names;
            let kept = takeover::keep_names(&self.state, names, &names.slots);
            self.names_kept = kept.is_ok();
            self.note(Task::Names, &kept);
        }
    }

    /// Attaches the programs that count outgoing bytes, if the policy has a bound.
    fn count_volumes(&mut self, compiled: &Compiled) {
        let root = self.options.cgroup_root.as_ref().unwrap_or(&self.host.cgroup_mount);
        if !compiled.limits.is_empty()
            && let Err(error) = self.kernel.attach_volume(root)
        {
            let why = chain(&error);
            complain(&format_args!("`max-bytes` does nothing: {}", first_line(&why)));
            self.kernel.degrade("volume", why);
        }
    }

    /// Reports files that are settling or were removed since the last compilation. Settled files are announced when their
    /// baselines are on disk.
    fn report_settled(&mut self, before: &[Watched]) {
        let (before, now) = (presence(before), presence(&self.in_force.watched));
        let is_there = |path: &Path| now.get(path).is_some_and(|now| now.there);
        for (path, _) in before.iter().filter(|(path, old)| old.there && old.waits && !is_there(path)) {
            self.tell_of(Stage::Reload, path, &format!("{} {GONE}", path.display()));
            self.healer.gone_young(path);
        }
        for (path, now) in now.into_iter().filter(|(_, now)| now.there) {
            let old = before.get(path).map(|old| (old.there, old.waits));
            let was_quiet = self.settling.was_quiet(path);
            let shown = path.display();
            let (stage, message) = match (old, now.waits) {
                (Some((true, true)), true) => continue,
                (_, true) => {
                    let most = GRACE.as_secs();
                    let message = format!("{shown} {YOUNG}: its creator may change it, for {most} s at most");
                    self.tell_of(Stage::Reload, path, &message);
                    continue;
                }
                (Some((_, true)), false) if self.host.expected.contains(path) => {
                    (Stage::Reload, format!("{shown} is about to be restored"))
                }
                (Some((_, true)), false) if was_quiet => (Stage::Reload, format!("{shown} has settled")),
                (Some((_, true)), false) => {
                    let most = GRACE.as_secs();
                    (Stage::Error, format!("{shown} was still being changed after {most} s"))
                }
                (_, false) => continue,
            };
            self.made.push(Made { stage, path: path.to_owned(), message });
        }
    }

    /// Logs and journals the state of a watched path.
    pub(super) fn tell_of(&self, stage: Stage, path: &Path, message: &str) {
        say(message);
        let details = Map::from_iter([("path".to_owned(), path.display().to_string().into())]);
        self.pipeline.lifecycle(stage, message, &details);
    }

    fn compile(&mut self, policy: &Policy, slots: &BTreeMap<String, u16>) -> Result<Compiled, AgentError> {
        let epoch = self.kernel.next_epoch();
        let (kernel, settling, now) = (&mut self.kernel, &mut self.settling, Instant::now());
        let mut failed = None;
        let mut identify = |path: &Path| match kernel.identify(path) {
            Ok(id) => {
                let made = settling.is_made(path, Ages::of(path).filter(|_| id.is_some()), now);
                id.map(|id| Seen { id, made })
            }
            Err(error) => {
                failed.get_or_insert(error);
                None
            }
        };
        let compiled = compile(policy, epoch, slots, &self.host, &mut identify);
        if let Some(error) = failed {
            return Err(error.into());
        }
        compiled.map_err(|fault| AgentError::Compile(self.located(&fault)))
    }

    pub(super) fn located(&self, fault: &Fault) -> String {
        let path = self.options.config.as_deref().unwrap_or(Path::new(EMBEDDED));
        Located(path, fault).to_string()
    }

    /// Reloads the policy. An invalid policy is rejected and the old one remains in force. The result is journaled and
    /// returned.
    pub(super) fn reload(&mut self, by: &str) -> Result<Reloaded, Refusal> {
        let (sinks, page) = (self.in_force.config.sinks.clone(), self.in_force.config.metrics);
        let read = read_config(&self.options, &self.host, &mut self.adopted);
        let mut warnings =
            read.as_ref().map(|read| warnings(&self.options, &read.policy, &self.host)).unwrap_or_default();
        if let Err(error) = read.and_then(|config| self.apply(config, Cause::Asked)) {
            say(&format!("reload: refused, the old policy stays in force: {error}"));
            let details = Map::from_iter([
                ("error".to_owned(), error.to_string().into()),
                ("by".to_owned(), by.to_owned().into()),
            ]);
            self.pipeline.lifecycle(Stage::Error, "The new policy was refused; the old one stays in force", &details);
            return Err(refusal(error));
        }
        if let Err(error) = self.label() {
            warnings.push(format!("{}: {error}", Task::Label.failed()));
        }
        self.peers.hurry(Instant::now());
        if self.in_force.config.sinks != sinks {
            self.sinks.exchange(&self.in_force.config.sinks);
        }
        if self.in_force.config.metrics != page {
            warnings.extend(self.serve_metrics());
        }
        self.pipeline.limit_journal(self.in_force.config.journal);
        let epoch = self.kernel.epoch();
        say("reload: the new policy is in force");
        let details = Map::from_iter([("epoch".to_owned(), epoch.into()), ("by".to_owned(), by.to_owned().into())]);
        self.pipeline.lifecycle(Stage::Reload, "The new policy is in force", &details);
        let policy = &self.in_force.config.policy;
        let instances = policy.instances.iter().map(|instance| instance.name.clone()).collect();
        Ok(Reloaded { epoch, enforce: policy.enforce, instances, warnings })
    }
}

/// Why the policy was rejected, for the caller.
fn refusal(error: AgentError) -> Refusal {
    match error {
        AgentError::Policy(ConfigError::Faulty { path, faults }) => {
            Refusal::Policy(faults.iter().map(|fault| Located(&path, fault).to_string()).collect())
        }
        AgentError::Policy(error @ ConfigError::Unreadable { .. }) => Refusal::Policy(vec![error.to_string()]),
        AgentError::Compile(fault) => Refusal::Policy(vec![fault]),
        error => Refusal::Failed(error.to_string()),
    }
}

/// Files and processes of the guard.
pub(super) fn own(options: &Options, host: &System) -> Own {
    let mut own = Own::process(&host.cgroup_mount);
    if let Some(path) = &options.config {
        own.file(path);
    }
    for path in [&options.journal, &options.state].into_iter().chain(&options.pin) {
        own.secret(path);
    }
    own
}

/// Reads the policy file; without one creates the embedded policy for the known and running instances.
pub(super) fn read_config(options: &Options, host: &System, adopted: &mut Adopted) -> Result<Config, AgentError> {
    let mut config = if let Some(path) = &options.config {
        config::load(path, host)?
    } else {
        adopted.look(instance::discover(&host.cgroup_mount), host);
        adopted.policy()?.into()
    };
    let policy = &mut config.policy;
    policy.enforce = options.enforce.unwrap_or(policy.enforce);
    Ok(config)
}

/// Warnings about a policy on this machine, which needs to know first what it [can deny](System::can_deny). Prints each.
pub(super) fn warnings(options: &Options, policy: &Policy, host: &System) -> Vec<String> {
    let Some(path) = &options.config else { return Vec::new() };
    let warnings: Vec<_> =
        policy::host::warn(policy, host).iter().map(|warning| Located(path, warning).to_string()).collect();
    for warning in &warnings {
        complain(&format_args!("warning: {warning}"));
    }
    warnings
}

/// The slot of each instance: its previous one, or a free one.
fn slots(old: &BTreeMap<String, u16>, policy: &Policy) -> BTreeMap<String, u16> {
    let mut slots: BTreeMap<_, _> = policy
        .instances
        .iter()
        .filter_map(|instance| Some((instance.name.clone(), *old.get(&instance.name)?)))
        .collect();
    for instance in &policy.instances {
        if !slots.contains_key(&instance.name) {
            // A slot that became free now is not reused: processes may still have its label.
            let taken = |slot: &u16| slots.values().chain(old.values()).any(|used| used == slot);
            let free = (0..u16::try_from(MAX_INSTANCES).unwrap_or(u16::MAX)).find(|slot| !taken(slot));
            let fallback = (0..u16::MAX).find(|slot| !slots.values().any(|used| used == slot));
            if let Some(slot) = free.or(fallback) {
                slots.insert(instance.name.clone(), slot);
            }
        }
    }
    slots
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::parse::parse;

    fn policy(names: &[&str]) -> Policy {
        let instance = |name| format!("[[instance]]\nname = \"{name}\"\nselect = [{{ uid = 9 }}]\nuser-dir = \"/u\"\n");
        let instances = names.iter().map(instance).collect::<Vec<_>>().concat();
        parse(&format!("version = 1\n{instances}")).unwrap()
    }

    #[test]
    fn an_instance_keeps_its_slot_and_a_newcomer_takes_none_that_was_in_use() {
        let first = slots(&BTreeMap::new(), &policy(&["a", "b"]));
        let second = slots(&first, &policy(&["b", "c"]));
        assert_eq!(second["b"], first["b"]);
        assert_ne!(second["c"], first["a"]);
        assert_ne!(second["c"], second["b"]);
    }
}
