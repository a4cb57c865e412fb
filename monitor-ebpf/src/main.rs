//! Flowwarden's kernel programs.
//!
//! A hook gathers facts about one operation, asks the one decision and hands a record over. It touches maps and the
//! current task, nothing else.
//!
//! With the feature `trace` (`cargo xtask build --trace`) each family of hooks writes a log line, see `trace`.
#![no_std]
#![no_main]
// For the one instruction that the language has no word for, see `facts::add`.
#![feature(asm_experimental_arch)]
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    clippy::needless_pass_by_value,
    clippy::trivially_copy_pass_by_ref,
    reason = "the kernel's interfaces are untyped words, programs own their context, and what is passed is inlined"
)]

mod emit;
mod facts;
mod global;
mod hooks;
mod lookups;
mod maps;
mod trace;

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    // Unreachable: the verifier refuses a program that could get here.
    loop {}
}

/// Helpers such as `bpf_probe_read_kernel` want a GPL-compatible program.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
