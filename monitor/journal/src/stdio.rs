//! Writers to stdout and stderr that ignore a closed pipe, on which `println!` and `eprintln!` panic.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write},
};

use crate::text::terminal::lines;

/// Reports on the standard error what went wrong. Names in the text are other people's: none of them acts on the terminal.
pub fn complain(what: &dyn Display) {
    // A name with a line feed in it begins no line of its own.
    aside(&format_args!("flowwarden: {}\n", what.to_string().replace('\n', "\n    ")));
}

/// Writes to the standard error what is not what was asked for, with the same care for the terminal.
pub fn aside(text: &dyn Display) {
    // There is no other place for it.
    let _ = io::stderr().lock().write_all(lines(&text.to_string()).as_bytes());
}

/// The standard output. A reader that has seen enough is no error.
#[derive(Clone, Copy, Debug)]
pub struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        done(io::stdout().write(bytes), bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        done(io::stdout().flush(), ())
    }
}

fn done<T>(outcome: io::Result<T>, instead: T) -> io::Result<T> {
    match outcome {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(instead),
        Err(error) => Err(io::Error::new(error.kind(), format!("the standard output: {error}"))),
        done => done,
    }
}
