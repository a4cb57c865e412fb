//! Containers: which one a cgroup belongs to, and those of Docker and Podman that do not run.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Kind, arguments, settings::Environment};
use policy::machine::{
    account::{Account, Accounts},
    root::Root,
};

/// Largest description of a container that is read.
const LIMIT: u64 = 4 << 20;
/// Most containers of one engine.
const MOST: usize = 1000;

/// The container that a cgroup path belongs to: what made it, and its id.
pub(crate) fn of_cgroup(path: &str) -> Option<(Kind, &str)> {
    let mut engine = Kind::Container;
    let mut found = None;
    for part in path.split('/') {
        let name = part.strip_suffix(".scope").unwrap_or(part);
        let (before, id) = name.rsplit_once('-').unwrap_or(("", name));
        let is_id = id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        if part == "docker" || before == "docker" {
            engine = Kind::Docker;
        } else if before.starts_with("libpod") || part == "libpod_parent" {
            engine = Kind::Podman;
        }
        if is_id {
            found = Some(id);
        }
    }
    found.map(|id| (engine, id))
}

/// A container as its engine keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stored {
    pub(crate) kind: Kind,
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) command: Vec<String>,
    pub(crate) environment: Environment,
    pub(crate) uid: Option<u32>,
    pub(crate) working_directory: Option<PathBuf>,
    /// Directories of the host, by where the container has them.
    pub(crate) mounts: BTreeMap<PathBuf, PathBuf>,
}

impl Stored {
    /// The host's name for a path of the container that lies on a mount.
    pub(crate) fn on_host(&self, path: &Path) -> Option<PathBuf> {
        path.ancestors().find_map(|above| {
            let source = self.mounts.get(above)?;
            Some(source.join(path.strip_prefix(above).ok()?))
        })
    }

    fn is_node_red(&self, image: &str) -> bool {
        let named = |text: &str| text.contains("node-red") || text.contains("nodered");
        named(image) || named(&self.name) || self.command.iter().any(|word| arguments::is_program(word))
    }
}

/// All containers that look like Node-RED, running or not; none where the engines' directories cannot be read.
pub(crate) fn stored(root: &Root, accounts: &Accounts) -> Vec<Stored> {
    let docker = Path::new("/var/lib/docker/containers");
    let ids = root.list(docker, MOST).unwrap_or_default().into_iter();
    let mut stored: Vec<_> = ids.filter_map(|id| from_docker(root, &docker.join(id).join("config.v2.json"))).collect();
    stored.extend(in_storage(root, Path::new("/var/lib/containers/storage"), &Some));
    // Podman without root: everybody has a storage, in a user namespace where they are root.
    let ranges = root.text(Path::new("/etc/subuid"), LIMIT).unwrap_or_default();
    for user in &accounts.users {
        let storage = user.home.join(".local/share/containers/storage");
        stored.extend(in_storage(root, &storage, &|uid| rootless(uid, user, &ranges)));
    }
    stored
}

/// The containers in a storage of Podman; `host` knows which uid here is one of theirs.
fn in_storage(root: &Root, storage: &Path, host: &dyn Fn(u32) -> Option<u32>) -> Vec<Stored> {
    let list = |directory: &Path| root.list(directory, MOST).unwrap_or_default();
    // One directory for each way of keeping layers: overlay-containers, vfs-containers.
    let kinds = list(storage).into_iter().filter(|name| name.ends_with("-containers"));
    let found = kinds.flat_map(|name| {
        let podman = storage.join(name);
        let listed = listed(root, &podman.join("containers.json"));
        let found =
            |id: String| from_podman(root, &podman.join(&id).join("userdata/config.json"), &id, listed.get(&id), host);
        list(&podman).into_iter().filter_map(found).collect::<Vec<_>>()
    });
    found.collect()
}

/// The uid here of somebody in the user namespace that this user may have: root is the user, the others follow each other in
/// the range that /etc/subuid gives.
fn rootless(uid: u32, user: &Account, ranges: &str) -> Option<u32> {
    let Some(offset) = uid.checked_sub(1) else { return Some(user.uid) };
    let (start, count) = ranges.lines().find_map(|line| {
        let (owner, range) = line.split_once(':')?;
        let (start, count) = range.split_once(':')?;
        let owns = owner == user.name || owner.parse() == Ok(user.uid);
        owns.then_some((start.parse::<u32>().ok()?, count.trim().parse::<u32>().ok()?))
    })?;
    (offset < count).then(|| start.checked_add(offset))?
}

/// What the list of a storage says of a container, which its own description does not.
#[derive(Debug, Default)]
struct Listed {
    name: Option<String>,
    image: String,
}

