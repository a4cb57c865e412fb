//! What Flowwarden promises, one file per promise, each proven against a real Node-RED.
//!
//! One program, since every test program costs a link. Those whose guards judge the whole machine take turns
//! (`--test-threads=1`); the others run in twos, each with a Node-RED of its own. `cargo xtask test`
//! knows which.

mod audit;
mod brokers;
mod changes;
mod containers;
mod contrib;
mod deployments;
mod disk;
mod dns;
mod editor;
mod egress;
mod evidence;
mod git;
mod hooks;
mod incidents;
mod kafka;
mod keys;
mod killed;
mod learning;
mod mail;
mod metrics;
mod names;
mod negative;
mod palette;
mod peers;
mod pinned;
mod presets;
mod processes;
mod race;
mod releases;
mod scenarios;
mod scope;
mod service;
mod settings_js;
mod signals;
mod sinks;
mod sockets;
mod stage;
mod volume;

use flowwarden_tests::scene::Shared;

/// The Node-RED of all tests that can do with one that has run before.
static SCENE: Shared = Shared::new();
