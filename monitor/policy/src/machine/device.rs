//! Block devices below a file system. Access to one bypasses every rule about its files.

use std::{collections::BTreeSet, fs, os::unix::fs::MetadataExt as _, path::Path};

/// The devices below the file system with this device number, in the kernel's encoding (major << 20 | minor): its own, the
/// disk that a partition is part of, and those that a mapped or joined device is made of. Empty for what is in memory.
#[must_use]
pub fn below(device: u32) -> Vec<u32> {
    let mut found = BTreeSet::new();
    let mut open = if device >> 20 == 0 { sources(device) } else { vec![device] };
    while let Some(device) = open.pop() {
        let place = Path::new("/sys/dev/block").join(format!("{}:{}", device >> 20, device & 0xf_ffff));
        if let Ok(place) = fs::canonicalize(place)
            && found.insert(device)
        {
            let disk = place.join("partition").exists().then(|| place.parent()).flatten().map(Path::to_owned);
            let slaves = fs::read_dir(place.join("slaves")).into_iter().flatten().flatten().map(|slave| slave.path());
            open.extend(disk.into_iter().chain(slaves).filter_map(|place| number(&place)));
        }
    }
    found.into_iter().collect()
}

/// The number that sysfs gives a device.
fn number(place: &Path) -> Option<u32> {
    encoded(fs::read_to_string(place.join("dev")).ok()?.trim())
}

/// Where file systems of this kind are mounted by a table of mounts (`proc_pid_mountinfo(5)`), with their numbers.
pub fn mounted<'a>(mounts: &'a str, kind: &str) -> impl Iterator<Item = (&'a str, u32)> {
    mounts.lines().filter_map(move |line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = mount.split(' ').skip(2);
        let number = fields.next().and_then(encoded)?;
        let point = fields.nth(1)?;
        (file_system.split(' ').next() == Some(kind)).then_some((point, number))
    })
}

/// `major:minor` in the kernel's encoding.
fn encoded(text: &str) -> Option<u32> {
    let (major, minor) = text.split_once(':')?;
    Some(major.parse::<u32>().ok()? << 20 | minor.parse::<u32>().ok()?)
}

/// File systems such as btrfs have a number that is no device's; what they are on is named where they are mounted.
fn sources(device: u32) -> Vec<u32> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let source = |line: &str| {
        let (mount, file_system) = line.split_once(" - ")?;
        let known = mount.split(' ').nth(2).and_then(encoded)?;
        let source = file_system.split(' ').nth(1).filter(|source| known == device && source.starts_with("/dev/"))?;
        let numbers = fs::metadata(source).ok()?.rdev();
        Some(libc::major(numbers) << 20 | libc::minor(numbers))
    };
    mounts.lines().filter_map(source).collect()
}

#[cfg(test)]
mod tests {
    use crate::machine::device::*;

    #[test]
    fn what_is_in_memory_has_no_device() {
        let proc = fs::metadata("/proc").unwrap().dev();
        assert!(below(libc::major(proc) << 20 | libc::minor(proc)).is_empty());
        assert!(below(u32::MAX).is_empty());
    }

    #[test]
    fn a_disk_is_below_itself_and_below_its_partitions() {
        for disk in fs::read_dir("/sys/block").into_iter().flatten().flatten().map(|entry| entry.path()) {
            let own = number(&disk).unwrap();
            assert!(below(own).contains(&own), "{}", disk.display());
            let partitions = fs::read_dir(&disk).unwrap().flatten().map(|entry| entry.path());
            for partition in partitions.filter(|path| path.join("partition").exists()) {
                assert!(below(number(&partition).unwrap()).contains(&own), "{}", partition.display());
            }
        }
    }
}
