//! `flowwarden`: watches and restrains Node-RED from outside.

mod cli;

use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main()
}
