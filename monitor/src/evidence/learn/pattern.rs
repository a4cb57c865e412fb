//! Paths as a person would write them in a policy.

use std::{collections::BTreeMap, path::Path};

use monitor_common::{Access, name::NAME_LEN, policy::PATTERN_LEN};

use super::fact::Seen;
use crate::evidence::{critical, idiom};

/// So many names in one directory are written as `dir/*`.
const MANY: usize = 6;
/// A policy longer than that is not read by anybody: directories are taken as a whole then.
const MOST: usize = 40;
/// Longest path that a rule takes, in directories.
const MAX_DEPTH: usize = 23;
/// Where the system keeps what every program reads.
const SYSTEM: [&str; 10] = ["/usr", "/lib", "/lib32", "/lib64", "/bin", "/sbin", "/etc", "/sys", "/opt", "/var/lib"];
/// Directories that are never allowed as a whole.
const NEVER_WHOLE: [&str; 17] = [
    "/",
    "/etc",
    "/usr",
    "/home",
    "/root",
    "/var",
    "/proc",
    "/run",
    "/dev",
    "/tmp",
    "/boot",
    "/sys",
    "/bin",
    "/sbin",
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/bin",
];

/// The pattern for one path, as the policy names it: relative to the user directory where it is inside.
pub(super) fn of(path: &str, access: Access, user_dir: &Path) -> String {
    // No pattern is to cover a hook of git.
    let by_itself = access != Access::READ && critical::is_hook(path);
    if access != Access::EXEC && !by_itself {
        if let Some(idiom) = idiom::of_path(path, user_dir) {
            let directory = idiom.pattern.strip_suffix("/**");
            // `dir/**` is about what is below it.
            return match directory.filter(|it| user_dir.join(it) == Path::new(path)) {
                Some(directory) => directory.to_owned(),
                None => idiom.pattern,
            };
        }
        if access == Access::READ {
            if let Some(place) = SYSTEM.iter().find(|place| Path::new(path).starts_with(place) && path != **place) {
                return format!("{place}/**");
            }
            if let Some((before, _)) = path.split_once("/node_modules/")
                && !Path::new(path).starts_with(user_dir)
            {
                return format!("{before}/node_modules/**");
            }
        }
        if let Some(name) = of_a_process(path) {
            return format!("/proc/**/{name}*");
        }
    }
    let inside = Path::new(path).strip_prefix(user_dir).ok().and_then(Path::to_str);
    let named = match inside {
        Some("") => return ".".to_owned(),
        Some(inside) => inside,
        None => path,
    };
    without_chance(named)
}

/// The name of a file that every process has, `/proc/N/NAME`.
fn of_a_process(path: &str) -> Option<&str> {
    let (pid, rest) = path.strip_prefix("/proc/")?.split_once('/')?;
    let is_process = !pid.is_empty() && pid.bytes().all(|byte| byte.is_ascii_digit());
    is_process.then(|| rest.rsplit('/').next().unwrap_or(rest))
}

/// A name that ends with what looks like drawn by lot is written by its beginning: `/tmp/x-8Hd3kQ` as `/tmp/x-*`. No pattern
/// says what is below such a directory: there the whole of `/tmp` is meant.
fn without_chance(path: &str) -> String {
    let (directory, name) = path.rsplit_once('/').map_or(("", path), |(directory, name)| (directory, name));
    for place in ["/tmp", "/var/tmp"] {
        let below = directory.strip_prefix(place).and_then(|below| below.strip_prefix('/'));
        if below.is_some_and(|below| below.split('/').any(|name| before_chance(name).is_some())) {
            return format!("{place}/**");
        }
    }
    let Some(begin) = before_chance(name) else { return path.to_owned() };
    let slash = if path.contains('/') { "/" } else { "" };
    format!("{directory}{slash}{begin}*")
}

