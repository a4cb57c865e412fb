//! Every map in one place.

use aya_ebpf::{
    helpers::generated::bpf_get_smp_processor_id,
    macros::map,
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
};
use monitor_common::{
    decide::{MAX_CLIMB, Work},
    dns::{Bound, BoundKey, Kind, Message, NameKey, NameRulesKey, Noted, QueryKey, Rate, ResolverKey, Stream},
    event::{Counters, Event, Pending, WriteKey, WriteTotals},
    hooks::SecurityHook,
    inbound::{Owner, PeerKey, PeerTold},
    name::Name,
    opaque::Opaque,
    policy::{
        ChildKey, Control, Identity, InodeKey, Instance, MAX_INSTANCES, MAX_WATCHES, Maintenance, NetKey, NetRules,
        Node, NodeKey, Pattern, PatternKey, Watch,
    },
    scope::{ArgvMatcher, MAX_CGROUP_DEPTH, MAX_SELECTORS, Selector, TaskLabel},
    security::Judged,
    syscall::{HANDLERS_HALF, Syscall, TABLE_LEN},
    volume::{Limit, LimitKey, MAX_LIMITS, PassedKey, Volume, VolumeKey},
};

use crate::facts::path::NAMES_ROOM;

/// Processes in scope, by tgid. The loader makes it as large as there can be processes.
#[map]
pub(crate) static TASKS: HashMap<u32, TaskLabel> = HashMap::with_max_entries(32_768, 0);

/// The current epoch. One entry.
#[map]
pub(crate) static CONTROL: Array<Control> = Array::with_max_entries(1, 0);

/// Instances; the lower half for even epochs, the upper half for odd ones.
#[map]
pub(crate) static INSTANCES: Array<Instance> = Array::with_max_entries(2 * MAX_INSTANCES as u32, 0);

/// Until when maintenance windows are open, by [`Maintenance::place`]. Not bound to an epoch: a window outlives a reload.
#[map]
pub(crate) static WINDOWS: Array<u64> = Array::with_max_entries(MAX_INSTANCES as u32 * Maintenance::PLACES as u32, 0);

/// Selectors, halved like [`INSTANCES`].
#[map]
pub(crate) static SELECTORS: Array<Selector> = Array::with_max_entries(2 * MAX_SELECTORS as u32, 0);

/// Nodes by identity.
#[map]
pub(crate) static INODES: HashMap<InodeKey, u32> = HashMap::with_max_entries(65_536, 1);

/// Nodes by identity, of files that took a name which a rule names after userspace had looked: [`InodeKey::note`] is in the
/// place of the instance. Only files that may have other names are noted.
#[map]
pub(crate) static NOTES: HashMap<InodeKey, u32> = HashMap::with_max_entries(4_096, 0);

/// By slot, the epoch in which a file of the instance could not be noted.
#[map]
pub(crate) static UNNOTED: Array<u32> = Array::with_max_entries(MAX_INSTANCES as u32, 0);

/// When a file was last about to take a name in a directory that rules know, `CLOCK_BOOTTIME` in nanoseconds. One entry.
#[map]
pub(crate) static NAMED: Array<u64> = Array::with_max_entries(1, 0);

/// Nodes by name.
#[map]
pub(crate) static CHILDREN: HashMap<ChildKey, u32> = HashMap::with_max_entries(65_536, 1);

/// Rules of nodes.
#[map]
pub(crate) static NODES: HashMap<NodeKey, Node> = HashMap::with_max_entries(65_536, 1);

/// Name patterns.
#[map]
pub(crate) static PATTERNS: LpmTrie<PatternKey, Pattern> = LpmTrie::with_max_entries(16_384, 1);

/// Addresses.
#[map]
pub(crate) static NETS: LpmTrie<NetKey, NetRules> = LpmTrie::with_max_entries(65_536, 1);

