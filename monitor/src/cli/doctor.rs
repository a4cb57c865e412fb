//! `flowwarden doctor`

use std::{fs, io::Write as _, path::Path, time::Instant};

use clap::Args;
use journal::stdio::Output;
use monitor::kernel::{Kernel, Program, btf::VMLINUX, census, error::first_line, security::FLAVOURS};
use monitor_common::{policy::Class, security::SecurityHook};
use policy::host::{CanDeny, cgroup_mount};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// List the kernel programs with verified instructions and load time.
    #[arg(long)]
    programs: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let uname = rustix::system::uname();
    writeln!(Output, "kernel      {} {}", uname.release().to_string_lossy(), uname.machine().to_string_lossy())?;
    writeln!(
        Output,
        "BTF         {}",
        if Path::new(VMLINUX).exists() { "yes" } else { "no: boot a kernel with CONFIG_DEBUG_INFO_BTF=y" }
    )?;
    let lsm = fs::read_to_string("/sys/kernel/security/lsm")
        .unwrap_or_else(|_| "unknown (securityfs is not mounted)".to_owned());
    writeln!(Output, "LSMs        {}", lsm.trim())?;
    let mount = cgroup_mount();
    writeln!(
        Output,
        "cgroup v2   {}",
        mount.as_ref().map_or_else(|| "not mounted".to_owned(), |path| path.display().to_string())
    )?;
    if !rustix::process::geteuid().is_root() {
        writeln!(Output, "sensors     need root: sudo flowwarden doctor")?;
        return Ok(());
    }
    let enforcing = census::take();
    if enforcing.is_empty() {
        writeln!(Output, "guard       not running, and no program enforces")?;
    }
    for found in enforcing {
        writeln!(Output, "{:<11} {found}", if found.guarded { "guard" } else { "no guard" })?;
    }
    let start = Instant::now();
    let mut kernel = Kernel::load(None)?;
    kernel.attach_security(&FLAVOURS)?;
    kernel.load_syscalls()?;
    let cgroup = mount.is_some().then(|| kernel.try_cgroup());
    if let Some(Err(error)) = &cgroup {
        writeln!(Output, "missing     cgroup: {}", first_line(&error.to_string()))?;
    }
    let cgroup = matches!(cgroup, Some(Ok(())));
    if mount.is_some()
        && let Err(error) = kernel.try_dns()
    {
        writeln!(Output, "missing     names in rules: {}", first_line(&error.to_string()))?;
    }
    if mount.is_some()
        && let Err(error) = kernel.try_volume()
    {
        writeln!(Output, "missing     max-bytes in rules: {}", first_line(&error.to_string()))?;
    }
    let took = start.elapsed().as_millis();
    if arguments.programs {
        let mut programs = kernel.programs();
        writeln!(Output, "loaded      {} programs in {took} ms", programs.len())?;
        programs.sort_unstable_by_key(|program| std::cmp::Reverse((program.verified, program.took)));
        for Program { name, verified, took } in programs {
            writeln!(Output, "program     {name:<28} {verified:>8} instructions verified {:>8} us", took.as_micros())?;
        }
    }
    let served = kernel.served();
    for (sensor, why) in &served.refused {
        writeln!(Output, "{:<11} no: {}", sensor.name(), first_line(why))?;
    }
    for sensor in served.sensors() {
        let verdicts = if sensor.can_deny() { "log, deny and kill" } else { "log and kill" };
        writeln!(Output, "{:<11} yes: verdicts {verdicts}", sensor.name())?;
    }
    writeln!(Output, "tracepoint  yes: verdicts log and kill")?;
    writeln!(
        Output,
        "cgroup      {}",
        if cgroup {
            "yes: verdicts log, deny and kill for IP traffic"
        } else {
            "no: verdicts log and kill for IP traffic"
        }
    )?;
    for degraded in kernel.degraded() {
        writeln!(Output, "missing     {}: {}", degraded.hook, first_line(&degraded.why))?;
    }
    for (hook, sensor, why) in &served.gaps {
        writeln!(Output, "missing     {} of {}: {}", sensor.name(), hook.name(), first_line(why))?;
    }
    writeln!(Output)?;
    for &(name, hook) in SecurityHook::NAMES {
        writeln!(Output, "{name:<21} {}", served.name(hook))?;
    }
    writeln!(Output)?;
    let can = CanDeny { network: cgroup, inbound: cgroup, ..kernel.can_deny() };
    let deny = |can| if can { "yes     " } else { "fallback" };
    writeln!(Output, "class         log  deny      kill")?;
    for (name, class) in Class::NAMES {
        writeln!(Output, "{name:<13} yes  {}  yes", deny(can.class(class)))?;
    }
    if !can.files {
        writeln!(Output)?;
        writeln!(
            Output,
            "Where a file access cannot be denied, the process is killed before it reads or writes, unless the open truncates."
        )?;
        writeln!(Output, "To deny, boot with `bpf` in the kernel's `lsm=` list, on a kernel with CONFIG_BPF_LSM.")?;
    }
    Ok(())
}
