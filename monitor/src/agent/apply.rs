//! A policy is read, compiled and put in force: all of it or none.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    time::Instant,
};

use monitor_common::policy::MAX_INSTANCES;
use serde_json::Map;

use super::{
    Agent, AgentError, Options,
    adopt::{Adopted, EMBEDDED},
    say::say,
    takeover,
};
use crate::{
    deploys::editor::Source,
    heal::Healed,
    instance,
    journal::ocsf::Stage,
    kernel::load::{chain, first_line},
    policy::{
        self,
        compile::{Compiled, Seen, Watched, compile, presence},
        host::{Host as _, System},
        model::Policy,
        own::Own,
        settle::{Ages, GONE, GRACE, MADE, YOUNG},
    },
    stdio::complain,
    toml_reader::{Fault, Located},
};

impl Agent {
    /// Compiles a policy, with the hosts that it names at the addresses that are known by now, and puts it in force, all or
    /// nothing.
    pub(super) fn apply(&mut self, policy: Policy) -> Result<(), AgentError> {
        let before = std::mem::replace(&mut self.host.peers, self.peers.table());
        let applied = self.put_in_force(policy);
        let now = Instant::now();
        if applied.is_ok() {
            self.peers.follow(&self.policy, now);
            self.host.peers = self.peers.table();
        } else {
            // What cannot be put in force is not tried again each second.
            self.peers.keep(&before, now);
            self.host.peers = before;
        }
        applied
    }

    fn put_in_force(&mut self, policy: Policy) -> Result<(), AgentError> {
        let mut guarded = policy.clone();
        self.own.protect(&mut guarded);
        let slots = slots(&self.names.slots, &policy);
        let compiled = self.compile(&guarded, &slots)?;
        self.count_volumes(&compiled);
        self.kernel.install(&compiled)?;
        let gone: BTreeSet<_> =
            self.names.slots.values().copied().filter(|slot| !slots.values().any(|used| used == slot)).collect();
        // Whoever gets the place of an instance next gets no window with it.
        let (windows, mut hands) = self.windows();
        windows.close(
            |window| !slots.contains_key(&window.instance),
            "the instance is not guarded any more",
            &mut hands,
        )?;
        for (tgid, label) in self.kernel.labels() {
            if gone.contains(&label.instance) {
                self.kernel.forget_task(tgid);
            }
        }
        self.names.add(self.kernel.epoch(), &compiled);
        self.names.assign(slots, &policy);
        let logs = policy.instances.iter().filter_map(|it| Some((it.name.as_str(), Source::of(it, &self.host)?)));
        self.pipeline.editors().watch(logs);
        let rule = |index: u16| compiled.rules.get(usize::from(index).checked_sub(1)?);
        let healed = compiled.healed.iter().filter_map(|(index, path)| {
            let rule = rule(*index)?;
            Some(Healed { instance: rule.instance.clone(), rule: rule.id.clone(), path: path.clone() })
        });
        self.healer.guard(healed.collect());
        if self.pins.is_some() {
            takeover::keep_names(&self.state, &self.names)?;
        }
        let before = std::mem::replace(&mut self.watched, compiled.watched);
        self.selectors = compiled.selectors;
        self.about_proc = compiled.about_proc;
        self.policy = policy;
        let sinks = self.policy.sinks.iter().map(|sink| sink.name.clone()).collect();
        self.pipeline.counts().policy(self.policy.enforce, sinks);
        self.tell_made(&before);
        Ok(())
    }

    /// Brings up what counts, where a policy sets a bound to what leaves.
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

