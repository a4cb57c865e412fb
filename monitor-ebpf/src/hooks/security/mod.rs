//! The kernel's security hooks: what LSM programs refuse, and what fentry programs and kprobes on the same functions see
//! and kill.
//!
//! A hook has one body. [`programs!`] makes its three programs from the table in [`monitor_common::hooks`]; the loader
//! attaches the best one that runs.

mod credentials;
mod file;
mod inode;
mod process;
mod program;
mod socket;
mod system;

use aya_ebpf::{
    EbpfContext,
    cty::c_void,
    programs::{FEntryContext, LsmContext, ProbeContext},
};
use monitor_common::{Verdict, hooks::SecurityHook, security::Signatures, verdict::Sensor};

use crate::{
    emit,
    facts::{actor::Actor, call::abi, task, word},
    hooks::{names, process::is_guard},
    maps::{self, CONTROL, PROOFS, Scratch},
    trace::trace,
};

const EPERM: i32 = 1;
const EACCES: i32 = 13;

/// Where the running kernel's hooks take their arguments; set by the loader.
#[unsafe(no_mangle)]
static FW_SIGNATURES: Signatures = Signatures::NONE;

/// The arguments of a hook, whichever sensor it was reached by.
trait Args {
    /// The sensor.
    const SENSOR: Sensor;

    /// An argument by its place, up to the fourth.
    fn arg(&self, index: usize) -> u64;

    /// The same for a place that is known at the load only.
    fn moved_arg(&self, index: u32) -> u64;
}

/// LSM and fentry programs have the same context: an array of the arguments.
macro_rules! args_of_array {
    ($($context:ident: $sensor:ident),+) => {$(
        impl Args for $context {
            const SENSOR: Sensor = Sensor::$sensor;

            #[inline(always)]
            fn arg(&self, index: usize) -> u64 {
                register(self, index)
            }

            #[inline(always)]
            fn moved_arg(&self, index: u32) -> u64 {
                word(self.as_ptr() as u64, 8 * index)
            }
        }
    )+};
}

args_of_array!(LsmContext: Lsm, FEntryContext: Fentry);

/// An argument of a program with BTF: the context is an array of them, and may be loaded from at constant places only.
/// Volatile, or the compiler might make one load with a computed place out of two.
#[inline(always)]
fn register(ctx: &impl EbpfContext, index: usize) -> u64 {
    // SAFETY: the verifier refuses what is out of bounds.
    unsafe { core::ptr::read_volatile(ctx.as_ptr().cast::<u64>().add(index)) }
}

impl Args for ProbeContext {
    const SENSOR: Sensor = Sensor::Kprobe;

    #[inline(always)]
    fn arg(&self, index: usize) -> u64 {
        let offset = match index {
            0 => abi!(function_args[0]),
            1 => abi!(function_args[1]),
            2 => abi!(function_args[2]),
            _ => abi!(function_args[3]),
        };
        word(self.as_ptr() as u64, offset)
    }

    #[inline(always)]
    fn moved_arg(&self, index: u32) -> u64 {
        Args::arg(self, index as usize)
    }
}

/// Makes the LSM, fentry and kprobe programs of every hook in the table around its body.
///
/// They are what aya's attribute macros would make. The function has the name of the program: BTF takes it from there.
macro_rules! programs {
    ($($(#[$doc:meta])* $hook:ident {
        lsm: $lsm:literal $lsm_args:tt,
        function: $function:literal $function_args:tt,
        since: $since:tt,
        provable: $provable:literal,
        replaces: $replaces:tt,
        traced: $traced:literal,
        denies: $denies:tt,
        programs: [$lsm_program:ident, $fentry_program:ident, $kprobe_program:ident],
        body: $family:ident::$body:ident,
    })+) => {$(
        const _: () = {
            #[unsafe(no_mangle)]
            #[unsafe(link_section = concat!("lsm/", $lsm))]
            extern "C" fn $lsm_program(ctx: *mut c_void) -> i32 {
                enter(&LsmContext::new(ctx), SecurityHook::$hook, $family::$body)
            }

            #[unsafe(no_mangle)]
            #[unsafe(link_section = concat!("fentry/", $function))]
            extern "C" fn $fentry_program(ctx: *mut c_void) -> i32 {
                enter(&FEntryContext::new(ctx), SecurityHook::$hook, $family::$body);
                0
            }

            #[unsafe(no_mangle)]
            #[unsafe(link_section = concat!("kprobe/", $function))]
            extern "C" fn $kprobe_program(ctx: *mut c_void) -> u32 {
                enter(&ProbeContext::new(ctx), SecurityHook::$hook, $family::$body);
                0
            }
        };
    )+};
}
monitor_common::security_hooks!(programs);

