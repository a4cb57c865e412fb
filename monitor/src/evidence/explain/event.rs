//! One event in plain words.

use std::path::Path;

use monitor_common::{Access, policy::Class};
use serde_json::Value;

use super::{Found, Page, Source, words};
use crate::{
    evidence::{
        critical,
        idiom::{self, Link},
    },
    record::tunnel,
};
use journal::{format::rfc3339_seconds, text::terminal};
use policy::{name::DnsName, own, preset::quoted};

/// What is needed of an event.
struct Event<'a> {
    json: &'a Value,
    instance: &'a str,
    rule: &'a str,
    verdict: &'a str,
    wanted: &'a str,
    hook: &'a str,
}

impl<'a> Event<'a> {
    fn of(json: &'a Value) -> Self {
        let own = |key: &str| json["unmapped"][key].as_str().unwrap_or_default();
        let [instance, rule, verdict, wanted, hook] = ["instance", "rule", "verdict", "wanted", "hook"].map(own);
        Self { json, instance, rule, verdict, wanted, hook }
    }

    fn text(&self, pointer: &str) -> &'a str {
        self.json.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
    }

    fn has_flag(&self, flag: &str) -> bool {
        self.json["unmapped"]["flags"].as_array().is_some_and(|flags| flags.iter().any(|it| it == flag))
    }

    fn access(&self) -> Access {
        let names = self.json["unmapped"]["access"].as_array().into_iter().flatten().filter_map(Value::as_str);
        names.filter_map(Access::by_name).fold(Access::NONE, Access::union)
    }

    fn path(&self) -> &'a str {
        let file = self.text("/file/path");
        if file.is_empty() && self.hook == "exec" { self.text("/process/file/path") } else { file }
    }

    /// The other end's address; none for what is not about the network.
    fn address(&self) -> Option<&'a str> {
        let ends =
            if self.hook == "accept" { ["/src_endpoint/ip", ""] } else { ["/dst_endpoint/ip", "/src_endpoint/ip"] };
        ends.into_iter().filter(|end| !end.is_empty()).find_map(|end| self.json.pointer(end)?.as_str())
    }

    /// The one that acted and those above it.
    fn chain(&self) -> Vec<Link> {
        let mut chain = Vec::new();
        let mut next = self.json.pointer("/actor/process");
        while let Some(process) = next.filter(|process| process.is_object()) {
            let text = |key: &str| process[key].as_str().unwrap_or_default().to_owned();
            chain.push(Link {
                name: text("name"),
                command: text("cmd_line"),
                pid: process["pid"].as_u64().unwrap_or_default(),
            });
            next = process.get("parent_process");
        }
        chain
    }

    /// The class whose default decided.
    fn class(&self) -> Option<Class> {
        let name = self.rule.strip_prefix("default-")?;
        Class::NAMES.iter().find(|(known, _)| *known == name).map(|&(_, class)| class)
    }
}

/// An event of the journal, and what is to be done about it. `source` is the policy that is in use now.
#[must_use]
pub fn event(json: &Value, source: Option<&Source>) -> String {
    let event = Event::of(json);
    let mut page = Page::default();
    let time = json["time"].as_i64().unwrap_or_default();
    page.heading(&format!("Event {}, {}", json["metadata"]["sequence"], rfc3339_seconds(time)));
    page.line(event.text("/message"));
    if event.hook.is_empty() {
        page.line("This is about the guard itself, or about what it has done after another event: nothing was judged.");
        return page.end();
    }
    let found = source.and_then(|source| source.rules(Some(event.instance), event.rule).next());
    who(&mut page, &event);
    which_rule(&mut page, &event, source, found);
    what_was_done(&mut page, &event);
    techniques(&mut page, &event);
    let user_dir = source.and_then(|source| source.policy.instances.iter().find(|it| it.name == event.instance));
    let user_dir = user_dir.map(|instance| instance.user_dir.as_path());
    let critical = known(&mut page, &event, user_dir);
    wanted(&mut page, &event, found, critical);
    unwanted(&mut page, &event, found);
    page.end()
}

fn who(page: &mut Page, event: &Event<'_>) {
    page.heading("Who did it");
    let chain = event.chain();
    for (depth, link) in chain.iter().take_while(|link| link.pid > 1).enumerate() {
        let by = if depth == 0 { "" } else { "started by " };
        let command = if link.command.is_empty() { String::new() } else { format!(": {}", link.command) };
        page.line(&format!("{}{by}{} (process {}){command}", "  ".repeat(depth), link.name, link.pid));
    }
    let user = event.text("/actor/process/user/name");
    if !user.is_empty() {
        page.line(&format!("as the user {user}"));
    }
    page.line(&format!("In flows this typically is {}.", idiom::of_chain(&chain, event.address().is_some())));
}

