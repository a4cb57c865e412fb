//! Instances of the embedded policy: every running Node-RED, whatever started it.

use std::{path::Path, slice};

use monitor_common::policy::MAX_INSTANCES;

use super::AgentError;
use crate::config::ConfigError;
use policy::{
    host::System,
    model::Policy,
    preset::{self, Found},
    toml_reader::Fault,
};

/// Name of the embedded policy in faults.
pub(super) const EMBEDDED: &str = "embedded policy";

/// The adopted instances.
#[derive(Debug, Default)]
pub(super) struct Adopted {
    found: Vec<Found>,
    /// Instances that cannot be guarded. They do not affect the others: any user may start a Node-RED anywhere.
    refused: Vec<Found>,
    /// Messages about them that are due.
    pub(super) untold: Vec<String>,
}

impl Adopted {
    /// Adds running instances that are not known yet. Stopped instances stay known.
    pub(super) fn look(&mut self, running: Vec<Found>, host: &System) {
        for mut new in running {
            let is = |old: &Found| old.user_dir == new.user_dir && old.select.uid == new.select.uid;
            if self.found.len() == MAX_INSTANCES || self.found.iter().chain(&self.refused).any(is) {
                continue;
            }
            new.name = format!("node-red-{}", self.found.len() + 1);
            match embedded(slice::from_ref(&new)).and_then(|policy| policy::fits(&policy, host)) {
                Ok(()) => self.found.push(new),
                Err(Fault { what, .. }) if self.refused.len() < MAX_INSTANCES => {
                    let uid = new.select.uid.unwrap_or_default();
                    let place = new.user_dir.display();
                    self.untold.push(format!("the Node-RED of uid {uid} in {place} is not guarded: {what}"));
                    self.refused.push(new);
                }
                Err(_) => {}
            }
        }
    }

    /// Whether a policy covers all of them.
    pub(super) fn are_in(&self, policy: &Policy) -> bool {
        let is = |found: &Found| {
            policy.instances.iter().any(|it| (&it.name, &it.user_dir) == (&found.name, &found.user_dir))
        };
        self.found.iter().all(is)
    }

    /// The embedded policy for these instances; an empty one without instances.
    pub(super) fn policy(&self) -> Result<Policy, AgentError> {
        if self.found.is_empty() {
            return Ok(Policy::default());
        }
        let faulty = |fault| ConfigError::Faulty { path: Path::new(EMBEDDED).to_owned(), faults: vec![fault] };
        Ok(embedded(&self.found).map_err(faulty)?)
    }
}

fn embedded(found: &[Found]) -> Result<Policy, Fault> {
    preset::policy(found, false).map_err(|faults| {
        let unknown = || Fault { line: 0, column: 0, what: "no policy can be made for it".to_owned() };
        faults.into_iter().next().unwrap_or_else(unknown)
    })
}

#[cfg(test)]
mod tests {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt as _, path::PathBuf};

    use super::*;
    use policy::model::Select;

    fn found(user_dir: impl Into<PathBuf>) -> Found {
        let select = Select { uid: Some(990), exec: true, ..Select::default() };
        Found { name: String::new(), select, user_dir: user_dir.into() }
    }

    #[test]
    fn one_that_nothing_can_guard_is_told_once_and_keeps_no_other_from_it() {
        let deep: PathBuf = ["/srv"].into_iter().chain(["d"; 40]).collect();
        let nameless = Path::new(OsStr::from_bytes(b"/srv/\xff")).to_owned();
        let running = || vec![found(&deep), found("/srv/good"), found(&nameless)];
        let mut adopted = Adopted::default();
        adopted.look(running(), &System::new());
        assert!(!adopted.are_in(&Policy::default()));
        let names = |adopted: &Adopted| -> Vec<_> {
            adopted.policy().unwrap().instances.into_iter().map(|it| (it.name, it.user_dir)).collect()
        };
        assert_eq!(names(&adopted), [("node-red-1".to_owned(), PathBuf::from("/srv/good"))]);
        assert_eq!(adopted.untold.len(), 2, "{:?}", adopted.untold);
        adopted.untold.clear();
        let before = adopted.policy().unwrap();
        adopted.look(running(), &System::new());
        assert!(adopted.are_in(&before) && adopted.untold.is_empty());
        adopted.look(vec![found("/srv/better")], &System::new());
        assert!(!adopted.are_in(&before) && adopted.are_in(&adopted.policy().unwrap()));
        assert_eq!(names(&adopted).len(), 2);
    }

    #[test]
    fn no_more_are_adopted_than_a_policy_takes_and_no_more_are_reported() {
        let mut adopted = Adopted::default();
        let running: Vec<_> = (0..MAX_INSTANCES + 3).map(|number| found(format!("/srv/{number}"))).collect();
        adopted.look(running.clone(), &System::new());
        let policy = adopted.policy().unwrap();
        assert_eq!(policy.instances.len(), MAX_INSTANCES);
        adopted.look(running, &System::new());
        assert!(adopted.are_in(&policy), "one too many is found again and again");
        // Nor do those that cannot be guarded fill the memory.
        let nameless = |number: usize| {
            let name = [b"/srv/\xff".as_slice(), number.to_string().as_bytes()].concat();
            found(OsStr::from_bytes(&name).to_owned())
        };
        let mut adopted = Adopted::default();
        adopted.look((0..MAX_INSTANCES + 3).map(nameless).collect(), &System::new());
        assert!(adopted.are_in(&Policy::default()));
        assert_eq!((adopted.refused.len(), adopted.untold.len()), (MAX_INSTANCES, MAX_INSTANCES));
    }
}