/// Runs a body for a task in scope; answers what an LSM program returns.
#[inline(always)]
fn enter<A: Args>(args: &A, hook: SecurityHook, body: impl FnOnce(&A, &Actor, &mut Scratch) -> Option<Verdict>) -> i32 {
    let Some(actor) = Actor::current(A::SENSOR) else {
        prove(hook);
        note(args, hook);
        return if A::SENSOR.can_deny() && refuses_unasked(args, hook) { -EPERM } else { 0 };
    };
    trace!(fw_trace_security, hook as u32);
    let execs = matches!(hook, SecurityHook::BprmCheck | SecurityHook::BprmCredsFromFile);
    let refusal = if execs { -EACCES } else { -EPERM };
    let Some(held) = maps::hold() else {
        // Nothing that might be forbidden goes through unjudged.
        if A::SENSOR.can_deny() && actor.enforces() {
            emit::count_unjudged();
            return refusal;
        }
        note(args, hook);
        return 0;
    };
    let refused = body(args, &actor, held.scratch).is_some_and(|done| done as u8 >= Verdict::Deny as u8);
    if refused {
        // The store keeps the results of the two paths constants, see `monitor_common::opaque`.
        held.scratch.value.set(1);
        refusal
    } else {
        note(args, hook);
        0
    }
}

/// Denied independently of the current task: a signal to the guard that is caused by a packet or by a write of another process.
#[inline(always)]
fn refuses_unasked<A: Args>(args: &A, hook: SecurityHook) -> bool {
    matches!(hook, SecurityHook::FileSendSigiotask) && task::tgid(args.arg(0)).is_some_and(is_guard)
}

/// Notes that an operation of the guard's own has come by. A program that loads and attaches may still never be called.
#[inline(always)]
fn prove(hook: SecurityHook) {
    if CONTROL.get(0).is_some_and(|control| control.guard == task::ids().0) {
        let _ = PROOFS.set(hook as u32, 1, 0);
    }
}

/// Notes which files take names, for every task.
#[inline(always)]
fn note<A: Args>(args: &A, hook: SecurityHook) {
    match hook {
        SecurityHook::InodeRename => {
            let (from, to) = (args.arg(1), args.arg(3));
            names::renamed(from, to);
            // The kernel calls LSM programs once for each direction of an exchange, and the function once for both.
            if !matches!(A::SENSOR, Sensor::Lsm) {
                names::renamed(to, from);
            }
        }
        SecurityHook::InodeLink => names::linked(args.arg(0), args.arg(2)),
        _ => {}
    }
}

/// Which argument of a hook is the dentry, on this kernel and for this sensor.
macro_rules! dentry_arg {
    ($args:ty, $hook:ident) => {
        // SAFETY: a reference to an initialised static; volatile, because the loader fills it in.
        unsafe {
            core::ptr::read_volatile(if matches!(<$args>::SENSOR, Sensor::Lsm) {
                &raw const $crate::hooks::security::FW_SIGNATURES.lsm.$hook
            } else {
                &raw const $crate::hooks::security::FW_SIGNATURES.function.$hook
            })
        }
    };
}
use dentry_arg;