/// The containers that a storage lists, by their ids.
fn listed(root: &Root, file: &Path) -> BTreeMap<String, Listed> {
    #[derive(Deserialize)]
    struct Container {
        id: String,
        #[serde(default)]
        names: Vec<String>,
        /// JSON again.
        #[serde(default)]
        metadata: String,
    }
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "kebab-case")]
    struct Metadata {
        #[serde(default)]
        image_name: String,
    }
    let containers: Vec<Container> =
        root.read(file, LIMIT).ok().and_then(|text| serde_json::from_slice(&text).ok()).unwrap_or_default();
    let listed = containers.into_iter().map(|Container { id, names, metadata }| {
        let Metadata { image_name } = serde_json::from_str(&metadata).unwrap_or_default();
        (id, Listed { name: names.into_iter().next(), image: image_name })
    });
    listed.collect()
}

fn from_docker(root: &Root, file: &Path) -> Option<Stored> {
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Container {
        #[serde(rename = "ID")]
        id: String,
        name: String,
        #[serde(default)]
        path: String,
        #[serde(default)]
        args: Vec<String>,
        config: Config,
        #[serde(default)]
        mount_points: BTreeMap<PathBuf, Mount>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "PascalCase")]
    struct Config {
        #[serde(default)]
        image: String,
        #[serde(default)]
        user: String,
        #[serde(default)]
        env: Option<Vec<String>>,
        #[serde(default)]
        working_dir: String,
    }
    #[derive(Deserialize)]
    struct Mount {
        #[serde(rename = "Source", default)]
        source: PathBuf,
    }
    let container: Container = serde_json::from_slice(&root.read(file, LIMIT).ok()?).ok()?;
    let Container { id, name, path, args, config, mount_points } = container;
    let name = name.trim_start_matches('/').to_owned();
    let stored = Stored {
        kind: if is_add_on(&name) { Kind::HomeAssistant } else { Kind::Docker },
        id,
        name,
        command: std::iter::once(path).chain(args).collect(),
        environment: environment(&config.env.unwrap_or_default()),
        uid: config.user.split(':').next().and_then(|user| if user.is_empty() { Some(0) } else { user.parse().ok() }),
        working_directory: Some(PathBuf::from(config.working_dir)).filter(|path| path.is_absolute()),
        mounts: mount_points.into_iter().map(|(to, mount)| (to, mount.source)).collect(),
    };
    stored.is_node_red(&config.image).then_some(stored)
}

fn from_podman(
    root: &Root,
    file: &Path,
    id: &str,
    listed: Option<&Listed>,
    host: &dyn Fn(u32) -> Option<u32>,
) -> Option<Stored> {
    #[derive(Deserialize)]
    struct Container {
        process: Process,
        #[serde(default)]
        mounts: Vec<Mount>,
        #[serde(default)]
        hostname: String,
        #[serde(default)]
        linux: Linux,
    }
    /// A mapping of its own, as `--userns=keep-id` makes one, counts from another namespace's.
    #[derive(Default, Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Linux {
        #[serde(default)]
        uid_mappings: Vec<serde::de::IgnoredAny>,
    }
    #[derive(Deserialize)]
    struct Process {
        #[serde(default)]
        args: Vec<String>,
        #[serde(default)]
        env: Vec<String>,
        #[serde(default)]
        cwd: PathBuf,
        #[serde(default)]
        user: User,
    }
    #[derive(Default, Deserialize)]
    struct User {
        #[serde(default)]
        uid: u32,
    }
    #[derive(Deserialize)]
    struct Mount {
        destination: PathBuf,
        #[serde(default)]
        source: PathBuf,
    }
    let container: Container = serde_json::from_slice(&root.read(file, LIMIT).ok()?).ok()?;
    let stored = Stored {
        kind: Kind::Podman,
        id: id.to_owned(),
        name: listed.and_then(|listed| listed.name.clone()).unwrap_or(container.hostname),
        command: container.process.args,
        environment: environment(&container.process.env),
        uid: Some(container.process.user.uid).filter(|_| container.linux.uid_mappings.is_empty()).and_then(host),
        working_directory: Some(container.process.cwd).filter(|path| path.is_absolute()),
        mounts: container.mounts.into_iter().map(|mount| (mount.destination, mount.source)).collect(),
    };
    stored.is_node_red(listed.map_or("", |listed| &listed.image)).then_some(stored)
}

/// Home Assistant calls the containers of its add-ons like this.
pub(crate) fn is_add_on(name: &str) -> bool {
    name.starts_with("addon_")
}

