//! UNIX sockets, by the file that they are bound to. Internet sockets are the cgroup programs'.

use monitor_common::{Access, Verdict, event::Hook};

use super::{Args, security_hook};
use crate::{
    facts::{actor::Actor, file::path_at, offset, pointer},
    hooks::{Request, judge_place, socket::AF_UNIX},
    maps::Scratch,
};

security_hook!(
    UnixStreamConnect,
    "unix_stream_connect",
    "security_unix_stream_connect",
    lsm_unix_stream_connect,
    fentry_unix_stream_connect,
    kprobe_unix_stream_connect,
    connect
);
security_hook!(
    UnixMaySend,
    "unix_may_send",
    "security_unix_may_send",
    lsm_unix_may_send,
    fentry_unix_may_send,
    kprobe_unix_may_send,
    send
);

#[inline(always)]
fn connect<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    judge(actor, scratch, args.arg(1))
}

#[inline(always)]
fn send<A: Args>(args: &A, actor: &Actor, scratch: &mut Scratch) -> Option<Verdict> {
    judge(actor, scratch, pointer(args.arg(1), offset!(socket_sk))?)
}

/// Judges access to the socket of the other side; one without a file is nobody's business here.
#[inline(always)]
fn judge(actor: &Actor, scratch: &mut Scratch, other: u64) -> Option<Verdict> {
    let (dentry, mount) = path_at(other + u64::from(offset!(unix_path)))?;
    let request = Request { family: AF_UNIX, ..Request::new(Hook::UnixConnect as u8, Access::WRITE) };
    Some(judge_place(scratch, actor, dentry, mount, &request))
}
