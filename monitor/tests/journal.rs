//! The journal as its users meet it: what was durable stays, what was changed is found.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{
    collections::BTreeMap,
    fs,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use journal::{
    Durability, Journal, Limits,
    chain::Place,
    checkpoint::{self, Checkpoint},
    reader::{Position, Reader},
    segment::{self, Segment},
    verify::{Kind, Report, Request, verify},
};
use serde_json::{Value, json};

/// Segments of a few dozen lines.
const SMALL: Limits = Limits { segment_bytes: 16 << 10, max_bytes: 1 << 30, max_age: None };

fn event(number: u64) -> Value {
    json!({ "message": format!("event {number}"), "file": { "path": "/x".repeat(usize::try_from(number % 97).unwrap()) }, "number": number })
}

fn write(directory: &Path, limits: Limits, numbers: std::ops::Range<u64>) {
    let mut journal = Journal::open(directory, limits).unwrap();
    for number in numbers {
        journal.append(event(number), Durability::Grouped);
    }
    journal.close().unwrap();
}

fn lines(directory: &Path) -> Vec<Value> {
    let mut reader = Reader::new(directory, Position::default());
    let (mut line, mut out) = (Vec::new(), Vec::new());
    while reader.next(&mut line).unwrap().is_some() {
        out.push(serde_json::from_slice(&line).unwrap());
    }
    out
}

fn numbers(directory: &Path) -> Vec<u64> {
    lines(directory).iter().filter_map(|line| line["number"].as_u64()).collect()
}

fn check(directory: &Path) -> Report {
    verify(directory, &Request::default()).unwrap()
}

/// The last checkpoint that the journal has.
fn last_checkpoint(directory: &Path) -> Checkpoint {
    let segments = segment::list(directory).unwrap();
    let all = segments.iter().flat_map(|found| checkpoint::read(directory, found.number).unwrap());
    all.map(Result::unwrap).max_by_key(|checkpoint| checkpoint.sequence).unwrap()
}

/// Closed segments are compressed in the background.
fn wait_for_compression(directory: &Path) {
    let start = Instant::now();
    loop {
        let segments = segment::list(directory).unwrap();
        let plain = segments.iter().filter(|found| !found.compressed).count();
        if plain <= 1 {
            return;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "{segments:?}");
        thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a_journal_is_whole_over_segments_and_starts() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    for start in 0..4 {
        write(&path, SMALL, start * 100..(start + 1) * 100);
    }
    let report = check(&path);
    assert_eq!(report.worst(), None, "{:#?}", report.faults);
    assert!(report.segments > 4, "{report:?}");
    assert_eq!(numbers(&path), (0..400).collect::<Vec<_>>());
    let sequences: Vec<_> = lines(&path).iter().map(|line| line["metadata"]["sequence"].as_u64().unwrap()).collect();
    assert_eq!(sequences, (1..=report.last).collect::<Vec<_>>());
    assert_eq!((report.lines, report.signed), (report.last, report.last));
}

#[test]
fn nobody_but_the_owner_can_read_or_write_it_whatever_happens() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let mut journal = Journal::open(&path, SMALL).unwrap();
    for number in 0..300 {
        journal.append(event(number), Durability::Grouped);
    }
    thread::sleep(Duration::from_millis(100));
    wait_for_compression(&path);
    journal.close().unwrap();
    assert!(segment::list(&path).unwrap().iter().any(|found| found.compressed));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for entry in fs::read_dir(&path).unwrap() {
        let entry = entry.unwrap().path();
        assert_eq!(mode(&entry), 0o600, "{}", entry.display());
    }
}

#[test]
fn what_must_not_wait_is_on_the_disk_at_once_and_the_rest_soon() {
    let directory = tempfile::tempdir().unwrap();
    let journal = Journal::open(directory.path(), Limits::default()).unwrap();
    let tail = journal.tail();
    let before = tail.end();
    journal.append(event(1), Durability::Now);
    let after = tail.wait(before, Duration::from_secs(10));
    assert!(after > before);
    journal.append(event(2), Durability::Grouped);
    assert!(tail.wait(after, Duration::from_secs(10)) > after);
    assert_eq!(numbers(directory.path()), [1, 2]);
}

#[test]
fn a_second_writer_is_refused_and_told_who_writes() {
    let directory = tempfile::tempdir().unwrap();
    let first = Journal::open(directory.path(), Limits::default()).unwrap();
    let error = Journal::open(directory.path(), Limits::default()).unwrap_err().to_string();
    assert!(error.contains(&format!("process {} writes to this journal", std::process::id())), "{error}");
    assert!(check(directory.path()).in_use);
    drop(first);
    assert!(!check(directory.path()).in_use);
    drop(Journal::open(directory.path(), Limits::default()).unwrap());
}