fn environment(entries: &[String]) -> Environment {
    let set = entries.iter().filter_map(|entry| entry.split_once('='));
    Environment { set: set.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(), complete: true }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use serde_json::json;

    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_cgroup_tells_its_container() {
        for (path, kind) in [
            (format!("/system.slice/docker-{ID}.scope"), Kind::Docker),
            (format!("/docker/{ID}"), Kind::Docker),
            (format!("/docker/{ID}/init"), Kind::Docker),
            (format!("/machine.slice/libpod-{ID}.scope/container"), Kind::Podman),
            (format!("/kubepods.slice/kubepods-pod1.slice/cri-containerd-{ID}.scope"), Kind::Container),
        ] {
            assert_eq!(of_cgroup(&path), Some((kind, ID)), "{path}");
        }
        for path in ["/", "/system.slice/nodered.service", "/user.slice/session-1.scope", "/docker/short"] {
            assert_eq!(of_cgroup(path), None, "{path}");
        }
    }

    #[test]
    fn stopped_containers_are_found_with_their_mounts() {
        let directory = tempfile::tempdir().unwrap();
        let put = |path: &str, content: &str| {
            let path = directory.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        };
        let docker = json!({
            "ID": ID, "Name": "/my-nodered", "Path": "./entrypoint.sh", "Args": [],
            "Config": { "Image": "nodered/node-red:4", "User": "node-red", "Env": ["PORT=1", "X"], "WorkingDir": "/usr/src/node-red" },
            "MountPoints": { "/data": { "Source": "/srv/nodered", "Destination": "/data", "RW": true } },
        });
        put(&format!("var/lib/docker/containers/{ID}/config.v2.json"), &docker.to_string());
        put("var/lib/docker/containers/broken/config.v2.json", "{");
        let other = json!({ "ID": "x", "Name": "/db", "Config": { "Image": "postgres" } });
        put("var/lib/docker/containers/other/config.v2.json", &other.to_string());
        let podman = json!({
            "process": { "args": ["node", "node_modules/node-red/red.js", "--userDir", "/data"], "cwd": "/usr/src/node-red",
                         "user": { "uid": 1000 } },
            "mounts": [{ "destination": "/data", "type": "bind", "source": "/home/a/data" }],
        });
        let storage = "var/lib/containers/storage/overlay-containers";
        put(&format!("{storage}/abc/userdata/config.json"), &podman.to_string());
        let named = json!({ "process": { "args": ["./entrypoint.sh"] }, "hostname": "the-hosts" });
        put(&format!("{storage}/def/userdata/config.json"), &named.to_string());
        let metadata = json!({ "image-name": "docker.io/nodered/node-red:4" }).to_string();
        let list = json!([{ "id": "def", "names": ["plant"], "metadata": metadata }]);
        put(&format!("{storage}/containers.json"), &list.to_string());
        put("etc/passwd", "ann:x:1001:1001::/home/ann:/bin/sh\nbob:x:1002:1002::/home/bob:/bin/sh\n");
        put("etc/subuid", "ann:100000:65536\n1002:165536:65536\n");
        let own = |user: u32, mapped: bool| {
            let mut all = json!({ "process": { "args": ["red.js"], "user": { "uid": user } } });
            if mapped {
                all["linux"] = json!({ "uidMappings": [{ "containerID": 0, "hostID": 1, "size": 9 }] });
            }
            all.to_string()
        };
        put("home/ann/.local/share/containers/storage/overlay-containers/ann/userdata/config.json", &own(1000, false));
        put("home/bob/.local/share/containers/storage/vfs-containers/bob/userdata/config.json", &own(0, false));
        put("home/bob/.local/share/containers/storage/vfs-containers/kept/userdata/config.json", &own(1000, true));
        let root = Root::at(directory.path()).unwrap();
        let mut found = stored(&root, &Accounts::read(&root));
        let rootless: Vec<_> = found.split_off(3).into_iter().map(|one| (one.id, one.kind, one.uid)).collect();
        let podman = |id: &str, uid| (id.to_owned(), Kind::Podman, uid);
        assert_eq!(rootless, [podman("ann", Some(100_999)), podman("bob", Some(1002)), podman("kept", None)]);
        assert_eq!(
            found.iter().map(|one| (one.kind, one.id.as_str())).collect::<Vec<_>>(),
            [(Kind::Docker, ID), (Kind::Podman, "abc"), (Kind::Podman, "def")]
        );
        assert_eq!(found[2].name, "plant", "what it is called, and not its host");
        assert_eq!(found[0].on_host(Path::new("/data/settings.js")).unwrap(), Path::new("/srv/nodered/settings.js"));
        assert_eq!(found[0].on_host(Path::new("/etc/passwd")), None);
        assert_eq!((found[0].name.as_str(), found[0].uid, found[1].uid), ("my-nodered", None, Some(1000)));
    }
}
