//! The documentation is consistent: links resolve, the book lists its pages, and the reference names what the code reads.

mod markdown;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::OsStr,
    fmt::Write as _,
    fs,
    path::{Component, Path, PathBuf},
};

use anyhow::{Context as _, Result, ensure};
use markdown::Page;

/// Pages outside of the book.
const ROOT_PAGES: [&str; 4] = ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "contrib/README.md"];
/// The directory of the book.
const BOOK: &str = "docs";
const SUMMARY: &str = "docs/SUMMARY.md";

/// The table of `docs/reference/kernels.md` that is derived from the bypass catalogue.
const KERNELS: &str = "docs/reference/kernels.md";
const CATALOGUE: &str = "docs/explanation/bypass-catalogue.md";
const RESULTS: (&str, &str) = ("<!-- results -->\n", "<!-- /results -->");
/// Results of the catalogue in the order of the table.
const OUTCOMES: [&str; 6] =
    ["denied", "killed before harm", "killed and healed", "killed", "not seen", "not on this kernel"];

fn root() -> Result<&'static Path> {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the crate has no parent directory")
}

fn read(name: &str) -> Result<String> {
    fs::read_to_string(root()?.join(name)).with_context(|| name.to_owned())
}

/// Files below a directory of the repository that have an extension, by their path from the root of the repository.
fn files(directory: &str, extension: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut directories = vec![root()?.join(directory)];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
            let path = entry?.path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension() == Some(OsStr::new(extension)) {
                found.push(path.strip_prefix(root()?)?.to_str().context("a path that is not UTF-8")?.to_owned());
            }
        }
    }
    found.sort();
    Ok(found)
}

/// All pages by their path.
fn pages() -> Result<BTreeMap<String, Page>> {
    let names = ROOT_PAGES.map(str::to_owned).into_iter().chain(files(BOOK, "md")?);
    names.map(|name| Ok((name.clone(), Page::new(&read(&name)?)))).collect()
}

/// The path of a relative link, from the root of the repository. `None` if it leaves the repository.
fn resolve(page: &str, target: &str) -> Option<String> {
    let mut path = PathBuf::from(page).parent()?.to_owned();
    for component in Path::new(target).components() {
        match component {
            Component::ParentDir if !path.pop() => return None,
            Component::ParentDir | Component::CurDir => {}
            component => path.push(component),
        }
    }
    path.to_str().map(str::to_owned)
}

/// What is wrong with a link of a page.
fn fault(pages: &BTreeMap<String, Page>, page: &str, link: &str) -> Result<Option<String>> {
    if link.contains("://") || link.starts_with("mailto:") {
        return Ok(None);
    }
    let (target, anchor) = link.split_once('#').unwrap_or((link, ""));
    let target = if target.is_empty() { Some(page.to_owned()) } else { resolve(page, target) };
    let Some(target) = target.filter(|target| root().is_ok_and(|root| root.join(target).exists())) else {
        return Ok(Some("no such file".to_owned()));
    };
    let book = format!("{BOOK}/");
    if page.starts_with(&book) && !target.starts_with(&book) {
        return Ok(Some(
            "a page of the book links to pages of the book only: the rendered book has no other".to_owned(),
        ));
    }
    if anchor.is_empty() {
        return Ok(None);
    }
    let known = pages.get(&target).with_context(|| format!("{page}: {link}: an anchor in a file that is no page"))?;
    Ok((!known.anchors.contains(anchor)).then(|| format!("no heading with this anchor; known: {:?}", known.anchors)))
}

#[test]
fn every_relative_link_resolves() -> Result<()> {
    let pages = pages()?;
    let mut faults = String::new();
    for (name, page) in &pages {
        for link in &page.links {
            if let Some(fault) = fault(&pages, name, link)? {
                writeln!(faults, "{name}: {link}: {fault}")?;
            }
        }
    }
    ensure!(faults.is_empty(), "{faults}");
    Ok(())
}

#[test]
fn the_summary_lists_every_page_once() -> Result<()> {
    let mut listed = Page::new(&read(SUMMARY)?).links;
    listed.sort();
    let prefix = format!("{BOOK}/");
    let mut there: Vec<_> = files(BOOK, "md")?
        .into_iter()
        .filter(|name| name != SUMMARY)
        .map(|name| name.strip_prefix(&prefix).unwrap_or(&name).to_owned())
        .collect();
    there.sort();
    ensure!(listed == there, "{SUMMARY} lists {listed:#?}\nand the pages are {there:#?}");
    Ok(())
}