/// System calls by number; the upper half for 32-bit callers.
#[map]
pub(crate) static SYSCALLS: Array<Syscall> = Array::with_max_entries(TABLE_LEN, 0);

/// Programs for system calls: the lower half at entry, the upper half at exit, each by [`monitor_common::syscall::Handler`].
#[map]
pub(crate) static HANDLERS: ProgramArray = ProgramArray::with_max_entries(2 * HANDLERS_HALF, 0);

/// Records on their way to userspace.
#[map]
pub(crate) static EVENTS: RingBuf = RingBuf::with_byte_size(2 * 1024 * 1024, 0);

/// What became of the records. One entry.
#[map]
pub(crate) static COUNTERS: PerCpuArray<Counters> = PerCpuArray::with_max_entries(1, 0);

/// Number of lost records that userspace has reported; kept for a takeover. One entry.
#[map]
static TOLD: Array<u64> = Array::with_max_entries(1, 0);

/// Totals of open files whose first write was recorded.
#[map]
pub(crate) static WRITES: LruHashMap<WriteKey, WriteTotals> = LruHashMap::with_max_entries(8_192, 0);

/// Verdicts by name between entry and exit, by thread.
#[map]
pub(crate) static PENDING: LruHashMap<u64, Pending> = LruHashMap::with_max_entries(2_048, 0);

/// Answer of the `identify` program. One entry.
#[map]
pub(crate) static IDENTITY: Array<Identity> = Array::with_max_entries(1, 0);

/// Protected paths whose state is looked at, halved like [`INSTANCES`].
#[map]
pub(crate) static WATCHES: Array<Watch> = Array::with_max_entries(2 * MAX_WATCHES as u32, 0);

/// Open files that were judged, by the address of their `struct file`.
#[map]
pub(crate) static JUDGED: LruHashMap<u64, Judged> = LruHashMap::with_max_entries(16_384, 0);

/// 1 for each [`SecurityHook`] that the guard's own operations have reached.
#[map]
pub(crate) static PROOFS: Array<u32> = Array::with_max_entries(SecurityHook::COUNT as u32, 0);

/// Working memory of one hook: too big for the stack of 512 bytes.
#[repr(C)]
pub(crate) struct Scratch {
    /// The record; its tail follows directly.
    pub(crate) event: Event,
    /// Path and text of the record, with room for one more name past the end.
    pub(crate) tail: [u8; NAMES_ROOM],
    /// Dentries climbed from a file.
    pub(crate) dentries: [u64; MAX_CLIMB],
    /// A verdict by name and the paths that it is about.
    pub(crate) pending: Pending,
    /// Dentry and `struct mount` of the directory that the path in work starts at; zero when there is nothing to walk.
    pub(crate) start: (u64, u64),
    /// Which of the paths is in work, 0 or 1.
    pub(crate) which: Opaque<u32>,
    /// An `io_uring` request that names a path: opcode, open flags, access.
    pub(crate) request: [u32; 3],
    /// For the decision.
    pub(crate) work: Work,
    /// The node of a protected path that has changed, and rules that heal what has.
    pub(crate) node: Opaque<u32>,
    pub(crate) healing: [Opaque<u16>; 2],
    /// Bytes of path so far.
    pub(crate) len: Opaque<u32>,
    /// A value on its way through memory, see [`Scratch::launder`].
    pub(crate) value: Opaque<u32>,
    /// cgroups of a task.
    pub(crate) cgroups: [u64; MAX_CGROUP_DEPTH],
    /// A name.
    pub(crate) name: Name,
    /// For the program's arguments.
    pub(crate) argv: ArgvMatcher,
    /// Dentry and `struct mount` for a function that is verified apart: such a function takes numbers only, and the
    /// arguments of a security hook are pointers to the verifier until they have been in memory.
    pub(crate) spot: [Opaque<u64>; 2],
    /// Address of the `struct inode` that is read and written, where the path in work is another's; 0 otherwise.
    pub(crate) below: Opaque<u64>,
    /// Address of the `struct inode` whose other names are looked at, the dentry and `struct mount` that it was reached by, and
    /// the place in its list of names.
    pub(crate) inode: Opaque<u64>,
    pub(crate) reached: [Opaque<u64>; 2],
    pub(crate) alias: Opaque<u64>,
    /// The number under which functions that are verified apart find this memory.
    pub(crate) room: Opaque<u32>,
}

