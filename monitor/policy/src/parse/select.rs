//! Who belongs to an instance.

use toml::de::DeTable;

use crate::{
    model::Select,
    toml_reader::{Reader, Table},
};

impl Reader<'_> {
    pub(super) fn select(&mut self, table: &DeTable<'_>, at: usize) -> Option<Select> {
        let mut table = Table::new(table, at);
        let mut select = Select { at: self.at(at), ..Select::default() };
        let mut text = |reader: &mut Self, key: &'static str| {
            let value = table.take(key)?;
            let text = reader.string(value, &format!("`{key}`"))?;
            let why = match key {
                _ if text.is_empty() => Some(format!("`{key}` is empty")),
                "unit" => wrong_unit(text),
                "container" => wrong_container(text),
                "cgroup" => wrong_cgroup(text),
                "exec" if text != "node-red" => Some(format!(
                    "`exec` knows \"node-red\" only (node with an argument that names red.js or node-red), not \"{text}\""
                )),
                _ => None,
            };
            if let Some(why) = why {
                reader.fault(value.span().start, why);
            }
            Some(text.to_owned())
        };
        select.user = text(self, "user");
        select.unit = text(self, "unit");
        select.container = text(self, "container");
        select.cgroup = text(self, "cgroup");
        select.exec = text(self, "exec").is_some();
        if let Some(uid) = table.take("uid") {
            select.uid =
                uid.get_ref().as_integer().and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok());
            if select.uid.is_none_or(|uid| uid == u32::MAX) {
                self.fault(uid.span().start, "`uid` must be a number from 0 to 4294967294");
            }
        }
        self.finish(&table);
        if select.user.is_some() && select.uid.is_some() {
            self.fault(at, "`user` and `uid` in one selector: name one of them");
        }
        let cgroups = [&select.unit, &select.container, &select.cgroup].into_iter().flatten().count();
        if cgroups > 1 {
            self.fault(at, "`unit`, `container` and `cgroup` each name a cgroup: use one of them in a selector");
        }
        if cgroups == 0 && !select.exec && select.user.is_none() && select.uid.is_none() {
            self.fault(at, "an empty selector selects nothing; name a user, uid, unit, container, cgroup or exec");
            return None;
        }
        Some(select)
    }
}

/// Endings of the names of units that have a cgroup.
const UNITS: [&str; 5] = [".service", ".scope", ".slice", ".socket", ".mount"];

fn wrong_unit(text: &str) -> Option<String> {
    if text.contains('/') {
        return Some(format!("\"{text}\" is no unit; a path below the cgroup mount goes with `cgroup`"));
    }
    let whole = UNITS.iter().any(|ending| text.ends_with(ending));
    (!whole).then(|| format!("\"{text}\" is no whole name of a unit; did you mean \"{text}.service\"?"))
}

fn wrong_container(text: &str) -> Option<String> {
    let id = (12..=64).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    (!id).then(|| {
        format!("`container` is the id or its beginning, 12 to 64 of 0-9 and a-f; \"{text}\" is not (see `docker ps`)")
    })
}

fn wrong_cgroup(text: &str) -> Option<String> {
    if !text.starts_with('/') {
        Some(format!("`cgroup` is a path below the cgroup mount and begins with `/`; write \"/{text}\""))
    } else if text.split('/').any(|name| name == "..") {
        Some(format!("\"{text}\": `..` is not followed; write the path out"))
    } else if text.split('/').all(|name| matches!(name, "" | ".")) {
        Some("the root cgroup is the whole machine; name the one that Node-RED runs in".to_owned())
    } else {
        None
    }
}
