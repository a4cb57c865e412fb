//! A system call of a task in scope.

use aya_ebpf::programs::RawTracePointContext;
use monitor_common::{
    event::FLAG_COMPAT,
    scope::TaskLabel,
    syscall::{COMPAT_BASE, NO_ARG, Syscall},
    verdict::Sensor,
};

use super::{actor::Actor, read, task};
use crate::{
    maps::{self, SYSCALLS, TASKS},
    trace::trace,
};

/// A field of [`FW_ABI`], read after the load.
macro_rules! abi {
    ($($field:tt)+) => {
        // SAFETY: a reference to an initialised static.
        unsafe { core::ptr::read_volatile(&raw const $crate::facts::FW_ABI.$($field)+) }
    };
}
pub(crate) use abi;

/// x32 calls carry this bit in their number.
const X32_BIT: u32 = 0x4000_0000;

/// Everything that a handler starts from.
pub(crate) struct Call {
    /// Who makes it.
    pub(crate) actor: Actor,
    /// What kind of call it is.
    pub(crate) spec: Syscall,
    /// 1 for a 32-bit caller; a number, not a truth, or the verifier would walk both cases to the end.
    compat: u32,
    /// The result, at exit.
    pub(crate) ret: i64,
    regs: u64,
    exit: bool,
}

/// The mark of the current task; `None` for one out of scope.
#[inline(always)]
pub(crate) fn label() -> Option<&'static TaskLabel> {
    let (tgid, _) = task::ids();
    // SAFETY: the value is changed by single stores only.
    unsafe { TASKS.get(tgid) }
}

/// The number of the call at entry (`sys_enter(regs, id)`), its index in the table and whether the caller is a 32-bit one.
#[inline(always)]
fn index(number: u32) -> (u32, bool) {
    let mask = abi!(compat_mask);
    let compat = mask != 0 && read::<u32>(task::current(), abi!(compat_word)).is_some_and(|word| word & mask != 0);
    let plain = number & !X32_BIT;
    (if compat { plain.wrapping_add(COMPAT_BASE) } else { plain }, compat)
}

/// Looks a call up in the table.
#[inline(always)]
pub(crate) fn spec(number: u32) -> Option<(Syscall, bool)> {
    if number & !X32_BIT >= COMPAT_BASE {
        return None;
    }
    let (index, compat) = index(number);
    SYSCALLS.get(index).map(|spec| (*spec, compat))
}

/// The number of the call in `sys_exit(regs, ret)`.
#[inline(always)]
pub(crate) fn number_at_exit(ctx: &RawTracePointContext) -> Option<u32> {
    read(ctx.arg::<u64>(0), abi!(number))
}

impl Call {
    /// At entry.
    #[inline(always)]
    pub(crate) fn enter(ctx: &RawTracePointContext) -> Option<Self> {
        Self::new(ctx, ctx.arg::<u64>(1) as u32, false)
    }

    /// At exit.
    #[inline(always)]
    pub(crate) fn exit(ctx: &RawTracePointContext) -> Option<Self> {
        Self::new(ctx, number_at_exit(ctx)?, true)
    }

    #[inline(always)]
    fn new(ctx: &RawTracePointContext, number: u32, exit: bool) -> Option<Self> {
        let scratch = maps::scratch()?;
        let mut actor = Actor::current(Sensor::Tracepoint)?;
        trace!(fw_trace_syscall, number);
        let (spec, compat) = spec(number)?;
        let compat = scratch.opaque(u32::from(compat)) & 1;
        let ret = if exit { ctx.arg::<u64>(1) as i64 } else { 0 };
        actor.syscall = number as i32;
        actor.ret = ret as i32;
        actor.flags = compat * FLAG_COMPAT;
        Some(Self { actor, spec, compat, ret, regs: ctx.arg::<u64>(0), exit })
    }

    /// An argument by its place; `None` for [`NO_ARG`].
    #[inline(always)]
    pub(crate) fn arg(&self, index: u8) -> Option<u64> {
        if index == NO_ARG {
            return None;
        }
        let slot = (index & 7) as usize;
        if slot >= 6 {
            return None;
        }
        if self.compat != 0 {
            let offset = if self.exit && slot == 0 { abi!(compat_first_at_exit) } else { compat_offset(slot) };
            return read::<u64>(self.regs, offset).map(|value| value & 0xffff_ffff);
        }
        let offset = if self.exit && slot == 0 { abi!(first_at_exit) } else { offset_of(slot) };
        read(self.regs, offset)
    }
}

#[inline(always)]
fn offset_of(slot: usize) -> u32 {
    match slot {
        0 => abi!(args[0]),
        1 => abi!(args[1]),
        2 => abi!(args[2]),
        3 => abi!(args[3]),
        4 => abi!(args[4]),
        _ => abi!(args[5]),
    }
}

#[inline(always)]
fn compat_offset(slot: usize) -> u32 {
    match slot {
        0 => abi!(compat_args[0]),
        1 => abi!(compat_args[1]),
        2 => abi!(compat_args[2]),
        3 => abi!(compat_args[3]),
        4 => abi!(compat_args[4]),
        _ => abi!(compat_args[5]),
    }
}
