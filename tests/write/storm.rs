//! Does every line land whole, once and in its writer's order, when many append to one file at once?

use std::collections::BTreeMap;
use std::fs;

use super::common::thread_id;
use super::harness::{
    Kind, Place, Task, await_writer, line, number_of, parse_line, read_notes, reason_to_skip, start_writer,
};

/// Lines in the short version.
const LINES: u64 = 6_000;
/// Writers through the mount, and on the disk below.
const ABOVE: u64 = 4;
const BELOW: u64 = 2;

#[test]
#[ignore = "the kernel splits a write at a page border, and a writer on the disk gets between the halves"]
fn lines_of_many_writers_are_whole_and_in_order() {
    if reason_to_skip().is_some() {
        return;
    }
    let lines = number_of("ROLLOUTFS_STORM_LINES", LINES) / (ABOVE + BELOW);
    let place = Place::new();
    let path = format!("sessions/2026/02/08/rollout-2026-02-08T10-15-01-{}.jsonl", thread_id(1));
    let below = place.home().join(&path);
    fs::create_dir_all(below.parent().unwrap()).unwrap();
    fs::write(&below, line(0, 1, 300, Kind::Meta, &thread_id(1))).unwrap();
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
        })
        .collect();
    let writers: Vec<_> = tasks.iter().map(|task| start_writer(std::slice::from_ref(task))).collect();
    writers.into_iter().for_each(await_writer);
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