#[test]
fn a_torn_end_is_moved_away_and_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    write(path, Limits::default(), 0..10);
    let file = segment::plain(path, 1);
    let whole = fs::read(&file).unwrap();
    fs::write(&file, [whole.clone(), b"{\"half\":".to_vec()].concat()).unwrap();
    assert_eq!(check(path).worst(), Some(Kind::Unsigned));
    write(path, Limits::default(), 10..11);
    assert_eq!(check(path).worst(), None, "{:#?}", check(path).faults);
    assert_eq!(numbers(path), (0..11).collect::<Vec<_>>());
    let repair = lines(path).into_iter().find(|line| !line["unmapped"]["repaired"].is_null()).unwrap();
    assert_eq!(repair["unmapped"]["repaired"]["bytes"], 8);
    let kept = path.join(format!("quarantine/segment-00000001-at-{}", whole.len()));
    assert_eq!(fs::read(kept).unwrap(), b"{\"half\":");
}

#[test]
fn damage_in_the_signed_part_stays_and_the_journal_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    write(path, Limits::default(), 0..10);
    let file = segment::plain(path, 1);
    let text = fs::read_to_string(&file).unwrap();
    let changed = text.replace("event 4", "event 5");
    fs::write(&file, &changed).unwrap();
    write(path, Limits::default(), 10..20);
    let mut evidence = String::new();
    segment::list(path).unwrap()[0].open().unwrap().read_to_string(&mut evidence).unwrap();
    assert_eq!(evidence, changed, "evidence was touched");
    assert_eq!(segment::list(path).unwrap().len(), 2);
    assert!(lines(path).iter().any(|line| line["unmapped"]["damaged"]["segment"] == 1));
    let report = check(path);
    assert_eq!(report.worst(), Some(Kind::Damaged));
    assert_eq!(report.faults.len(), 1, "{:#?}", report.faults);
    assert_eq!(numbers(path), (0..20).collect::<Vec<_>>());
}

#[test]
fn a_segment_that_somebody_changes_meanwhile_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mut journal = Journal::open(path, Limits::default()).unwrap();
    let tail = journal.tail();
    journal.append(event(1), Durability::Now);
    let seen = tail.wait(Position::default(), Duration::from_secs(10));
    fs::remove_file(segment::plain(path, 1)).unwrap();
    journal.append(event(2), Durability::Now);
    let _ = tail.wait(seen, Duration::from_secs(10));
    journal.close().unwrap();
    assert!(
        lines(path).iter().any(|line| line["message"] == "Segment 1 was removed by somebody else"),
        "{:#?}",
        lines(path)
    );
    assert_eq!(check(path).worst(), Some(Kind::Missing));
}

#[test]
fn old_segments_go_and_the_journal_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    write(path, SMALL, 0..500);
    write(path, Limits { max_bytes: 8 << 10, ..SMALL }, 500..501);
    let segments = segment::list(path).unwrap();
    assert!(segments[0].number > 1, "{segments:?}");
    let report = check(path);
    assert_eq!((report.worst(), report.removed), (None, segments[0].number - 1), "{:#?}", report.faults);
    // One more is removed without a record.
    let bytes: u64 = segments.iter().map(|found| found.size_and_time().unwrap().0).sum();
    assert!(bytes < 64 << 10, "{bytes}");
    write(path, SMALL, 501..700);
    fs::remove_file(&segment::list(path).unwrap()[0].path).unwrap();
    assert_eq!(check(path).worst(), Some(Kind::Missing));
}

#[test]
fn limits_change_while_the_journal_is_open() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let mut journal = Journal::open(path, Limits::default()).unwrap();
    for number in 0..300 {
        journal.append(event(number), Durability::Grouped);
    }
    let tail = journal.tail();
    while tail.sequence() < 300 {
        let _ = tail.wait(tail.end(), Duration::from_secs(1));
    }
    assert_eq!(segment::list(path).unwrap().len(), 1);
    journal.limit(Limits { max_bytes: 8 << 10, ..SMALL });
    for number in 300..600 {
        journal.append(event(number), Durability::Grouped);
    }
    journal.close().unwrap();
    let segments = segment::list(path).unwrap();
    assert!(segments[0].number > 1, "nothing was removed: {segments:?}");
    assert_eq!(check(path).worst(), None, "{:#?}", check(path).faults);
}

