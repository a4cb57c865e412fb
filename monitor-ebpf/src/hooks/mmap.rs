//! A file is mapped shared and writable: what is stored there reaches the file with no further call.
//!
//! A mapping through a descriptor that can write can be made writable later, when nothing tells of what file it is.

use aya_ebpf::{macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{Access, event::Hook};

use super::{Request, judge_file};
use crate::{
    facts::{call::Call, file::File},
    maps,
};

/// `MAP_SHARED`, also part of `MAP_SHARED_VALIDATE`.
const MAP_SHARED: u64 = 1;
/// `MAP_ANONYMOUS`
const MAP_ANONYMOUS: u64 = 0x20;

#[raw_tracepoint]
fn mmap_enter(ctx: RawTracePointContext) -> i32 {
    let _ = handle(&ctx);
    0
}

#[inline(always)]
fn handle(ctx: &RawTracePointContext) -> Option<()> {
    let call = Call::enter(ctx)?;
    let flags = call.arg(3)?;
    if flags & MAP_SHARED == 0 || flags & MAP_ANONYMOUS != 0 {
        return None;
    }
    let file = File::from_fd(call.arg(4)? as i32)?;
    if !file.is_writable() || !file.inode()?.is_regular() {
        return None;
    }
    judge_file(maps::scratch()?, &call.actor, file, &Request::new(Hook::Mmap as u8, Access::WRITE))?;
    Some(())
}
