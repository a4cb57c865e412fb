//! Mail: a storm is one mail, what the server does not take now comes later, and what it never takes is put aside.

use std::{collections::BTreeSet, fs, path::Path};

use anyhow::{Context as _, Result, ensure};
use flowwarden_tests::{
    guard::Guard,
    receiver::{
        Certificates,
        mail::{self, MailServer},
    },
    record::Record,
    scene::Scene,
    wait,
};

use crate::{
    brokers::{password, tls},
    sinks::{EVENTS, policy, read, status, test_sink},
};

fn sink(receiver: &MailServer, how: &str, certificates: &Certificates, password: &str) -> String {
    format!(
        "name = \"siem\"\ntype = \"email\"\nserver = \"{}\"\ntransport = \"{how}\"\n{}\nuser = \"{}\"\n\
         password-file = \"{password}\"\nsender = \"Flowwarden <guard@plant.test>\"\nto = [\"ops@plant.test\", \"duty@plant.test\"]",
        receiver.server.address(),
        tls(certificates),
        mail::USER
    )
}

#[test]
fn mail_is_about_incidents_and_none_is_lost_while_the_server_is_busy() -> Result<()> {
    let scene = Scene::empty()?;
    let (certificates, directory) = (Certificates::new()?, tempfile::tempdir()?);
    let receiver = MailServer::start("starttls", &certificates)?;
    let secret = password(directory.path(), mail::PASSWORD)?;
    let names = ["storm", "busy", "wrong", "after"];
    let keys = sink(&receiver, "starttls", &certificates, &secret) + "\nseverity = \"low\"\npause = \"1s\"";
    let guard = Guard::start(Some(&policy(&scene, &names)?.sink(&keys)), &scene.cgroup, &[])?;
    let console = guard.console().clone();
    let reports = |why: &str| {
        wait::until(why, wait::SOON, || Ok(status(&guard)?.contains(why).then_some(())))
            .with_context(|| format!("{}\n{}", status(&guard).unwrap_or_default(), console.text()))
    };
    let comes = |receiver: &MailServer, rule: &str| {
        let wanted = format!("rule {rule} of instance plant-a");
        wait::until(&wanted, wait::SOON, || Ok(receiver.mails()?.into_iter().find(|mail| mail.contains(&wanted))))
            .with_context(|| {
                format!("{}\n{}\n{}", status(&guard).unwrap_or_default(), console.text(), receiver.server.log())
            })
    };

    // A missing recipient is not the fault of an event.
    receiver.answer_recipients(Some("550 5.1.1 no such mailbox"))?;
    read(&scene, "storm", EVENTS)?;
    reports("no such mailbox")?;
    receiver.answer_recipients(None)?;
    let mail = comes(&receiver, "storm")?;
    for part in [
        "guard@plant.test ops@plant.test duty@plant.test\n",
        "\nSubject: [flowwarden] ",
        ": plant-a: logged by storm\n",
        "\nFrom: Flowwarden <guard@plant.test>\n",
        "\nWhat to do: ",
        "\nMore: flowwarden explain ",
    ] {
        ensure!(mail.contains(part), "{part:?} is not in\n{mail}");
    }

    receiver.answer(Some("451 4.3.2 busy"))?;
    read(&scene, "busy", EVENTS)?;
    reports("4.3.2 busy")?;
    receiver.answer(None)?;
    comes(&receiver, "busy")?;

    let dead = guard.journal_directory().join("sinks/siem.dead.jsonl");
    ensure!(!dead.exists(), "{}", fs::read_to_string(&dead)?);
    receiver.answer(Some("554 5.6.0 not in these words"))?;
    read(&scene, "wrong", EVENTS)?;
    wait::until("what is put aside", wait::SOON, || {
        Ok(fs::read_to_string(&dead).is_ok_and(|text| text.contains("\"rule\":\"wrong\"")).then_some(()))
    })?;
    receiver.answer(None)?;
    read(&scene, "after", EVENTS)?;
    comes(&receiver, "after")?;

    let mails = receiver.mails()?;
    ensure!(mails.len() <= 12, "{} mails about {} events", mails.len(), names.len() * EVENTS);
    let text = fs::read_to_string(guard.policy_file())?;
    let records = guard.stop()?;
    let incidents: BTreeSet<_> =
        records.iter().map(|record| record.pointer_text("/finding_info/uid")).filter(|uid| !uid.is_empty()).collect();
    ensure!(incidents.len() == names.len(), "{incidents:?}");
    let journal: String = records.iter().map(Record::json).map(ToString::to_string).collect();
    let secret = mail::PASSWORD;
    ensure!(!text.contains(secret) && !console.text().contains(secret) && !journal.contains(secret));
    Ok(())
}

#[test]
fn a_mail_server_that_refuses_the_guard_or_is_somebody_else_says_so() -> Result<()> {
    let (ours, theirs) = (Certificates::new()?, Certificates::new()?);
    let directory = Guard::new_directory()?;
    let file = directory.path().join("policy.toml");
    let receiver = MailServer::start("tls", &ours)?;
    let test = |certificates: &Certificates, how: &str, word: &str, at: &Path| -> Result<(bool, String)> {
        let sink = sink(&receiver, how, certificates, &password(at, word)?);
        let rest = "[[instance]]\nname = \"a\"\nselect = [{ uid = 64123 }]\nuser-dir = \"/tmp\"";
        fs::write(&file, format!("version = 1\n[[sink]]\n{sink}\n{rest}\n"))?;
        test_sink(&file)
    };
    for (certificates, how, word, why) in [
        (&ours, "tls", "wrong", "the login is refused"),
        (&theirs, "tls", mail::PASSWORD, "certificate"),
        // It speaks TLS at once, and says nothing that a plain client could read.
        (&ours, "starttls", mail::PASSWORD, "siem"),
    ] {
        let (good, said) = test(certificates, how, word, directory.path())?;
        ensure!(!good && said.contains(why) && !said.contains("let-me-in"), "{how}: {said}\n{}", receiver.server.log());
    }
    ensure!(receiver.mails()?.is_empty());
    let (good, said) = test(&ours, "tls", mail::PASSWORD, directory.path())?;
    ensure!(good, "{said}\n{}", receiver.server.log());
    let mail = wait::until("the mail", wait::SOON, || Ok(receiver.mails()?.pop()))?;
    ensure!(mail.contains("Test event"), "{mail}");
    Ok(())
}
