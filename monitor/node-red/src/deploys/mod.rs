//! Who deployed last, read from Node-RED's own audit log: a file, or systemd's journal.

pub mod editor;
pub mod follow;
