//! A policy as map entries for one epoch.
//!
//! File rules become a tree with a node for each component of each path that a rule names. Everything that follows
//! from precedence is worked out here, once, so that the kernel reads one node and knows.
//!
//! Precedence, for each access by itself: a rule for the very path; then the nearer directory; in one directory name
//! patterns, `/*`, name patterns at any depth, `/**`; of two patterns the longer, of equally long ones the one for the
//! beginning of the name. Of two rules that are equally specific the stricter holds, by [`Rule::rank`].

mod net;
mod tree;

use std::{
    borrow::Cow,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
};

use monitor_common::{
    Access, Verdict,
    dns::{NameKey, NameRulesKey, ResolverKey},
    policy::{
        ChildKey, Class, FIRST_RESERVED, InodeId, InodeKey, Instance, Knowing, MAX_INSTANCES, MAX_WATCHES, Maintenance,
        NetKey, NetRules, Node, NodeKey, Pattern, PatternKey, Rule, RuleSet,
    },
    scope::{MAX_SELECTORS, SELECT_CGROUP, SELECT_EXEC, SELECT_UID, Selector},
    volume::{Limit, LimitKey},
};

use self::tree::Tree;
use super::{
    host::{Host, uid_of},
    model::{Action, FileRule, InstancePolicy, KillScope, Names, NetRule, Policy},
};
use crate::toml_reader::{At, Fault};

/// A rule as records name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleInfo {
    /// The instance it belongs to.
    pub instance: String,
    /// Its id.
    pub id: String,
    /// What it says.
    pub sentence: String,
    /// What it wants.
    pub verdict: Verdict,
    /// What it is about.
    pub class: Class,
    /// Who dies where it kills.
    pub scope: KillScope,
    /// What it is lifted for.
    pub maintenance: Option<Maintenance>,
    /// ATT&CK techniques that it is about.
    pub techniques: Vec<String>,
}

/// Everything that goes into the kernel's maps, and what is needed to read records of this epoch.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// Nodes by identity, and under [`InodeKey::ANY`] who knows a directory.
    pub inodes: Vec<(InodeKey, u32)>,
    /// Directories with rules about what is in them, while instances are compiled one after the other.
    pub knowing: BTreeMap<InodeId, Knowing>,
    /// Nodes by name.
    pub children: Vec<(ChildKey, u32)>,
    /// The nodes.
    pub nodes: Vec<(NodeKey, Node)>,
    /// Name patterns and the bits of the key that count.
    pub patterns: Vec<(PatternKey, u32, Pattern)>,
    /// Addresses and the bits of the key that count.
    pub nets: Vec<(NetKey, u32, NetRules)>,
    /// Names, the bits of the key that count, and what they lead to.
    pub names: Vec<(NameKey, u32, u64)>,
    /// Rules of names.
    pub name_rules: Vec<(NameRulesKey, NetRules)>,
    /// Bounds to what leaves.
    pub limits: Vec<(LimitKey, Limit)>,
    /// Resolvers whose answers count.
    pub resolvers: Vec<ResolverKey>,
    /// Instances by slot.
    pub instances: Vec<(u16, Instance)>,
    /// Selectors.
    pub selectors: Vec<Selector>,
    /// Paths whose state the kernel looks at around calls that name paths: slot of the instance, node, path.
    pub watches: Vec<(u16, u32, PathBuf)>,
    /// Rules by index, from 1.
    pub rules: Vec<RuleInfo>,
    /// Who dies by the default of a class, where that is more than the process: slot of the instance, class, scope.
    pub scopes: Vec<(u16, Class, KillScope)>,
    /// Files of which a copy is kept, with the index of the rule.
    pub healed: Vec<(u16, PathBuf)>,
    /// Paths on whose identity the nodes rest.
    pub watched: Vec<Watched>,
    /// Slots of instances with rules about what is in `/proc`, which hold wherever else they see one.
    pub about_proc: BTreeSet<u16>,
}

/// A path on whose identity nodes rest. When another file, or none, is found there, or rules need not wait any longer, the
/// policy is to be compiled anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Watched {
    /// The path.
    pub path: PathBuf,
    /// What was there.
    pub id: Option<InodeId>,
    /// Rules against changes to this very path wait until a file is there, and made.
    pub waits: bool,
}

/// Whether something is at a path, and whether a rule waits until it is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Presence {
    /// Something is there.
    pub there: bool,
    /// A rule waits.
    pub waits: bool,
}

/// The same for each path once: several instances may watch one, and not all of them have rules that wait.
#[must_use]
pub fn presence(watched: &[Watched]) -> BTreeMap<&Path, Presence> {
    let mut all: BTreeMap<&Path, Presence> = BTreeMap::new();
    for Watched { path, id, waits } in watched {
        let entry = all.entry(path).or_default();
        entry.there |= id.is_some();
        entry.waits |= *waits;
    }
    all
}

/// What is found at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its identity.
    pub id: InodeId,
    /// The file has settled; see [`settle`](super::settle).
    pub made: bool,
}