/// What a name begins with, before what looks like drawn by lot: letters of both kinds, or with digits among them.
fn before_chance(name: &str) -> Option<&str> {
    let at = name.rfind(['-', '_', '.']).filter(|&at| at > 1)?;
    let (begin, end) = name.split_at(at + 1);
    let has = |kind: fn(&u8) -> bool| end.bytes().any(|byte| kind(&byte));
    let mixed = has(u8::is_ascii_digit) || (has(u8::is_ascii_lowercase) && has(u8::is_ascii_uppercase));
    let by_lot = end.bytes().all(|byte| byte.is_ascii_alphanumeric()) && end.len() >= 5 && mixed;
    (by_lot && begin.len() <= PATTERN_LEN).then_some(begin)
}

/// Why a path cannot be written in a rule.
pub(super) fn unwritable(path: &str) -> Option<&'static str> {
    let literal = path.trim_end_matches("/**").trim_end_matches("/*");
    let (directory, last) = literal.rsplit_once('/').unwrap_or(("", literal));
    let directory = directory.strip_suffix("/**").unwrap_or(directory);
    let stars = last.trim_start_matches('*').trim_end_matches('*');
    let parts = || directory.split('/').chain([stars]);
    if parts().any(|part| part.contains(['*', '?', '['])) {
        Some("a path with wildcard characters in it cannot be written in a rule")
    } else if parts().any(|part| part.len() >= NAME_LEN) || parts().count() > MAX_DEPTH {
        Some("a name of 64 bytes or more, or a path of more than 23 directories, cannot be written in a rule")
    } else {
        None
    }
}

/// Joins what is in one directory.
pub(super) fn join(paths: &mut BTreeMap<String, Seen>, user_dir: &Path) {
    for many in [MANY, 4] {
        join_directories(paths, user_dir, many);
        if paths.len() <= MOST {
            return;
        }
    }
    while paths.len() > MOST && join_trees(paths, user_dir) {}
}

/// Joins everything below the deepest directory that has much below it; false when there is none.
fn join_trees(paths: &mut BTreeMap<String, Seen>, user_dir: &Path) -> bool {
    let mut below: BTreeMap<&str, usize> = BTreeMap::new();
    for path in paths.keys() {
        let mut above = path.trim_end_matches("/**").trim_end_matches("/*");
        while let Some((directory, _)) = above.rsplit_once('/') {
            if may_be_whole(directory, user_dir) {
                *below.entry(directory).or_default() += 1;
            }
            above = directory;
        }
    }
    let many = below.into_iter().filter(|&(_, count)| count >= MANY);
    let Some(directory) = many.max_by_key(|(directory, _)| directory.split('/').count()).map(|(it, _)| it.to_owned())
    else {
        return false;
    };
    let inside = format!("{directory}/");
    let members: Vec<_> = paths.keys().filter(|path| path.starts_with(&inside)).cloned().collect();
    let mut joined = Seen::default();
    members.iter().filter_map(|member| paths.remove(member)).for_each(|seen| joined.join(&seen));
    paths.insert(format!("{directory}/**"), joined);
    true
}

fn join_directories(paths: &mut BTreeMap<String, Seen>, user_dir: &Path, many: usize) {
    loop {
        let mut directories: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for path in paths.keys().filter(|path| path.as_str() != ".") {
            let whole = path.strip_suffix("/**").or_else(|| path.strip_suffix("/*"));
            let named = whole.unwrap_or(path);
            // Directories that are taken as a whole are joined in the one above.
            if let Some((directory, _)) = named.rsplit_once('/')
                && may_be_whole(directory, user_dir)
            {
                directories.entry(directory.to_owned()).or_default().push(path.clone());
            }
        }
        let Some((directory, members)) = directories.into_iter().find(|(_, members)| members.len() >= many) else {
            return;
        };
        let deep = members.iter().any(|member| member.contains('*')) || paths.contains_key(&format!("{directory}/**"));
        let mut joined = Seen::default();
        for member in members {
            if let Some(seen) = paths.remove(&member) {
                joined.join(&seen);
            }
        }
        let pattern = if deep { format!("{directory}/**") } else { format!("{directory}/*") };
        paths.entry(pattern).or_default().join(&joined);
    }
}

