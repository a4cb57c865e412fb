//! Open maintenance windows: opened and closed on request, reported, and taken over.
//!
//! The kernel closes a window by itself, at the time in its map. The state here and in the state directory serves reports: who
//! opened a window, and that it was closed.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use data_encoding::HEXLOWER;
use monitor_common::policy::Maintenance;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{AgentError, say, takeover::Takeover};
use crate::{
    heal,
    kernel::{enforcer::Enforcer, error::KernelError},
    maintenance::{
        LONGEST, Request, Window, boot_ns,
        decision::{self, Kept},
        report::{Report, Snapshot, compare},
    },
    pipeline::Pipeline,
};
use journal::{
    ocsf::{Stage, now_ms},
    state::{State, StateError},
    text::terminal,
};
use policy::model::Policy;

/// File of the windows, in the state directory.
const KEPT: &str = "maintenance.json";
/// File of the state before each window.
const BEFORE: &str = "windows";

/// State before a window. Stored, since the next run may write the report.
#[derive(Debug, Serialize, Deserialize)]
struct Before {
    user_dir: PathBuf,
    snapshot: Snapshot,
}

/// The open windows.
#[derive(Debug, Default)]
pub(super) struct Windows {
    open: Vec<Window>,
    /// The file is outdated and has to be written.
    stale: bool,
}

/// What is needed to open and close windows.
pub(super) struct Context<'a> {
    pub(super) kernel: &'a mut dyn Enforcer,
    pub(super) pipeline: &'a mut Pipeline,
    pub(super) state: &'a State,
    pub(super) policy: &'a Policy,
    pub(super) slots: &'a BTreeMap<String, u16>,
}

impl Windows {
    /// Takes over the windows that an earlier run left open in the kernel, and reports those that have closed.
    ///
    /// Called before the new programs enforce. A window without pinned programs is closed, since a started guard has to
    /// protect.
    pub(super) fn take_over(takeover: &Takeover, hands: &mut Context<'_>) -> Result<Self, AgentError> {
        let kept: Vec<Window> =
            hands.state.read(KEPT)?.and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
        let mut windows = Self::default();
        for (instance, &slot) in hands.slots {
            for (class, maintenance) in Maintenance::NAMES {
                let until_ns = takeover.window(slot, maintenance);
                if until_ns <= boot_ns() {
                    continue;
                }
                hands.kernel.set_window(slot, maintenance, until_ns)?;
                let known = kept.iter().find(|window| window.instance == *instance && window.class == class);
                let by = known.map_or_else(|| "an earlier run".to_owned(), |window| window.by.clone());
                windows.open.push(Window { instance: instance.clone(), class: class.to_owned(), until_ns, by });
            }
        }
        for window in kept {
            let same = |open: &&Window| open.instance == window.instance && open.class == window.class;
            match windows.open.iter().find(same) {
                Some(_) => {}
                None if window.until_ns <= boot_ns() => tell_closed(&window, "its time was over", hands),
                None => tell_closed(&window, "the guard that had opened it has ended", hands),
            }
        }
        write(&windows.open, hands.state)?;
        Ok(windows)
    }

    /// Handles a request.
    pub(super) fn answer(
        &mut self,
        request: &Request,
        by: &str,
        hands: &mut Context<'_>,
    ) -> Result<Vec<Window>, String> {
        self.expire(hands);
        match request {
            Request::Status => Ok(self.open.clone()),
            Request::Open { instance, class, seconds } => self.open(instance.as_deref(), class, *seconds, by, hands),
            Request::Close { instance, class } => {
                known(instance.as_deref(), hands.policy)?;
                class.as_deref().map(maintenance).transpose()?;
                let fits = |window: &Window| {
                    instance.as_ref().is_none_or(|name| *name == window.instance)
                        && class.as_ref().is_none_or(|class| *class == window.class)
                };
                self.close(fits, &format!("by {by}"), hands)
            }
        }
    }

