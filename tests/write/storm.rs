//! Does every line land whole, once and in its writer's order, when many append to one file at once?

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use super::common::thread_id;
use super::harness::{
    Kind, Place, Task, WRITER_END_MAX, await_writer_within, line, number_of, parse_line, read_notes,
    reason_to_skip, start_writer,
};

/// Lines in the short version.
const LINES: u64 = 6_000;
/// Writers through the mount, and on the disk below.
const ABOVE: u64 = 4;
const BELOW: u64 = 2;
/// What the reader looks at each time.
const TAIL_BYTES: u64 = 64 * 1024;

/// How long a line may take, on a loaded machine.
const LINE_MAX: Duration = Duration::from_millis(5);

/// Ends the reader, also when the test panics.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A home with a thread that begins so; where it is below the mount, and on the disk.
fn with_thread(text: &[u8]) -> (Place, String, PathBuf) {
    let place = Place::new();
    let path = format!("sessions/2026/02/08/rollout-2026-02-08T10-15-01-{}.jsonl", thread_id(1));
    let below = place.home().join(&path);
    fs::create_dir_all(below.parent().unwrap()).unwrap();
    fs::write(&below, text).unwrap();
    (place, path, below)
}

#[test]
fn lines_of_many_writers_are_whole_and_in_order() {
    if reason_to_skip().is_some() {
        return;
    }
    let lines = number_of("ROLLOUTFS_STORM_LINES", LINES) / (ABOVE + BELOW);
    let (place, path, below) = with_thread(&line(0, 1, 300, Kind::Meta, &thread_id(1)));
    let daemon = place.mount();
    let tasks: Vec<Task> = (1..=ABOVE + BELOW)
        .map(|writer| Task {
            file: if writer <= ABOVE { place.mnt().join(&path) } else { below.clone() },
            thread: thread_id(1),
            writer,
            first: 2,
            lines,
            user_at: 0,
            bytes: (240, 4000),
            notes: place.notes().join(writer.to_string()),
            sync_each: 0,
            // The last line may be another writer's, at work.
            heals: false,
        })
        .collect();
    let writers: Vec<_> = tasks.iter().map(|task| start_writer(std::slice::from_ref(task))).collect();
    // A reader asks for the file all the while: between two pieces of a write, too.
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let mut file = fs::File::open(place.mnt().join(&path)).unwrap();
                let size = file.metadata().unwrap().len();
                file.seek(SeekFrom::Start(size.saturating_sub(TAIL_BYTES))).unwrap();
                let mut tail = Vec::new();
                file.read_to_end(&mut tail).unwrap();
                assert!(!tail.contains(&0), "a reader sees what nobody wrote");
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        let end = Ends(&done);
        let at_most = WRITER_END_MAX + LINE_MAX * (lines * (ABOVE + BELOW)) as u32;
        writers.into_iter().for_each(|writer| await_writer_within(writer, at_most));
        drop(end);
    });
    let (mut last, mut broken) = (BTreeMap::new(), 0u64);
    let text = fs::read(&below).unwrap();
    for bytes in text.split_inclusive(|&byte| byte == b'\n') {
        match bytes.strip_suffix(b"\n").and_then(parse_line) {
            None => broken += 1,
            Some((writer, number)) => {
                let before = last.insert(writer, number).unwrap_or(1);
                assert!(
                    writer == 0 || broken > 0 || number == before + 1,
                    "writer {writer}: {number} after {before}"
                );
            }
        }
    }
    println!("{lines} lines of each of {} writers, {broken} broken lines", ABOVE + BELOW);
    assert_eq!(broken, 0, "lines are torn");
    for task in &tasks {
        assert_eq!(read_notes(&task.notes).acknowledged, lines + 1, "writer {}", task.writer);
        assert_eq!(last[&task.writer], lines + 1, "writer {}", task.writer);
    }
    let above = fs::read(place.mnt().join(&path)).unwrap();
    assert!(above == text, "the mount shows other bytes: {} for {}", above.len(), text.len());
    daemon.unmount();
}

/// Several requests of the kernel make one write.
#[test]
fn a_long_line_is_whole_beside_others() {
    if reason_to_skip().is_some() {
        return;
    }
    let (place, path, below) = with_thread(&line(0, 1, 300, Kind::Meta, &thread_id(1)));
    let daemon = place.mount();
    let task = |writer, file, lines, bytes| Task {
        file,
        thread: thread_id(1),
        writer,
        first: 2,
        lines,
        user_at: 0,
        bytes,
        notes: place.notes().join(format!("{writer}")),
        sync_each: 0,
        heals: false,
    };
    let above = task(1, place.mnt().join(&path), 6, (2 << 20, 5 << 20));
    let beside = task(2, below.clone(), 20_000, (240, 300));
    let writers = [start_writer(std::slice::from_ref(&above)), start_writer(std::slice::from_ref(&beside))];
    for writer in writers {
        await_writer_within(writer, WRITER_END_MAX * 3);
    }
    assert_eq!(read_notes(&above.notes).acknowledged, 7);
    let text = fs::read(&below).unwrap();
    let mut found = BTreeMap::new();
    for bytes in text.split_inclusive(|&byte| byte == b'\n') {
        let (writer, number) = bytes.strip_suffix(b"\n").and_then(parse_line).expect("a line is whole");
        assert!(found.insert(writer, number).unwrap_or(1) + 1 == number || number == 1, "{writer}: {number}");
    }
    assert_eq!(found, BTreeMap::from([(0, 1), (1, 7), (2, 20_001)]));
    assert!(fs::read(place.mnt().join(&path)).unwrap() == text, "the mount shows other bytes");
    daemon.unmount();
}

/// Of a write that ends at a page's border nobody knows whether more follows.
#[test]
fn a_write_that_ends_at_a_border_is_there_at_once_and_outlives_a_kill() {
    if reason_to_skip().is_some() {
        return;
    }
    let start = vec![b' '; 100];
    let (place, path, below) = with_thread(&start);
    for kills in [false, true] {
        let daemon = place.mount();
        let size = fs::metadata(&below).unwrap().len();
        let piece = vec![b'x'; 4096 - (size % 4096) as usize];
        let expected = [fs::read(&below).unwrap(), piece.clone()].concat();
        let mut file = fs::OpenOptions::new().append(true).open(place.mnt().join(&path)).unwrap();
        std::io::Write::write_all(&mut file, &piece).unwrap();
        drop(file);
        if kills {
            // At most machines a quarter of a second before it would land; where it is later, this shows less.
            daemon.kill();
            let daemon = place.mount();
            assert_eq!(fs::read(&below).unwrap(), expected);
            assert_eq!(fs::read(place.mnt().join(&path)).unwrap(), expected);
            daemon.unmount();
        } else {
            assert_eq!(fs::metadata(place.mnt().join(&path)).unwrap().len(), expected.len() as u64);
            assert!(fs::read(place.mnt().join(&path)).unwrap() == expected);
            assert!(fs::read(&below).unwrap() == expected, "it is on disk once it was asked for");
            daemon.unmount();
        }
        assert_eq!(fs::read_dir(place.home().join(".rolloutfs/held")).unwrap().count(), 0);
        // In the middle of a page again.
        fs::write(&below, &start).unwrap();
    }
}
