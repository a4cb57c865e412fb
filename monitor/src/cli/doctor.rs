//! `flowwarden doctor`

use std::{fs, path::Path};

use clap::Args;
use monitor::{
    kernel::{btf::VMLINUX, load::Kernel},
    policy::host::cgroup_mount,
};

#[derive(Args, Debug)]
pub(super) struct Arguments {}

pub(super) fn run(_: &Arguments) -> anyhow::Result<()> {
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
    let mut kernel = match Kernel::load() {
        Ok(kernel) => kernel,
        Err(error) => {
            println!("sensors     none: {}", short(&error.to_string()));
            return Err(error.into());
        }
    };
    let cgroup = mount.is_some()
        && kernel.try_cgroup().map_err(|error| println!("missing     cgroup: {}", short(&error.to_string()))).is_ok();
    println!("tracepoint  yes: files, programs, processes are seen; verdicts log and kill");
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
    println!();
    println!("class       log  deny      kill");
    println!("files       yes  fallback  yes");
    println!("exec        yes  fallback  yes");
    println!("egress      yes  {}  yes", if cgroup { "yes     " } else { "fallback" });
    println!("ingress     yes  fallback  yes");
    println!();
    println!(
        "A file access is not denied but killed before it does harm where the open does not truncate. This release has no"
    );
    println!("LSM sensor yet; with one, `lsm=...,bpf` on the boot line is what raises files and exec to deny.");
    Ok(())
}

fn short(text: &str) -> &str {
    text.split(" Verifier output").next().unwrap_or(text)
}
