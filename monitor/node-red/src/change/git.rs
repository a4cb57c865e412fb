//! What the configuration of a repository has git run: a program or a command line that waits there for the next commit,
//! which somebody else makes.

use std::{collections::BTreeSet, iter::Peekable, str::Chars};

use super::mask::Masker;

/// Most settings that are reported of one change.
const MAX_SETTINGS: usize = 8;
/// Most characters of a setting.
const MAX_LINE: usize = 200;

/// Settings whose value is run, or names where what is run is (git-config(1)), by section and name in lower case.
const RUN: [(&str, &[&str]); 21] = [
    ("core", &["hookspath", "sshcommand", "gitproxy", "editor", "pager", "askpass", "alternaterefscommand"]),
    ("credential", &["helper"]),
    ("sequence", &["editor"]),
    ("diff", &["external", "command", "textconv"]),
    ("filter", &["clean", "smudge", "process"]),
    ("merge", &["driver"]),
    ("mergetool", &["cmd"]),
    ("difftool", &["cmd"]),
    ("guitool", &["cmd"]),
    ("browser", &["cmd"]),
    ("man", &["cmd"]),
    ("tar", &["command"]),
    ("trailer", &["command", "cmd"]),
    ("hook", &["command"]),
    ("gpg", &["program", "defaultkeycommand"]),
    ("interactive", &["difffilter"]),
    ("remote", &["uploadpack", "receivepack", "vcs"]),
    ("uploadpack", &["packobjectshook"]),
    ("init", &["templatedir"]),
    // More settings come from there.
    ("include", &["path"]),
    ("includeif", &["path"]),
];

/// One setting.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    section: String,
    /// With the dot before it, as in `.origin`; empty where there is none.
    subsection: String,
    key: String,
    value: String,
}

impl Setting {
    fn is_run(&self) -> bool {
        let Self { section, key, value, .. } = self;
        let is_switch =
            || ["", "0", "1", "true", "false", "yes", "no", "on", "off"].contains(&&*value.to_ascii_lowercase());
        match (section.as_str(), key.as_str()) {
            // git has a monitor of its own, which is switched on and off here.
            ("core", "fsmonitor") | ("pager", _) => !is_switch(),
            ("alias", _) | ("submodule", "update") => value.starts_with('!'),
            ("remote", "url" | "pushurl") => value.starts_with("ext::"),
            (section, key) => {
                !value.is_empty() && RUN.iter().any(|(known, keys)| *known == section && keys.contains(&key))
            }
        }
    }

    fn line(&self) -> String {
        format!("{}{}.{} = {}", self.section, self.subsection, self.key, self.value)
    }
}

/// Settings by which git runs something now and did not before, without secrets.
#[must_use]
pub fn news(old: &str, new: &str) -> Vec<String> {
    let old = programs(old);
    let mut masker = Masker::default();
    let come = programs(new).into_iter().filter(|line| !old.contains(line));
    come.take(MAX_SETTINGS).map(|line| masker.mask(&line).chars().take(MAX_LINE).collect()).collect()
}

fn programs(text: &str) -> BTreeSet<String> {
    settings(text).iter().filter(|setting| setting.is_run()).map(Setting::line).collect()
}

/// The settings of a file, read as git reads them; what makes no sense is passed over.
fn settings(text: &str) -> Vec<Setting> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text).replace("\r\n", "\n");
    let (mut section, mut subsection) = (String::new(), String::new());
    let mut found = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '#' | ';' => skip_line(&mut chars),
            '[' => (section, subsection) = header(&mut chars),
            char if char.is_ascii_alphanumeric() => {
                let mut key = String::from(char);
                while let Some(char) = chars.next_if(|char| char.is_ascii_alphanumeric() || *char == '-') {
                    key.push(char);
                }
                while chars.next_if(|char| matches!(char, ' ' | '\t')).is_some() {}
                let value = if chars.next_if_eq(&'=').is_some() { value(&mut chars) } else { String::new() };
                let (section, subsection) = (section.clone(), subsection.clone());
                found.push(Setting { section, subsection, key: key.to_ascii_lowercase(), value });
            }
            _ => {}
        }
    }
    found
}

/// A remark ends with its line: no backslash has it go on.
fn skip_line(chars: &mut Peekable<Chars<'_>>) {
    while chars.next_if(|char| *char != '\n').is_some() {}
}

/// Section and subsection of a header, `remote "origin"]` or, as older files have it, `remote.origin]`.
fn header(chars: &mut Peekable<Chars<'_>>) -> (String, String) {
    let (mut text, mut quoted) = (String::new(), false);
    while let Some(char) = chars.next_if(|char| *char != '\n') {
        match char {
            ']' if !quoted => break,
            '"' => quoted = !quoted,
            '\\' if quoted => text.extend(chars.next_if(|char| *char != '\n')),
            char => text.push(char),
        }
    }
    let (section, rest) = text.split_once([' ', '\t', '.']).unwrap_or((&text, ""));
    let rest = rest.trim();
    let dotted = if rest.is_empty() { String::new() } else { format!(".{rest}") };
    (section.to_ascii_lowercase(), dotted)
}

