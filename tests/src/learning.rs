//! `flowwarden learn`, ended by hand.

use std::{
    fs,
    process::{Child, Command, Stdio},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::{console::Console, guard::Guard, needs, node_red::NodeRed, scene::Scene, wait};

/// Learns from a start of Node-RED and what it does then: what was said, and the policy.
pub fn learn(scene: &mut Scene, day: impl FnOnce(&mut NodeRed) -> Result<()>) -> Result<(String, String)> {
    let place = Guard::new_directory()?;
    let file = place.path().join("learnt.toml").display().to_string();
    let root = scene.cgroup.path().display().to_string();
    let learning = Learning::start(&["--for", "1h", "--cgroup-root", &root, "--write", &file])?;
    let node_red = &mut scene.node_red;
    node_red.stop()?;
    node_red.start()?;
    day(node_red)?;
    node_red.stop()?;
    let said = learning.finish()?;
    Ok((said, fs::read_to_string(&file)?))
}

/// `flowwarden learn` at work. It ends with the value.
struct Learning {
    child: Child,
    console: Console,
}

impl Learning {
    fn start(arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(needs::flowwarden()?);
        command.arg("learn").args(arguments);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let console = Console::default();
        console.follow(&mut child);
        let mut learning = Self { child, console };
        wait::until("the watching to begin", wait::PATIENCE, || {
            let ended = learning.child.try_wait()?;
            ensure!(ended.is_none(), "it has ended: {}", learning.console.text());
            Ok(learning.console.find(0, |line| line.starts_with("ready:")))
        })?;
        Ok(learning)
    }

    /// Ends it as Ctrl-C does, and answers with what it said.
    fn finish(mut self) -> Result<String> {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).context("no pid")?;
        kill_process(pid, Signal::INT)?;
        let status = wait::until("the policy", wait::PATIENCE, || Ok(self.child.try_wait()?))?;
        let said = self.console.text();
        ensure!(status.success(), "{status}: {said}");
        Ok(said)
    }
}

impl Drop for Learning {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