/// A directory that rules may take as a whole: not the user directory, in which settings.js and keys are.
fn may_be_whole(directory: &str, user_dir: &Path) -> bool {
    let absolute = user_dir.join(directory);
    let home = user_dir.parent();
    !directory.is_empty()
        && !NEVER_WHOLE.contains(&directory)
        && absolute != user_dir
        && Some(absolute.as_path()) != home
        && !user_dir.starts_with(&absolute)
        && !absolute.iter().any(|part| part == ".ssh")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_becomes_what_a_person_would_write() {
        let user_dir = Path::new("/h/.node-red");
        for (path, access, pattern) in [
            ("/h/.node-red", Access::READ, "."),
            ("/h/.node-red/flows.json.$$$", Access::WRITE, "*.$$$"),
            ("/h/.node-red/node_modules/a/b.js", Access::WRITE, "node_modules/**"),
            ("/h/.node-red/node_modules", Access::CREATE, "node_modules"),
            ("/h/.node-red/context/a1/flow.json.17.tmp", Access::WRITE, "context/**"),
            ("/h/.npm/_logs/x.log", Access::WRITE, "/h/.npm/**"),
            ("/h/.npm", Access::CREATE, "/h/.npm"),
            ("/usr/lib/x.so", Access::READ, "/usr/**"),
            ("/usr/lib/x.so", Access::WRITE, "/usr/lib/x.so"),
            ("/opt2/node_modules/node-red/red.js", Access::READ, "/opt2/node_modules/**"),
            ("/tmp/node-watch-1x", Access::WRITE, "/tmp/node-watch-*"),
            ("/tmp/upload-8hd3kq", Access::WRITE, "/tmp/upload-*"),
            ("/tmp/nr-tarball-UESxkF", Access::CREATE, "/tmp/nr-tarball-*"),
            ("/tmp/nr-tarball-UESxkF/package/a.js", Access::WRITE, "/tmp/**"),
            ("/h/data/log-today.txt", Access::WRITE, "/h/data/log-today.txt"),
            ("/proc/812/cgroup", Access::READ, "/proc/**/cgroup*"),
            ("/proc/meminfo", Access::READ, "/proc/meminfo"),
            ("/h/data/log.txt", Access::WRITE, "/h/data/log.txt"),
            ("/usr/bin/date", Access::EXEC, "/usr/bin/date"),
        ] {
            assert_eq!(of(path, access, user_dir), pattern, "{path}");
        }
    }

    #[test]
    fn many_names_become_their_directory_but_never_the_one_with_the_settings() {
        let user_dir = Path::new("/h/.node-red");
        let mut paths = BTreeMap::new();
        for number in 0..10 {
            for path in [format!("/h/data/{number}.csv"), format!("f{number}.json"), format!("/h/deep/{number}/a/x")] {
                paths.insert(path, Seen { count: 1, ..Seen::default() });
            }
        }
        join(&mut paths, user_dir);
        assert_eq!(paths["/h/data/*"].count, 10);
        assert!(paths.contains_key("f3.json"), "{paths:?}");
        let mut many: BTreeMap<_, _> =
            (0..100).map(|number| (format!("/h/deep/{number}/a/x"), Seen { count: 1, ..Seen::default() })).collect();
        many.extend((0..100).map(|number| (format!("/h/deep/{number}/a/y"), Seen { count: 1, ..Seen::default() })));
        join(&mut many, user_dir);
        assert_eq!(many.keys().collect::<Vec<_>>(), ["/h/deep/**"]);
        assert_eq!(many["/h/deep/**"].count, 200);
    }
}
