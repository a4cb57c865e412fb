//! The kernel object: embedded, fitted to the running kernel, and loaded.

use std::path::Path;

use aya::{Ebpf, EbpfLoader, programs::RawTracePoint};
use monitor_common::{
    offsets::{Abi, Offsets},
    security::Signatures,
};

use super::{
    abi,
    btf::{self, Btf},
    error::{KernelError, Result},
    link::Links,
    programs::URING_TRACEPOINTS,
    rights,
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/flowwarden.bpf.o"));

/// Programs that may run on one CPU at a time, as in the `maps.rs` of the kernel programs.
const POOL_DEPTH: u32 = 4;

/// The object in the kernel: its maps, and no program yet.
pub(super) struct Opened {
    pub(super) ebpf: Ebpf,
    /// The tracepoint of `io_uring` requests.
    pub(super) uring: Option<&'static str>,
    /// Optional fields that this kernel lacks.
    pub(super) lacking: Vec<String>,
}

/// Creates the maps of the object, with its globals set for the running kernel.
pub(super) fn open() -> Result<Opened> {
    let object = present(OBJECT)?;
    rights::check()?;
    let Layout { offsets, abi, signatures, uring, lacking } = layout()?;
    let cpus = aya::util::nr_cpus().map_or(1024, |cpus| u32::try_from(cpus).unwrap_or(1024));
    let ebpf = EbpfLoader::new()
        // The programs need no relocation, and the parsed types would stay in memory.
        .btf(None)
        .override_global("FW_OFFSETS", &offsets, true)
        .override_global("FW_ABI", &abi, true)
        .override_global("FW_SIGNATURES", &signatures, true)
        .map_max_entries("HELD", cpus.saturating_mul(POOL_DEPTH))
        .map_max_entries("TASKS", max_processes())
        .load(object)
        .map_err(|error| rights::behind(&error).map_or_else(|| error.into(), KernelError::Rights))?;
    Ok(Opened { ebpf, uring, lacking })
}

/// The object, unless the build embedded none.
fn present(object: &[u8]) -> Result<&[u8]> {
    if object.is_empty() { Err(KernelError::NoObject) } else { Ok(object) }
}

/// What the BTF of the running kernel says.
struct Layout {
    offsets: Offsets,
    abi: Abi,
    signatures: Signatures,
    /// The tracepoint of `io_uring` requests.
    uring: Option<&'static str>,
    /// Optional fields that it lacks.
    lacking: Vec<String>,
}

fn layout() -> Result<Layout> {
    let btf = Btf::read(Path::new(btf::VMLINUX))?;
    let (offsets, missing) = btf.resolve();
    let (lacking, required): (Vec<_>, Vec<_>) = missing.into_iter().partition(|field| {
        OPTIONAL.contains(&field.as_str()) || OPTIONAL_STRUCTS.iter().any(|strct| field.starts_with(strct))
    });
    if !required.is_empty() {
        return Err(KernelError::Fields(required));
    }
    let abi = abi::resolve(&btf).map_err(KernelError::Fields)?;
    let uring = URING_TRACEPOINTS.into_iter().find(|tracepoint| btf.has_argument(tracepoint, "io_kiocb"));
    Ok(Layout { offsets, abi, signatures: btf.signatures(), uring, lacking })
}

/// Most processes of this machine, so that each process of an instance has an entry.
fn max_processes() -> u32 {
    let limit = |name| {
        let text = std::fs::read_to_string(format!("/proc/sys/kernel/{name}")).ok()?;
        text.trim().parse::<u32>().ok()
    };
    let max = limit("pid_max").into_iter().chain(limit("threads-max")).min();
    // An administrator may raise both later.
    max.map_or(MIN_PROCESSES, |max| max.clamp(MIN_PROCESSES, PID_MAX_LIMIT))
}

/// As in the `maps.rs` of the kernel programs.
const MIN_PROCESSES: u32 = 32_768;
/// `PID_MAX_LIMIT` of include/linux/threads.h.
const PID_MAX_LIMIT: u32 = 4 * 1024 * 1024;

/// Fields that the guard can do without; absent by architecture or configuration.
const OPTIONAL: &[&str] = &["task_struct.loginuid", "task_struct.thread_info.status", "task_struct.thread_info.flags"];

/// Structs whose fields are all optional: `io_uring` is younger than the oldest supported kernel.
const OPTIONAL_STRUCTS: &[&str] = &[
    "io_kiocb.",
    "io_open.",
    "io_unlink.",
    "io_rename.",
    "io_link.",
    "io_mkdir.",
    "io_xattr.",
    "io_connect.",
    "unix_sock.",
];

/// Loads a program that is attached later or reached by tail call.
pub(super) fn load(ebpf: &mut Ebpf, links: &mut Links, name: &'static str) -> Result<()> {
    let program = ebpf.program_mut(name).ok_or(KernelError::Absent(name))?;
    links.load(program, name, None).map_err(|source| KernelError::Program { name, source })
}

pub(super) fn raw_tracepoint<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut RawTracePoint> {
    let program = ebpf.program_mut(name).ok_or(KernelError::Absent(name))?;
    program.try_into().map_err(|source| KernelError::Program { name, source })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use monitor_common::hooks::{HOOKS, HookSpec};
    use object::{Object as _, ObjectSection as _, ObjectSymbol as _};

    use super::*;
    use crate::kernel::programs;

    #[test]
    fn a_guard_without_kernel_programs_names_the_command_that_builds_them() {
        let error = present(&[]).map(<[u8]>::len).unwrap_err();
        assert!(matches!(error, KernelError::NoObject), "{error}");
        assert!(error.to_string().contains("`cargo xtask build`"), "{error}");
    }

    #[test]
    fn an_object_that_the_build_names_is_embedded() {
        assert!(option_env!("FLOWWARDEN_BPF_OBJECT").is_none() || present(OBJECT).is_ok());
    }

    /// Programs of the object: functions with a name, in a section of their own and not in that of subprograms.
    fn programs_of(object: &[u8]) -> BTreeSet<String> {
        let file = object::File::parse(object).unwrap();
        let is_program = |symbol: &object::Symbol<'_, '_>| {
            let section = symbol.section_index().and_then(|index| file.section_by_index(index).ok());
            symbol.is_global()
                && section.is_some_and(|it| it.kind() == object::SectionKind::Text && it.name() != Ok(".text"))
        };
        file.symbols().filter(is_program).map(|symbol| symbol.name().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_object_has_the_programs_that_the_guard_loads_and_no_others() {
        let Ok(object) = present(OBJECT) else { return };
        let hooks = HOOKS.iter().flat_map(HookSpec::programs);
        let known: BTreeSet<_> = hooks.chain(programs::all()).map(str::to_owned).collect();
        let found = programs_of(object);
        assert_eq!(found.difference(&known).collect::<Vec<_>>(), Vec::<&String>::new(), "never loaded");
        assert_eq!(known.difference(&found).collect::<Vec<_>>(), Vec::<&String>::new(), "not in the object");
    }

    #[test]
    fn global_functions_and_variables_of_the_object_have_the_prefix() {
        let Ok(object) = present(OBJECT) else { return };
        let file = object::File::parse(object).unwrap();
        let is_ours = |symbol: &object::Symbol<'_, '_>| {
            let section = symbol.section_index().and_then(|index| file.section_by_index(index).ok());
            let name = section.as_ref().and_then(|it| it.name().ok()).unwrap_or_default();
            symbol.is_global() && (name == ".text" || name.starts_with(".rodata"))
        };
        let names = file.symbols().filter(is_ours).map(|symbol| symbol.name().unwrap().to_lowercase());
        let (prefixed, bare): (BTreeSet<_>, BTreeSet<_>) = names.partition(|name| name.starts_with("fw_"));
        // The compiler brings functions on memory by their C names.
        let ours = |name: &&String| !matches!(name.as_str(), "memcpy" | "memset" | "memmove" | "memcmp");
        assert_eq!(bare.iter().filter(ours).collect::<Vec<_>>(), Vec::<&String>::new());
        assert!(prefixed.contains("fw_step") && prefixed.contains("fw_offsets"), "{prefixed:?}");
    }
}
