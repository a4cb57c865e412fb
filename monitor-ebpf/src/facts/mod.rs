//! Reading facts out of kernel structures.
//!
//! Every read goes through `bpf_probe_read_kernel` at an offset from the running kernel's BTF, which works in every
//! program type and cannot fault.

pub(crate) mod actor;
pub(crate) mod call;
pub(crate) mod file;
pub(crate) mod path;
pub(crate) mod pid;
pub(crate) mod state;
pub(crate) mod task;

use core::arch::asm;

use aya_ebpf::{
    cty::c_void,
    helpers::{bpf_probe_read_kernel, bpf_probe_read_user, generated},
};
use monitor_common::offsets::{Abi, Offsets};

/// Where the running kernel keeps its fields; set by the loader.
#[unsafe(no_mangle)]
pub(crate) static FW_OFFSETS: Offsets = Offsets::NONE;

/// How the running kernel passes system calls; set by the loader.
#[unsafe(no_mangle)]
pub(crate) static FW_ABI: Abi = Abi::NONE;

/// The offset of a field. Volatile, or the compiler would fold in the value from before the load.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a reference to an initialised static.
        unsafe { core::ptr::read_volatile(&raw const $crate::facts::FW_OFFSETS.$field) }
    };
}
pub(crate) use offset;

/// Reads a `T` at `base + offset` in the kernel.
#[inline(always)]
pub(crate) fn read<T>(base: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// Reads a number at `base + offset` in the kernel; 0 where there is nothing to read.
///
/// For loops: each error that is handled is one more way that the verifier has to walk to the end.
#[inline(always)]
pub(crate) fn word<T: Copy + Default>(base: u64, offset: u32) -> T {
    let mut value = T::default();
    let from = (base + u64::from(offset)) as *const c_void;
    // SAFETY: the helper checks the source, and fills the destination, which is as long as is said, with zeros when it
    // cannot read.
    unsafe { generated::bpf_probe_read_kernel((&raw mut value).cast(), size_of::<T>() as u32, from) };
    value
}

/// Reads a pointer at `base + offset` in the kernel; `None` for a null pointer.
#[inline(always)]
pub(crate) fn pointer(base: u64, offset: u32) -> Option<u64> {
    let address: u64 = word(base, offset);
    (address != 0).then_some(address)
}

/// Adds to a number that other CPUs, or an interrupt on this one, add to as well.
///
/// # Safety
/// The number is eight bytes of a map's value.
#[inline(always)]
pub(crate) unsafe fn add(number: *mut u64, amount: u64) {
    // The kind of addition that all kernels have (BPF_XADD): before 5.12 none can answer what was there.
    // SAFETY: by the caller; the instruction touches nothing else.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) number, in(reg) amount, options(nostack)) };
}

/// Reads a `T` from the program's memory.
#[inline(always)]
pub(crate) fn read_user<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(address as *const T) }.ok()
}
