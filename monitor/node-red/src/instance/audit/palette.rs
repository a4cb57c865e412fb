//! Rule 4: packages change only with permission.

use super::{Finding, Fix, Status, Subject, access::WritePath, fix::path};
use crate::instance::settings::Fact;

const RULE: u8 = 4;

pub(super) fn check(subject: &Subject<'_>) -> Vec<Finding> {
    vec![install(subject), writable(subject), modules(subject), package(subject)]
}

fn install(subject: &Subject<'_>) -> Finding {
    const CHECK: &str = "palette-install";
    let fix = [Fix::settings("externalModules: { palette: { allowInstall: false, allowUpload: false } },")];
    match subject.instance.settings.as_ref().map(|settings| &settings.palette_install) {
        Some(Fact::Known(false)) => Finding::pass(CHECK, RULE, "users of the editor cannot install packages"),
        Some(Fact::Known(true)) => {
            let what = "users who can edit flows can install packages, whose install scripts run immediately";
            Finding::new(CHECK, RULE, Status::Warn, what).fix(fix)
        }
        unknown => {
            let why = unknown.and_then(|fact| fact.why()).unwrap_or("the settings cannot be read");
            Finding::new(CHECK, RULE, Status::Warn, "it is unknown whether users of the editor can install packages")
                .because([why.to_owned()])
                .fix(fix)
        }
    }
}

/// Parts of the palette in the user directory.
const PALETTE_PATHS: [&str; 7] =
    ["node_modules", "package.json", "package-lock.json", ".npmrc", "nodes", "lib", "externalModules"];

fn writable(subject: &Subject<'_>) -> Finding {
    const CHECK: &str = "palette-writable";
    let Some(directory) = subject.user_dir() else {
        return Finding::new(CHECK, RULE, Status::Warn, "the user directory is unknown");
    };
    let open: Vec<_> = PALETTE_PATHS
        .iter()
        .map(|part| directory.join(part))
        .filter(|part| subject.root.exists(part) && !subject.credentials.changes(&subject.root, part).is_empty())
        .collect();
    if open.is_empty() {
        return Finding::pass(
            CHECK,
            RULE,
            format!("{} cannot change packages outside the palette manager", subject.user()),
        );
    }
    let closed = subject.instance.settings.as_ref().is_some_and(|settings| settings.palette_install.is(&false));
    let (status, what) = if closed {
        (Status::Fail, "the palette manager is disabled, but flows can change packages directly")
    } else {
        (Status::Warn, "flows can change packages, with or without the palette manager")
    };
    let mut fixes = vec![Fix::advice(
        "let Flowwarden deny these writes: flowwarden init --preset standard (or stricter) includes the rule `palette`",
    )];
    if closed && subject.is_on_host() {
        let packages = directory.join("node_modules");
        fixes.push(Fix::shell(format!("chown -R root {0} && chmod -R go-w {0}", path(&packages))));
        fixes.push(Fix::advice(
            "this protects node_modules only; with a writable parent directory it can still be renamed, see settings-writable",
        ));
    }
    Finding::new(CHECK, RULE, status, what).because(open.iter().map(|part| part.display().to_string())).fix(fixes)
}

fn modules(subject: &Subject<'_>) -> Finding {
    const CHECK: &str = "function-modules";
    let Some(settings) = &subject.instance.settings else {
        return Finding::new(CHECK, RULE, Status::Warn, "the settings cannot be read");
    };
    let mut evidence = Vec::new();
    let mut fixes = Vec::new();
    if !settings.function_modules.is(&false) {
        evidence.push(
            "functionExternalModules is enabled: Function nodes can load fs, child_process, net and any package"
                .to_owned(),
        );
        fixes.push(Fix::settings("functionExternalModules: false,"));
    }
    match &settings.global_context {
        Fact::Known(modules) if modules.is_empty() => {}
        Fact::Known(modules) => {
            evidence.push(format!("functionGlobalContext exposes {}", modules.join(", ")));
            fixes.push(Fix::advice("remove these modules from functionGlobalContext"));
        }
        Fact::Unknown { unknown } => evidence.push(format!("functionGlobalContext: {unknown}")),
    }
    if evidence.is_empty() {
        return Finding::pass(CHECK, RULE, "Function nodes have no access to modules")
            .because(["the sandbox of Function nodes can be escaped; it is not a security boundary".to_owned()]);
    }
    Finding::new(CHECK, RULE, Status::Warn, "Function nodes can access files, processes and the network")
        .because(evidence)
        .fix(fixes)
}

/// Checks whether the user can modify Node-RED's own program files.
fn package(subject: &Subject<'_>) -> Finding {
    const CHECK: &str = "program-writable";
    let Some(package) = &subject.instance.package else {
        return Finding::new(CHECK, RULE, Status::Warn, "the installation directory of Node-RED is unknown");
    };
    let red_js = package.join("red.js");
    let ways = subject.credentials.changes(&subject.root, &red_js);
    if ways.is_empty() {
        return Finding::pass(CHECK, RULE, format!("{} cannot change {}", subject.user(), package.display()));
    }
    let what = format!("{} can change Node-RED itself", subject.user());
    let mut finding = Finding::new(CHECK, RULE, Status::Fail, what).because(ways.iter().map(WritePath::describe));
    if subject.is_on_host() {
        finding = finding.fix([
            Fix::shell(format!("chown -R root:root {}", path(package))),
            Fix::advice("install Node-RED as root: npm install -g --unsafe-perm node-red"),
        ]);
    }
    finding
}