    fn open(
        &mut self,
        instance: Option<&str>,
        class: &str,
        seconds: u64,
        by: &str,
        hands: &mut Context<'_>,
    ) -> Result<Vec<Window>, String> {
        let maintenance = maintenance(class)?;
        if seconds == 0 || seconds > LONGEST.as_secs() {
            return Err("a window is open for 1s to 24h".to_owned());
        }
        let instance = known(instance, hands.policy)?;
        let policy = match instance {
            Some(name) => hands.policy.instances.iter().find(|it| it.name == name),
            None => hands.policy.instances.first().filter(|_| hands.policy.instances.len() == 1),
        };
        let Some(policy) = policy else {
            return Err(match names(hands.policy) {
                names if names.is_empty() => "no instance is guarded at this moment".to_owned(),
                names => format!("which instance? There are {names}: name one with --instance"),
            });
        };
        let actions = policy.files.iter().map(|rule| &rule.action).chain(policy.nets.iter().map(|rule| &rule.action));
        if actions.into_iter().all(|action| action.maintenance != Some(maintenance)) {
            return Err(format!(
                "no rule of {} has maintenance = \"{class}\": the window would open nothing",
                policy.name
            ));
        }
        let slot = hands.slots.get(&policy.name).copied().ok_or("the instance has no place in the kernel")?;
        let until_ns = boot_ns().saturating_add(seconds.saturating_mul(1_000_000_000));
        let window = Window { instance: policy.name.clone(), class: class.to_owned(), until_ns, by: by.to_owned() };
        let open = self.with(&window, &policy.user_dir, hands.state).map_err(|error| error.to_string())?;
        write(&open, hands.state).map_err(|error| error.to_string())?;
        hands.pipeline.programs().begin(slot, class);
        // Journaled before it opens, so that every exempted operation follows the record of its window.
        let message = format!("maintenance: {class} of instance {} is open for {seconds} s, by {by}", window.instance);
        tell(Stage::Open, &window, &message, Map::new(), hands.pipeline);
        if let Err(error) = hands.kernel.set_window(slot, maintenance, until_ns) {
            self.stale = true;
            let before = self.open.iter().find(|open| is_same(open, &window));
            let message = format!("maintenance: {class} of instance {} could not be opened: {error}", window.instance);
            tell(Stage::Error, before.unwrap_or(&window), &message, Map::new(), hands.pipeline);
            return Err(error.to_string());
        }
        self.open = open;
        Ok(vec![window])
    }

    /// The open windows with this one, which replaces one of its class and keeps the state before it.
    fn with(&self, window: &Window, user_dir: &Path, state: &State) -> Result<Vec<Window>, AgentError> {
        if !self.open.iter().any(|open| is_same(open, window)) {
            begin(window, user_dir, state)?;
        }
        let others = self.open.iter().filter(|open| !is_same(open, window));
        Ok(others.chain([window]).cloned().collect())
    }

    /// Closes matching windows. A window that the kernel does not close stays open and is the error; the others are closed.
    fn close(
        &mut self,
        fits: impl Fn(&Window) -> bool,
        why: &str,
        hands: &mut Context<'_>,
    ) -> Result<Vec<Window>, String> {
        let (mut closed, mut failed) = (Vec::new(), None);
        for window in std::mem::take(&mut self.open) {
            if !fits(&window) {
                self.open.push(window);
                continue;
            }
            match set(&window, 0, hands) {
                Ok(()) => {
                    tell_closed(&window, why, hands);
                    closed.push(window);
                }
                Err(error) => {
                    failed.get_or_insert(error);
                    self.open.push(window);
                }
            }
        }
        self.stale |= !closed.is_empty();
        failed.map_or(Ok(closed), |error| Err(error.to_string()))
    }

    /// Reports windows that the kernel has closed.
    pub(super) fn expire(&mut self, hands: &mut Context<'_>) {
        let now = boot_ns();
        let (over, open): (Vec<_>, _) = std::mem::take(&mut self.open).into_iter().partition(|it| it.until_ns <= now);
        self.open = open;
        for window in &over {
            tell_closed(window, "its time is over", hands);
        }
        self.stale |= !over.is_empty();
    }