/// Numbers below a bound, the same in every run.
fn random() -> impl FnMut(usize) -> usize {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    move |below| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((seed >> 33) % below as u64).unwrap()
    }
}

/// One way to tamper with a journal; `random` picks the place.
fn tamper(files: &[PathBuf], random: &mut impl FnMut(usize) -> usize) -> Option<&'static str> {
    let file = &files[random(files.len())];
    let bytes = fs::read(file).unwrap();
    let lines: Vec<_> = bytes.split_inclusive(|&byte| byte == b'\n').map(<[u8]>::to_vec).collect();
    let plain = file.extension().is_some_and(|extension| extension == "jsonl");
    let (name, changed) = match random(6) {
        0 => {
            let (mut bytes, at) = (bytes.clone(), random(bytes.len()));
            bytes[at] ^= u8::try_from(1 + random(255)).unwrap();
            ("a byte is changed", bytes)
        }
        1 => ("the end is cut off", bytes[..random(bytes.len())].to_vec()),
        2 => {
            fs::remove_file(file).unwrap();
            return Some("a file is removed");
        }
        3 if plain && lines.len() > 1 => {
            let mut lines = lines;
            lines.remove(random(lines.len()));
            ("a line is removed", lines.concat())
        }
        4 if plain && lines.len() > 1 => {
            let mut lines = lines;
            let (one, other) = (random(lines.len()), random(lines.len()));
            lines.swap(one, other);
            ("two lines are swapped", lines.concat())
        }
        5 if plain => {
            let mut lines = lines;
            let line = lines[random(lines.len())].clone();
            lines.insert(random(lines.len() + 1), line);
            ("a line is doubled", lines.concat())
        }
        _ => return None,
    };
    if changed == bytes {
        return None;
    }
    fs::write(file, changed).unwrap();
    Some(name)
}

/// What every segment says, decompressed; none for one that cannot be read.
fn text_of_all(directory: &Path) -> Vec<Option<Vec<u8>>> {
    let read = |found: &Segment| {
        let mut text = Vec::new();
        found.open().ok()?.read_to_end(&mut text).ok()?;
        Some(text)
    };
    segment::list(directory).unwrap().iter().map(read).collect()
}

/// A thousand random edits, deletions, reorderings and truncations: each is found with a checkpoint kept elsewhere.
#[test]
fn whatever_is_done_to_the_journal_is_found() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let mut journal = Journal::open(&path, SMALL).unwrap();
    for number in 0..200 {
        journal.append(event(number), Durability::Grouped);
    }
    thread::sleep(Duration::from_millis(200));
    wait_for_compression(&path);
    journal.close().unwrap();
    let request = Request { public_key: check(&path).first_key, against: Some(last_checkpoint(&path)) };
    let good = verify(&path, &request).unwrap();
    assert_eq!(good.worst(), None, "{:#?}", good.faults);

    let files: Vec<_> = segment::list(&path).unwrap().into_iter().map(|found| found.path).collect();
    let original: BTreeMap<_, _> = files.iter().map(|file| (file.clone(), fs::read(file).unwrap())).collect();
    let text = text_of_all(&path);
    let (mut random, mut tried) = (random(), BTreeMap::<_, u32>::new());
    while tried.values().sum::<u32>() < 1000 {
        let Some(how) = tamper(&files, &mut random) else { continue };
        let report = verify(&path, &request).unwrap();
        if text_of_all(&path) == text {
            // Bits of a zstd frame that decoders ignore (RFC 8878, 3.1.1.1.1): every line still is what was written.
            assert_eq!(report.worst(), None, "{how}: {report:#?}");
        } else {
            assert!(report.worst() >= Some(Kind::Missing), "{how}, and nothing was found: {report:#?}");
            *tried.entry(how).or_default() += 1;
        }
        for (file, bytes) in &original {
            if fs::read(file).ok().as_ref() != Some(bytes) {
                fs::write(file, bytes).unwrap();
            }
        }
    }
    assert_eq!(tried.len(), 6, "{tried:?}");
    assert!(tried.values().all(|&count| count > 20), "{tried:?}");
}

