//! Changes of settings.js and flows are reported as a diff without secrets, and raise no alarm.

use std::fs;

use anyhow::{Result, ensure};
use flowwarden_tests::{flows::Flow, guard::Guard, policy::Policy, record::Record, snapshot::Snapshot, wait};

use crate::SCENE;

const SECRET: &str = "no-line-shows-this";

#[test]
fn a_deploy_is_told_node_by_node_and_a_change_of_settings_line_by_line() -> Result<()> {
    SCENE.with(|scene| {
        let node_red = &mut scene.node_red;
        let mut settings = Snapshot::take(&node_red.settings())?;
        node_red.deploy(&Flow::function("return msg;", &[]))?;
        let policy = Policy::enforce(node_red).guard_settings();
        let guard = Guard::start(Some(&policy), &scene.cgroup, &[])?;
        let seen = guard.directory().join("state/seen");
        wait::until("a first look", wait::SOON, || Ok((fs::read_dir(&seen)?.count() == 2).then_some(())))?;

        let node_red = &scene.node_red;
        node_red.deploy(&Flow::function(&format!("const password = '{SECRET}'; return msg;"), &[]))?;
        let of = |kind: &'static str| move |record: &Record| record.pointer_text("/unmapped/change") == kind;
        let deploy = guard.wait_for(wait::SOON, of("flows"))?;
        ensure!(deploy.number("/unmapped/nodes/changed") == Some(1), "{deploy:#?}");
        ensure!(deploy.pointer_text("/unmapped/nodes_changed/0/type") == "function", "{deploy:#?}");
        ensure!(deploy.pointer_text("/unmapped/nodes_changed/0/properties/0") == "func", "{deploy:#?}");
        ensure!(deploy.pointer_text("/file_diff").contains("password = [secret "), "{deploy:#?}");

        let text = fs::read_to_string(node_red.settings())?;
        fs::write(node_red.settings(), format!("// credentialSecret: \"{SECRET}\"\n{text}"))?;
        let change = guard.wait_for(wait::SOON, of("settings"))?;
        ensure!(change.pointer_text("/file_diff").contains("\n+// credentialSecret: [secret "), "{change:#?}");
        ensure!(change.number("/severity_id") == Some(1), "{change:#?}");
        let console = guard.console().clone();
        let records = guard.stop()?;
        settings.restore()?;
        ensure!(!records.iter().any(Record::is_alert), "an alarm: {records:#?}");
        let said = console.text() + &records.iter().map(|record| record.json().to_string()).collect::<String>();
        ensure!(!said.contains(SECRET), "the secret is shown");
        ensure!(said.contains("0 nodes added, 0 removed, 1 changed"), "{}", console.text());
        Ok(())
    })
}