    /// Writes the list of open windows if it is outdated. Only reports depend on it: a failure opens and closes no window and is
    /// retried.
    pub(super) fn keep(&mut self, state: &State) -> Result<(), StateError> {
        if self.stale {
            write(&self.open, state)?;
            self.stale = false;
        }
        Ok(())
    }

    /// Writes the windows that remain with the instances of a new policy, before it is in force. If it is not applied, the list
    /// is [written](Self::keep) again.
    pub(super) fn leave(&mut self, stays: impl Fn(&Window) -> bool, state: &State) -> Result<(), StateError> {
        if self.open.iter().all(&stays) {
            return Ok(());
        }
        let left: Vec<_> = self.open.iter().filter(|window| stays(window)).cloned().collect();
        self.stale = true;
        write(&left, state)
    }

    /// Closes the windows of removed instances, for which the kernel has no rules any more.
    pub(super) fn drop_gone(&mut self, stays: impl Fn(&Window) -> bool, hands: &mut Context<'_>) {
        let (open, gone): (Vec<_>, _) = std::mem::take(&mut self.open).into_iter().partition(stays);
        self.open = open;
        for window in &gone {
            // If this fails, `shut` closes it before another instance gets the slot.
            let _ = set(window, 0, hands);
            tell_closed(window, "the instance is not guarded any more", hands);
        }
    }
}

/// Ensures that no window is open for a slot before an instance gets it.
pub(super) fn shut(slot: u16, kernel: &mut dyn Enforcer) -> Result<(), KernelError> {
    Maintenance::NAMES.iter().try_for_each(|&(_, maintenance)| kernel.set_window(slot, maintenance, 0))
}

fn set(window: &Window, until_ns: u64, hands: &mut Context<'_>) -> Result<(), KernelError> {
    match (hands.slots.get(&window.instance), window.maintenance()) {
        (Some(&slot), Some(maintenance)) => hands.kernel.set_window(slot, maintenance, until_ns),
        _ => Ok(()),
    }
}

fn write(open: &[Window], state: &State) -> Result<(), StateError> {
    state.write(KEPT, &serde_json::to_vec(open).unwrap_or_default())
}

fn maintenance(class: &str) -> Result<Maintenance, String> {
    Maintenance::by_name(class).ok_or_else(|| format!("\"{class}\" is no maintenance: palette, settings or files"))
}

/// The named instance, which has to exist.
fn known<'a>(instance: Option<&'a str>, policy: &Policy) -> Result<Option<&'a str>, String> {
    match instance {
        Some(name) if policy.instances.iter().all(|it| it.name != name) => {
            Err(format!("there is no instance \"{name}\"; there are: {}", names(policy)))
        }
        instance => Ok(instance),
    }
}

fn names(policy: &Policy) -> String {
    let names: Vec<_> = policy.instances.iter().map(|instance| instance.name.as_str()).collect();
    names.join(", ")
}

fn name(window: &Window) -> String {
    format!("{}-{}.json", HEXLOWER.encode(window.instance.as_bytes()), window.class)
}

/// Stores the state before a window.
fn begin(window: &Window, user_dir: &Path, state: &State) -> Result<(), StateError> {
    let before = Before { user_dir: user_dir.to_owned(), snapshot: Snapshot::take(user_dir) };
    state.within(BEFORE)?.write(&name(window), &serde_json::to_vec(&before).unwrap_or_default())
}

/// Changes since; `None` if the state before is unknown.
fn end(window: &Window, state: &State) -> Option<(PathBuf, Report)> {
    let kept = state.within(BEFORE).ok()?;
    let before: Before = serde_json::from_slice(&kept.read(&name(window)).ok()??).ok()?;
    let report = compare(&before.snapshot, &Snapshot::take(&before.user_dir));
    let _ = fs::remove_file(kept.path().join(name(window)));
    Some((before.user_dir, report))
}

