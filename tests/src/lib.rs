//! A real Node-RED, under guard, in a room of its own.
//!
//! Everything here is a guard in Rust's sense: what a value has made (a process, a cgroup, a network namespace, a
//! directory) goes away with it, also when a test panics. What a test process left behind because it was killed is swept
//! away by the next one ([`own::sweep`]).
//!
//! From the inside out: a [`confine::Confinement`] (uid, network namespace, cgroup) holds a [`node_red::NodeRed`]; a
//! [`scene::Scene`] is one such Node-RED with a [`guard::Guard`] when one is asked for; [`flows`] are the attacks, and a
//! [`record::Record`] is a line of the guard's journal.

pub mod bpffs;
#[cfg(feature = "judges")]
pub mod cef;
pub mod cgroup;
pub mod cli;
pub mod confine;
pub mod console;
#[path = "../../monitor/journal/tests/ecs/mod.rs"]
mod ecs;
pub mod flows;
pub mod guard;
pub mod home;
pub mod http;
pub mod journal;
pub mod learning;
pub mod mounts;
pub mod needs;
pub mod netns;
pub mod node_red;
#[cfg(feature = "judges")]
mod ocsf;
pub mod own;
pub mod package;
pub mod place;
pub mod podman;
pub mod policy;
pub mod receiver;
pub mod record;
pub mod scene;
#[cfg(feature = "judges")]
pub mod sigma;
pub mod sink;
pub mod snapshot;
pub mod stand_in;
pub mod tools;
pub mod user;
pub mod wait;
