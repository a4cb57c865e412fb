//! Programs that an instance executes in a maintenance window, such as install scripts.

use std::collections::BTreeMap;

use monitor_common::Verdict;

use crate::record::decode::Record;
use journal::{ocsf::command_line, text::terminal::shown};

/// Most different command lines of a window.
const MOST: usize = 100;

/// Executed programs, in the order of their first run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ran {
    /// Command lines with their counts.
    pub lines: Vec<(String, u64)>,
    /// Number of further executions.
    pub more: u64,
}

/// Programs by window: slot of the instance and kind of work.
#[derive(Debug, Default)]
pub struct Programs(BTreeMap<(u16, String), Ran>);

impl Programs {
    /// Starts to record for a window, or continues.
    pub fn begin(&mut self, slot: u16, class: &str) {
        self.0.entry((slot, class.to_owned())).or_default();
    }

    /// Programs of a window; `None` if it was opened before the guard started.
    pub fn end(&mut self, slot: u16, class: &str) -> Option<Ran> {
        self.0.remove(&(slot, class.to_owned()))
    }

    /// Adds the program of an exec record.
    pub fn observe(&mut self, record: &Record) {
        if !record.has_become_the_process() || record.verdict >= Verdict::Deny {
            return;
        }
        for (_, ran) in self.0.iter_mut().filter(|((slot, _), _)| *slot == record.event.instance) {
            let line = format!("{} ({})", shown(&record.path), shown(command_line(&record.text).as_bytes()));
            if let Some((_, count)) = ran.lines.iter_mut().find(|(known, _)| *known == line) {
                *count += 1;
            } else if ran.lines.len() < MOST {
                ran.lines.push((line, 1));
            } else {
                ran.more += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use monitor_common::event::{Event, Hook};

    use super::*;
    use crate::record::decode::{decode, tests::bytes};

    fn exec(instance: u16, verdict: Verdict, argv: &[u8]) -> Record {
        let event = Event { hook: Hook::Exec as u8, sensor: 1, instance, verdict: verdict as u8, ..Event::ZERO };
        decode(&bytes(event, b"sh\0bin\0", argv)).unwrap()
    }

    #[test]
    fn what_runs_in_a_window_is_noted_once_with_a_count_and_nothing_else_is() {
        let mut programs = Programs::default();
        programs.observe(&exec(1, Verdict::Allow, b"sh\0before\0"));
        programs.begin(1, "palette");
        for record in [
            exec(1, Verdict::Allow, b"sh\0-c\0node x\0"),
            exec(1, Verdict::Log, b"sh\0-c\0node x\0"),
            exec(2, Verdict::Allow, b"sh\0other\0"),
            exec(1, Verdict::Deny, b"sh\0refused\0"),
        ] {
            programs.observe(&record);
        }
        // A prolonged window keeps its programs.
        programs.begin(1, "palette");
        let ran = programs.end(1, "palette").unwrap();
        assert_eq!(ran, Ran { lines: vec![("/bin/sh (sh -c node x)".to_owned(), 2)], more: 0 });
        assert_eq!(programs.end(1, "palette"), None);
    }

    #[test]
    fn a_storm_of_programs_is_counted() {
        let mut programs = Programs::default();
        programs.begin(1, "palette");
        for number in 0..1000 {
            programs.observe(&exec(1, Verdict::Allow, format!("sh\0{number}\0").as_bytes()));
        }
        let ran = programs.end(1, "palette").unwrap();
        assert_eq!((ran.lines.len(), ran.more), (MOST, 1000 - MOST as u64));
    }
}
