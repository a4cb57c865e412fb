//! `cargo xtask bench`: figures of this machine and of the other kernels, written to docs/explanation/benchmarks.md.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result, bail};
use flowwarden_tests::needs;

use crate::{build, cargo, setup, vm, vm::Answers};

const HEAD: &str = "# Benchmarks

`cargo xtask bench` writes this page. Emulated machines provide counts only; their times are meaningless. Times and
ratios are of one run on the local machine, whose kernel is the column `native`.

";

/// The figures of one kernel.
struct Figures {
    kernel: String,
    version: String,
    text: String,
}

/// What a program was for the verifier.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Program {
    /// Instructions that it walked; 0 where the kernel does not tell.
    walked: u64,
    /// Microseconds that it took to load.
    took_us: u64,
}

impl Figures {
    /// The cells of the lines that begin with `kind`.
    fn lines(&self, kind: &str) -> impl Iterator<Item = Vec<&str>> {
        let lines = self.text.lines().filter_map(move |line| line.split_once(kind).map(|(_, rest)| rest));
        lines.map(|line| line.split(" | ").map(str::trim).collect())
    }

    /// What each program was for the verifier.
    fn programs(&self) -> impl Iterator<Item = (&str, Program)> {
        self.text.lines().filter_map(|line| {
            let mut words = line.strip_prefix("program ")?.split_whitespace();
            let (name, walked) = (words.next()?, words.next()?.parse().ok()?);
            Some((name, Program { walked, took_us: words.nth(2)?.parse().ok()? }))
        })
    }

    /// What `flowwarden doctor` says after a word.
    fn value_of(&self, word: &str) -> Option<&str> {
        self.text.lines().find_map(|line| line.strip_prefix(word)).map(str::trim)
    }
}

/// `cargo xtask bench`.
pub(crate) fn run() -> Result<()> {
    needs::root()?;
    build::build(&setup::kernel_toolchain()?)?;
    let native = Figures {
        kernel: "native".to_owned(),
        version: rustix::system::uname().release().to_string_lossy().into_owned(),
        text: here()?,
    };
    println!("{}", native.text);
    let machines = vm::bench()?.into_iter().map(|Answers { kernel, version, text }| Figures {
        kernel: kernel.name.to_owned(),
        version,
        text,
    });
    let all: Vec<_> = [native].into_iter().chain(machines).collect();
    let file = cargo::root().join("docs/explanation/benchmarks.md");
    fs::write(&file, text(&all)?).with_context(|| format!("{} cannot be written", file.display()))?;
    println!("written: {}", file.display());
    Ok(())
}

/// What the benchmarks tell on this machine.
fn here() -> Result<String> {
    let mut bench = cargo::all("test");
    bench.args([cargo::RELEASE, "--test", "bench", "--", "--test-threads=1", "--nocapture"]);
    output(bench.env("FLOWWARDEN_BIN", cargo::flowwarden()))
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.stderr(Stdio::inherit()).output().context("cargo cannot be started")?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        bail!("the benchmarks failed:\n{text}");
    }
    Ok(text)
}

fn text(all: &[Figures]) -> Result<String> {
    let mut text = HEAD.to_owned();
    writeln!(text, "| kernel | version |\n|---|---|")?;
    for figures in all {
        writeln!(text, "| {} | {} |", figures.kernel, figures.version)?;
    }
    races(&mut text, all)?;
    heals(&mut text, all)?;
    costs(&mut text, all)?;
    rules(&mut text, all)?;
    programs(&mut text, all)?;
    Ok(text)
}

fn races(text: &mut String, all: &[Figures]) -> Result<()> {
    writeln!(
        text,
        "\n## 10,000 writers on settings.js\n\nProcesses that open the file and write to it at the same moment, 250 at a time.\n"
    )?;
    writeln!(text, "| kernel | sensor | refused | killed | wrote | bytes changed |\n|---|---|---|---|---|---|")?;
    for figures in all {
        for cells in figures.lines("race: ") {
            writeln!(text, "| {} | {} |", figures.kernel, cells.join(" | "))?;
        }
    }
    Ok(())
}

