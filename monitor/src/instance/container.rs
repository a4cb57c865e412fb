//! Containers: which one a cgroup belongs to, and those of Docker and Podman that do not run.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use serde::Deserialize;

use super::{Kind, arguments, root::Root, settings::Environment};

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
pub(crate) fn stored(root: &Root) -> Vec<Stored> {
    let docker = Path::new("/var/lib/docker/containers");
    let storage = Path::new("/var/lib/containers/storage");
    let list = |directory: &Path| root.list(directory, MOST).unwrap_or_default();
    let of_docker =
        list(docker).into_iter().filter_map(|id| from_docker(root, &docker.join(id).join("config.v2.json")));
    // One directory for each way of keeping layers: overlay-containers, vfs-containers.
    let podman = list(storage).into_iter().filter(|name| name.ends_with("-containers"));
    let of_podman = podman.flat_map(|name| {
        let podman = storage.join(name);
        let listed = listed(root, &podman.join("containers.json"));
        let ids = list(&podman).into_iter();
        let stored: Vec<_> = ids
            .filter_map(|id| {
                let file = podman.join(&id).join("userdata/config.json");
                from_podman(root, &file, &id, listed.get(&id))
            })
            .collect();
        stored
    });
    of_docker.chain(of_podman).collect()
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

fn from_podman(root: &Root, file: &Path, id: &str, listed: Option<&Listed>) -> Option<Stored> {
    #[derive(Deserialize)]
    struct Container {
        process: Process,
        #[serde(default)]
        mounts: Vec<Mount>,
        #[serde(default)]
        hostname: String,
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
        uid: Some(container.process.user.uid),
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
        let found = stored(&Root::at(directory.path()).unwrap());
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
