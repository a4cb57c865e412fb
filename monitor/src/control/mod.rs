//! What the command line asks of the running guard: requests and answers over a socket in the state directory.
//!
//! Only root can enter the directory, and no watched process can connect to the socket. A connection is one request and its
//! answer, each a line of JSON. The guard answers when it has done what is asked.

mod client;
mod server;

pub use client::{ControlError, ask};
pub(crate) use server::{Asked, Listener};

use serde::{Deserialize, Serialize};

use crate::maintenance::{self, Window};

/// Name of the socket in the state directory.
const SOCKET: &str = "control";
/// Longest request, in bytes.
const MAX_REQUEST: u64 = 64 << 10;
/// Longest answer, in bytes: twice the [`MAX_FAULTS`], with room for what JSON escapes.
const MAX_ANSWER: u64 = 16 << 20;
/// Most bytes of faults in one answer. What is left out is counted.
const MAX_FAULTS: usize = 1 << 20;

/// What is asked of the guard.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Open, close or list maintenance windows.
    Maintenance(maintenance::Request),
    /// Read the policy again, and put it in force.
    Reload,
}

/// What the guard has done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// The windows in question.
    Windows(Vec<Window>),
    /// The policy is in force.
    Reloaded(Reloaded),
}

/// The policy that is in force after a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Its number, as records have it.
    pub epoch: u32,
    /// Whether verdicts are carried out.
    pub enforce: bool,
    /// Names of its instances.
    pub instances: Vec<String>,
    /// What is odd about it, each with its place in the file.
    pub warnings: Vec<String>,
}

/// Why the guard has not done what was asked. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// The peer is not root.
    #[error("only root may ask the guard")]
    NotRoot,
    /// The request is not one of this version's.
    #[error("the request cannot be read ({0}); is the guard of another version?")]
    Unreadable(String),
    /// The guard ends.
    #[error("the guard is about to stop")]
    Stopping,
    /// The policy file is wrong: each fault with its place in the file.
    #[error("{}", .0.join("\n"))]
    Policy(Vec<String>),
    /// It could not be done, or must not be.
    #[error("{0}")]
    Failed(String),
}

impl Refusal {
    /// The same, cut to what an answer can hold.
    fn bounded(self) -> Self {
        let Self::Policy(mut faults) = self else { return self };
        let mut bytes = 0;
        let fit = faults.iter().take_while(|fault| {
            bytes += fault.len();
            bytes <= MAX_FAULTS
        });
        let fit = fit.count();
        let more = faults.len() - fit;
        if more > 0 {
            faults.truncate(fit);
            faults.push(format!("and {more} more faults, too many for one answer: `flowwarden check FILE` lists them"));
        }
        Self::Policy(faults)
    }
}

type Outcome = Result<Answer, Refusal>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_are_cut_to_what_an_answer_holds() {
        let few = Refusal::Policy(vec!["p.toml:1:1: a".to_owned(), "p.toml:2:1: b".to_owned()]);
        assert_eq!(few.clone().bounded(), few);
        let Refusal::Policy(many) = Refusal::Policy(vec!["x".repeat(1000); 5000]).bounded() else { panic!() };
        assert_eq!(many.len(), MAX_FAULTS / 1000 + 1);
        assert!(many[many.len() - 1].starts_with("and 3952 more faults"), "{}", many[many.len() - 1]);
        let Refusal::Policy(huge) = Refusal::Policy(vec!["\u{1}".repeat(MAX_FAULTS + 1)]).bounded() else { panic!() };
        assert!(huge[0].starts_with("and 1 more faults"));
    }
}
