//! The place where tests put everything that an instance executes: homes, stand-ins, programs from npm.
//!
//! A user has such files in ordinary directories, wherever the checkout is. Presets kill what is executed in a directory
//! that every user can write, such as `/tmp`, and a checkout may well be there.

use std::{
    collections::BTreeMap,
    env, fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Mutex, Once, PoisonError},
};

use anyhow::{Context as _, Result, ensure};

use crate::own;

/// The directory above the places of all test processes.
const TOP: &str = "/opt/fw-tests";

/// A directory that every user can enter, removed when it is dropped.
#[derive(Debug)]
pub struct Place {
    path: PathBuf,
}

impl Place {
    /// Makes a directory below `FLOWWARDEN_TMP` or `/opt/fw-tests`.
    pub fn new() -> Result<Self> {
        Self::below(&top())
    }

    fn below(top: &Path) -> Result<Self> {
        let path = top.join(own::name());
        // Another test process removes the empty top when it ends.
        let make = || fs::create_dir_all(top).and_then(|()| fs::create_dir(&path));
        let made = make().or_else(|error| if error.kind() == io::ErrorKind::NotFound { make() } else { Err(error) });
        made.with_context(|| format!("{} cannot be made", path.display()))?;
        let place = Self { path };
        // The umask may be strict.
        for directory in [top, &place.path].into_iter().filter(|&directory| directory != top || top == Path::new(TOP)) {
            fs::set_permissions(directory, fs::Permissions::from_mode(0o755))
                .with_context(|| format!("{} cannot be opened to every user", directory.display()))?;
        }
        Ok(place)
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Copies a program to a directory of its own in this place. A hard link would keep the name in the checkout.
    fn copy(&self, number: usize, program: &Path) -> Result<PathBuf> {
        let name = program.file_name().context("a program without a name")?;
        let copy = self.path.join(number.to_string()).join(name);
        let done = copy.parent().map_or(Ok(()), fs::create_dir).and_then(|()| fs::copy(program, &copy));
        done.with_context(|| format!("{} cannot be copied to {}", program.display(), copy.display()))?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        Ok(copy)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
        if self.path.parent() == Some(Path::new(TOP)) {
            // Fails while another test process uses it.
            let _ = fs::remove_dir(TOP);
        }
    }
}

/// The copy of a program that instances of this test process execute. It is removed when the process exits.
pub fn program(program: &Path) -> Result<PathBuf> {
    let mut programs = PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(copy) = programs.as_ref().and_then(|programs| programs.copies.get(program)) {
        return Ok(copy.clone());
    }
    let programs = match &mut *programs {
        Some(programs) => programs,
        none => none.insert(Programs { place: Place::new()?, copies: BTreeMap::new() }),
    };
    remove_at_exit();
    let copy = programs.place.copy(programs.copies.len(), program)?;
    programs.copies.insert(program.to_owned(), copy.clone());
    Ok(copy)
}

/// Fails when a program is in a directory that presets do not let an instance execute from.
pub fn ensure_ordinary(program: &Path) -> Result<()> {
    let open = program.ancestors().skip(1).find(|directory| is_open_to_all(directory));
    let open = open.filter(|_| program.is_absolute());
    ensure!(
        open.is_none(),
        "{} is below {}, which every user can write, and presets kill what is executed there: copy it with \
         `place::program` first",
        program.display(),
        open.unwrap_or(program).display()
    );
    Ok(())
}

/// Whether every user can make files in this directory.
fn is_open_to_all(directory: &Path) -> bool {
    directory.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o002 != 0)
}

/// Where places are made: `FLOWWARDEN_TMP`, or [`TOP`].
fn top() -> PathBuf {
    env::var_os("FLOWWARDEN_TMP").map_or_else(|| PathBuf::from(TOP), PathBuf::from)
}

/// Removes the places whose name `is_ours`.
pub(crate) fn remove_where(is_ours: impl Fn(&str) -> bool) {
    for entry in fs::read_dir(top()).into_iter().flatten().flatten() {
        if is_ours(&entry.file_name().to_string_lossy()) {
            drop(Place { path: entry.path() });
        }
    }
}

/// Programs that this process has copied, by where they came from.
struct Programs {
    place: Place,
    copies: BTreeMap<PathBuf, PathBuf>,
}

static PROGRAMS: Mutex<Option<Programs>> = Mutex::new(None);

/// Statics are not dropped: the C library calls this when the process exits.
fn remove_at_exit() {
    static REGISTERED: Once = Once::new();
    extern "C" fn remove() {
        drop(PROGRAMS.lock().unwrap_or_else(PoisonError::into_inner).take());
    }
    REGISTERED.call_once(|| {
        // SAFETY: the function touches nothing but a static, so it may run whenever the process ends.
        unsafe { libc::atexit(remove) };
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_a_file_of_its_own_and_goes_with_its_place() {
        let checkout = tempfile::tempdir().unwrap();
        let (built, top) = (checkout.path().join("node"), checkout.path().join("top"));
        fs::write(&built, "#!interpreter\n").unwrap();
        let place = Place::below(&top).unwrap();
        let copies = [0, 1].map(|number| place.copy(number, &built).unwrap());
        assert_ne!(copies[0], copies[1]);
        for copy in &copies {
            let metadata = copy.metadata().unwrap();
            assert_eq!(fs::read(copy).unwrap(), fs::read(&built).unwrap());
            assert_eq!((metadata.permissions().mode() & 0o777, copy.file_name()), (0o755, built.file_name()));
            assert_eq!(std::os::unix::fs::MetadataExt::nlink(&metadata), 1);
        }
        drop(place);
        assert_eq!(fs::read_dir(&top).unwrap().count(), 0);
    }

    #[test]
    fn what_every_user_can_write_is_no_place_for_programs() {
        let open = tempfile::tempdir().unwrap();
        let below = open.path().join("checkout/target");
        fs::create_dir_all(&below).unwrap();
        fs::set_permissions(open.path(), fs::Permissions::from_mode(0o1777)).unwrap();
        let refused = ensure_ordinary(&below.join("node")).unwrap_err().to_string();
        assert!(refused.contains(&format!("{} is below {}", below.join("node").display(), open.path().display())));
        ensure_ordinary(Path::new("/usr/share/node")).unwrap();
        // Found on PATH.
        ensure_ordinary(Path::new("tee")).unwrap();
        assert!(ensure_ordinary(&Path::new(TOP).join("node")).is_ok(), "{TOP}");
    }
}