impl Scratch {
    /// Puts a dentry and a `struct mount` where functions that are verified apart find them.
    #[inline(always)]
    pub(crate) fn set_spot(&mut self, (dentry, mount): (u64, u64)) {
        self.spot[0].set(dentry);
        self.spot[1].set(mount);
    }

    /// What [`Scratch::set_spot`] put there.
    #[inline(always)]
    pub(crate) fn spot(&self) -> (u64, u64) {
        (self.spot[0].get(), self.spot[1].get())
    }

    /// Passes a value through memory, so that the verifier forgets on which way it came to be.
    #[inline(always)]
    pub(crate) fn launder(&mut self, value: u32) -> u32 {
        self.value.set(value);
        self.value.get()
    }
}

/// How many programs that can be preempted may be under way on one CPU: another task may come in the middle of one and
/// run the same there.
const POOL_DEPTH: u32 = 4;

/// The room of programs on tracepoints: they run with preemption off and never inside one another on a CPU, so one per
/// CPU is enough, and it stays theirs across a tail call.
const OWN: u32 = POOL_DEPTH;

/// The room of answers on their way to a socket: they come in softirqs, one after the other on a CPU, and in the middle
/// of anything else.
const ANSWERS: u32 = POOL_DEPTH + 1;

/// Rooms to work in.
#[map]
static POOL: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(POOL_DEPTH + 2, 0);

/// The scratch memory of this CPU's tracepoint programs.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    enter(OWN)
}

/// The scratch memory of this CPU's answers.
#[inline(always)]
pub(crate) fn answers() -> Option<&'static mut Scratch> {
    enter(ANSWERS)
}

/// The scratch memory of a program that is under way on this CPU, see [`Scratch::room`].
#[inline(always)]
pub(crate) fn room(room: u32) -> Option<&'static mut Scratch> {
    // SAFETY: the value of a per-CPU array lives as long as the map; programs do not change the CPU on their way, and
    // nothing but the program that was given the room uses it meanwhile.
    POOL.get_ptr_mut(room).map(|scratch| unsafe { &mut *scratch })
}

#[inline(always)]
fn enter(number: u32) -> Option<&'static mut Scratch> {
    let scratch = room(number)?;
    scratch.room.set(number);
    Some(scratch)
}

/// Which memory of [`POOL`] is in use, by CPU * [`POOL_DEPTH`] + index. An insertion that fails when the entry is there
/// is a lock that all kernels have; 5.10 has no atomic exchange. The loader makes it as large as there are CPUs.
#[map]
static HELD: HashMap<u32, u32> = HashMap::with_max_entries(POOL_DEPTH, 0);

/// `BPF_NOEXIST`
pub(crate) const NOEXIST: u64 = 1;

/// Scratch memory that is given back when this goes away.
pub(crate) struct Held {
    pub(crate) scratch: &'static mut Scratch,
    key: u32,
}

/// Takes scratch memory; `None` when everything is in use.
#[inline(always)]
pub(crate) fn hold() -> Option<Held> {
    // SAFETY: no arguments.
    let first = unsafe { bpf_get_smp_processor_id() } * POOL_DEPTH;
    let mut index = 0;
    while index < POOL_DEPTH {
        if HELD.insert(first + index, 1, NOEXIST).is_ok() {
            break;
        }
        index += 1;
    }
    // One that is not the pool's is not to be given out.
    if index >= POOL_DEPTH {
        return None;
    }
    Some(Held { scratch: enter(index)?, key: first + index })
}

