//! `docs/reference/cli.md`, rendered from the definition of the command line.

use std::{fmt::Write as _, fs, path::PathBuf};

use clap::{Arg, Command, CommandFactory as _, error::ErrorKind};

use super::Arguments;

#[path = "../../tests/bless/mod.rs"]
mod bless;
#[path = "../../tests/pages/mod.rs"]
mod pages;

const HEAD: &str =
    "# Command line\n\n<!-- Generated from the definition of the command line, see CONTRIBUTING.md. -->\n\n";

/// A text in the cell of a table: on one line, without the separator of cells.
fn cell(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|")
}

/// A sentence with its full stop, which clap removes.
fn sentence(text: &str) -> String {
    let text = cell(text);
    if text.is_empty() || text.ends_with(['.', ':', '!', '?', ']']) { text } else { format!("{text}.") }
}

/// How an argument is written.
fn form(argument: &Arg) -> String {
    let names = argument.get_value_names().unwrap_or_default();
    let optional = argument.get_num_args().is_some_and(|count| count.min_values() == 0);
    let takes_value = argument.get_action().takes_values();
    let values: Vec<_> = names.iter().map(|name| format!("<{name}>")).collect();
    let values = values.join(" ").replace('|', "\\|");
    match argument.get_long() {
        Some(long) if takes_value && optional => format!("--{long} [{values}]"),
        Some(long) if takes_value => format!("--{long} {values}"),
        Some(long) => format!("--{long}"),
        None => values,
    }
}

/// What an argument means.
fn meaning(argument: &Arg) -> String {
    let help = argument.get_long_help().or(argument.get_help()).map(ToString::to_string).unwrap_or_default();
    let mut text = sentence(&help);
    let values: Vec<_> = argument
        .get_possible_values()
        .into_iter()
        .filter(|value| argument.get_action().takes_values() && !value.is_hide_set())
        .map(|value| {
            let help = value.get_help().map(|help| format!(" ({})", cell(&help.to_string())));
            format!("`{}`{}", value.get_name(), help.unwrap_or_default())
        })
        .collect();
    if !values.is_empty() {
        let _ = write!(text, " Values: {}.", values.join(", "));
    }
    let defaults: Vec<_> = argument.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    if argument.get_action().takes_values() && !defaults.is_empty() {
        let _ = write!(text, " Default: `{}`.", defaults.join(","));
    }
    if argument.is_required_set() {
        text.push_str(" Required.");
    }
    text
}

/// A command and its subcommands, each under a heading of its own.
fn render(command: &mut Command, page: &mut String) {
    let name = command.get_bin_name().unwrap_or("flowwarden").to_owned();
    let usage = command.render_usage().to_string();
    let usage = usage.trim_start_matches("Usage: ").lines().map(str::trim).collect::<Vec<_>>().join("\n");
    let about = command.get_long_about().or(command.get_about()).map(ToString::to_string).unwrap_or_default();
    let _ = write!(page, "## `{name}`\n\n{}\n\n```text\n{usage}\n```\n\n", sentence(&about));
    let is_own = |argument: &&Arg| !argument.is_hide_set() && !matches!(argument.get_id().as_str(), "help" | "version");
    let arguments: Vec<_> = command.get_arguments().filter(is_own).collect();
    if !arguments.is_empty() {
        page.push_str("| argument | meaning |\n|---|---|\n");
        for argument in arguments {
            let _ = writeln!(page, "| `{}` | {} |", form(argument), meaning(argument));
        }
        page.push('\n');
    }
    if let Some(after) = command.get_after_help() {
        let _ = write!(page, "{}\n\n", sentence(&after.to_string()));
    }
    for subcommand in command.get_subcommands_mut().filter(|subcommand| subcommand.get_name() != "help") {
        render(subcommand, page);
    }
}

#[test]
fn the_reference_is_that_of_the_commands() {
    let mut command = Arguments::command().name("flowwarden").bin_name("flowwarden");
    command.build();
    let mut page = HEAD.to_owned();
    render(&mut command, &mut page);
    bless::compare("reference/cli.md", &format!("{}\n", page.trim_end()));
}

/// The command lines of a page, and whether each is a whole line of a code block.
fn command_lines(text: &str) -> Vec<(String, bool)> {
    let (mut lines, mut prose, mut is_block) = (Vec::new(), String::new(), false);
    for line in text.replace("\\\n", " ").lines() {
        let line = line.trim();
        if line.starts_with("```") {
            is_block = !is_block;
        } else if is_block {
            let line = line.strip_prefix("sudo ").unwrap_or(line);
            // A comment, a pipe or a redirection ends the command.
            let line = line.split(['#', '|', '>']).next().unwrap_or_default().trim();
            lines.push((line.to_owned(), true));
        } else {
            prose.push_str(line);
            prose.push(' ');
        }
    }
    lines.extend(prose.split('`').skip(1).step_by(2).map(|code| (code.to_owned(), false)));
    lines.retain(|(line, _)| line.starts_with("flowwarden "));
    lines
}

#[test]
fn every_command_line_of_the_documentation_is_one() {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut all = vec![root.join("README.md"), root.join("CONTRIBUTING.md")];
    pages::below(&root.join("docs"), &mut all);
    let (mut count, mut faults) = (0, Vec::new());
    // Usages have placeholders for options.
    for page in all.iter().filter(|page| !page.ends_with("reference/cli.md")) {
        for (line, is_whole) in command_lines(&fs::read_to_string(page).unwrap()) {
            count += 1;
            let Err(error) = Arguments::command().try_get_matches_from(line.split_whitespace()) else { continue };
            let is_named_only = matches!(
                error.kind(),
                ErrorKind::MissingRequiredArgument
                    | ErrorKind::MissingSubcommand
                    | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
            );
            if is_whole || !is_named_only {
                faults.push(format!("{}: {line}: {error}", page.display()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.concat());
    assert!(count >= 50, "{count} command lines");
}