/// Whatever a power cut does to what lies behind the last checkpoint: the next start repairs it, and keeps every whole line
/// before the first that is not.
#[test]
fn whatever_a_crash_leaves_behind_the_last_checkpoint_is_repaired() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    write(&path, Limits::default(), 0..5);
    let (file, sidecar) = (segment::plain(&path, 1), segment::checkpoints(&path, 1));
    let checkpoints = fs::read(&sidecar).unwrap();
    let signed = usize::try_from(last_checkpoint(&path).offset).unwrap();
    write(&path, Limits::default(), 5..40);
    let text = fs::read(&file).unwrap();
    let ends: Vec<_> = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1).collect();
    let mut random = random();
    for round in 0..300 {
        for entry in fs::read_dir(&path).unwrap().flatten().filter(|entry| entry.path().is_file()) {
            if entry.file_name().to_str().unwrap().starts_with("journal-") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        let at = signed + random(text.len() - signed);
        let mut changed = text.clone();
        match round % 3 {
            0 => changed.truncate(at),
            1 => changed[at..].fill(0),
            _ => changed[at] ^= u8::try_from(1 + random(255)).unwrap(),
        }
        fs::write(&file, &changed).unwrap();
        fs::write(&sidecar, &checkpoints).unwrap();
        write(&path, Limits::default(), 1000..1001);
        let report = check(&path);
        assert_eq!(report.worst(), None, "round {round}, byte {at}: {:#?}", report.faults);
        let kept = ends.iter().rfind(|&&end| end <= at).unwrap();
        let now = fs::read(&file).unwrap();
        assert!(now.starts_with(&text[..*kept]), "round {round}, byte {at}: lines are gone");
        assert!(numbers(&path).contains(&1000));
    }
}

/// A journal that was made anew as a whole has another key.
#[test]
fn a_forged_journal_does_not_pass_for_the_real_one() {
    let directory = tempfile::tempdir().unwrap();
    let [real, forged] = ["real", "forged"].map(|name| directory.path().join(name));
    write(&real, SMALL, 0..20);
    write(&forged, SMALL, 0..20);
    let request = Request { public_key: check(&real).first_key, against: None };
    assert_eq!(verify(&real, &request).unwrap().worst(), None);
    assert_eq!(verify(&forged, &request).unwrap().worst(), Some(Kind::Signature));
    let request = Request { public_key: None, against: Some(last_checkpoint(&real)) };
    assert_eq!(verify(&forged, &request).unwrap().worst(), Some(Kind::Signature));
}

/// What the crash test starts and kills: it writes as fast as it can, and says what is durable.
#[test]
#[ignore = "the other half of a_killed_writer_loses_nothing_that_was_durable"]
fn writer_to_be_killed() {
    let Some(directory) = std::env::var_os("FLOWWARDEN_TEST_JOURNAL") else { return };
    let journal = Journal::open(Path::new(&directory), SMALL).unwrap();
    let tail = journal.tail();
    let mut seen = tail.end();
    println!("opened");
    for number in 0.. {
        journal.append(event(number), if number % 10 == 0 { Durability::Now } else { Durability::Grouped });
        if number % 10 == 0 {
            seen = tail.wait(seen, Duration::from_secs(1));
            println!("{} {}", seen.segment, seen.offset);
        }
    }
}

#[test]
fn a_killed_writer_loses_nothing_that_was_durable() {
    const KILLS: u32 = 100;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("journal");
    let mut lines = 0;
    for kill in 0..KILLS {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "writer_to_be_killed", "--ignored", "--nocapture", "--test-threads=1"])
            .env("FLOWWARDEN_TEST_JOURNAL", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap()).lines();
        // Some are killed while they open the journal.
        if kill % 5 > 0 {
            said.by_ref().map_while(Result::ok).find(|line| line.ends_with("opened")).unwrap();
        }
        thread::sleep(Duration::from_micros(u64::from(kill * 7919 % 60_000)));
        child.kill().unwrap();
        child.wait().unwrap();
        let durable = said.map_while(Result::ok).filter_map(|line| {
            let (segment, offset) = line.split_once(' ')?;
            Some(Position { segment: segment.parse().ok()?, offset: offset.parse().ok()? })
        });
        let durable = durable.last();
        // The next start repairs; what was durable is there, and everything is in one chain.
        write(&path, SMALL, 0..1);
        let report = check(&path);
        assert_eq!(report.worst(), None, "kill {kill}: {:#?}", report.faults);
        if let Some(durable) = durable {
            let mut reader = Reader::new(&path, Position { offset: 0, ..durable });
            let (mut line, mut reached) = (Vec::new(), false);
            while let Some(at) = reader.next(&mut line).unwrap() {
                Place::of(&line).unwrap();
                reached |= at.segment == durable.segment && reader.position().offset >= durable.offset
                    || at.segment > durable.segment;
            }
            assert!(reached, "kill {kill}: the journal does not reach {durable:?}");
        }
        assert!(report.lines > lines, "kill {kill}");
        lines = report.lines;
    }
}