fn which_rule(page: &mut Page, event: &Event<'_>, source: Option<&Source>, found: Option<Found<'_>>) {
    page.heading("Which rule");
    if words::is_own(event.rule) {
        page.line(&format!("{}, which every policy has: {}", event.rule, words::own(event.rule)));
        return;
    }
    if let (Some(source), Some(Found { action, .. })) = (source, found) {
        page.line(&format!("{}, {} line {}", event.rule, source.path.display(), action.at.line));
        match &action.why {
            Some(why) => page.line(&format!("why: {why}")),
            None => page.line("the policy does not say why; add `why = \"...\"` to the rule"),
        }
    } else if let Some(class) = event.class() {
        page.line(&format!("no rule speaks about this; the default decides: {} ({})", event.rule, words::class(class)));
    } else if source.is_some() {
        page.line(&format!("{}, which the policy does not have any more", event.rule));
    } else {
        page.line(&format!("{} (give the policy as --policy to see where it stands)", event.rule));
    }
    page.line(&format!("it says: {}", event.text("/policy/desc")));
}

fn what_was_done(page: &mut Page, event: &Event<'_>) {
    page.heading("What was done about it");
    let done = match (event.verdict, event.wanted) {
        ("kill", "deny") => {
            "The process was killed: the sensor that saw it cannot refuse, and the rule says to kill then."
        }
        ("kill", _) => "The process was killed before it could go on.",
        ("deny", _) => "It was refused: the process got an error, and nothing happened.",
        (_, "deny" | "kill") if event.has_flag("observed") => {
            "Nothing: the policy only observes. If it were enforced, it would have been stopped."
        }
        (_, "deny" | "kill") if event.has_flag("failed") => "Nothing: the system itself had refused it already.",
        (_, "deny" | "kill") => {
            "It was only logged: the sensor that saw it cannot refuse, and the rule has no fallback."
        }
        _ if event.has_flag("maintenance") => "It was let through and logged, since a maintenance window was open.",
        _ => "It was let through and logged, as the rule says.",
    };
    page.line(done);
    if event.verdict == "kill" && event.has_flag("after") {
        page.line("The operation itself had taken place by then; with heal = true the file is put back.");
    }
    if event.has_flag("damaged") {
        page.line("The file's content had been cut before that.");
    }
}

fn techniques(page: &mut Page, event: &Event<'_>) {
    let attacks = event.json["attacks"].as_array().into_iter().flatten();
    let uids = attacks.filter_map(|attack| {
        attack.pointer("/sub_technique/uid").or_else(|| attack.pointer("/technique/uid")).and_then(Value::as_str)
    });
    let uids: Vec<_> = uids.collect();
    page.heading("What attackers use it for (MITRE ATT&CK)");
    if uids.is_empty() {
        page.line("the rule names no technique");
    }
    for uid in uids {
        page.line(&words::technique(uid));
    }
}

