//! A policy from what was found: what `flowwarden init` writes.

use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

use crate::instance::{Instance, Kind, Survey, flows::Use};
use policy::preset::{self, Found, Known, Neighbour, Preset, Target};

/// Most ports that an instance is known to listen on: for one address there is room for 16 ranges, other rules' included.
const MAX_PORTS: usize = 8;
/// Programs of git that Projects start.
const GIT: [&str; 5] = ["/usr/bin/git", "/usr/bin/ssh", "/usr/bin/ssh-keygen", "/usr/lib/git-core/**", "/bin/sh"];

/// Why no policy could be written.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// There is nothing to guard.
    #[error("no Node-RED was found to write a policy for; start it, or write one by hand")]
    Nothing,
}

/// A policy file for the instances of a survey, and what was left out of it.
pub fn text(survey: &Survey, preset: Preset, enforce: bool) -> Result<(String, Vec<String>), InitError> {
    let (mut chosen, mut left_out) = (Vec::new(), Vec::new());
    for instance in &survey.instances {
        match found(instance, survey) {
            Ok(found) => chosen.push((found, instance)),
            Err(why) => left_out.push(format!("{}: {why}", instance.name)),
        }
    }
    if chosen.is_empty() {
        return Err(InitError::Nothing);
    }
    let place = |(found, instance): &(Found, &Instance)| Neighbour {
        name: found.name.clone(),
        user_dir: found.user_dir.clone(),
        // In a network of its own it has the port to itself.
        ports: if instance.is_contained() { Vec::new() } else { ports(instance) },
    };
    let places: Vec<_> = chosen.iter().map(place).collect();
    let known = chosen.into_iter().map(|(found, instance)| {
        let neighbours = places.iter().filter(|other| other.name != found.name).cloned().collect();
        let known = Known { neighbours, ..known(instance) };
        (found, known)
    });
    Ok((preset::text(preset, &known.collect::<Vec<_>>(), enforce), left_out))
}

/// The instances of a survey that a policy can be about, and what is known of each.
#[must_use]
pub fn instances(survey: &Survey) -> Vec<(Found, Known)> {
    survey.instances.iter().filter_map(|instance| Some((found(instance, survey).ok()?, known(instance)))).collect()
}

/// The instance as a policy names it, or why it cannot.
fn found(instance: &Instance, survey: &Survey) -> Result<Found, String> {
    let user_dir = instance.host_user_dir.clone().ok_or("its user directory is not known on the host")?;
    if user_dir.to_str().is_none() {
        return Err("the name of its user directory is not UTF-8".to_owned());
    }
    let select = instance.select();
    if select.container.is_none() && select.unit.is_none() && select.uid.is_none() {
        return Err("its user is not known".to_owned());
    }
    if instance.kind == Kind::UserDir
        && let Some(other) =
            survey.instances.iter().find(|other| other.kind != Kind::UserDir && other.uid == instance.uid)
    {
        return Err(format!("nothing uses {}, and {} has the same user", user_dir.display(), other.name));
    }
    Ok(Found { name: instance.name.clone(), select, user_dir })
}

/// The ports that the editor and flows are served on over TCP.
fn listening(instance: &Instance) -> Vec<u16> {
    let declared = instance.flows.iter().flat_map(|flows| &flows.listens).filter(|(_, protocol)| *protocol == "tcp");
    let listens = instance.listens.iter().map(|listen| listen.port).chain(declared.map(|(port, _)| *port));
    let mut ports: Vec<_> = instance.port().into_iter().chain(listens).collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}

/// As many of them as fit.
fn ports(instance: &Instance) -> Vec<u16> {
    let mut ports = listening(instance);
    ports.truncate(MAX_PORTS);
    ports
}

fn known(instance: &Instance) -> Known {
    let mut about = instance.kind.name().to_owned();
    about.extend(instance.unit.iter().map(|unit| format!(" {unit}")));
    about.extend(instance.user.iter().map(|user| format!(", user {user}")));
    about.extend(instance.version.iter().map(|version| format!(", Node-RED {version}")));
    let mut notes = notes(instance);
    let all = listening(instance);
    if all.len() > MAX_PORTS {
        notes.push(format!("it listens on {} ports, of which the first {MAX_PORTS} are in the rules", all.len()));
    }
    let settings = instance.settings.as_ref();
    let projects = settings.is_some_and(|settings| !settings.projects.is(&false));
    let git = GIT.iter().filter(|_| projects).map(PathBuf::from);
    let node = match &instance.executable {
        Some(node) => vec![node.clone()],
        None => ["/usr/bin/node", "/usr/local/bin/node"].map(PathBuf::from).into(),
    };
    Known {
        about: format!("{}: {about}", instance.name),
        home: instance.home.clone().filter(|home| home.as_os_str().len() > 1 && !instance.is_contained()),
        ports: ports(instance),
        uid: instance.uid,
        programs: node.into_iter().chain(git.filter(|path| path.ends_with("**") || path.exists())).collect(),
        palette_closed: settings.is_some_and(|settings| settings.palette_install.is(&false)),
        keys: keys(instance),
        targets: targets(instance),
        resolvers: resolvers(instance),
        neighbours: Vec::new(),
        notes,
    }
}