    /// Tells which files are let through while they are made, and which have been made, or are gone, since the policy was
    /// compiled last.
    fn tell_made(&self, before: &[Watched]) {
        let (before, now) = (presence(before), presence(&self.watched));
        let is_there = |path: &Path| now.get(path).is_some_and(|now| now.there);
        for (path, _) in before.iter().filter(|(path, old)| old.there && old.waits && !is_there(path)) {
            self.tell_of(Stage::Reload, path, &format!("{} {GONE}", path.display()));
        }
        for (path, now) in now.into_iter().filter(|(_, now)| now.there) {
            let old = before.get(path).map(|old| (old.there, old.waits));
            let was_quiet = self.settling.was_quiet(path);
            let shown = path.display();
            let (stage, message) = match (old, now.waits) {
                (Some((true, true)), true) => continue,
                (_, true) => {
                    let most = GRACE.as_secs();
                    (Stage::Reload, format!("{shown} {YOUNG}: its maker is let through, for {most} s at most"))
                }
                (Some((_, true)), false) if was_quiet => (Stage::Reload, format!("{shown} is made: {MADE}")),
                (Some((_, true)), false) => {
                    let most = GRACE.as_secs();
                    (Stage::Error, format!("{shown} was still being changed after {most} s: {MADE}"))
                }
                (_, false) => continue,
            };
            self.tell_of(stage, path, &message);
        }
    }

    /// Says and records what became of a watched path.
    fn tell_of(&self, stage: Stage, path: &Path, message: &str) {
        say(message);
        let details = Map::from_iter([("path".to_owned(), path.display().to_string().into())]);
        self.pipeline.lifecycle(stage, message, &details);
    }

    fn compile(&mut self, policy: &Policy, slots: &BTreeMap<String, u16>) -> Result<Compiled, AgentError> {
        let epoch = self.kernel.next_epoch();
        self.resolvers = self.host.resolvers();
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

    /// Reads the policy again; the old one stays in force when the new one is wrong.
    pub(super) fn reload(&mut self) -> Result<(), AgentError> {
        let (sinks, page) = (self.policy.sinks.clone(), self.policy.metrics);
        let outcome = match read_policy(&self.options, &self.host, &mut self.adopted) {
            Ok(policy) => self.apply(policy),
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                self.label_running()?;
                self.peers.hurry(Instant::now());
                if self.policy.sinks != sinks {
                    self.sinks.exchange(&self.policy.sinks);
                }
                if self.policy.metrics != page {
                    self.serve_metrics();
                }
                self.pipeline.limit_journal(self.policy.journal);
                say("reload: the new policy is in force");
                let details = Map::from_iter([("epoch".to_owned(), self.kernel.epoch().into())]);
                self.pipeline.lifecycle(Stage::Reload, "The new policy is in force", &details);
            }
            Err(error) => {
                say(&format!("reload: refused, the old policy stays in force: {error}"));
                let details = Map::from_iter([("error".to_owned(), error.to_string().into())]);
                self.pipeline.lifecycle(
                    Stage::Error,
                    "The new policy was refused; the old one stays in force",
                    &details,
                );
            }
        }
        Ok(())
    }
}

/// What belongs to the guard.
pub(super) fn own(options: &Options, host: &System) -> Own {
    let mut own = Own::process(&host.cgroup_mount);
    for path in options.config.iter().chain(&options.pid_file) {
        own.file(path);
    }
    for path in [&options.journal, &options.state].into_iter().chain(&options.pin) {
        own.secret(path);
    }
    own
}

/// Reads the policy file; without one makes the embedded policy for the instances that are known and those that run.
pub(super) fn read_policy(options: &Options, host: &System, adopted: &mut Adopted) -> Result<Policy, AgentError> {
    let mut policy = if let Some(path) = &options.config {
        let (policy, warnings) = policy::read(path, host)?;
        for warning in &warnings {
            complain(&format_args!("warning: {}", Located(path, warning)));
        }
        policy
    } else {
        adopted.look(instance::discover(&host.cgroup_mount), host);
        adopted.policy()?
    };
    policy.enforce = options.enforce.unwrap_or(policy.enforce);
    Ok(policy)
}

/// The slot of each instance: the one it had, or a free one.
fn slots(old: &BTreeMap<String, u16>, policy: &Policy) -> BTreeMap<String, u16> {
    let mut slots: BTreeMap<_, _> = policy
        .instances
        .iter()
        .filter_map(|instance| Some((instance.name.clone(), *old.get(&instance.name)?)))
        .collect();
    for instance in &policy.instances {
        if !slots.contains_key(&instance.name) {
            // A slot that was just given up is not taken: processes may still carry its mark.
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
    use crate::policy::parse::parse;

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