/// What stands between `before` and `"` in the sources below `monitor/`, as far as it is a name.
fn names_in_code(before: &str, is_source: impl Fn(&str) -> bool) -> Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for file in files("monitor", "rs")?.iter().filter(|file| is_source(file)) {
        let text = read(file)?;
        // rustfmt breaks long calls.
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ").replace("( ", "(");
        for (_, rest) in text.match_indices(before).map(|(at, _)| text.split_at(at + before.len())) {
            let name = rest.split('"').next().unwrap_or_default();
            if !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || matches!(byte, b'-' | b'_')) {
                names.insert(name.to_owned());
            }
        }
    }
    ensure!(!names.is_empty(), "no source below monitor/ has {before}");
    Ok(names)
}

/// The names that the code has and that no page of the reference shows as code.
fn undocumented(names: impl IntoIterator<Item = String>, pages: &[&str]) -> Result<Vec<String>> {
    let mut code = BTreeSet::new();
    for page in pages {
        code.extend(Page::new(&read(page)?).code);
    }
    Ok(names.into_iter().filter(|name| !code.contains(name)).collect())
}

#[test]
fn every_key_of_the_policy_is_documented() -> Result<()> {
    let is_reader = |file: &str| file.contains("config") || file.contains("policy");
    let mut keys = names_in_code(".take(\"", is_reader)?;
    keys.extend(names_in_code("required(table, \"", is_reader)?);
    let pages = ["policy", "sinks", "journal", "metrics"].map(|page| format!("docs/reference/{page}.md"));
    let missing = undocumented(keys, &pages.each_ref().map(String::as_str))?;
    ensure!(missing.is_empty(), "docs/reference does not have the keys {missing:?}");
    Ok(())
}

#[test]
fn every_audit_check_is_documented() -> Result<()> {
    let is_check = |file: &str| file.contains("/audit/") && !file.ends_with("tests.rs");
    let mut checks = names_in_code("const CHECK: &str = \"", is_check)?;
    checks.extend(names_in_code("Finding::new(\"", is_check)?);
    checks.extend(names_in_code("Finding::pass(\"", is_check)?);
    let missing = undocumented(checks, &["docs/reference/audit.md"])?;
    ensure!(missing.is_empty(), "docs/reference/audit.md does not have the checks {missing:?}");
    Ok(())
}

/// The fields of a struct in a source file, which serde writes by these names.
fn fields(file: &str, name: &str) -> Result<BTreeSet<String>> {
    let text = read(file)?;
    let (_, rest) = text.split_once(&format!("struct {name}")).with_context(|| format!("{file} has no {name}"))?;
    let (body, _) = rest.split_once("\n}").with_context(|| format!("{file}: {name} has no end"))?;
    let lines = body.lines().filter_map(|line| line.trim().trim_start_matches("pub ").split_once(": "));
    let is_name = |name: &&str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_');
    Ok(lines.map(|(field, _)| field).filter(is_name).map(str::to_owned).collect())
}

#[test]
fn every_key_of_events_and_findings_is_documented() -> Result<()> {
    // Flattened: their own fields are the keys.
    const FLATTENED: [&str; 2] = ["inode", "tunnel"];
    let mut keys = fields("monitor/src/record/activity.rs", "Unmapped")?;
    keys.retain(|key| !FLATTENED.contains(&key.as_str()));
    let is_event = |file: &str| file.starts_with("monitor/src/") && !file.ends_with("tests.rs");
    keys.extend(names_in_code("details.push((\"", is_event)?);
    keys.extend(names_in_code("details.insert(\"", is_event)?);
    keys.extend(names_in_code("Map::from_iter([(\"", is_event)?);
    let missing = undocumented(keys, &["docs/reference/events.md"])?;
    ensure!(missing.is_empty(), "docs/reference/events.md does not have the keys {missing:?}");
    let page = read("docs/reference/audit.md")?;
    let mut missing = fields("monitor/node-red/src/instance/audit/mod.rs", "Finding")?;
    missing.retain(|field| !page.contains(&format!("\"{field}\"")));
    ensure!(missing.is_empty(), "docs/reference/audit.md does not have the fields {missing:?}");
    Ok(())
}