/// Finds out what is at a path, not following a link in its last name; `None` when nothing is.
///
/// When finding out fails, what was compiled must not be used: a file that counts as not there is less protected.
pub type Identify<'a> = &'a mut dyn FnMut(&Path) -> Option<Seen>;

/// Compiles a policy. `slots` gives each instance the place that running processes are marked with.
pub fn compile(
    policy: &Policy,
    epoch: u32,
    slots: &BTreeMap<String, u16>,
    host: &dyn Host,
    identify: Identify<'_>,
) -> Result<Compiled, Fault> {
    let mut compiled = Compiled::default();
    let mut next_node = 1;
    let mut last = Vec::new();
    let mut taken = BTreeSet::new();
    let alike = Alike::new(policy, slots, host)?;
    for (index, instance) in policy.instances.iter().enumerate() {
        let instance = &*alike.join(index, instance);
        let slot =
            slots.get(&instance.name).copied().filter(|&slot| usize::from(slot) < MAX_INSTANCES && taken.insert(slot));
        let slot =
            slot.ok_or_else(|| instance.fault(format!("instance \"{}\" has no slot of its own", instance.name)))?;
        let mut tree = Tree::new();
        // The user directory can be moved like any other, rules or no rules.
        tree.branch(&instance.user_dir);
        for rule in &instance.files {
            let class = if rule.access == Access::EXEC { Class::Exec } else { Class::Files };
            let index = compiled.rule(instance, &rule.action, class, file_sentence(rule))?;
            tree.add(rule, rule_of(&rule.action, index).healing(rule.heal), host);
            if rule.heal {
                compiled.healed.push((index, rule.path.clone()));
            }
        }
        for (_, class) in Class::NAMES {
            let scope = instance.defaults[class as usize].scope;
            if scope != KillScope::Process {
                compiled.scopes.push((slot, class, scope));
            }
        }
        let strictest = tree.strictest();
        let mut own = tree.emit(&mut compiled, epoch, slot, &mut next_node, host, identify);
        last.append(&mut own);
        compiled.nets(instance, epoch, slot, host)?;
        compiled.resolvers(instance, epoch, slot, host);
        compiled.instances.push((slot, instance_of(instance, strictest, policy.enforce)));
        compiled.selectors(instance, slot, host)?;
    }
    let knowing = std::mem::take(&mut compiled.knowing);
    let any = |id| InodeKey { id, epoch, instance: InodeKey::ANY };
    compiled.inodes.extend(knowing.into_iter().map(|(id, knowing)| (any(id), knowing.to_raw())));
    // What is put back comes first, that it is known who has changed it. The deepest are the ones that rules name; the
    // directories above them come after. There is room for so many.
    let healed: BTreeSet<_> = compiled.healed.iter().map(|(_, path)| path).collect();
    for watches in [&mut compiled.watches, &mut last] {
        watches.sort_by_key(|(_, _, path)| Reverse((healed.contains(path), path.components().count())));
    }
    compiled.watches.append(&mut last);
    compiled.watches.truncate(MAX_WATCHES);
    order(&mut compiled.selectors);
    Ok(compiled)
}

/// The first selector that holds decides: one that names a cgroup before those that hold in all of them.
fn order(selectors: &mut [Selector]) {
    selectors.sort_by_key(|selector| selector.flags & SELECT_CGROUP == 0);
}

/// Instances that share a selector. A process then belongs to the first of them: so the rules
/// of all of them hold for that one.
struct Alike<'a> {
    policy: &'a Policy,
    /// Of each instance, whatever its slot.
    selectors: Vec<Vec<Selector>>,
}

impl<'a> Alike<'a> {
    fn new(policy: &'a Policy, slots: &BTreeMap<String, u16>, host: &dyn Host) -> Result<Self, Fault> {
        let of = |instance: &InstancePolicy| {
            let mut compiled = Compiled::default();
            if slots.contains_key(&instance.name) {
                compiled.selectors(instance, 0, host)?;
            }
            Ok(compiled.selectors)
        };
        Ok(Self { policy, selectors: policy.instances.iter().map(of).collect::<Result<_, _>>()? })
    }