/// A value to the end of its line, without quotes and remarks; a backslash at the end has it go on.
fn value(chars: &mut Peekable<Chars<'_>>) -> String {
    let (mut out, mut quoted, mut blanks) = (String::new(), false, String::new());
    while let Some(char) = chars.next_if(|char| *char != '\n') {
        match char {
            '#' | ';' if !quoted => {
                skip_line(chars);
                break;
            }
            '"' => quoted = !quoted,
            // Those at both ends are left out.
            ' ' | '\t' if !quoted => blanks.push(char),
            char => {
                let char = if char == '\\' { chars.next() } else { Some(char) };
                let Some(char) = char.filter(|char| *char != '\n') else { continue };
                if !out.is_empty() {
                    out.push_str(&blanks);
                }
                blanks.clear();
                out.push(char);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What Node-RED's Projects leave behind.
    const ORDINARY: &str = "[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\
        \tlogallrefupdates = true\n[remote \"origin\"]\n\turl = git@git.plant.example:plant.git\n\
        \tfetch = +refs/heads/*:refs/remotes/origin/*\n[branch \"main\"]\n\tremote = origin\n\tmerge = refs/heads/main\n\
        [user]\n\tname = Admin\n";

    #[test]
    fn whatever_git_would_run_is_named_and_nothing_else_is() {
        assert_eq!(news("", ORDINARY), [""; 0]);
        for (more, reported) in [
            ("[core]\n\thooksPath = /tmp/x", "core.hookspath = /tmp/x"),
            ("[CORE] HOOKSPATH=/tmp/x ; a remark", "core.hookspath = /tmp/x"),
            ("[core]\nfsmonitor = \"touch '/tmp/a b'; false\"", "core.fsmonitor = touch '/tmp/a b'; false"),
            ("[core]\nsshCommand = ssh\\\n -o x", "core.sshcommand = ssh -o x"),
            ("[filter \"x]y\"]\n\tclean = /home/n/hostile", "filter.x]y.clean = /home/n/hostile"),
            ("[diff]\nexternal = \"a\\\"b\"", "diff.external = a\"b"),
            ("[alias]\n\tci = !touch /tmp/x", "alias.ci = !touch /tmp/x"),
            ("[remote \"origin\"]\n\turl = ext::sh -c hostile", "remote.origin.url = ext::sh -c hostile"),
            ("[include]\n\tpath = /tmp/more", "include.path = /tmp/more"),
            ("[hook.x]\ncommand = hostile", "hook.x.command = hostile"),
            // A remark ends with its line, whatever it ends with.
            ("[core]\n# a remark \\\nhooksPath = /tmp/x", "core.hookspath = /tmp/x"),
            ("[core]\nbare = false ; a remark \\\nhooksPath = /tmp/x", "core.hookspath = /tmp/x"),
            ("[core][diff]external = /tmp/x", "diff.external = /tmp/x"),
            ("[core]\r\n\thooksPath = \"/tmp\" /x\r\n", "core.hookspath = /tmp /x"),
        ] {
            let new = format!("{ORDINARY}{more}\n");
            assert_eq!(news(ORDINARY, &new), [reported], "{more}");
            assert_eq!(news(&new, &new), [""; 0], "what was there before is no news: {more}");
        }
        assert_eq!(news("", "\u{feff}[core]\nhooksPath = /tmp/x"), ["core.hookspath = /tmp/x"]);
        for more in [
            "[core]\nfsmonitor = true",
            "[core]\n# hooksPath = /tmp/x",
            "[alias]\nci = commit",
            "[pager]\nlog = false",
            "[other]\nhooksPath = /tmp/x",
            "[core]\nhooksPath",
        ] {
            assert_eq!(news(ORDINARY, &format!("{ORDINARY}{more}\n")), [""; 0], "{more}");
        }
    }

    #[test]
    fn what_is_told_has_no_secret_and_a_bound() {
        let helper = "[credential]\nhelper = \"!f() { echo password=Hunter2; }; f\"";
        let reported = news("", helper).concat();
        assert!(reported.starts_with("credential.helper = !f()") && !reported.contains("Hunter2"), "{reported}");
        let many: Vec<_> = (0..100).map(|number| format!("[alias]\na{number} = !{}\n", "x y ".repeat(200))).collect();
        let reported = news("", &many.concat());
        assert_eq!((reported.len(), reported[0].chars().count()), (MAX_SETTINGS, MAX_LINE));
    }

    proptest! {
        #[test]
        fn no_text_makes_it_stumble(text in "(?s)[\\[\\]\"\\\\=#; \n.a-zé!]{0,80}") {
            let _ = news("", &text);
        }
    }
}
