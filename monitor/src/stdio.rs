//! What is said to whoever looks at a terminal. Whoever that is may have gone away, where `println!` and `eprintln!` would
//! end the guard.

use std::{
    fmt::Display,
    io::{self, ErrorKind, Write},
};

/// Says on the standard error what went wrong.
pub fn complain(what: &dyn Display) {
    aside(&format_args!("flowwarden: {what}\n"));
}

/// Says on the standard error what is not what was asked for.
pub fn aside(text: &dyn Display) {
    // There is no other place for it.
    let _ = write!(io::stderr().lock(), "{text}");
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
