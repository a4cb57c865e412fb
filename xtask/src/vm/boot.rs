//! One virtual machine, from its start to its end.

use std::{
    fmt::Write as _,
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::kernels::Kernel;

/// The init in the machine begins a line with this to tell how the tests ended.
const END: &str = "vm-init: exit ";
/// What QEMU may take. An emulated processor needs twenty times as long as a real one.
const LIMIT: Duration = Duration::from_mins(15);

/// A machine to be booted.
pub(super) struct Machine<'a> {
    pub(super) kernel: &'a Kernel,
    /// The kernel's image.
    pub(super) image: &'a Path,
    pub(super) initramfs: &'a Path,
    /// The image of a disk. What is written to it is forgotten.
    pub(super) disk: Option<&'a Path>,
    /// More for the kernel's command line.
    pub(super) parameters: &'a str,
}

impl Machine<'_> {
    fn start(&self) -> Result<Running> {
        let architecture = self.kernel.architecture;
        let (board, processor) = architecture.board();
        // A machine ends with the process that booted it, also if that is killed.
        let mut qemu = Command::new("setpriv");
        qemu.args(["--pdeathsig", "KILL", architecture.emulator()]);
        qemu.args(["-M", board, "-cpu", self.kernel.processor.unwrap_or(processor), "-accel", "tcg,thread=multi"])
            .args(["-m", if self.disk.is_some() { "1536" } else { "1024" }, "-smp", "1"])
            .args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"])
            .arg("-kernel")
            .arg(self.image)
            .arg("-initrd")
            .arg(self.initramfs)
            .arg("-append")
            // An emulated processor stands still for half a minute while the kernel gathers huge pages.
            .arg(format!(
                "console={} quiet panic=-1 mitigations=off transparent_hugepage=never {} {}",
                architecture.console(),
                architecture.parameters(),
                self.parameters
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(disk) = self.disk {
            qemu.arg("-drive").arg(format!("file={},if=none,id=disk,format=raw,snapshot=on", disk.display()));
            qemu.args(["-device", "virtio-blk-pci,drive=disk"]);
        }
        qemu.spawn().map(Running).context("QEMU cannot be started: type `cargo xtask setup --vm`")
    }
}

/// Boots a machine until it says how its tests ended; its output goes to `log`, each line with the second that it came
/// in, and comes back when they have passed.
pub(super) fn boot(machine: &Machine<'_>, log: &Path) -> Result<String> {
    let mut machine = machine.start()?;
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
    let (mut text, mut timed) = (String::new(), String::new());
    let code = loop {
        let left = LIMIT.saturating_sub(start.elapsed());
        match lines.recv_timeout(left) {
            Ok(line) => {
                if let Some(code) = line.strip_prefix(END) {
                    break Some(code.to_owned());
                }
                let seconds = start.elapsed().as_secs();
                writeln!(timed, "{seconds:>4} {line}")?;
                text.push_str(&line);
                text.push('\n');
            }
            Err(_) => break None,
        }
    };
    fs::write(log, &timed).with_context(|| format!("{} cannot be written", log.display()))?;
    let took = start.elapsed().as_secs();
    match code.as_deref() {
        Some("0") => Ok(text),
        Some(code) => bail!("the tests failed ({code}):\n{text}"),
        None => bail!("no answer after {took} s; what it said is in {}", log.display()),
    }
}

/// A running QEMU, which ends with this.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
