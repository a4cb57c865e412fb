//! Text as people read it.

pub mod terminal;
