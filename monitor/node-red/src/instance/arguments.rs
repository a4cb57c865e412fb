//! Node-RED's command line.

/// The options that say where things are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arguments {
    /// `-u`, `--userDir`.
    pub(crate) user_dir: Option<String>,
    /// `-s`, `--settings`.
    pub(crate) settings: Option<String>,
    /// `-p`, `--port`.
    pub(crate) port: Option<u16>,
    /// A flow file without an option.
    pub(crate) flow_file: Option<String>,
    /// `-D` overrules some settings.
    pub(crate) defines: bool,
    /// The program: `red.js`, `node-red`.
    pub(crate) program: Option<String>,
}

/// Whether a word of a command line names Node-RED's program.
pub(crate) fn is_program(word: &str) -> bool {
    let name = word.rsplit('/').next().unwrap_or_default();
    let script = name.strip_suffix(".js").is_some_and(|stem| stem.starts_with("node-red"));
    script || matches!(name, "red.js" | "node-red" | "node-red-pi")
}

impl Arguments {
    /// Those of a command line that names Node-RED; none where it does not.
    pub(crate) fn read(words: &[String]) -> Option<Self> {
        let at = words.iter().position(|word| is_program(word))?;
        let mut found = Self { program: words.get(at).cloned(), ..Self::default() };
        let mut rest = words.iter().skip(at + 1);
        while let Some(word) = rest.next() {
            let (option, mut value) = match word.split_once('=') {
                Some((option, value)) if option.starts_with("--") => (option, Some(value.to_owned())),
                _ => (word.as_str(), None),
            };
            let mut value = || value.take().or_else(|| rest.next().cloned());
            match option {
                "-u" | "--userDir" => found.user_dir = value(),
                "-s" | "--settings" => found.settings = value(),
                "-p" | "--port" => found.port = value().and_then(|port| port.parse().ok()),
                "-D" | "--define" => {
                    found.defines = true;
                    value();
                }
                "--title" => drop(value()),
                // `node-red admin ...` is another program.
                "admin" if found == (Self { program: found.program.clone(), ..Self::default() }) => return None,
                _ if word.starts_with('-') || word.is_empty() => {}
                _ => found.flow_file = found.flow_file.take().or_else(|| Some(word.clone())),
            }
        }
        Some(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(line: &str) -> Option<Arguments> {
        Arguments::read(&line.split(' ').map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_are_found_in_every_form() {
        let found = read(
            "/usr/bin/node --max_old_space_size=256 /usr/lib/red.js -v -u /data --settings=/etc/s.js -p 1881 my.json",
        )
        .unwrap();
        assert_eq!((found.user_dir.as_deref(), found.settings.as_deref()), (Some("/data"), Some("/etc/s.js")));
        assert_eq!((found.port, found.flow_file.as_deref(), found.defines), (Some(1881), Some("my.json"), false));
        assert!(read("env node-red-pi -D uiPort=1").unwrap().defines);
        assert_eq!(read("node-red --userDir").unwrap().user_dir, None);
    }

    #[test]
    fn other_programs_are_not_node_red() {
        for line in ["node server.js -u /x", "node-red-log", "node-red admin hash-pw", ""] {
            assert_eq!(read(line), None, "{line}");
        }
    }
}
