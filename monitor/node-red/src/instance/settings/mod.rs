//! What settings.js says, read and never run.
//!
//! An attacker may have written the file, and root reads it. So it is neither executed nor given to a parser
//! that recurses without bound: oxc's can be made to overflow the stack by nesting, swc's grows the stack with assembly.
//! A lexer takes the file apart, a reader follows what `module.exports` is given, both bounded whatever the file holds; and
//! what would follow from running code is said to be unknown.

mod lexer;
mod module;
mod value;

use std::path::{Path, PathBuf};

use serde::Serialize;

pub use value::Environment;
use value::Value;

use policy::machine::root::Root;

/// Largest settings file that is read. The one that Node-RED makes has 25 KiB.
const LIMIT: u64 = 512 << 10;
/// Modules with which a Function node reaches files, processes and the network.
const POWERFUL: [&str; 12] = [
    "child_process",
    "cluster",
    "dgram",
    "fs",
    "fs-extra",
    "fs/promises",
    "http",
    "https",
    "net",
    "os",
    "process",
    "worker_threads",
];

/// A fact that is known, or why it is not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Fact<T> {
    /// It is known.
    Known(T),
    /// It depends on something that only running Node-RED would tell.
    Unknown {
        /// On what.
        unknown: String,
    },
}

impl<T> Fact<T> {
    fn unknown(why: impl Into<String>) -> Self {
        Self::Unknown { unknown: why.into() }
    }

    /// The fact, when it is known.
    pub fn known(&self) -> Option<&T> {
        match self {
            Self::Known(fact) => Some(fact),
            Self::Unknown { .. } => None,
        }
    }

    /// Why it is not known.
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Known(_) => None,
            Self::Unknown { unknown } => Some(unknown),
        }
    }
}

impl<T: PartialEq> Fact<T> {
    /// Whether it is known to be this.
    pub fn is(&self, value: &T) -> bool {
        self.known() == Some(value)
    }
}

/// What becomes of the secret that encrypts credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CredentialSecret {
    /// The settings give one.
    Given,
    /// Node-RED makes one and keeps it in `.config.runtime.json`.
    Generated,
    /// Credentials are not encrypted.
    Disabled,
    /// It is computed.
    Unknown,
}

/// A file that https or a node reads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ReadFile {
    /// What it is for: `key`, `cert`, `ca`, `pfx`, or nothing that is known.
    pub role: Option<String>,
    /// The file; absolute where the working directory is known.
    pub path: PathBuf,
}

/// What settings.js says about security.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Settings {
    /// `uiPort`.
    pub ui_port: Fact<u16>,
    /// `uiHost`; `0.0.0.0` when not given.
    pub ui_host: Fact<String>,
    /// Whether `https` is given.
    pub https: Fact<bool>,
    /// The files that the settings read; for https, as a rule.
    pub reads: Vec<ReadFile>,
    /// Whether the editor and its API ask who is there (`adminAuth`).
    pub admin_auth: Fact<bool>,
    /// Permissions without a login (`adminAuth.default.permissions`).
    pub anonymous: Fact<Option<String>>,
    /// Whether there is an editor and an API at all (`httpAdminRoot`).
    pub admin_root: Fact<bool>,
    /// Whether HTTP nodes and dashboards ask (`httpNodeAuth`).
    pub http_node_auth: Fact<bool>,
    /// Whether static files are served (`httpStatic`).
    pub http_static: Fact<bool>,
    /// Whether they ask (`httpStaticAuth`).
    pub http_static_auth: Fact<bool>,
    /// Whether editors may install packages (`externalModules.palette.allowInstall`, `editorTheme.palette.editable`).
    pub palette_install: Fact<bool>,
    /// Whether flows may have packages installed (`externalModules.modules.allowInstall`).
    pub module_install: Fact<bool>,
    /// Whether Function nodes may load modules (`functionExternalModules`).
    pub function_modules: Fact<bool>,
    /// Modules that Function nodes are given to reach the host with (`functionGlobalContext`).
    pub global_context: Fact<Vec<String>>,
    /// Whether Projects are on, by the settings or by `NODE_RED_ENABLE_PROJECTS`.
    pub projects: Fact<bool>,
    /// `flowFile`; none for the old default with the host's name.
    pub flow_file: Fact<Option<String>>,
    /// `userDir`.
    pub user_dir: Fact<Option<String>>,
    /// `nodesDir`.
    pub nodes_dir: Fact<Option<String>>,
    /// `credentialSecret`; never its value.
    pub credential_secret: CredentialSecret,
    /// `logging.*.audit`.
    pub audit_log: Fact<bool>,
}