/// Only the machine at hand has any.
fn heals(text: &mut String, all: &[Figures]) -> Result<()> {
    writeln!(
        text,
        "\n## Restore\n\nA sensor that cannot deny kills a process that opens settings.js with `O_TRUNC` when the file is empty already. \
         Microseconds from the end of that process until the file is restored (tracepoint sensor, `native`).\n"
    )?;
    writeln!(text, "| runs | minimum | median | 99th percentile | maximum |\n|---|---|---|---|---|")?;
    for cells in all.iter().flat_map(|figures| figures.lines("heal: ")) {
        writeln!(text, "| {} |", cells.join(" | "))?;
    }
    Ok(())
}

/// Only the machine at hand has any.
fn costs(text: &mut String, all: &[Figures]) -> Result<()> {
    writeln!(
        text,
        "\n## Cost of a system call\n\nNanoseconds, minimum of five measurements; `open` is an open and a close.\n"
    )?;
    writeln!(text, "| process, call | without a guard | with a guard | ratio |\n|---|---|---|---|")?;
    for figures in all {
        for cells in figures.lines("cost: ") {
            let [what, without, with] = cells[..] else { continue };
            let ratio = with.parse::<f64>()? / without.parse::<f64>()?.max(1.0);
            writeln!(text, "| {what} | {without} | {with} | {ratio:.2} |")?;
        }
    }
    if let Some(cost) = all.first().and_then(|native| native.value_of("loaded ")) {
        writeln!(text, "\nLoading all programs on the local machine: {cost}.")?;
    }
    Ok(())
}

/// Only the machine at hand has any.
fn rules(text: &mut String, all: &[Figures]) -> Result<()> {
    writeln!(
        text,
        "\n## Ten rules and ten thousand\n\nA policy of ten file rules and ten networks, and one of ten thousand of \
         each, in turns: minimum of five. `load` is the time from the reload signal until the guard reports the policy in force.\n"
    )?;
    writeln!(text, "| what | 10 | 10,000 | ratio |\n|---|---|---|---|")?;
    for cells in all.iter().flat_map(|figures| figures.lines("rules: ")) {
        let [what, few, many] = cells[..] else { continue };
        let ratio = many.parse::<f64>()? / few.parse::<f64>()?.max(1.0);
        writeln!(text, "| {what} | {few} | {many} | {ratio:.2} |")?;
    }
    Ok(())
}

fn programs(text: &mut String, all: &[Figures]) -> Result<()> {
    let mut rows: BTreeMap<&str, Vec<Option<Program>>> = BTreeMap::new();
    for (column, figures) in all.iter().enumerate() {
        for (name, program) in figures.programs() {
            rows.entry(name).or_insert_with(|| vec![None; all.len()])[column] = Some(program);
        }
    }
    writeln!(
        text,
        "\n## Programs\n\nInstructions that the verifier walked to accept each program (`flowwarden doctor \
         --programs`), of a limit of one million; `?` where the kernel does not report them (before 5.16), empty where \
         the program is not used; and the microseconds that loading took on the local machine. There, programs on security \
         hooks are loaded only if its kernel runs one.\n"
    )?;
    let kernels: Vec<_> = all.iter().map(|figures| figures.kernel.as_str()).collect();
    writeln!(text, "| program | {} | µs |\n|---|{}---|", kernels.join(" | "), "---|".repeat(all.len()))?;
    for (name, row) in rows {
        let cell = |program: &Option<Program>| match program {
            None => String::new(),
            Some(Program { walked: 0, .. }) => "?".to_owned(),
            Some(Program { walked, .. }) => walked.to_string(),
        };
        let took = row.first().copied().flatten().map_or_else(String::new, |program| program.took_us.to_string());
        writeln!(text, "| {name} | {} | {took} |", row.iter().map(cell).collect::<Vec<_>>().join(" | "))?;
    }
    Ok(())
}
