use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
};

use super::*;
use crate::instance::survey_at;
use policy::parse::parse;

/// The root directory of a machine, with its own accounts.
struct Machine(tempfile::TempDir);

const PASSWD: &str = "root:x:0:0::/root:/bin/bash\npi:x:61000:61000::/home/pi:/bin/bash\nnr:x:61001:61001::/var/lib/nr:/usr/sbin/nologin\n";
const GROUP: &str = "root:x:0:\npi:x:61000:\nnr:x:61001:\nsudo:x:27:pi\ndocker:x:999:nr\n";
const UNIT: &str = "[Service]\nUser=nr\nWorkingDirectory=/var/lib/nr\nExecStart=/usr/bin/env node-red -v\n";

impl Machine {
    fn new(settings: &str) -> Self {
        let machine = Self(tempfile::tempdir().unwrap());
        fs::set_permissions(machine.0.path(), fs::Permissions::from_mode(0o755)).unwrap();
        machine.put("etc/passwd", PASSWD);
        machine.put("etc/systemd/system/nodered.service", UNIT);
        machine.put("var/lib/nr/.node-red/settings.js", settings);
        machine
    }

    fn put(&self, path: &str, content: &str) -> &Self {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
        self
    }

    fn mode(&self, path: &str, mode: u32) -> &Self {
        fs::set_permissions(self.0.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        self
    }

    fn report(&self, policy: Option<&Policy>) -> AuditReport {
        let survey = survey_at(self.0.path()).unwrap();
        audit(&survey.instances[0], &survey, Some(self.0.path()), policy).unwrap()
    }

    fn finding(&self, check: &str) -> Finding {
        self.report(None).findings.into_iter().find(|finding| finding.check == check).unwrap()
    }

    fn status(&self, check: &str) -> Status {
        self.finding(check).status
    }
}

fn exports(body: &str) -> String {
    format!("module.exports = {{ {body} }}")
}

#[test]
fn check_ids_are_unique_and_every_failed_check_has_a_remediation() {
    let report = Machine::new(&exports("")).mode("var/lib/nr/.node-red/settings.js", 0o666).report(None);
    let ids: BTreeSet<_> = report.findings.iter().map(|finding| finding.check).collect();
    assert_eq!(ids.len(), report.findings.len());
    assert!((1..=7).all(|rule| report.findings.iter().any(|finding| finding.rule == rule)), "{report:#?}");
    for finding in report.findings.iter().filter(|finding| finding.status == Status::Fail) {
        assert!(!finding.remediation.is_empty(), "{finding:#?}");
    }
    assert_eq!(report.worst(), Status::Fail);
}

#[test]
fn settings_check_covers_every_directory_above_the_file() {
    let machine = Machine::new(&exports(""));
    assert_eq!(machine.status("settings-writable"), Status::Pass);
    for (path, mode) in
        [("var/lib/nr/.node-red/settings.js", 0o666), ("var/lib/nr/.node-red", 0o777), ("var/lib", 0o777)]
    {
        let machine = Machine::new(&exports(""));
        machine.mode(path, mode);
        let finding = machine.finding("settings-writable");
        assert_eq!(finding.status, Status::Fail, "{path}");
        assert!(finding.evidence[0].starts_with(&format!("/{path} ")), "{finding:#?}");
        let lines: Vec<_> =
            finding.remediation.iter().map(|fix| if let Fix::Shell(line) = fix { line.as_str() } else { "" }).collect();
        // The owner of a directory of another user is not changed.
        let sticky = format!("chmod +t /{path}");
        assert_eq!(lines[0] == sticky, path.strip_suffix("settings.js").is_none(), "{lines:?}");
        let file = "/var/lib/nr/.node-red/settings.js";
        assert_eq!(lines[lines.len() - 2..], [format!("chown root:61001 {file}"), format!("chmod 0640 {file}")]);
    }
    machine.mode("var/lib/nr/.node-red", 0o1777);
    assert_eq!(machine.status("settings-writable"), Status::Pass, "sticky");
}

#[test]
fn settings_of_a_login_user_move_out_of_the_home_directory() {
    let machine = Machine::new("");
    machine.put("etc/systemd/system/nodered.service", &UNIT.replace("User=nr", "User=pi"));
    machine.put("home/pi/.node-red/settings.js", &exports("")).mode("home/pi/.node-red/settings.js", 0o666);
    let finding = machine.finding("settings-writable");
    let drop_in =
        finding.remediation.iter().find_map(|fix| if let Fix::Systemd(text) = fix { Some(text) } else { None });
    assert!(
        drop_in
            .unwrap()
            .contains("ExecStart=\nExecStart=/usr/bin/env node-red -v --settings /etc/node-red/nodered.js\n"),
        "{finding:#?}"
    );
    // The audit follows the drop-in that it proposed.
    machine.put("etc/systemd/system/nodered.service.d/settings.conf", drop_in.unwrap());
    machine.put("etc/node-red/nodered.js", &exports("uiPort: 1999"));
    assert_eq!(machine.status("settings-writable"), Status::Pass);
}

#[test]
fn keys_are_found_by_reference_and_by_content() {
    let machine = Machine::new(&exports("https: { key: require('fs').readFileSync('/etc/tls/web.key') }"));
    assert_eq!(machine.status("keys-readable"), Status::Pass, "a missing key is not readable");
    machine.put("etc/tls/web.key", "x").mode("etc/tls/web.key", 0o640);
    assert_eq!(machine.status("keys-readable"), Status::Pass, "no access for others");
    machine.mode("etc/tls/web.key", 0o644);
    let finding = machine.finding("keys-readable");
    assert!(finding.status == Status::Fail && finding.evidence[0].contains("readable by all users"), "{finding:#?}");
    let machine = Machine::new(&exports(""));
    machine.put("var/lib/nr/.node-red/certs/a.pem", "-----BEGIN PRIVATE KEY-----\n");
    machine.put("var/lib/nr/.node-red/certs/public.pem", "-----BEGIN CERTIFICATE-----\n");
    machine.put("var/lib/nr/.node-red/node_modules/x/test.key", "-----BEGIN PRIVATE KEY-----\n");
    machine.put("var/lib/nr/.node-red/flows.json", r#"[{"type":"tls-config","key":"tls/b.key"}]"#);
    machine.put("var/lib/nr/tls/b.key", "x");
    let finding = machine.finding("keys-readable");
    assert_eq!(finding.evidence.len(), 2, "{finding:#?}");
    symlink("/nowhere", machine.0.path().join("var/lib/nr/.node-red/dangling.key")).unwrap();
    assert_eq!(machine.finding("keys-readable").evidence.len(), 2);
}

#[test]
fn editor_checks_depend_on_bind_address_and_login() {
    let auth = "adminAuth: { type: 'credentials', users: [] }";
    for (body, exposed, logins, https) in [
        ("uiHost: '127.0.0.1'".to_owned(), Status::Pass, Status::Warn, Status::Pass),
        (String::new(), Status::Warn, Status::Fail, Status::Warn),
        (format!("uiHost: '8.8.8.8', {auth}"), Status::Fail, Status::Pass, Status::Warn),
        (format!("uiHost: '10.0.0.1', https: {{}}, {auth}"), Status::Warn, Status::Pass, Status::Pass),
        ("uiHost: host(), adminAuth: auth(), https: tls()".to_owned(), Status::Warn, Status::Warn, Status::Warn),
        (
            "uiHost: '::', adminAuth: { default: { permissions: '*' } }".to_owned(),
            Status::Warn,
            Status::Fail,
            Status::Warn,
        ),
        (
            "adminAuth: { default: { permissions: ['flows.read', 'read'] } }".to_owned(),
            Status::Warn,
            Status::Warn,
            Status::Warn,
        ),
    ] {
        let machine = Machine::new(&exports(&body));
        // `::` includes public addresses of the machine that runs the test.
        let found = machine.status("editor-exposed");
        assert!(found == exposed || (exposed == Status::Warn && found == Status::Fail), "{body}: {found:?}");
        assert_eq!((machine.status("editor-auth"), machine.status("editor-https")), (logins, https), "{body}");
    }
    let off = Machine::new(&exports("httpAdminRoot: false"));
    assert_eq!(off.status("editor-exposed"), Status::Pass);
    let dashboard = Machine::new(&exports(""));
    dashboard.put("var/lib/nr/.node-red/flows.json", r#"[{"type":"http in","url":"/x"}]"#);
    assert_eq!(dashboard.status("http-auth"), Status::Warn);
}

#[test]
fn the_palette_passes_only_with_protected_files() {
    let closed = "externalModules: { palette: { allowInstall: false } }, functionExternalModules: false";
    let machine = Machine::new(&exports(closed));
    for check in ["palette-install", "palette-writable", "function-modules"] {
        assert_eq!(machine.status(check), Status::Pass, "{check}");
    }
    machine.put("var/lib/nr/.node-red/package.json", "{}").mode("var/lib/nr/.node-red/package.json", 0o666);
    assert_eq!(machine.status("palette-writable"), Status::Fail);
    let open = Machine::new(&exports("functionGlobalContext: { fs: require('fs') }"));
    assert_eq!((open.status("palette-install"), open.status("function-modules")), (Status::Warn, Status::Warn));
    assert!(open.finding("function-modules").evidence[1].ends_with("exposes fs"));
}

#[test]
fn host_checks_find_writable_and_readable_system_files() {
    let machine = Machine::new(&exports(""));
    assert_eq!((machine.status("host-writable"), machine.status("host-readable")), (Status::Pass, Status::Pass));
    machine.put("etc/systemd/system/x", "").mode("etc/systemd/system", 0o777);
    machine.put("etc/shadow", "x").mode("etc/shadow", 0o644);
    assert_eq!((machine.status("host-writable"), machine.status("host-readable")), (Status::Fail, Status::Fail));
    let machine = Machine::new(&exports(""));
    machine.put(
        "etc/systemd/system/nodered.service",
        &format!("{UNIT}EnvironmentFile=-/var/lib/nr/.node-red/environment\n"),
    );
    assert_eq!(machine.status("environment-writable"), Status::Pass);
    machine.mode("var/lib/nr/.node-red", 0o777);
    let finding = machine.finding("environment-writable");
    assert!(
        finding.status == Status::Fail && finding.remediation.len() == 4,
        "a missing file can be created: {finding:#?}"
    );
    assert_eq!(machine.status("unit-confined"), Status::Warn);
    machine.put(
        "etc/systemd/system/nodered.service.d/confine.conf",
        "[Service]\nNoNewPrivileges=yes\nProtectSystem=strict\nProtectHome=tmpfs\nPrivateTmp=yes\nProtectKernelModules=1\nProtectControlGroups=true\n",
    );
    assert_eq!(machine.status("unit-confined"), Status::Pass);
    machine.put("etc/systemd/system/nodered.service", &UNIT.replace("User=nr", "User=root"));
    assert_eq!((machine.status("host-writable"), machine.status("settings-writable")), (Status::Fail, Status::Fail));
}

#[test]
fn the_egress_check_evaluates_the_policy_of_the_instance() {
    let machine = Machine::new(&exports(""));
    machine.put("var/lib/nr/.node-red/flows.json", r#"[{"type":"tcp request","server":"plc","port":"502"}]"#);
    let policy = |mode: &str, directory: &str, default: &str| {
        let text = format!(
            "version = 1\nmode = \"{mode}\"\n[[instance]]\nname = \"a\"\nuser-dir = \"{directory}\"\nselect = [{{ uid = 7 }}]\ndefault = {{ egress = \"{default}\" }}\n"
        );
        parse(&text).unwrap()
    };
    let status = |policy: Option<&Policy>| {
        let found =
            machine.report(policy).findings.into_iter().find(|finding| finding.check == "egress-limited").unwrap();
        assert!(found.evidence.iter().any(|line| line.ends_with("plc port 502")), "{found:#?}");
        found.status
    };
    assert_eq!(status(None), Status::Warn);
    for (mode, directory, default, expected) in [
        ("enforce", "/var/lib/nr/.node-red", "deny", Status::Pass),
        ("observe", "/var/lib/nr/.node-red", "deny", Status::Warn),
        ("enforce", "/var/lib/nr/.node-red", "log", Status::Warn),
        ("enforce", "/var/lib/nr/.node-red", "allow", Status::Fail),
        ("enforce", "/elsewhere", "deny", Status::Fail),
    ] {
        assert_eq!(status(Some(&policy(mode, directory, default))), expected, "{mode} {directory} {default}");
    }
}

#[test]
fn other_instances_and_privileged_groups_are_reported() {
    let machine = Machine::new(&exports(""));
    assert_eq!((machine.status("privileged-groups"), machine.status("account-shared")), (Status::Pass, Status::Pass));
    machine.put("etc/group", GROUP);
    let finding = machine.finding("privileged-groups");
    assert_eq!((finding.status, finding.evidence.as_slice()), (Status::Fail, &["group docker".to_owned()][..]));
    assert_eq!(finding.remediation[0], Fix::Shell("gpasswd --delete nr docker".to_owned()));
    machine
        .put("etc/group", "nr:x:61001:\n")
        .put("etc/sudoers.d/nr", "nr ALL=(ALL) NOPASSWD: ALL\npi ALL=NOPASSWD: /bin/x\n");
    assert_eq!(machine.finding("privileged-groups").evidence.len(), 1);
    machine.put("etc/systemd/system/z-other.service", "[Service]\nUser=nr\nExecStart=node-red -u /var/other\n");
    machine.put("var/other/settings.js", &exports(""));
    assert_eq!((machine.status("account-shared"), machine.status("neighbours-files")), (Status::Fail, Status::Warn));
    machine.mode("var/other", 0o777);
    assert_eq!(machine.status("neighbours-files"), Status::Fail);
    machine.mode("var/other", 0o700);
    assert_eq!(machine.status("neighbours-files"), Status::Pass);
}

#[test]
fn known_vulnerabilities_are_found_by_version() {
    let machine = Machine::new(&exports("editorTheme: { projects: { enabled: true } }"));
    assert_eq!(machine.status("known-vulnerabilities"), Status::Warn, "the version is unknown");
    machine.put("var/lib/nr/.node-red/node_modules/node-red-dashboard/package.json", r#"{"version":"2.26.1"}"#);
    let finding = machine.finding("known-vulnerabilities");
    assert!(
        finding.status == Status::Fail
            && finding.evidence.len() == 1
            && finding.evidence[0].starts_with("CVE-2021-3223: ")
    );
    assert_eq!(machine.status("projects-keys-api"), Status::Warn);
}

#[test]
fn missing_and_unreadable_files_do_not_abort_an_audit() {
    let machine = Machine::new("");
    fs::remove_dir_all(machine.0.path().join("var/lib/nr")).unwrap();
    assert!(machine.report(None).findings.iter().all(|finding| finding.status >= Status::Pass));
    let machine = Machine::new("\u{0}module.exports = {{{{");
    machine.put("etc/group", "broken\n:::\n").put("var/lib/nr/.node-red/flows.json", "[[[");
    assert_eq!(machine.status("settings-writable"), Status::Pass);
}
