//! `cargo xtask test`: every check and every test, in the order in which a mistake is found soonest.

use std::{
    fs,
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use flowwarden_tests::{needs, tools};

use crate::{build, cargo, links, setup, shell, vm};

/// What `cargo xtask test` is asked for.
#[derive(Args)]
pub(crate) struct Options {
    /// Run only this step, and what it cannot do without; may be given more than once
    #[arg(long, value_enum, value_name = "STEP")]
    only: Vec<Step>,
    /// Run what needs no virtual machine, no npm and no server, after a change of a few lines
    #[arg(long, conflicts_with = "only")]
    quick: bool,
    /// Everything is prepared: run the step of `--only` in this process
    #[arg(long, hide = true, requires = "only")]
    inside: bool,
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

    /// What it is in the table of programs.
    fn declared(self) -> tools::Step {
        match self {
            Self::Fmt => tools::Step::Fmt,
            Self::Build => tools::Step::Build,
            Self::Clippy => tools::Step::Clippy,
            Self::ClippyKernel => tools::Step::ClippyKernel,
            Self::Doc => tools::Step::Doc,
            Self::Unit => tools::Step::Unit,
            Self::Vm => tools::Step::Vm,
            Self::Kernel => tools::Step::Kernel,
            Self::Promises => tools::Step::Promises,
        }
    }

    /// A process that runs it, after `before` on its command line, with the programs that are declared for it.
    fn command(self, before: &[&str], filter: &[String]) -> Result<Command> {
        let name = self.name();
        let arguments = ["test", "--inside", "--only", &name, "--"];
        let arguments: Vec<_> = arguments.into_iter().chain(filter.iter().map(String::as_str)).collect();
        links::command(self.declared(), before, &arguments)
    }

    /// Runs it in a process of its own.
    fn run_apart(self, filter: &[String]) -> Result<()> {
        let line = format!("cargo xtask test --only {}", self.name());
        shell::succeed(&mut self.command(&[], filter)?, &line)
    }

    /// Whether it runs the finished program.
    fn needs_guard(self) -> bool {
        matches!(self, Self::Vm | Self::Kernel | Self::Promises)
    }

    fn run(self, filter: &[String]) -> Result<()> {
        match self {
            Self::Fmt => shell::run(cargo::user("fmt").args(["--all", "--check"])).context("type `cargo fmt --all`"),
            Self::Build => build::build(&setup::kernel_toolchain()?),
            Self::Clippy => clippy(),
            Self::ClippyKernel => {
                let toolchain = setup::kernel_toolchain()?;
                shell::run(cargo::kernel(&toolchain, "clippy").args(["--", "--deny=warnings"]))
            }
            Self::Doc => shell::run(cargo::all("doc").arg("--no-deps").env("RUSTDOCFLAGS", "--deny=warnings")),
            Self::Unit => shell::run(cargo::all("test").arg("--").args(filter)),
            Self::Kernel => shell::run(cargo::harness("kernel", 1).args(filter)),
            Self::Vm => vm::matrix(filter),
            Self::Promises => promises(filter),
        }
    }
}

/// The steps of `--quick`.
const QUICK: [Step; 4] = [Step::Fmt, Step::Clippy, Step::ClippyKernel, Step::Unit];

/// `cargo xtask test`.
pub(crate) fn run(options: &Options) -> Result<()> {
    if options.inside {
        return options.only.iter().try_for_each(|step| step.run(&options.filter));
    }
    let chosen = |step: &Step| {
        if options.quick { QUICK.contains(step) } else { options.only.is_empty() || options.only.contains(step) }
    };
    let steps: Vec<Step> = Step::value_variants().iter().copied().filter(chosen).collect();
    if steps.iter().any(|step| matches!(step, Step::Kernel | Step::Promises)) {
        // Better now than after the minutes that the other steps take.
        needs::root()?;
    }
    let declared: Vec<_> = steps.iter().map(|step| step.declared()).chain([tools::Step::Build]).collect();
    setup::prepare(&declared)?;
    if steps.contains(&Step::Promises) {
        setup::syslog_ng()?;
    }
    if !steps.contains(&Step::Build) {
        if steps.iter().any(|step| matches!(step, Step::Kernel | Step::Promises)) {
            // They run the program.
            Step::Build.run_apart(&[])?;
        } else if steps.iter().any(|step| *step != Step::Fmt) {
            // The others compile `monitor`, which embeds the object.
            build::object()?;
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
                build::object()?;
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
        step.run_apart(&options.filter)?;
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
        let mut command = step.command(&["nice", "-n", &niceness.to_string()], filter)?;
        command.stdin(Stdio::null()).stdout(to.try_clone()?).stderr(to);
        let child = command.spawn().context("setpriv cannot be started")?;
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
