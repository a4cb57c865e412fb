//! Requests handed to an `io_uring`: they open, write and rename with no system call of their own.
//!
//! `io_uring_submit_req(req)` runs before the request does. Writes are judged by their descriptor; what names a path
//! is judged by the kernel's own copy of the name, which the program can no longer change. The name of a UNIX socket is
//! still the program's. Of a file in the ring's own table, and of one that an earlier request of a chain is going to open,
//! it is not known which it is: such a write is judged by the strictest rule.

use aya_ebpf::{helpers::generated::bpf_probe_read_user_str, macros::raw_tracepoint, programs::RawTracePointContext};
use monitor_common::{
    Access, decide,
    event::{FLAG_DAMAGED, FLAG_IO_URING, Hook},
    offsets::MISSING,
    policy::Class,
    socket::AF_UNIX,
    syscall::Handler,
    verdict::Sensor,
};

use super::{Request, judge, judge_file, judge_name, judge_unknown, open::O_TRUNC, walk_from, walk_name};
use crate::{
    facts::{actor::Actor, call, file::File, offset, path::AT_FDCWD, pointer, read, read_user},
    maps,
    trace::trace,
};

/// Opcodes, `enum io_uring_op`.
const WRITEV: u8 = 2;
const WRITE_FIXED: u8 = 5;
const CONNECT: u8 = 16;
const FALLOCATE: u8 = 17;
const OPENAT: u8 = 18;
const WRITE: u8 = 23;
const OPENAT2: u8 = 28;
const SPLICE: u8 = 30;
const RENAMEAT: u8 = 35;
const UNLINKAT: u8 = 36;
const MKDIRAT: u8 = 37;
const SYMLINKAT: u8 = 38;
const LINKAT: u8 = 39;
const FSETXATTR: u8 = 41;
const SETXATTR: u8 = 42;
const URING_CMD: u8 = 46;
const FTRUNCATE: u8 = 55;
const WRITEV_FIXED: u8 = 61;

/// `REQ_F_FIXED_FILE`: the number is one of the ring's own table.
const FIXED_FILE: u32 = 1;
/// Where the path is in `struct sockaddr_un` (unix(7)).
const SOCKADDR_UN_PATH: u64 = 2;
/// How many bytes of it there can be, `UNIX_PATH_MAX`, and the zero behind them.
const SUN_PATH: u32 = 109;

/// `O_ACCMODE`, and flags that are the same on every architecture that we run on.
const O_ACCMODE: u32 = 3;
const O_CREAT: u32 = 0o100;
const O_EXCL: u32 = 0o200;
const O_PATH: u32 = 0o10_000_000;

/// Who hands a request in.
#[inline(always)]
fn actor() -> Option<Actor> {
    let actor = Actor::current(Sensor::Tracepoint)?;
    trace!(fw_trace_uring, actor.subject.slot.into());
    Some(Actor { flags: FLAG_IO_URING, ..actor })
}

/// A descriptor is written through, or a driver commanded.
#[raw_tracepoint(tracepoint = "io_uring_submit_req")]
fn io_uring_write(ctx: RawTracePointContext) -> i32 {
    let _ = write(&ctx);
    0
}

#[inline(always)]
fn write(ctx: &RawTracePointContext) -> Option<()> {
    call::label()?;
    let request: u64 = ctx.arg(0);
    let opcode: u8 = read(request, offset!(uring_opcode))?;
    if opcode == URING_CMD {
        let actor = actor()?;
        let decision = decide::class(&actor.subject, Class::Kernel, Access::NONE);
        judge(maps::scratch()?, &actor, Hook::UringCommand as u8, &decision, |_| ());
        return Some(());
    }
    let access = match opcode {
        WRITEV | WRITE_FIXED | WRITE | FALLOCATE | FTRUNCATE | SPLICE | WRITEV_FIXED => Access::WRITE,
        FSETXATTR => Access::ATTR,
        _ => return None,
    };
    let (actor, scratch) = (actor()?, maps::scratch()?);
    let access = Access::from_bits(scratch.opaque(u32::from(access.bits())) as u8);
    let flags: u32 = read(request, offset!(uring_flags))?;
    let file = if flags & FIXED_FILE == 0 { File::from_fd(read(request, offset!(uring_fd))?) } else { None };
    let Some(file) = file else {
        judge_unknown(scratch, &actor, Hook::IoUring as u8, access, opcode.into());
        return Some(());
    };
    if !file.inode()?.is_regular() {
        return None;
    }
    let request = Request { detail: u64::from(opcode), ..Request::new(Hook::IoUring as u8, access) };
    judge_file(scratch, &actor, file, &request)?;
    Some(())
}

/// A path is named.
#[raw_tracepoint(tracepoint = "io_uring_submit_req")]
fn io_uring_path(ctx: RawTracePointContext) -> i32 {
    let _ = path(&ctx);
    0
}

/// The other path of a rename or a link.
#[raw_tracepoint(tracepoint = "io_uring_submit_req")]
fn io_uring_path_second(ctx: RawTracePointContext) -> i32 {
    let _ = second(&ctx);
    0
}

