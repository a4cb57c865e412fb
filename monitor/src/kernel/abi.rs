//! How the running kernel passes system calls to the programs.

use monitor_common::offsets::{Abi, MISSING};

use super::btf::Btf;

/// `TS_COMPAT` and `TIF_32BIT` of the architectures' `asm/thread_info.h`.
#[cfg(target_arch = "x86_64")]
const COMPAT: (&str, u32) = ("thread_info.status", 0x2);
#[cfg(target_arch = "aarch64")]
const COMPAT: (&str, u32) = ("thread_info.flags", 1 << 22);

/// Looks `struct pt_regs` up. The names of the missing fields come back when it is not as expected.
pub fn resolve(btf: &Btf) -> Result<Abi, Vec<String>> {
    let mut missing = Vec::new();
    let mut field = |path: &str| {
        btf.offset("pt_regs", path).unwrap_or_else(|| {
            missing.push(format!("pt_regs.{path}"));
            MISSING
        })
    };
    let mut abi = Abi::NONE;
    if cfg!(target_arch = "x86_64") {
        abi.args = ["di", "si", "dx", "r10", "r8", "r9"].map(&mut field);
        abi.compat_args = ["bx", "cx", "dx", "si", "di", "bp"].map(&mut field);
        abi.first_at_exit = abi.args[0];
        abi.compat_first_at_exit = abi.compat_args[0];
        abi.number = field("orig_ax");
        abi.function_args = ["di", "si", "dx", "cx"].map(&mut field);
    } else {
        let regs = field("regs");
        abi.args = [0, 8, 16, 24, 32, 40].map(|offset| regs.saturating_add(offset));
        abi.compat_args = abi.args;
        abi.first_at_exit = field("orig_x0");
        abi.compat_first_at_exit = abi.first_at_exit;
        abi.number = field("syscallno");
        abi.function_args = [0, 8, 16, 24].map(|offset| regs.saturating_add(offset));
    }
    if let Some(word) = btf.offset("task_struct", COMPAT.0) {
        abi.compat_word = word;
        abi.compat_mask = COMPAT.1;
    }
    if missing.is_empty() { Ok(abi) } else { Err(missing) }
}