    /// An instance with the rules of those after it that are selected alike.
    fn join(&self, index: usize, instance: &'a InstancePolicy) -> Cow<'a, InstancePolicy> {
        let mut joined = Cow::Borrowed(instance);
        let (own, later) = (&self.selectors[index], index + 1..self.policy.instances.len());
        for other in later.filter(|&other| self.selectors[other].iter().any(|selector| own.contains(selector))) {
            let other = &self.policy.instances[other];
            let joined = joined.to_mut();
            let nowhere = |action: &Action| Action { at: At::default(), ..action.clone() };
            let plain = |rule: &FileRule| FileRule { action: nowhere(&rule.action), ..rule.clone() };
            let known: Vec<_> = joined.files.iter().map(plain).collect();
            joined.files.extend(other.files.iter().filter(|rule| !known.contains(&plain(rule))).cloned());
            let plain = |rule: &NetRule| NetRule { action: nowhere(&rule.action), ..rule.clone() };
            let known: Vec<_> = joined.nets.iter().map(plain).collect();
            joined.nets.extend(other.nets.iter().filter(|rule| !known.contains(&plain(rule))).cloned());
        }
        joined
    }
}

/// Only what makes processes belong to instances, as [`compile`] has it: units and containers come and go, and a look at
/// them every second must not cost what a whole policy does.
pub fn selectors(policy: &Policy, slots: &BTreeMap<String, u16>, host: &dyn Host) -> Result<Vec<Selector>, Fault> {
    let mut compiled = Compiled::default();
    for instance in &policy.instances {
        if let Some(&slot) = slots.get(&instance.name) {
            compiled.selectors(instance, slot, host)?;
        }
    }
    order(&mut compiled.selectors);
    Ok(compiled.selectors)
}

impl InstancePolicy {
    fn fault(&self, what: String) -> Fault {
        Fault { line: self.at.line, column: self.at.column, what }
    }
}

fn instance_of(instance: &InstancePolicy, mut strictest: RuleSet, enforce: bool) -> Instance {
    let defaults = instance
        .defaults
        .map(|it| Rule { id: 0, verdict: it.verdict as u8, fallback: it.fallback as u8 }.killing(it.scope as u8));
    for (bit, rule) in strictest.iter_mut().enumerate() {
        let class = if 1 << bit == Access::EXEC.bits() { Class::Exec } else { Class::Files };
        if rule.strength() <= defaults[class as usize].strength() {
            *rule = Rule::NONE;
        }
    }
    Instance { defaults, strictest, enforce: u32::from(enforce), used: 1 }
}

fn rule_of(action: &Action, index: u16) -> Rule {
    Rule { id: index, verdict: action.verdict as u8, fallback: action.fallback as u8 }
        .killing(action.scope as u8)
        .lifted_by(action.maintenance.map_or(0, |maintenance| maintenance as u8))
}

fn file_sentence(rule: &FileRule) -> String {
    let access: Vec<_> = rule.access.names().collect();
    let path = rule.path.display().to_string();
    let dir = path.trim_end_matches('/');
    let what = match &rule.names {
        Names::Itself => path,
        Names::Children => format!("{dir}/*"),
        Names::Below => format!("{dir}/**"),
        Names::ChildSuffix(suffix) => format!("{dir}/*{suffix}"),
        Names::ChildPrefix(prefix) => format!("{dir}/{prefix}*"),
        Names::BelowSuffix(suffix) => format!("{dir}/**/*{suffix}"),
        Names::BelowPrefix(prefix) => format!("{dir}/**/{prefix}*"),
    };
    format!("{} of {what}: {}", access.join(", "), rule.action.verdict.name())
}

impl Compiled {
    fn rule(
        &mut self,
        instance: &InstancePolicy,
        action: &Action,
        class: Class,
        sentence: String,
    ) -> Result<u16, Fault> {
        let Action { id, verdict, scope, maintenance, techniques, at, why, .. } = action;
        // Who reads a record wants the reason first.
        let sentence = match why {
            Some(why) => format!("{why} ({sentence})"),
            None => sentence,
        };
        self.rules.push(RuleInfo {
            instance: instance.name.clone(),
            id: id.clone(),
            sentence,
            verdict: *verdict,
            class,
            scope: *scope,
            maintenance: *maintenance,
            techniques: techniques.clone(),
        });
        let fits = u16::try_from(self.rules.len()).ok().filter(|&index| index < FIRST_RESERVED);
        fits.ok_or_else(|| Fault {
            line: at.line,
            column: at.column,
            what: format!("more than {} rules in one policy", FIRST_RESERVED - 1),
        })
    }

    fn selectors(&mut self, instance: &InstancePolicy, slot: u16, host: &dyn Host) -> Result<(), Fault> {
        for select in &instance.select {
            let fault = |what: String| Fault { line: select.at.line, column: select.at.column, what };
            let mut selector = Selector { instance: slot, ..Selector::default() };
            match (uid_of(select, host), &select.user) {
                (Some(uid), _) => {
                    selector.uid = uid;
                    selector.flags |= SELECT_UID;
                }
                // Without its user the rest of the selector would select more than was meant.
                (None, Some(user)) => return Err(fault(format!("there is no user \"{user}\" on this machine"))),
                (None, None) => {}
            }
            if select.exec {
                selector.flags |= SELECT_EXEC;
            }
            if select.unit.is_none() && select.container.is_none() && select.cgroup.is_none() {
                self.selectors.push(selector);
            } else {
                selector.flags |= SELECT_CGROUP;
                // A unit that does not run has no cgroup yet: nothing to select until it does.
                self.selectors
                    .extend(host.cgroups(select).into_iter().map(|(_, cgroup)| Selector { cgroup, ..selector }));
            }
            if self.selectors.len() > MAX_SELECTORS {
                return Err(fault(format!(
                    "more than {MAX_SELECTORS} selectors and cgroups in all; name a cgroup above several"
                )));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
pub(super) mod tests;