impl Drop for Held {
    #[inline(always)]
    fn drop(&mut self) {
        let _ = HELD.remove(self.key);
    }
}

/// What the policy calls names: those of a rule, and the first letters of those below one.
#[map]
pub(crate) static NAMES: LpmTrie<NameKey, u64> = LpmTrie::with_max_entries(16_384, 1);

/// Rules of names.
#[map]
pub(crate) static NAME_RULES: HashMap<NameRulesKey, NetRules> = HashMap::with_max_entries(16_384, 1);

/// Resolvers whose answers count.
#[map]
pub(crate) static RESOLVERS: HashMap<ResolverKey, u32> = HashMap::with_max_entries(4_096, 1);

/// Addresses and the names that gave them. Not bound to an epoch: names outlive a reload.
#[map]
pub(crate) static BOUND: LruHashMap<BoundKey, Bound> = LruHashMap::with_max_entries(16_384, 0);

/// Sockets that talk to resolvers, by cookie.
#[map]
pub(crate) static SOCKETS: LruHashMap<u64, Noted> = LruHashMap::with_max_entries(16_384, 0);

/// Questions that were asked over UDP, and when.
#[map]
pub(crate) static QUERIES: LruHashMap<QueryKey, u64> = LruHashMap::with_max_entries(16_384, 0);

/// Rates of reported questions and answers, by the instance's slot * [`Kind::COUNT`] + [`Kind`].
#[map]
pub(crate) static DNS_RATES: Array<Rate> = Array::with_max_entries(Kind::COUNT * MAX_INSTANCES as u32, 0);

/// Connections to resolvers, by the socket's cookie.
#[map]
pub(crate) static STREAMS: LruHashMap<u64, Stream> = LruHashMap::with_max_entries(128, 0);

/// A stream that begins, and is too big for the stack. One entry.
#[map]
static NEW_STREAM: PerCpuArray<Stream> = PerCpuArray::with_max_entries(1, 0);

/// Messages under way: in softirqs only, see [`ANSWERS`]. One entry.
#[map]
static MESSAGE: PerCpuArray<Message> = PerCpuArray::with_max_entries(1, 0);

/// The message under way on this CPU.
#[inline(always)]
pub(crate) fn message() -> Option<&'static mut Message> {
    // SAFETY: as in `room`; only answers use it.
    MESSAGE.get_ptr_mut(0).map(|message| unsafe { &mut *message })
}

/// A stream of which nothing has come.
#[inline(always)]
pub(crate) fn new_stream(next: u32) -> Option<&'static mut Stream> {
    // SAFETY: as in `message`.
    let stream = NEW_STREAM.get_ptr_mut(0).map(|stream| unsafe { &mut *stream })?;
    (stream.next, stream.have) = (next, 0);
    Some(stream)
}

/// Sockets of instances that others may send to, by cookie.
#[map]
pub(crate) static OWNERS: LruHashMap<u64, Owner> = LruHashMap::with_max_entries(8_192, 0);

/// Peers that were reported.
#[map]
pub(crate) static PEERS: LruHashMap<PeerKey, PeerTold> = LruHashMap::with_max_entries(4_096, 0);

/// Bounds that rules set to what leaves.
#[map]
pub(crate) static LIMITS: HashMap<LimitKey, Limit> = HashMap::with_max_entries(2 * MAX_LIMITS as u32, 1);

/// Sockets that instances send from, by cookie.
#[map]
pub(crate) static SENDERS: LruHashMap<u64, Owner> = LruHashMap::with_max_entries(16_384, 0);

/// What has left for each address under a bound. Not bound to an epoch: it is counted on across a reload.
#[map]
pub(crate) static VOLUMES: LruHashMap<VolumeKey, Volume> = LruHashMap::with_max_entries(16_384, 0);

/// Exceeded bounds that were reported.
#[map]
pub(crate) static PASSED: LruHashMap<PassedKey, u32> = LruHashMap::with_max_entries(4_096, 0);