#[inline(always)]
fn path(ctx: &RawTracePointContext) -> Option<()> {
    let request: u64 = ctx.arg(0);
    call::label()?;
    let opcode: u8 = read(request, offset!(uring_opcode))?;
    let command = request + u64::from(offset!(uring_command));
    let mut flags = 0_u32;
    let (name, dir, access) = match opcode {
        OPENAT | OPENAT2 => {
            flags = read::<u64>(command, offset!(uring_open_flags))? as u32;
            (offset!(uring_open_name), offset!(uring_open_dir), opened_for(flags)?)
        }
        UNLINKAT => (offset!(uring_unlink_name), offset!(uring_unlink_dir), Access::DELETE),
        RENAMEAT => (offset!(uring_rename_old), offset!(uring_rename_old_dir), Access::RENAME),
        LINKAT => (offset!(uring_link_old), offset!(uring_link_old_dir), Access::LINK),
        MKDIRAT => (offset!(uring_mkdir_name), offset!(uring_mkdir_dir), Access::CREATE),
        SYMLINKAT => (offset!(uring_link_new), offset!(uring_link_new_dir), Access::CREATE),
        SETXATTR => (offset!(uring_xattr_name), MISSING, Access::ATTR),
        _ => return None,
    };
    prepare(ctx, opcode, command, (name, dir), access, flags)
}

/// What an open with these flags is for; `None` where it is for no access at all.
///
/// Whether the file is there already is not known from its name: with `O_CREAT` it is judged as both, unless it must not be
/// there.
#[inline(always)]
fn opened_for(flags: u32) -> Option<Access> {
    if flags & O_PATH != 0 {
        return None;
    }
    if flags & (O_CREAT | O_EXCL) == O_CREAT | O_EXCL {
        return Some(Access::CREATE);
    }
    let mut access = match flags & O_ACCMODE {
        0 => Access::READ,
        1 => Access::WRITE,
        _ => Access::READ.union(Access::WRITE),
    };
    if flags & O_TRUNC != 0 {
        access = access.union(Access::WRITE);
    }
    if flags & O_CREAT != 0 {
        access = access.union(Access::CREATE);
    }
    Some(access)
}

/// A UNIX socket is connected.
#[raw_tracepoint(tracepoint = "io_uring_submit_req")]
fn io_uring_connect(ctx: RawTracePointContext) -> i32 {
    let _ = connect(&ctx);
    0
}

#[inline(always)]
fn connect(ctx: &RawTracePointContext) -> Option<()> {
    let request: u64 = ctx.arg(0);
    call::label()?;
    if read::<u8>(request, offset!(uring_opcode))? != CONNECT {
        return None;
    }
    let address = pointer(request + u64::from(offset!(uring_command)), offset!(uring_connect_address))?;
    if read_user::<u16>(address)? != AF_UNIX {
        return None;
    }
    let scratch = maps::scratch()?;
    scratch.walk.request = [u32::from(CONNECT), 0, u32::from(Access::WRITE.bits())];
    let [first, other] = &mut scratch.pending.texts;
    other[0] = 0;
    let from = (address + SOCKADDR_UN_PATH) as *const _;
    // SAFETY: the destination is longer than is said.
    let len = unsafe { bpf_probe_read_user_str(first.as_mut_ptr().cast(), SUN_PATH, from) };
    if len <= 1 {
        return None;
    }
    walk_from(ctx, scratch, AT_FDCWD, Handler::UringWalk)
}

#[inline(always)]
fn second(ctx: &RawTracePointContext) -> Option<()> {
    let request: u64 = ctx.arg(0);
    call::label()?;
    let opcode: u8 = read(request, offset!(uring_opcode))?;
    let command = request + u64::from(offset!(uring_command));
    let (name, dir, access) = match opcode {
        RENAMEAT => (offset!(uring_rename_new), offset!(uring_rename_new_dir), Access::RENAME.union(Access::CREATE)),
        LINKAT => (offset!(uring_link_new), offset!(uring_link_new_dir), Access::CREATE),
        _ => return None,
    };
    prepare(ctx, opcode, command, (name, dir), access, 0)
}

/// Finds where the path starts and goes on with the walk, in a program of its own.
#[inline(always)]
fn prepare(
    ctx: &RawTracePointContext,
    opcode: u8,
    command: u64,
    (name, dir): (u32, u32),
    access: Access,
    flags: u32,
) -> Option<()> {
    let scratch = maps::scratch()?;
    scratch.walk.request = [u32::from(opcode), flags, u32::from(access.bits())];
    let (name, dir) = (scratch.opaque(name), scratch.opaque(dir));
    let text = pointer(pointer(command, name)?, offset!(filename_name))?;
    let dir: i32 = if dir == MISSING { AT_FDCWD } else { read(command, dir)? };
    walk_name(ctx, scratch, text, dir, Handler::UringWalk)
}

/// Walks along the path and carries the verdict out.
#[raw_tracepoint]
fn io_uring_walk(_ctx: RawTracePointContext) -> i32 {
    let _ = walk();
    0
}

#[inline(always)]
fn walk() -> Option<()> {
    let scratch = maps::scratch()?;
    let actor = actor()?;
    let [opcode, flags, access] = scratch.walk.request;
    judge_name(scratch, &actor, Hook::IoUring as u8, Access::from_bits(access as u8), |event| {
        event.detail = u64::from(opcode);
        event.open_flags = flags;
        if flags & O_TRUNC != 0 {
            event.flags |= FLAG_DAMAGED;
        }
    });
    Some(())
}
