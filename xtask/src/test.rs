//! `cargo xtask test`: every check and every test, in the order in which a mistake is found soonest.

use std::{
    fs,
    path::PathBuf,
    process::{self, Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use flowwarden_tests::needs;

use crate::{build, cargo, setup, setup::Toolchain, shell, vm};

/// What `cargo xtask test` is asked for.
#[derive(Args)]
pub(crate) struct Options {
    /// Run only this step, and what it cannot do without; may be given more than once
    #[arg(long, value_enum, value_name = "STEP")]
    only: Vec<Step>,
    /// Filter for the names of tests, after `--`
    #[arg(last = true)]
    filter: Vec<String>,
}

/// One step of the test run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Formatting
    Fmt,
    /// The eBPF object; then `flowwarden`, beside the checks that need no guard
    Build,
    /// Lints of the user crates
    Clippy,
    /// Lints of the kernel crate
    ClippyKernel,
    /// Documentation without a warning
    Doc,
    /// Unit and property tests, and the examples in the documentation
    Unit,
    /// The attacks inside other kernels, beside what follows
    Vm,
    /// Every attack, by a stand-in on this machine's kernel; as root
    Kernel,
    /// The promises, against a real Node-RED; as root
    Promises,
}

impl Step {
    fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Whether it runs the finished program.
    fn needs_guard(self) -> bool {
        matches!(self, Self::Vm | Self::Kernel | Self::Promises)
    }

    fn run(self, toolchain: &Toolchain, filter: &[String]) -> Result<()> {
        match self {
            Self::Fmt => shell::run(cargo::user("fmt").args(["--all", "--check"])).context("type `cargo fmt --all`"),
            Self::Build => build::build(toolchain),
            Self::Clippy => clippy(),
            Self::ClippyKernel => shell::run(cargo::kernel(toolchain, "clippy").args(["--", "--deny=warnings"])),
            Self::Doc => shell::run(cargo::all("doc").arg("--no-deps").env("RUSTDOCFLAGS", "--deny=warnings")),
            Self::Unit => shell::run(cargo::all("test").arg("--").args(filter)),
            Self::Kernel => shell::run(cargo::harness("kernel", 1).args(filter)),
            Self::Vm => vm::matrix(filter),
            Self::Promises => promises(filter),
        }
    }
}

/// `cargo xtask test`.
pub(crate) fn run(options: &Options) -> Result<()> {
    let toolchain = setup::kernel_toolchain()?;
    setup::test_tools()?;
    let chosen = |step: &Step| options.only.is_empty() || options.only.contains(step);
    let steps: Vec<Step> = Step::value_variants().iter().copied().filter(chosen).collect();
    if steps.iter().any(|step| matches!(step, Step::Kernel | Step::Promises)) {
        // Better now than after the minutes that the other steps take.
        needs::root()?;
    }
    if steps.contains(&Step::Promises) {
        setup::receivers()?;
    }
    if steps.contains(&Step::Vm) {
        vm::tools()?;
    }
    if !steps.contains(&Step::Build) {
        if steps.iter().any(|step| matches!(step, Step::Kernel | Step::Promises)) {
            // They run the program.
            build::build(&toolchain)?;
        } else if steps.iter().any(|step| *step != Step::Fmt) {
            // The others compile `monitor`, which embeds the object.
            build::kernel(&toolchain)?;
        }
    }
    let (begin, mut times) = (Instant::now(), Vec::new());
    let (mut guard, mut machines) = (None, None);
    for (index, &step) in steps.iter().enumerate() {
        if step.needs_guard()
            && let Some(guard) = guard.take()
        {
            times.push(Aside::finish(guard)?);
        }
        println!("\n== {} ==", step.name());
        match step {
            _ if index + 1 == steps.len() => {}
            Step::Build => {
                build::kernel(&toolchain)?;
                guard = Some(Aside::start(step, &options.filter, 0)?);
                continue;
            }
            Step::Vm => {
                machines = Some(Aside::start(step, &options.filter, 10)?);
                continue;
            }
            _ => {}
        }
        let start = Instant::now();
        step.run(&toolchain, &options.filter).with_context(|| format!("step `{}` failed", step.name()))?;
        times.push((step, start.elapsed()));
    }
    for aside in [guard, machines].into_iter().flatten() {
        times.push(aside.finish()?);
    }
    println!();
    for (step, time) in &times {
        println!("{:<14} {:>7.1} s", step.name(), time.as_secs_f64());
    }
    println!("{:<14} {:>7.1} s", "all passed", begin.elapsed().as_secs_f64());
    Ok(())
}

/// A step that runs beside others.
struct Aside {
    step: Step,
    child: Child,
    start: Instant,
    said: PathBuf,
}

impl Aside {
    /// Starts it, as nice to the others as is said.
    fn start(step: Step, filter: &[String], niceness: u8) -> Result<Self> {
        println!("beside what follows");
        let said = needs::target().join(format!("{}.log", step.name()));
        let to = fs::File::create(&said).with_context(|| format!("{} cannot be written", said.display()))?;
        let mut command = Command::new("setpriv");
        // By its own name there may be another by now: steps build `xtask`, too.
        let xtask = format!("/proc/{}/exe", process::id());
        command.args(["--pdeathsig", "TERM", "nice", "-n", &niceness.to_string(), &xtask]);
        command.args(["test", "--only", &step.name(), "--"]).args(filter);
        command.stdin(Stdio::null()).stdout(to.try_clone()?).stderr(to);
        let child = command.spawn().context("setpriv of util-linux cannot be started")?;
        Ok(Self { step, child, start: Instant::now(), said })
    }

    /// Waits for its end, and shows what it has said.
    fn finish(mut self) -> Result<(Step, Duration)> {
        println!("\n== {}, from beside ==", self.step.name());
        let status = self.child.wait()?;
        print!("{}", fs::read_to_string(&self.said).unwrap_or_default());
        ensure!(status.success(), "step `{}` failed", self.step.name());
        Ok((self.step, self.start.elapsed()))
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `cargo xtask deny`: not part of `test`, because cargo-deny takes longer to compile than everything here, and because an
/// advisory database is only worth something fresh from the network.
pub(crate) fn deny() -> Result<()> {
    shell::find("cargo-deny").context("cargo-deny is missing: type `cargo install --locked cargo-deny`")?;
    shell::run(cargo::plain("cargo").args(["deny", "check"]))
}

/// Promises about the whole machine: these guards judge every Node-RED on it, or time is measured.
const ALONE: [&str; 15] = [
    "audit::",
    "containers::",
    "deployments::",
    "disk::",
    "git::",
    "incidents::",
    "killed::",
    "learning::",
    "negative::",
    "palette::",
    "pinned::",
    "presets::",
    "race::",
    "releases::",
    "service::",
];

/// First what has to be alone: it leaves a processor to the machines. The others have a Node-RED of their own each, or take
/// turns with the one that they share.
fn promises(filter: &[String]) -> Result<()> {
    if !filter.is_empty() {
        return shell::run(cargo::harness("promises", 1).args(filter));
    }
    shell::run(cargo::harness("promises", 1).args(ALONE))?;
    let skipped = ALONE.iter().flat_map(|name| ["--skip", name]);
    shell::run(cargo::harness("promises", 2).args(skipped))
}

/// Everything, and the guard without its optional sinks.
fn clippy() -> Result<()> {
    shell::run(cargo::all("clippy").args(["--all-targets", "--", "--deny=warnings"]))?;
    let harness = cargo::HARNESS.iter().flat_map(|name| ["--test", name]);
    shell::run(cargo::all("clippy").args(harness).args(["--", "--deny=warnings"]))?;
    let mut lean = cargo::user("clippy");
    lean.args(["--package", "monitor", "--no-default-features", "--all-targets", "--", "--deny=warnings"]);
    shell::run(&mut lean).context("without default features")
}