/// The numbers that stand behind a text in a source file.
fn numbers_after(file: &str, before: &str) -> Result<BTreeMap<String, String>> {
    let text = read(file)?;
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix(before));
    let pairs = lines.filter_map(|line| {
        let (name, value) = line.split_once(" => ").or_else(|| line.split_once(": u8 = "))?;
        let number = value.trim_end_matches([',', ';']);
        number.parse::<u8>().is_ok().then(|| (name.to_lowercase(), number.to_owned()))
    });
    let found: BTreeMap<_, _> = pairs.collect();
    ensure!(!found.is_empty(), "{file} has no number after {before}");
    Ok(found)
}

#[test]
fn every_exit_code_is_documented() -> Result<()> {
    let page = read("docs/reference/journal.md")?;
    for (name, code) in numbers_after("monitor/journal/src/verify.rs", "Self::")? {
        let row = format!("| {code} | {name}: ");
        ensure!(page.contains(&row), "docs/reference/journal.md has no row {row}");
    }
    let codes = numbers_after("monitor/src/cli/audit.rs", "const ")?;
    let code = |name: &str| codes.get(name).with_context(|| format!("monitor/src/cli/audit.rs has no {name}"));
    let cell = format!("| {} a check warns, {} a check fails |", code("warned")?, code("failed")?);
    ensure!(read("docs/reference/exit-codes.md")?.contains(&cell), "docs/reference/exit-codes.md does not have {cell}");
    Ok(())
}

/// The number of attacks by result on each kernel.
fn results(catalogue: &str) -> Result<String> {
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches(|char| char == '|' || char == ' ').split(" | ").map(|cell| cell.trim().to_owned()).collect()
    };
    let mut lines = catalogue.lines().skip_while(|line| !line.starts_with("| rule | technique |"));
    let kernels = cells(lines.next().context("the catalogue has no table of attacks")?).split_off(2);
    let rows: Vec<_> = lines.skip(1).take_while(|line| line.starts_with('|')).map(cells).collect();
    let mut table = format!("| kernel | {} |\n|---|{}\n", OUTCOMES.join(" | "), "---|".repeat(OUTCOMES.len()));
    for (column, kernel) in kernels.iter().enumerate() {
        let of = |outcome: &str| {
            rows.iter().filter(|row| row.get(column + 2).is_some_and(|cell| cell == outcome)).count().to_string()
        };
        writeln!(table, "| {kernel} | {} |", OUTCOMES.map(of).join(" | "))?;
    }
    Ok(table)
}

#[test]
fn the_results_of_the_kernels_are_those_of_the_catalogue() -> Result<()> {
    let text = read(KERNELS)?;
    let (before, rest) = text.split_once(RESULTS.0).with_context(|| format!("{KERNELS} has no results"))?;
    let (table, after) = rest.split_once(RESULTS.1).with_context(|| format!("{KERNELS}: the results have no end"))?;
    let wanted = results(&read(CATALOGUE)?)?;
    if env::var_os("FLOWWARDEN_BLESS").is_some() {
        fs::write(root()?.join(KERNELS), [before, RESULTS.0, &wanted, RESULTS.1, after].concat())?;
        return Ok(());
    }
    ensure!(table == wanted, "{KERNELS} is out of date: run with FLOWWARDEN_BLESS=1. It should have:\n{wanted}");
    Ok(())
}

/// The directories of the repository: inline code that begins with one of them is a path.
const DIRECTORIES: [&str; 9] =
    ["contrib/", "docs/", "fuzz/", "monitor/", "monitor-common/", "monitor-ebpf/", "tests/", "xtask/", ".cargo/"];

#[test]
fn every_path_in_the_documentation_exists() -> Result<()> {
    // Not a path: a pattern, a placeholder, a command.
    let is_path = |code: &str| {
        let starts = DIRECTORIES.iter().any(|directory| code.starts_with(directory));
        starts && !code.contains(['*', '{', ' ', '<']) && !code.contains("NAME")
    };
    let mut missing = BTreeSet::new();
    for (name, page) in pages()?.iter().filter(|(name, _)| *name != "CHANGELOG.md") {
        for code in page.code.iter().filter(|code| is_path(code)) {
            if !root()?.join(code).exists() {
                missing.insert(format!("{name}: {code}"));
            }
        }
    }
    ensure!(missing.is_empty(), "these paths do not exist: {missing:#?}");
    Ok(())
}
