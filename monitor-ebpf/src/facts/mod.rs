//! Reading facts out of kernel structures.
//!
//! Every read goes through `bpf_probe_read_kernel` at an offset from the running kernel's BTF, which works in every
//! program type and cannot fault.

pub(crate) mod call;
pub(crate) mod file;
pub(crate) mod path;
pub(crate) mod pid;
pub(crate) mod state;
pub(crate) mod task;

use aya_ebpf::helpers::{bpf_probe_read_kernel, bpf_probe_read_user};
use monitor_common::offsets::{Abi, Offsets};

/// Where the running kernel keeps its fields; set by the loader.
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: Offsets = Offsets::NONE;

/// How the running kernel passes system calls; set by the loader.
#[unsafe(no_mangle)]
pub(crate) static ABI: Abi = Abi::NONE;

/// The offset of a field. Volatile, or the compiler would fold in the value from before the load.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a reference to an initialised static.
        unsafe { core::ptr::read_volatile(&raw const $crate::facts::OFFSETS.$field) }
    };
}
pub(crate) use offset;

/// Reads a `T` at `base + offset` in the kernel.
#[inline(always)]
pub(crate) fn read<T>(base: u64, offset: u32) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_kernel((base + u64::from(offset)) as *const T) }.ok()
}

/// Reads a pointer at `base + offset` in the kernel; `None` for a null pointer.
#[inline(always)]
pub(crate) fn pointer(base: u64, offset: u32) -> Option<u64> {
    read::<u64>(base, offset).filter(|&address| address != 0)
}

/// Reads a `T` from the program's memory.
#[inline(always)]
pub(crate) fn read_user<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address.
    unsafe { bpf_probe_read_user(address as *const T) }.ok()
}