/// Whether Node-RED does this by itself. Answers why it is critical, if it is.
fn known(page: &mut Page, event: &Event<'_>, user_dir: Option<&Path>) -> Option<&'static str> {
    page.heading("Is it something that Node-RED does by itself?");
    // Without a policy the user directory is not known.
    let user_dir = user_dir.unwrap_or(Path::new("/nonexistent"));
    let path = event.path();
    let critical = match event.address() {
        Some(address) => address.parse().ok().and_then(|address| match event.hook {
            "accept" => critical::ingress(address),
            "bind" => None,
            _ => critical::egress(address),
        }),
        None if path.is_empty() => event.class().and_then(critical::class),
        None => critical::file(path, event.access(), user_dir),
    };
    match (critical, idiom::of_path(path, user_dir)) {
        (Some(why), _) => page.line(&format!("No, and it is critical: {why}.")),
        (None, Some(idiom)) => page.line(&format!("Yes: {} ({}).", idiom.sentence, idiom.pattern)),
        (None, None) => page.line("Not that we know of: a flow, an installed node or somebody at the editor did it."),
    }
    critical
}

fn wanted(page: &mut Page, event: &Event<'_>, found: Option<Found<'_>>, critical: Option<&str>) {
    page.heading("If you wanted it");
    if event.rule == tunnel::RULE {
        let domain = terminal::plain(event.text("/unmapped/domain").as_bytes());
        page.line(&format!("Let a rule of the instance \"{}\" allow everything below the domain:", event.instance));
        page.line(&format!("  [[instance.egress]] to = [{}], verdict = \"allow\"", quoted(&format!("*.{domain}"))));
        page.line("then: sudo flowwarden reload");
        return;
    }
    if event.rule.starts_with(own::PREFIX) {
        page.line("It cannot be allowed: who can reach the guard needs no permission for anything else.");
        return;
    }
    if let Some(maintenance) = found.and_then(|found| found.action.maintenance) {
        page.line("Open a maintenance window, and do it again:");
        let (class, instance) = (maintenance.name(), event.instance);
        page.line(&format!("  sudo flowwarden maintenance open --for 15m --class {class} --instance {instance}"));
        if let Some(Found { files: Some(rule), .. }) = found.filter(|found| found.files.is_some_and(|rule| rule.heal)) {
            page.line(&format!("and then keep the change: sudo flowwarden accept {}", rule.path.display()));
        }
        return;
    }
    if critical.is_some() {
        page.line("Consider this carefully: every user who edits flows can then do it.");
    }
    page.line(&format!("Add to the instance \"{}\" in the policy, and say why:", event.instance));
    for line in lines(event) {
        page.line(&format!("  {line}"));
    }
    page.line("then: sudo flowwarden reload");
}

/// The lines of a policy that allow exactly this.
fn lines(event: &Event<'_>) -> Vec<String> {
    let end = ["why = \"...\"".to_owned(), "verdict = \"allow\"".to_owned()];
    if let Some(address) = event.address() {
        let ingress = matches!(event.hook, "accept" | "bind");
        let port = event.json["dst_endpoint"]["port"].as_u64().unwrap_or_default();
        let (table, key) = if ingress { ("ingress", "from") } else { ("egress", "to") };
        let protocol = event.text("/connection_info/protocol_name");
        let name = DnsName::parse(event.text("/dst_endpoint/hostname")).ok().filter(|_| !ingress);
        let who = name.map_or_else(|| address.to_owned(), |name| name.to_string());
        let mut lines = vec![format!("[[instance.{table}]]"), format!("{key} = [{}]", quoted(&who))];
        lines.push(format!("ports = [{port}]"));
        if matches!(protocol, "tcp" | "udp") {
            lines.push(format!("protocol = \"{protocol}\""));
        }
        lines.extend(end);
        return lines;
    }
    let (path, access) = (event.path(), event.access());
    let default = || {
        let class = event.class().map_or("files", |class| Class::NAMES[class as usize].0);
        vec!["[instance.default]".to_owned(), format!("{class} = \"allow\"")]
    };
    if path.is_empty() || access.is_empty() {
        return default();
    }
    let mut lines = if access == Access::EXEC {
        vec!["[[instance.exec]]".to_owned(), format!("path = {}", quoted(path))]
    } else {
        let names: Vec<_> = access.names().collect();
        vec!["[[instance.files]]".to_owned(), format!("path = {}", quoted(path)), format!("access = {names:?}")]
    };
    lines.extend(end);
    lines
}

fn unwanted(page: &mut Page, event: &Event<'_>, found: Option<Found<'_>>) {
    page.heading("If you did not");
    let chain = event.chain();
    let chain_text = idiom::of_chain(&chain, event.address().is_some());
    if chain_text.contains("install script") || chain_text.starts_with("npm") {
        page.line("Look which package was installed at that time, remove it, and look at its scripts in package.json.");
    } else if chain_text.contains("exec node") {
        page.line(
            "Look in the editor for exec nodes and Function nodes with that command (Ctrl-F), and who deployed them.",
        );
    } else {
        page.line(
            "Look in the editor for the node that does this (Ctrl-F for the path or address), and who deployed it.",
        );
    }
    let stopped = matches!(event.verdict, "deny" | "kill");
    if !stopped && event.access().contains(Access::READ) {
        page.line("It was read: if there are secrets in it, replace them.");
    }
    if let Some(rule) = found.and_then(|found| found.files).filter(|rule| rule.heal) {
        page.line(&format!("If the file is not as it should be: sudo flowwarden restore {}", rule.path.display()));
    }
    if event.rule == tunnel::RULE {
        page.line("It has left through your resolvers: let them refuse the domain.");
    } else if !stopped {
        page.line(
            "Have it stopped: verdict = \"deny\" in a rule for it, mode = \"enforce\", and sudo flowwarden reload.",
        );
    }
    page.line("See who can reach the editor: sudo flowwarden audit");
}
