//! `flowwarden doctor`

use std::{fs, path::Path, time::Instant};

use clap::Args;
use monitor::{
    kernel::{
        btf::VMLINUX,
        load::{Kernel, Loaded},
        security::FLAVOURS,
    },
    policy::host::{CanDeny, cgroup_mount},
};
use monitor_common::{policy::Class, security::SecurityHook};

#[derive(Args, Debug)]
pub(super) struct Arguments {
    /// List the programs too, and how much work each is for the kernel's verifier.
    #[arg(long)]
    programs: bool,
}

pub(super) fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let uname = rustix::system::uname();
    println!("kernel      {} {}", uname.release().to_string_lossy(), uname.machine().to_string_lossy());
    println!(
        "BTF         {}",
        if Path::new(VMLINUX).exists() { "yes" } else { "no: boot a kernel with CONFIG_DEBUG_INFO_BTF=y" }
    );
    let lsm = fs::read_to_string("/sys/kernel/security/lsm")
        .unwrap_or_else(|_| "unknown (securityfs is not mounted)".to_owned());
    println!("LSMs        {}", lsm.trim());
    let mount = cgroup_mount();
    println!(
        "cgroup v2   {}",
        mount.as_ref().map_or_else(|| "not mounted".to_owned(), |path| path.display().to_string())
    );
    if !rustix::process::geteuid().is_root() {
        println!("sensors     only root can try them: sudo flowwarden doctor");
        return Ok(());
    }
    let start = Instant::now();
    let mut kernel = match Kernel::load(None) {
        Ok(kernel) => kernel,
        Err(error) => {
            println!("sensors     none: {}", short(&error.to_string()));
            return Err(error.into());
        }
    };
    kernel.attach_security(&FLAVOURS)?;
    kernel.load_syscalls()?;
    let cgroup = mount.is_some()
        && kernel.try_cgroup().map_err(|error| println!("missing     cgroup: {}", short(&error.to_string()))).is_ok();
    if mount.is_some()
        && let Err(error) = kernel.try_dns()
    {
        println!("missing     names in rules: {}", short(&error.to_string()));
    }
    if mount.is_some()
        && let Err(error) = kernel.try_volume()
    {
        println!("missing     max-bytes in rules: {}", short(&error.to_string()));
    }
    let took = start.elapsed().as_millis();
    if arguments.programs {
        let mut programs = kernel.programs();
        println!("loaded      {} programs in {took} ms", programs.len());
        programs.sort_unstable_by_key(|program| std::cmp::Reverse((program.walked, program.took)));
        for Loaded { name, walked, took } in programs {
            println!("program     {name:<28} {walked:>8} instructions verified {:>8} us", took.as_micros());
        }
    }
    let served = kernel.served();
    for (sensor, why) in &served.refused {
        println!("{:<11} no: {}", sensor.name(), short(why));
    }
    for sensor in served.sensors() {
        let verdicts = if sensor.can_deny() { "log, deny and kill" } else { "log and kill" };
        println!("{:<11} yes: verdicts {verdicts}", sensor.name());
    }
    println!("tracepoint  yes: verdicts log and kill");
    println!(
        "cgroup      {}",
        if cgroup {
            "yes: Internet traffic is seen; verdicts log, deny and kill"
        } else {
            "no: traffic is only seen; verdicts log and kill"
        }
    );
    for degraded in kernel.degraded() {
        println!("missing     {}: {}", degraded.hook, short(&degraded.why));
    }
    for (hook, sensor, why) in &served.gaps {
        println!("missing     {} of {}: {}", sensor.name(), hook.name(), short(why));
    }
    println!();
    for &(name, hook) in SecurityHook::NAMES {
        println!("{name:<21} {}", served.name(hook));
    }
    println!();
    let can = CanDeny { network: cgroup, inbound: cgroup, ..kernel.can_deny() };
    let deny = |can| if can { "yes     " } else { "fallback" };
    println!("class       log  deny      kill");
    for (name, class) in Class::NAMES {
        println!("{name:<11} yes  {}  yes", deny(can.class(class)));
    }
    if !can.files {
        println!();
        println!("A file access is not denied but killed before it does harm where the open does not truncate.");
        println!("To deny, boot with `bpf` in the kernel's `lsm=` list, on a kernel with CONFIG_BPF_LSM.");
    }
    Ok(())
}

fn short(text: &str) -> &str {
    text
}