fn tell_closed(window: &Window, why: &str, hands: &mut Context<'_>) {
    let mut message = format!("maintenance: {} of instance {} is closed: {why}", window.class, window.instance);
    let mut more = Map::new();
    let ran = hands.slots.get(&window.instance).and_then(|&slot| hands.pipeline.programs().end(slot, &window.class));
    if let Some((user_dir, mut report)) = end(window, hands.state) {
        report.ran = ran;
        let instance = hands.policy.instances.iter().find(|instance| instance.name == window.instance);
        let healed = instance.into_iter().flat_map(|instance| &instance.files).filter(|rule| rule.heal);
        report.files = heal::differing(hands.state, healed.map(|rule| rule.path.as_path()));
        let id = decision::id(&window.instance, &window.class, now_ms());
        let kept = Kept {
            id: id.clone(),
            instance: window.instance.clone(),
            user_dir: user_dir.clone(),
            files: report.files.clone(),
            packages: report.revert.clone(),
            decided: None,
        };
        match decision::keep(hands.state, &kept) {
            Ok(()) => drop(more.insert("report_id".to_owned(), id.into())),
            Err(error) => {
                let message = format!("what was done in a window cannot be kept, to accept or revert it: {error}");
                tell(Stage::Error, window, &message, Map::new(), hands.pipeline);
            }
        }
        message = format!("{message}; meanwhile: {}", report.words());
        more.insert("user_dir".to_owned(), user_dir.display().to_string().into());
        report.tell(&mut more);
    }
    tell(Stage::Close, window, &message, more, hands.pipeline);
}

fn tell(stage: Stage, window: &Window, message: &str, more: Map<String, Value>, pipeline: &Pipeline) {
    say(&terminal::plain(message.as_bytes()));
    let until = std::time::SystemTime::now() + window.left();
    let mut details = Map::from_iter([
        ("instance".to_owned(), Value::from(window.instance.as_str())),
        ("maintenance".to_owned(), window.class.as_str().into()),
        ("opened_by".to_owned(), window.by.as_str().into()),
        ("until".to_owned(), humantime::format_rfc3339_seconds(until).to_string().into()),
    ]);
    details.extend(more);
    pipeline.lifecycle(stage, message, &details);
}

/// Whether two windows have the same class and instance.
fn is_same(a: &Window, b: &Window) -> bool {
    a.instance == b.instance && a.class == b.class
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_window_that_is_opened_again_reports_from_its_first_opening_on() {
        let directory = tempfile::tempdir().unwrap();
        let state = State::open(&directory.path().join("state")).unwrap();
        let user_dir = directory.path().join("user");
        fs::create_dir(&user_dir).unwrap();
        let window = |instance: &str, class: &str, until_ns| Window {
            instance: instance.to_owned(),
            class: class.to_owned(),
            until_ns,
            by: "root".to_owned(),
        };
        let mut windows = Windows::default();
        fs::write(user_dir.join("settings.js"), "module.exports = {}\n").unwrap();
        windows.open = windows.with(&window("a", "settings", 1), &user_dir, &state).unwrap();
        // Another class and another instance are other windows.
        windows.open = windows.with(&window("a", "palette", 1), &user_dir, &state).unwrap();
        windows.open = windows.with(&window("b", "settings", 1), &user_dir, &state).unwrap();
        fs::write(user_dir.join("settings.js"), "module.exports = { changed: 1 }\n").unwrap();
        windows.open = windows.with(&window("a", "settings", 2), &user_dir, &state).unwrap();
        let open: Vec<_> = windows.open.iter().map(|it| (&*it.instance, &*it.class, it.until_ns)).collect();
        assert_eq!(open, [("a", "palette", 1), ("b", "settings", 1), ("a", "settings", 2)]);
        let changed = |window| {
            let mut more = Map::new();
            end(&window, &state).unwrap().1.tell(&mut more);
            more.get("settings_diff").and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        let diff = changed(window("a", "settings", 2));
        assert!(diff.contains("+module.exports = { changed: 1 }"), "what was done before it was opened again: {diff}");
        // One that was closed meanwhile begins anew.
        windows.open.retain(|open| open.class != "settings");
        windows.open = windows.with(&window("a", "settings", 3), &user_dir, &state).unwrap();
        assert_eq!(changed(window("a", "settings", 3)), "");
    }
}
