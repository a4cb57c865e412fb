//! The stage of most tests: one Node-RED, and a guard when one is wanted.

use std::{
    sync::{Arc, Mutex, Once, PoisonError},
    time::Duration,
};

use anyhow::Result;

use crate::{
    cgroup::Cgroup,
    confine::Confinement,
    flows::Flow,
    guard::Guard,
    needs,
    netns::Network,
    node_red::{NodeRed, Outcome, RELEASES, Release},
    policy::Policy,
    record::Record,
    user,
};

/// How long a record may take from the kernel to the journal.
const RECORD: Duration = Duration::from_secs(5);

/// One Node-RED with a network to attack.
#[derive(Debug)]
pub struct Scene {
    /// The instance that the policies watch.
    pub node_red: NodeRed,
    /// Its network and the world.
    pub network: Arc<Network>,
    /// The cgroup above all instances of the scene.
    pub cgroup: Arc<Cgroup>,
}

/// What came of an attack under guard.
#[derive(Debug)]
pub struct Guarded {
    /// How it ended for Node-RED.
    pub outcome: Outcome,
    /// The guard's journal.
    pub records: Vec<Record>,
    /// What the guard printed.
    pub console: Vec<String>,
}

impl Guarded {
    /// The alerts of one rule.
    #[must_use]
    pub fn alerts(&self, rule: &str) -> Vec<&Record> {
        self.records.iter().filter(|record| record.is_alert() && record.rule() == rule).collect()
    }
}

impl Scene {
    /// A fresh Node-RED, started.
    pub fn new() -> Result<Self> {
        let mut scene = Self::empty()?;
        scene.node_red.start()?;
        Ok(scene)
    }

    /// A Node-RED that was never started.
    pub fn empty() -> Result<Self> {
        Self::with_uid(user::free_uid()?)
    }

    /// A Node-RED for a certain user, never started.
    pub fn with_uid(uid: u32) -> Result<Self> {
        Self::of(uid, RELEASES[0])
    }

    /// The same of a certain release.
    pub fn of(uid: u32, release: Release) -> Result<Self> {
        needs::root()?;
        let network = Network::new()?;
        let cgroup = Cgroup::new()?;
        let confinement = Confinement { uid, network: Arc::clone(&network), cgroup: cgroup.child("watched")? };
        Ok(Self { node_red: NodeRed::of(confinement, release)?, network, cgroup })
    }

    /// A second Node-RED under another uid, beside the first.
    pub fn neighbour(&self) -> Result<NodeRed> {
        let (uid, network) = (user::free_uid()?, Arc::clone(&self.network));
        let mut node_red = NodeRed::new(Confinement { uid, network, cgroup: self.cgroup.child("neighbour")? })?;
        node_red.start()?;
        Ok(node_red)
    }

    /// Plays the attack without a guard: its effect is what the guard has to prevent.
    pub fn without_guard(&mut self, flow: &Flow) -> Result<Outcome> {
        self.node_red.start()?;
        self.node_red.play(flow)
    }

    /// Starts the guard, plays the attack, waits a moment for a record of `rule`, and stops the guard.
    pub fn with_guard(&mut self, policy: &Policy, rule: &str, flow: &Flow) -> Result<Guarded> {
        self.node_red.start()?;
        let guard = Guard::start(Some(policy), &self.cgroup, &[])?;
        let outcome = self.node_red.play(flow)?;
        // No record is for the test to judge, with everything else that was seen.
        let _ = guard.wait_for(RECORD, |record| record.is_alert() && record.rule() == rule);
        let console = guard.console().clone();
        let records = guard.stop()?;
        Ok(Guarded { outcome, records, console: console.since(0) })
    }
}

/// A scene that the tests of one file share, since a Node-RED takes seconds to start. It goes away when the process exits.
#[derive(Debug)]
pub struct Shared(Mutex<Option<Scene>>);

impl Shared {
    /// For a `static`.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "a `static` needs a const function")]
    pub const fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// Runs a test on the scene; one that fails or panics leaves no scene to the next.
    pub fn with(&'static self, test: impl FnOnce(&mut Scene) -> Result<()>) -> Result<()> {
        clean_up_at_exit(self);
        let mut place = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut scene = match place.take() {
            Some(scene) => scene,
            None => Scene::new()?,
        };
        test(&mut scene)?;
        *place = Some(scene);
        Ok(())
    }
}

/// Rust does not drop what is static, so the C library is asked to.
fn clean_up_at_exit(shared: &'static Shared) {
    static SHARED: Mutex<Vec<&Shared>> = Mutex::new(Vec::new());
    static REGISTERED: Once = Once::new();
    extern "C" fn clean_up() {
        for shared in SHARED.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            drop(shared.0.lock().unwrap_or_else(PoisonError::into_inner).take());
        }
    }
    SHARED.lock().unwrap_or_else(PoisonError::into_inner).push(shared);
    REGISTERED.call_once(|| {
        // SAFETY: the function touches nothing but statics, so it may run whenever the process ends.
        unsafe { libc::atexit(clean_up) };
    });
}