/// Files that https and tls-config nodes read, as the host names them.
fn keys(instance: &Instance) -> Vec<(PathBuf, String)> {
    let of_settings = instance.settings.iter().flat_map(|settings| &settings.reads).map(|read| {
        let role = read.role.as_deref().unwrap_or("a file");
        (read.path.clone(), format!("declared in settings.js, as {role}"))
    });
    let of_flows = instance.flows.iter().flat_map(|flows| &flows.files).filter_map(|file| match file.r#use {
        Use::Key => Some((file.path.clone(), format!("declared by a {} node, as key", file.node))),
        Use::Certificate => Some((file.path.clone(), format!("declared by a {} node, as certificate", file.node))),
        Use::Read | Use::Write | Use::Watch => None,
    });
    let mut keys: Vec<(PathBuf, String)> = Vec::new();
    for (path, by) in of_settings.chain(of_flows) {
        let path = if path.is_absolute() { instance.on_host(&path).unwrap_or(path) } else { path };
        if !keys.iter().any(|(known, _)| *known == path) {
            keys.push((path, by));
        }
    }
    keys
}

fn targets(instance: &Instance) -> Vec<Target> {
    let mut targets: Vec<Target> = Vec::new();
    for target in instance.flows.iter().flat_map(|flows| &flows.targets) {
        let by = format!("declared by a {} node", target.node);
        let same = |known: &&Target| {
            known.host == target.host && known.port == target.port && known.protocol == target.protocol
        };
        if targets.iter().find(same).is_none() {
            targets.push(Target { host: target.host.clone(), port: target.port, protocol: target.protocol, by });
        }
    }
    targets
}

/// The resolvers in resolv.conf.
fn resolvers(instance: &Instance) -> Vec<IpAddr> {
    let text = instance.root().and_then(|root| root.text(Path::new("/etc/resolv.conf"), 64 << 10)).unwrap_or_default();
    let address = |line: &str| line.trim().strip_prefix("nameserver")?.trim().split('%').next()?.parse().ok();
    text.lines().filter_map(address).take(8).collect()
}

fn notes(instance: &Instance) -> Vec<String> {
    let mut notes = Vec::new();
    if instance.kind == Kind::FlowFuse {
        notes.push(
            "the device agent rewrites settings and packages; it is node without red.js, and not in scope".to_owned(),
        );
    }
    if instance.container.is_some() {
        notes.push("a container that is made anew has another id: write the policy again then".to_owned());
    }
    notes.extend(instance.unknown.iter().map(|line| format!("not known: {line}")));
    notes
}

#[cfg(test)]
mod tests {
    use std::fs;

    use crate::instance::init::*;
    use crate::instance::survey_at;
    use policy::{host, model::Policy, parse::parse};

    const PRESETS: [Preset; 4] = [Preset::Home, Preset::Standard, Preset::MultiTenant, Preset::Strict];

    fn survey(files: &[(&str, &str)]) -> Survey {
        let directory = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        survey_at(directory.path()).unwrap()
    }

    fn written(survey: &Survey, preset: Preset) -> (String, Policy) {
        let (text, _) = text(survey, preset, false).unwrap();
        let policy = parse(&text).unwrap_or_else(|faults| panic!("{}: {faults:#?}\n{text}", preset.name()));
        (text, policy)
    }

    const PASSWD: (&str, &str) =
        ("etc/passwd", "pi:x:1000:1000::/home/pi:/bin/bash\nnr:x:990:990::/var/lib/nr:/usr/sbin/nologin\n");

