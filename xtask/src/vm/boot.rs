//! One virtual machine, from its start to its end.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

/// The init in the machine begins a line with this to tell how the tests ended.
const END: &str = "vm-init: exit ";
/// What QEMU may take. An emulated processor needs twenty times as long as a real one.
const LIMIT: Duration = Duration::from_mins(10);

/// Boots a kernel with an initramfs until it says how its tests ended; its output goes to `log`, and comes back when they
/// have passed.
pub(crate) fn boot(kernel: &Path, initramfs: &Path, parameters: &str, log: &Path) -> Result<String> {
    let mut qemu = Command::new("qemu-system-x86_64");
    // An interrupt right after an emulated `cmpxchg16b` finds the flags overwritten, and the kernel dies at once or, one
    // boot in many, somewhere else. Without the instruction kernels take another way.
    qemu.args(["-M", "q35,hpet=off", "-cpu", "max,cx16=off", "-accel", "tcg,thread=multi", "-m", "1024", "-smp", "1"])
        .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .arg("-append")
        .arg(format!("console=ttyS0 quiet panic=-1 mitigations=off {parameters}"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    let mut machine = Machine(qemu.spawn().context("QEMU cannot be started: type `cargo xtask setup --vm`")?);
    let output = machine.0.stdout.take().context("QEMU has no output")?;
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if sender.send(String::from_utf8_lossy(&line).trim_end().to_owned()).is_err() {
                break;
            }
        }
    });
    let start = Instant::now();
    let mut text = String::new();
    let code = loop {
        let left = LIMIT.saturating_sub(start.elapsed());
        match lines.recv_timeout(left) {
            Ok(line) => {
                if let Some(code) = line.strip_prefix(END) {
                    break Some(code.to_owned());
                }
                text.push_str(&line);
                text.push('\n');
            }
            Err(_) => break None,
        }
    };
    fs::write(log, &text).with_context(|| format!("{} cannot be written", log.display()))?;
    let took = start.elapsed().as_secs();
    match code.as_deref() {
        Some("0") => Ok(text),
        Some(code) => bail!("the tests failed ({code}):\n{text}"),
        None => bail!("no answer after {took} s; what it said is in {}", log.display()),
    }
}

/// A running QEMU, which ends with this.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
