//! Reads a policy file and judges it on this machine.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use super::Config;
use policy::{
    fits, host,
    toml_reader::{Fault, Located},
};

/// Largest policy file.
const MAX_BYTES: u64 = 32 << 20;

/// A policy file that cannot be used. No part of it is applied.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {source}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file is invalid.
    #[error("{}", render(path, faults))]
    Faulty {
        /// The file.
        path: PathBuf,
        /// All faults, in the order of the file.
        faults: Vec<Fault>,
    },
}

fn render(path: &Path, faults: &[Fault]) -> String {
    let lines: Vec<_> = faults.iter().map(|fault| Located(path, fault).to_string()).collect();
    lines.join("\n")
}

/// Reads, parses and validates a policy file. Returns warnings with it.
pub fn read(path: &Path, host: &dyn host::Host) -> Result<(Config, Vec<Fault>), ConfigError> {
    let config = load(path, host)?;
    let warnings = host::warn(&config.policy, host);
    Ok((config, warnings))
}

/// The same for a caller that does not know yet what the machine can deny, and asks for [warnings](host::warn) later.
pub fn load(path: &Path, host: &dyn host::Host) -> Result<Config, ConfigError> {
    let unreadable = |source| ConfigError::Unreadable { path: path.to_owned(), source };
    let named = std::path::absolute(path).map_err(unreadable)?;
    let real = fs::canonicalize(path).map_err(unreadable)?;
    let refused = |faults| ConfigError::Faulty { path: path.to_owned(), faults };
    // The text is read once: what is validated is what is used, whatever happens to the path.
    let text = text(bytes(&real).map_err(unreadable)?).map_err(|fault| refused(vec![fault]))?;
    let config = super::parse(&text).map_err(refused)?;
    let policy = &config.policy;
    let mut faults = host::refuse(policy, host);
    faults.extend(host::writable(&[&named, &real], policy, host));
    if faults.is_empty() {
        faults.extend(fits(policy, host).err());
    }
    if faults.is_empty() { Ok(config) } else { Err(refused(faults)) }
}

/// Content of a regular file. The guard must not block on a pipe or read a device.
fn bytes(path: &Path) -> io::Result<Vec<u8>> {
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let kind = file.metadata()?.file_type();
    if !kind.is_file() {
        return Err(io::Error::other(if kind.is_dir() { "it is a directory" } else { "it is not a regular file" }));
    }
    let mut bytes = Vec::new();
    if file.take(MAX_BYTES + 1).read_to_end(&mut bytes)? as u64 > MAX_BYTES {
        return Err(io::Error::other(format!("larger than {} MiB", MAX_BYTES >> 20)));
    }
    Ok(bytes)
}

/// Decodes UTF-8.
fn text(bytes: Vec<u8>) -> Result<String, Fault> {
    String::from_utf8(bytes).map_err(|error| {
        let good = error.as_bytes().get(..error.utf8_error().valid_up_to()).unwrap_or_default();
        let before = String::from_utf8_lossy(good);
        let line = before.rsplit('\n').next().unwrap_or_default();
        Fault {
            line: before.matches('\n').count() + 1,
            column: line.chars().count() + 1,
            what: "invalid UTF-8; is this a policy file?".to_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use policy::{
        host::{CanDeny, Host},
        model::Select,
    };

    /// A machine on which every file is root's alone, but for those whose name says otherwise.
    struct Clean;

    impl Host for Clean {
        fn uid(&self, user: &str) -> Option<u32> {
            (user == "nodered").then_some(990)
        }
        fn login(&self, _: u32) -> Option<(String, String)> {
            None
        }
        fn cgroups(&self, _: &Select) -> Vec<(PathBuf, u64)> {
            Vec::new()
        }
        fn owner(&self, path: &Path) -> Option<(u32, u32)> {
            Some((if path.ends_with("theirs") { 990 } else { 0 }, 0o755))
        }
        fn exists(&self, _: &Path) -> bool {
            false
        }
        fn link(&self, _: &Path) -> Option<PathBuf> {
            None
        }
        fn can_deny(&self) -> CanDeny {
            CanDeny::default()
        }
    }

    const GOOD: &str =
        "version = 1\n[[instance]]\nname = \"a\"\nselect = [{ user = \"nodered\" }]\nuser-dir = \"/ud\"\n";

    /// Why a policy is refused.
    fn refused(path: &Path) -> String {
        read(path, &Clean).unwrap_err().to_string()
    }

    #[test]
    fn faults_read_like_a_compilers() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("policy.toml");
        let refused = |content: &[u8]| {
            fs::write(&file, content).unwrap();
            refused(&file)
        };
        fs::write(&file, GOOD).unwrap();
        let shown = file.display();
        let (_, warnings) = read(&file, &Clean).unwrap();
        let warnings: Vec<_> = warnings.iter().map(|warning| Located(&file, warning).to_string()).collect();
        assert_eq!(warnings, [format!("{shown}:2:1: user-dir /ud does not exist (yet)")]);
        assert_eq!(
            refused(format!("{GOOD}acess = 1\nmode = 2\n").replace("nodered", "no-such-user").as_bytes()),
            format!("{shown}:6:1: unknown key \"acess\"\n{shown}:7:1: unknown key \"mode\"")
        );
        assert_eq!(
            refused(GOOD.replace("nodered", "no-such-user").as_bytes()),
            format!("{shown}:4:11: there is no user \"no-such-user\" on this machine")
        );
        let binary = [GOOD.as_bytes(), "größe: #  ".as_bytes(), &[0xff]].concat();
        assert_eq!(refused(&binary), format!("{shown}:6:11: invalid UTF-8; is this a policy file?"));
    }

    #[test]
    fn what_is_no_file_is_refused_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).unwrap();
        for (path, why) in [
            (directory.path(), "it is a directory"),
            (&pipe, "it is not a regular file"),
            (Path::new("/dev/zero"), "it is not a regular file"),
            (Path::new("/nowhere/policy.toml"), "No such file or directory (os error 2)"),
        ] {
            assert_eq!(refused(path), format!("{}: {why}", path.display()));
        }
        let large = directory.path().join("large");
        fs::File::create(&large).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert_eq!(refused(&large), format!("{}: larger than 32 MiB", large.display()));
    }

    #[test]
    fn both_ends_of_a_linked_policy_file_are_looked_at() {
        let directory = tempfile::tempdir().unwrap();
        let [good, theirs] = ["good", "theirs"].map(|name| directory.path().join(name));
        fs::create_dir(&theirs).unwrap();
        fs::create_dir(&good).unwrap();
        fs::write(good.join("policy.toml"), GOOD).unwrap();
        symlink(good.join("policy.toml"), theirs.join("policy.toml")).unwrap();
        fs::write(theirs.join("real.toml"), GOOD).unwrap();
        symlink(theirs.join("real.toml"), good.join("linked.toml")).unwrap();
        assert!(read(&good.join("policy.toml"), &Clean).is_ok());
        for path in [theirs.join("policy.toml"), good.join("linked.toml")] {
            let why = refused(&path);
            assert!(why.contains("theirs belongs to uid 990"), "{why}");
        }
    }

    #[test]
    fn what_does_not_fit_is_found_without_the_kernel() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("policy.toml");
        let ports: Vec<_> = (1..=17).map(|port| (port * 2).to_string()).collect();
        let rule = format!("[[instance.egress]]\nto = [\"any\"]\nports = [{}]\nverdict = \"log\"\n", ports.join(", "));
        fs::write(&file, format!("{GOOD}{rule}")).unwrap();
        assert!(refused(&file).contains("17 port ranges apply to any address"));
    }
}