    #[test]
    fn every_layout_gets_every_preset() {
        let docker = r#"{"ID":"0123456789abcdef","Name":"/nr","Config":{"Image":"nodered/node-red"},
                         "MountPoints":{"/data":{"Source":"/srv/data"}}}"#;
        let layouts: [(&str, Vec<(&str, &str)>); 5] = [
            ("unit", vec![("etc/systemd/system/nodered.service", "[Service]\nUser=pi\nExecStart=node-red-pi\n")]),
            ("container", vec![("var/lib/docker/containers/a/config.v2.json", docker), ("srv/data/settings.js", "")]),
            ("pm2", vec![("home/pi/.pm2/dump.pm2", r#"[{"name":"x","pm_exec_path":"/usr/bin/node-red"}]"#)]),
            ("home", vec![("var/lib/nr/.node-red/settings.js", "")]),
            (
                "two",
                vec![
                    ("home/pi/.node-red/settings.js", ""),
                    ("etc/systemd/system/a.service", "[Service]\nUser=nr\nExecStart=node-red -u /srv/a\n"),
                ],
            ),
        ];
        for (name, mut files) in layouts {
            files.push(PASSWD);
            let survey = survey(&files);
            assert!(!survey.instances.is_empty(), "{name}");
            for preset in PRESETS {
                let (text, policy) = written(&survey, preset);
                assert_eq!(policy.instances.len(), survey.instances.len(), "{name}");
                assert_eq!(policy::fits(&policy, &host::System::new()), Ok(()), "{name}, {}", preset.name());
                for instance in &policy.instances {
                    let rules = instance
                        .files
                        .iter()
                        .map(|rule| &rule.action)
                        .chain(instance.nets.iter().map(|rule| &rule.action));
                    for rule in rules {
                        assert!(rule.why.is_some(), "{name}, {}: {} says not why", preset.name(), rule.id);
                        let restrains = rule.verdict > monitor_common::Verdict::Allow;
                        assert!(!restrains || !rule.techniques.is_empty(), "{name}: {} names no technique", rule.id);
                    }
                }
                assert!(text.lines().count() < 450 * policy.instances.len(), "{} lines", text.lines().count());
            }
        }
    }

    #[test]
    fn what_is_declared_becomes_a_rule_and_what_is_critical_does_not() {
        let flows = r#"[{"type":"tls-config","key":"/etc/letsencrypt/live/x/privkey.pem","cert":"rel/../c.pem"},
            {"type":"tls-config","key":"/etc/shadow"}, {"type":"tls-config","key":"/home/pi/.ssh/id_rsa","cert":"/home/pi/we*ird.pem"},
            {"type":"mqtt-broker","broker":"10.1.2.3","port":"1883"}, {"type":"mqtt-broker","broker":"localhost","port":"1883"},
            {"type":"http request","url":"http://169.254.169.254/latest"}, {"type":"http request","url":"https://API.example"},
            {"type":"tcp request","server":"*.example","port":"1"},
            {"type":"udp out","addr":"2001:db8::1","port":"514"}]"#;
        let settings =
            "module.exports = { https: { key: require('fs').readFileSync('/home/pi/tls/web.key') }, uiPort: 1990 }";
        let survey = survey(&[
            PASSWD,
            (
                "etc/systemd/system/nodered.service",
                "[Service]\nUser=pi\nExecStart=node-red-pi\nWorkingDirectory=/home/pi\n",
            ),
            ("home/pi/.node-red/settings.js", settings),
            ("home/pi/.node-red/flows.json", flows),
        ]);
        let (text, policy) = written(&survey, Preset::Strict);
        let instance = &policy.instances[0];
        let declared: Vec<_> = instance
            .files
            .iter()
            .filter(|rule| rule.action.id.starts_with("declared-"))
            .map(|rule| rule.path.to_str().unwrap())
            .collect();
        assert_eq!(declared, ["/home/pi/tls/web.key", "/etc/letsencrypt/live/x/privkey.pem"]);
        for refused in ["/etc/shadow", "/home/pi/.ssh/id_rsa", "we*ird.pem", "c.pem", "169.254.169.254", "*.example"] {
            assert!(
                text.lines().any(|line| line.starts_with("# not allowed: ") && line.contains(refused)),
                "{refused}:\n{text}"
            );
        }
        let named: Vec<_> = instance.nets.iter().flat_map(|rule| &rule.names).map(ToString::to_string).collect();
        assert_eq!(named, ["api.example"], "{text}");
        // Who forges answers would make a name lead anywhere.
        assert!(instance.nets.iter().any(|rule| rule.action.id == "forged-names" && rule.ports == [(53, 53)]));
        let targets: Vec<_> = instance.nets.iter().filter(|rule| rule.action.id.starts_with("target-")).collect();
        assert_eq!(targets.len(), 4, "{targets:#?}");
        assert!(instance.nets.iter().any(|rule| rule.action.id == "editor-outside" && rule.ports == [(1990, 1990)]));
    }

    #[test]
    fn a_name_that_somebody_chose_cannot_become_a_rule() {
        let hostile = "x\"\n[[instance.files]]\npath = \"/etc\"\naccess = \"all\"\nverdict = \"allow\"\n#";
        let node = serde_json::json!([
            {"type": "tls-config", "key": format!("/a/{hostile}")},
            {"type": "http request", "url": format!("http://{hostile}/")},
            {"type": "mqtt-broker", "broker": hostile, "port": "1"},
        ]);
        let entry = serde_json::json!([{"name": hostile, "pm_exec_path": "/usr/bin/node-red", "args": ["-u", format!("/srv/{hostile}")]}]);
        let settings = format!(
            "module.exports = {{ https: {{ key: require('fs').readFileSync({}) }} }}",
            serde_json::json!(format!("/b/{hostile}"))
        );
        let survey = survey(&[
            PASSWD,
            ("home/pi/.pm2/dump.pm2", &entry.to_string()),
            ("home/pi/.node-red/flows.json", &node.to_string()),
            ("home/pi/.node-red/settings.js", &settings),
            ("var/lib/nr/.node-red/flows.json", &node.to_string()),
            ("var/lib/nr/.node-red/settings.js", &settings),
        ]);
        for preset in PRESETS {
            let (text, policy) = written(&survey, preset);
            let everything =
                policy.instances.iter().flat_map(|instance| &instance.files).find(|rule| {
                    rule.path == Path::new("/etc") && rule.action.verdict == monitor_common::Verdict::Allow
                });
            assert_eq!(everything, None, "{text}");
        }
    }

    #[test]
    fn more_ports_than_fit_are_told_and_do_no_harm() {
        let nodes: Vec<_> = (1..=40)
            .flat_map(|port| {
                let port = port.to_string();
                [
                    serde_json::json!({"type": "tcp in", "server": "server", "port": port}),
                    serde_json::json!({"type": "tcp request", "server": "10.0.0.1", "port": port}),
                    serde_json::json!({"type": "tcp request", "server": "localhost", "port": port}),
                    serde_json::json!({"type": "tcp request", "server": "127.0.0.1", "port": port}),
                ]
            })
            .collect();
        let flows = serde_json::json!(nodes).to_string();
        let survey = survey(&[PASSWD, ("var/lib/nr/.node-red/flows.json", &flows)]);
        for preset in PRESETS {
            let (text, policy) = written(&survey, preset);
            assert_eq!(policy::fits(&policy, &host::System::new()), Ok(()), "{text}");
            assert!(
                text.contains("it listens on 40 ports") && text.contains("# more ports than fit: 10.0.0.1 port 40"),
                "{text}"
            );
        }
    }

    #[test]
    fn a_closed_palette_is_closed_in_the_policy_too() {
        let with = |settings: &str| {
            let survey = survey(&[PASSWD, ("var/lib/nr/.node-red/settings.js", settings)]);
            written(&survey, Preset::Home).1.instances[0].files.iter().any(|rule| rule.action.id == "palette")
        };
        assert!(with("module.exports = { externalModules: { palette: { allowInstall: false } } }"));
        assert!(!with("module.exports = {}"));
    }

    #[test]
    fn presets_only_ever_add() {
        let survey = survey(&[PASSWD, ("var/lib/nr/.node-red/settings.js", "module.exports = {}")]);
        let mut before: Vec<String> = Vec::new();
        for preset in PRESETS {
            let instance = written(&survey, preset).1.instances.remove(0);
            let ids: Vec<_> = instance
                .files
                .iter()
                .map(|rule| rule.action.id.clone())
                .chain(instance.nets.iter().map(|rule| rule.action.id.clone()))
                .collect();
            assert!(before.iter().all(|id| ids.contains(id)), "{}: {before:?} {ids:?}", preset.name());
            before = ids;
        }
    }

    #[test]
    fn a_policy_is_refused_nothing_that_this_machine_would_not_refuse() {
        // uid 0 alone, login shells: the selectors that are written never are.
        let survey = survey(&[("etc/passwd", "root:x:0:0::/root:/bin/bash\n"), ("root/.node-red/settings.js", "")]);
        let (_, policy) = written(&survey, Preset::Home);
        assert_eq!(host::refuse(&policy, &host::System::new()), []);
        assert!(text(&Survey::default(), Preset::Home, false).is_err());
    }
}
