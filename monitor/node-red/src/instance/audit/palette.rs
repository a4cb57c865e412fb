//! Rule 4: packages change only when that is allowed.

use super::{Finding, Fix, Status, Subject, access::Way, fix::path};
use crate::instance::settings::Fact;

const RULE: u8 = 4;

pub(super) fn check(subject: &Subject<'_>) -> Vec<Finding> {
    vec![install(subject), writable(subject), modules(subject), package(subject)]
}

fn install(subject: &Subject<'_>) -> Finding {
    const CHECK: &str = "palette-install";
    let fix = [Fix::settings("externalModules: { palette: { allowInstall: false, allowUpload: false } },")];
    match subject.instance.settings.as_ref().map(|settings| &settings.palette_install) {
        Some(Fact::Known(false)) => Finding::pass(CHECK, RULE, "editors may not install packages"),
        Some(Fact::Known(true)) => {
            let what = "users who may edit flows may install packages, whose install scripts run at once";
            Finding::new(CHECK, RULE, Status::Warn, what).fix(fix)
        }
        unknown => {
            let why = unknown.and_then(|fact| fact.why()).unwrap_or("the settings cannot be read");
            Finding::new(CHECK, RULE, Status::Warn, "it is not known whether editors may install packages")
                .because([why.to_owned()])
                .fix(fix)
        }
    }
}

/// What a palette consists of, in the user directory.
const PARTS: [&str; 7] =
    ["node_modules", "package.json", "package-lock.json", ".npmrc", "nodes", "lib", "externalModules"];

fn writable(subject: &Subject<'_>) -> Finding {
    const CHECK: &str = "palette-writable";
    let Some(directory) = subject.user_dir() else {
        return Finding::new(CHECK, RULE, Status::Warn, "the user directory is not known");
    };
    let open: Vec<_> = PARTS
        .iter()
        .map(|part| directory.join(part))
        .filter(|part| subject.root.exists(part) && !subject.who.changes(&subject.root, part).is_empty())
        .collect();
    if open.is_empty() {
        return Finding::pass(
            CHECK,
            RULE,
            format!("{} cannot change packages past the palette manager", subject.user()),
        );
    }
    let closed = subject.instance.settings.as_ref().is_some_and(|settings| settings.palette_install.is(&false));
    let (status, what) = if closed {
        (Status::Fail, "the palette manager is off, but flows change packages all the same")
    } else {
        (Status::Warn, "flows can change packages, with or without the palette manager")
    };
    let mut fixes = vec![Fix::advice(
        "let Flowwarden close them: flowwarden init --preset standard (or stricter) has the rule `palette`",
    )];
    if closed && subject.is_on_host() {
        let packages = directory.join("node_modules");
        fixes.push(Fix::shell(format!("chown -R root {0} && chmod -R go-w {0}", path(&packages))));
        fixes.push(Fix::advice(
            "this closes node_modules itself; the directory above lets it be renamed, see settings-writable",
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
            "functionExternalModules is on: Function nodes load fs, child_process, net and any package".to_owned(),
        );
        fixes.push(Fix::settings("functionExternalModules: false,"));
    }
    match &settings.global_context {
        Fact::Known(modules) if modules.is_empty() => {}
        Fact::Known(modules) => {
            evidence.push(format!("functionGlobalContext hands out {}", modules.join(", ")));
            fixes.push(Fix::advice("remove these modules from functionGlobalContext"));
        }
        Fact::Unknown { unknown } => evidence.push(format!("functionGlobalContext: {unknown}")),
    }
    if evidence.is_empty() {
        return Finding::pass(CHECK, RULE, "Function nodes are given no modules")
            .because(["the sandbox of Function nodes can be left all the same; it is no boundary".to_owned()]);
    }
    Finding::new(CHECK, RULE, Status::Warn, "Function nodes reach files, processes and the network")
        .because(evidence)
        .fix(fixes)
}

/// Node-RED's own program.
fn package(subject: &Subject<'_>) -> Finding {
    const CHECK: &str = "program-writable";
    let Some(package) = &subject.instance.package else {
        return Finding::new(CHECK, RULE, Status::Warn, "it is not known where Node-RED is installed");
    };
    let red_js = package.join("red.js");
    let ways = subject.who.changes(&subject.root, &red_js);
    if ways.is_empty() {
        return Finding::pass(CHECK, RULE, format!("{} cannot be changed by {}", package.display(), subject.user()));
    }
    let what = format!("{} can change Node-RED itself", subject.user());
    let mut finding = Finding::new(CHECK, RULE, Status::Fail, what).because(ways.iter().map(Way::describe));
    if subject.is_on_host() {
        finding = finding.fix([
            Fix::shell(format!("chown -R root:root {}", path(package))),
            Fix::advice("install Node-RED as root: npm install -g --unsafe-perm node-red"),
        ]);
    }
    finding
}