/// Why a settings file could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{}: {source}", path.display())]
pub struct SettingsError {
    /// The file, inside its root.
    pub path: PathBuf,
    /// The cause.
    pub source: std::io::Error,
}

impl Settings {
    /// Reads a settings file. `environment` is what Node-RED has or will have; `working_directory` is where relative names
    /// begin.
    pub fn read(
        root: &Root,
        path: &Path,
        environment: &Environment,
        working_directory: Option<&Path>,
    ) -> Result<Self, SettingsError> {
        let text = root.text(path, LIMIT).map_err(|source| SettingsError { path: path.to_owned(), source })?;
        Ok(Self::parse(&text, path, environment, working_directory))
    }

    /// The same for a text that stands at `path`.
    #[must_use]
    pub fn parse(text: &str, path: &Path, environment: &Environment, working_directory: Option<&Path>) -> Self {
        let module = module::read(text, path, environment);
        let exports = &module.exports;
        let at = |keys: &[&str]| keys.iter().fold(exports.clone(), |value, key| value.get(key));
        let mut reads: Vec<_> = Vec::new();
        let written = match at(&["https"]) {
            Value::Table(table) => table
                .entries()
                .filter_map(|(role, value)| match value {
                    Value::File(path) => Some(module::Read { role: Some(role.to_owned()), path: path.clone() }),
                    _ => None,
                })
                .collect(),
            _ => Vec::new(),
        };
        for module::Read { role, path } in written.into_iter().chain(module.reads) {
            let path = working_directory.map_or_else(|| path.clone(), |directory| directory.join(&path));
            if !reads.iter().any(|known: &ReadFile| known.path == path) {
                reads.push(ReadFile { role, path });
            }
        }
        let projects = match environment.set.get("NODE_RED_ENABLE_PROJECTS") {
            Some(value) if !value.is_empty() => Fact::Known(!value.eq_ignore_ascii_case("false")),
            _ => flag(&at(&["editorTheme", "projects", "enabled"]), false),
        };
        Self {
            ui_port: port(&at(&["uiPort"])),
            ui_host: match optional(at(&["uiHost"])) {
                Fact::Known(host) => Fact::Known(host.filter(|host| !host.is_empty()).unwrap_or("0.0.0.0".to_owned())),
                Fact::Unknown { unknown } => Fact::Unknown { unknown },
            },
            https: given(&at(&["https"])),
            reads,
            admin_auth: given(&at(&["adminAuth"])),
            anonymous: anonymous(&at(&["adminAuth", "default"])),
            admin_root: match at(&["httpAdminRoot"]) {
                Value::Computed(why) => Fact::unknown(why),
                value => {
                    let everything_off = at(&["httpRoot"]) == Value::Bool(false);
                    Fact::Known(value != Value::Bool(false) && !everything_off)
                }
            },
            http_node_auth: given(&at(&["httpNodeAuth"])),
            http_static: given(&at(&["httpStatic"])),
            http_static_auth: given(&at(&["httpStaticAuth"])),
            palette_install: both(
                flag(&at(&["externalModules", "palette", "allowInstall"]), true),
                flag(&at(&["editorTheme", "palette", "editable"]), true),
            ),
            module_install: flag(&at(&["externalModules", "modules", "allowInstall"]), true),
            function_modules: flag(&at(&["functionExternalModules"]), true),
            global_context: match at(&["functionGlobalContext"]) {
                Value::Table(table) => Fact::Known(
                    table
                        .entries()
                        .filter_map(|(_, value)| match value {
                            Value::Module(name) if POWERFUL.contains(&name.as_str()) => Some(name.clone()),
                            Value::Computed(why) if why.starts_with("`process`") => Some("process".to_owned()),
                            _ => None,
                        })
                        .collect(),
                ),
                Value::Computed(why) => Fact::unknown(why),
                _ => Fact::Known(Vec::new()),
            },
            projects,
            flow_file: optional(at(&["flowFile"])),
            user_dir: optional(at(&["userDir"])),
            nodes_dir: optional(at(&["nodesDir"])),
            credential_secret: match at(&["credentialSecret"]) {
                Value::Bool(false) => CredentialSecret::Disabled,
                Value::Computed(_) => CredentialSecret::Unknown,
                value if value.truth() == Some(true) => CredentialSecret::Given,
                _ => CredentialSecret::Generated,
            },
            audit_log: match at(&["logging"]) {
                Value::Table(handlers) => {
                    Fact::Known(handlers.entries().any(|(_, handler)| handler.get("audit") == Value::Bool(true)))
                }
                Value::Computed(why) => Fact::unknown(why),
                _ => Fact::Known(false),
            },
        }
    }

