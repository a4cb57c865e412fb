//! Who does something, and what saw it.

use monitor_common::{Verdict, decide::Decision, decide::Subject, scope::TaskLabel, verdict::Sensor};

use super::call::label;
use crate::{lookups, maps::Scratch};

/// What every judgement and every record starts from.
#[derive(Clone, Copy)]
pub(crate) struct Actor {
    /// The task's mark.
    pub(crate) label: &'static TaskLabel,
    /// Whose policy is asked.
    pub(crate) subject: Subject<'static>,
    /// What saw it, and so what can be done about it.
    pub(crate) sensor: Sensor,
    /// Number and result of the system call; -1 and 0 where the sensor knows none.
    pub(crate) syscall: i32,
    pub(crate) ret: i32,
    /// `FLAG_*` of every record about it.
    pub(crate) flags: u32,
}

impl Actor {
    /// The current task; `None` when it is out of scope or there is no policy.
    #[inline(always)]
    pub(crate) fn current(sensor: Sensor) -> Option<Self> {
        Self::of(label()?, sensor)
    }

    /// The task with this mark.
    #[inline(always)]
    pub(crate) fn of(label: &'static TaskLabel, sensor: Sensor) -> Option<Self> {
        let subject = lookups::subject(label.instance)?;
        Some(Self { label, subject, sensor, syscall: -1, ret: 0, flags: 0 })
    }

    /// Whether verdicts are carried out.
    #[inline(always)]
    pub(crate) fn enforces(&self) -> bool {
        self.subject.instance.enforce != 0
    }

    /// What is done about a decision here.
    #[inline(always)]
    pub(crate) fn outcome(&self, decision: &Decision, scratch: &mut Scratch) -> Verdict {
        let done = self.sensor.apply(decision.verdict, decision.fallback, self.enforces());
        Verdict::from_raw(scratch.opaque(done as u32) as u8)
    }
}
