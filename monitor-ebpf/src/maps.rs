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

use crate::facts::path::NAMES_BUFFER;

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

/// Scratch memory of a running program, which is too large for the stack of 512 bytes.
///
/// Values that one function needs are arguments and results. Fields carry what cannot be one: large values, values between
/// programs of a tail call, and values for [global functions](crate::global), whose arguments are numbers only.
#[repr(C)]
pub(crate) struct Scratch {
    /// The record; its tail follows directly.
    pub(crate) event: Event,
    /// Path and text of the record, with space for one more name past the end.
    pub(crate) tail: [u8; NAMES_BUFFER],
    /// Dentries from a file up to the root of its file system.
    pub(crate) dentries: [u64; MAX_CLIMB],
    /// A verdict by name and the paths that it is about.
    pub(crate) pending: Pending,
    /// From the program that finds the start of a path to the one that walks along it.
    pub(crate) walk: Walk,
    /// Input and result of the decision.
    pub(crate) work: Work,
    /// Protected files that a system call has changed.
    pub(crate) changed: Changed,
    /// Length of the path in `tail`, in bytes.
    pub(crate) path_len: Opaque<u32>,
    /// A value that [`Scratch::opaque`] passes through memory, and the result of `inode::judge_moved` for the same reason.
    pub(crate) value: Opaque<u32>,
    /// cgroups of a task.
    pub(crate) cgroups: [u64; MAX_CGROUP_DEPTH],
    /// A name.
    pub(crate) name: Name,
    /// Matcher of the program's arguments.
    pub(crate) argv: ArgvMatcher,
    /// Dentry and `struct mount` for a global function. Also makes numbers of a security hook's arguments, which are
    /// pointers to the verifier until they were in memory.
    location: [Opaque<u64>; 2],
    /// Address of the `struct inode` that overlayfs reads and writes, where the judged path is that of another; else 0.
    pub(crate) overlay_inode: Opaque<u64>,
    /// Iteration over the other hard links of a file.
    pub(crate) links: Links,
    /// Index of this memory in [`POOL`]. Global functions find it by that.
    pub(crate) buffer: Opaque<u32>,
}

/// State of a path walk across the tail call from the program that prepares it.
#[repr(C)]
pub(crate) struct Walk {
    /// Dentry and `struct mount` of the directory that the path starts at; zero when there is nothing to walk.
    pub(crate) start: (u64, u64),
    /// Index of the path, 0 or 1.
    pub(crate) which: Opaque<u32>,
    /// Opcode, open flags and access of an `io_uring` request that names a path.
    pub(crate) request: [u32; 3],
}

/// Protected files that a system call has changed. In memory, because the loop that finds them would multiply the states.
#[repr(C)]
pub(crate) struct Changed {
    /// The node with the strongest rule; 0 for none.
    pub(crate) node: Opaque<u32>,
    /// Rules that restore the files.
    pub(crate) healing: [Opaque<u16>; 2],
}

/// Iteration over the other hard links of a file, one per call of a global function.
#[repr(C)]
pub(crate) struct Links {
    /// Address of the `struct inode`; 0 for no iteration.
    pub(crate) inode: Opaque<u64>,
    /// Dentry and `struct mount` by which the file was reached.
    pub(crate) reached: [Opaque<u64>; 2],
    /// The next element of the inode's list of dentries.
    pub(crate) next: Opaque<u64>,
}

impl Scratch {
    /// Stores a dentry and a `struct mount` for a global function.
    #[inline(always)]
    pub(crate) fn set_location(&mut self, (dentry, mount): (u64, u64)) {
        self.location[0].set(dentry);
        self.location[1].set(mount);
    }

    /// The dentry and the `struct mount` of [`Scratch::set_location`].
    #[inline(always)]
    pub(crate) fn location(&self) -> (u64, u64) {
        (self.location[0].get(), self.location[1].get())
    }

    /// Makes a value opaque to the verifier, see [`Opaque`].
    #[inline(always)]
    pub(crate) fn opaque(&mut self, value: u32) -> u32 {
        self.value.set(value);
        self.value.get()
    }
}

/// Programs that may run on one CPU at a time where programs can be preempted.
const POOL_DEPTH: u32 = 4;

/// Index of the scratch memory of tracepoint programs. They run with preemption off and do not nest on a CPU, so that one
/// per CPU is enough. It survives a tail call.
const TRACEPOINT_BUFFER: u32 = POOL_DEPTH;

/// Index of the scratch memory of programs on incoming packets. These run in softirqs, one after the other on a CPU, and
/// interrupt any other program.
const SOFTIRQ_BUFFER: u32 = POOL_DEPTH + 1;

/// Scratch memory, by index.
#[map]
static POOL: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(POOL_DEPTH + 2, 0);

/// The scratch memory of this CPU's tracepoint programs.
#[inline(always)]
pub(crate) fn scratch() -> Option<&'static mut Scratch> {
    enter(TRACEPOINT_BUFFER)
}

/// The scratch memory of this CPU's programs on incoming packets.
#[inline(always)]
pub(crate) fn answers() -> Option<&'static mut Scratch> {
    enter(SOFTIRQ_BUFFER)
}

/// The scratch memory with an index, for the running program that it belongs to, see [`Scratch::buffer`].
#[inline(always)]
pub(crate) fn buffer(index: u32) -> Option<&'static mut Scratch> {
    // SAFETY: the value of a per-CPU array lives as long as the map; a program stays on its CPU, and only the program
    // that the memory was given to uses it.
    POOL.get_ptr_mut(index).map(|scratch| unsafe { &mut *scratch })
}

#[inline(always)]
fn enter(index: u32) -> Option<&'static mut Scratch> {
    let scratch = buffer(index)?;
    scratch.buffer.set(index);
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

/// Messages under way: in softirqs only, see [`SOFTIRQ_BUFFER`]. One entry.
#[map]
static MESSAGE: PerCpuArray<Message> = PerCpuArray::with_max_entries(1, 0);

/// The message under way on this CPU.
#[inline(always)]
pub(crate) fn message() -> Option<&'static mut Message> {
    // SAFETY: as in `buffer`; only answers use it.
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