    /// What could not be known, as `key: why`.
    #[must_use]
    pub fn unknown(&self) -> Vec<String> {
        let facts = [
            ("uiPort", self.ui_port.why()),
            ("uiHost", self.ui_host.why()),
            ("https", self.https.why()),
            ("adminAuth", self.admin_auth.why()),
            ("adminAuth.default", self.anonymous.why()),
            ("httpAdminRoot", self.admin_root.why()),
            ("httpNodeAuth", self.http_node_auth.why()),
            ("httpStatic", self.http_static.why()),
            ("httpStaticAuth", self.http_static_auth.why()),
            ("externalModules.palette", self.palette_install.why()),
            ("externalModules.modules", self.module_install.why()),
            ("functionExternalModules", self.function_modules.why()),
            ("functionGlobalContext", self.global_context.why()),
            ("editorTheme.projects", self.projects.why()),
            ("flowFile", self.flow_file.why()),
            ("userDir", self.user_dir.why()),
            ("nodesDir", self.nodes_dir.why()),
        ];
        facts.into_iter().filter_map(|(key, why)| Some(format!("{key}: {}", why?))).collect()
    }
}

/// A switch: only `false` turns it off, only `true` on; anything else leaves it as it is by default.
fn flag(value: &Value, default: bool) -> Fact<bool> {
    match value {
        Value::Bool(value) => Fact::Known(*value),
        Value::Computed(why) => Fact::unknown(why),
        Value::Undefined => Fact::Known(default),
        // JavaScript compares some with `=== false`, and takes others as a condition.
        other => Fact::Known(if default { true } else { other.truth() == Some(true) }),
    }
}

/// Whether something is configured at all.
fn given(value: &Value) -> Fact<bool> {
    match value {
        Value::Computed(why) => Fact::unknown(why),
        other => Fact::Known(other.truth() == Some(true)),
    }
}

fn both(first: Fact<bool>, second: Fact<bool>) -> Fact<bool> {
    match (first, second) {
        (Fact::Known(false), _) | (_, Fact::Known(false)) => Fact::Known(false),
        (Fact::Known(_), second) => second,
        (first, _) => first,
    }
}

fn optional(value: Value) -> Fact<Option<String>> {
    match value {
        Value::Text(text) => Fact::Known(Some(text)),
        Value::Undefined | Value::Null => Fact::Known(None),
        Value::Computed(why) => Fact::unknown(why),
        _ => Fact::unknown("no string"),
    }
}

fn port(value: &Value) -> Fact<u16> {
    let number = match value {
        Value::Undefined => return Fact::Known(1880),
        Value::Number(number) if number.fract() == 0.0 => format!("{number}").parse().ok(),
        Value::Text(text) => text.trim().parse().ok(),
        Value::Computed(why) => return Fact::unknown(why),
        _ => None,
    };
    number.map_or_else(|| Fact::unknown("no port"), Fact::Known)
}

/// The permissions without a login.
fn anonymous(default: &Value) -> Fact<Option<String>> {
    match default {
        Value::Table(table) => match table.get("permissions") {
            Value::List(items) => Fact::Known(Some(
                items
                    .iter()
                    .filter_map(|item| if let Value::Text(text) = item { Some(text.as_str()) } else { None })
                    .collect::<Vec<_>>()
                    .join(", "),
            )),
            other => optional(other),
        },
        Value::Computed(why) => Fact::unknown(why),
        Value::Function => Fact::unknown("a function decides"),
        _ => Fact::Known(None),
    }
}

#[cfg(test)]
mod tests;
