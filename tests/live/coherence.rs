//! Does a reader ever see what was not written? Writers append to threads; every byte that comes through the mount is compared.
//!
//! Each line of a writer follows from its number, so a reader knows what a prefix of the file is.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::common::{TestHome, thread_id};
use crate::harness::{Mounted, can_mount_with, wait_for};
use crate::number_from;

/// Files that are written on the disk; one more is written through the mount.
const FILES: u64 = 4;
/// Lines a second that each writer appends.
const LINES_PER_SECOND: u64 = 200;
/// How long the short form writes.
const SECONDS: u64 = 15;
/// Every so many lines a line is written in two pieces.
const IN_TWO: u64 = 7;
/// How long the end of the last line may take to come out of `tail -f`, which looks each second.
const TAIL_MAX: Duration = Duration::from_secs(5);
/// What a child is told: file, number of the file, seconds.
const WRITER: &str = "ROLLOUTFS_TEST_WRITER";

fn line(file: u64, number: u64) -> String {
    let filler = (number.wrapping_mul(2_654_435_761) >> 7) % 500;
    let filler = "abcdefghij".repeat(filler as usize / 10);
    format!(
        "{{\"timestamp\":\"2026-02-08T10:00:00Z\",\"type\":\"event_msg\",\"payload\":{{\"type\":\"agent_message\",\"message\":\"{file} {number} {filler}\"}}}}\n"
    )
}

/// What a file is expected to say, made as far as somebody asked.
struct Expected {
    file: u64,
    path: String,
    made: Mutex<(Vec<u8>, u64)>,
}

impl Expected {
    fn new(file: u64) -> Expected {
        let path = format!("sessions/2026/02/08/rollout-2026-02-08T10-00-00-{}.jsonl", thread_id(file));
        Expected { file, path, made: Mutex::default() }
    }

    /// Are these the bytes from `offset` on?
    fn check(&self, offset: u64, bytes: &[u8], how: &str) {
        let mut made = self.made.lock().unwrap();
        let end = offset as usize + bytes.len();
        while made.0.len() < end {
            let next = line(self.file, made.1);
            made.0.extend_from_slice(next.as_bytes());
            made.1 += 1;
        }
        let expected = &made.0[offset as usize..end];
        if expected != bytes {
            let at = expected.iter().zip(bytes).position(|(a, b)| a != b).unwrap_or(0);
            let near = |bytes: &[u8]| {
                String::from_utf8_lossy(&bytes[at.saturating_sub(20)..(at + 60).min(bytes.len())])
                    .into_owned()
            };
            panic!(
                "{how}, {}: at byte {} of {end} there is {:?} in place of {:?}; {} NULs",
                self.path,
                offset as usize + at,
                near(bytes),
                near(expected),
                bytes.iter().filter(|&&byte| byte == 0).count(),
            );
        }
    }
}

/// A writing process. It waits for its clock, not for the mount.
#[test]
fn child_that_writes() {
    let Ok(told) = std::env::var(WRITER) else { return };
    let mut words = told.splitn(3, ' ');
    let mut next = || words.next().unwrap();
    let (file, seconds) = (next().parse::<u64>().unwrap(), next().parse::<u64>().unwrap());
    let mut open = OpenOptions::new().append(true).open(next()).unwrap();
    let began = Instant::now();
    for number in 1..=seconds * LINES_PER_SECOND {
        let line = line(file, number);
        let (first, rest) = line.split_at(if number % IN_TWO == 0 { line.len() / 2 } else { line.len() });
        open.write_all(first.as_bytes()).unwrap();
        if !rest.is_empty() {
            std::thread::sleep(Duration::from_millis(1));
            open.write_all(rest.as_bytes()).unwrap();
        }
        let due = Duration::from_micros(number * 1_000_000 / LINES_PER_SECOND);
        std::thread::sleep(due.saturating_sub(began.elapsed()));
    }
}

struct Writer(Child);

impl Writer {
    fn start(file: u64, seconds: u64, path: &Path) -> Writer {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "coherence::child_that_writes", "--nocapture"]);
        command.env(WRITER, format!("{file} {seconds} {}", path.display()));
        Writer(command.stdout(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[derive(Default)]
struct Counts {
    reads: AtomicU64,
    maps: AtomicU64,
    greps: AtomicU64,
    bytes: AtomicU64,
    tailed: AtomicU64,
}

impl Counts {
    fn add(&self, counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Opens, asks for the size, reads to the end, asks again.
fn read_once(path: &Path, expected: &Expected, counts: &Counts, piece_bytes: usize) -> u64 {
    let mut file = File::open(path).unwrap();
    let before = file.metadata().unwrap().size();
    let (mut bytes, mut piece) = (Vec::new(), vec![0; piece_bytes]);
    loop {
        let length = file.read(&mut piece).unwrap();
        bytes.extend_from_slice(&piece[..length]);
        if length == 0 {
            break;
        }
    }
    let after = file.metadata().unwrap().size();
    expected.check(0, &bytes, "read");
    let length = bytes.len() as u64;
    assert!(
        before <= length && length <= after,
        "{before} bytes by stat, {length} read, then {after} by stat"
    );
    counts.add(&counts.reads, bytes.len());
    length
}

/// Maps what stat says that there is.
fn map_once(path: &Path, expected: &Expected, counts: &Counts) -> u64 {
    let file = File::open(path).unwrap();
    let size = file.metadata().unwrap().size() as usize;
    // SAFETY: a new mapping of an open file; nothing is given at its address.
    let address = unsafe {
        libc::mmap(std::ptr::null_mut(), size, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0)
    };
    assert_ne!(address, libc::MAP_FAILED, "{}", std::io::Error::last_os_error());
    // SAFETY: the mapping has this length, and the file only grows.
    let bytes = unsafe { std::slice::from_raw_parts(address.cast::<u8>(), size) };
    // Copied first: what is compared is what was seen once.
    let seen = bytes.to_vec();
    // SAFETY: made above, and not used after.
    unsafe { libc::munmap(address, size) };
    expected.check(0, &seen, "mmap");
    counts.add(&counts.maps, size);
    size as u64
}

/// `grep` writes the lines that it finds: all that are there.
fn grep_once(path: &Path, expected: &Expected, counts: &Counts) -> u64 {
    let output = Command::new("grep").arg("agent_message").arg(path).output().unwrap();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    let mut found = output.stdout;
    // It ends the last line itself, and leaves out one that was cut before its marker.
    assert_eq!(found.pop(), Some(b'\n'));
    expected.check(0, &found, "grep");
    counts.add(&counts.greps, found.len());
    found.len() as u64
}

struct Tail {
    child: Child,
    seen: Arc<AtomicU64>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Tail {
    fn start(path: &Path, expected: Arc<Expected>) -> Tail {
        let mut child =
            Command::new("tail").args(["-c", "+1", "-f"]).arg(path).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = child.stdout.take().unwrap();
        let seen = Arc::<AtomicU64>::default();
        let counted = seen.clone();
        let thread = std::thread::spawn(move || {
            let mut piece = vec![0; 64 * 1024];
            loop {
                let length = output.read(&mut piece).unwrap();
                if length == 0 {
                    return;
                }
                expected.check(counted.load(Ordering::SeqCst), &piece[..length], "tail -f");
                counted.fetch_add(length as u64, Ordering::SeqCst);
            }
        });
        Tail { child, seen, thread: Some(thread) }
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let ended = self.thread.take().map(std::thread::JoinHandle::join);
        assert!(std::thread::panicking() || matches!(ended, Some(Ok(()))), "tail -f saw other bytes");
    }
}

#[test]
fn readers_see_what_was_written_and_nothing_else() {
    if !can_mount_with(&["tail", "grep"]) {
        return;
    }
    let seconds = number_from("ROLLOUTFS_COHERENCE_SECONDS", SECONDS);
    let home = TestHome::empty();
    let files: Vec<_> = (1..=FILES + 1).map(|file| Arc::new(Expected::new(file))).collect();
    for file in &files {
        home.write(&file.path, line(file.file, 0));
    }
    let mount = Mounted::new(&home.path(), &home.beside("mnt"), &[]);
    let counts = Counts::default();
    let over = AtomicBool::new(false);
    let shown: Vec<PathBuf> = files.iter().map(|file| mount.path(&file.path)).collect();
    let tails: Vec<_> =
        files.iter().zip(&shown).map(|(file, path)| Tail::start(path, file.clone())).collect();
    let mut writers: Vec<_> = files
        .iter()
        .map(|file| {
            let through_mount = file.file > FILES;
            let root = if through_mount { mount.at().to_owned() } else { home.path() };
            Writer::start(file.file, seconds, &root.join(&file.path))
        })
        .collect();
    std::thread::scope(|scope| {
        type Once<'a> = Box<dyn Fn(&Path, &Expected) -> u64 + Send + 'a>;
        let kinds: [Once<'_>; 4] = [
            Box::new(|path, expected| read_once(path, expected, &counts, 128 * 1024)),
            Box::new(|path, expected| read_once(path, expected, &counts, 1000)),
            Box::new(|path, expected| map_once(path, expected, &counts)),
            Box::new(|path, expected| grep_once(path, expected, &counts)),
        ];
        let (files, shown, over) = (&files, &shown, &over);
        for once in kinds {
            scope.spawn(move || {
                // What was seen is not unseen.
                let mut seen = vec![0; files.len()];
                while !over.load(Ordering::Relaxed) {
                    for (position, (file, path)) in files.iter().zip(shown).enumerate() {
                        let length = once(path, file);
                        assert!(length >= seen[position], "{}: {length} after {}", file.path, seen[position]);
                        seen[position] = length;
                        // The writers and the daemon need the processors too.
                        std::thread::sleep(Duration::from_millis(10));
                    }
                }
            });
        }
        for writer in &mut writers {
            let status = writer.0.wait().unwrap();
            over.store(!status.success() || over.load(Ordering::Relaxed), Ordering::Relaxed);
        }
        over.store(true, Ordering::Relaxed);
    });
    for (file, (path, tail)) in files.iter().zip(shown.iter().zip(&tails)) {
        let disk = fs::read(home.path().join(&file.path)).unwrap();
        file.check(0, &disk, "the disk");
        assert_eq!(disk.iter().filter(|&&byte| byte == b'\n').count() as u64, 1 + seconds * LINES_PER_SECOND);
        assert_eq!(fs::read(path).unwrap().len(), disk.len());
        wait_for("the end, by tail -f", TAIL_MAX, || tail.seen.load(Ordering::SeqCst) == disk.len() as u64);
        counts.tailed.fetch_add(disk.len() as u64, Ordering::Relaxed);
    }
    let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{} lines by {} writers in {seconds} s: {} reads, {} maps, {} greps, {} bytes compared, {} bytes by tail -f; nothing else was seen",
        files.len() as u64 * seconds * LINES_PER_SECOND,
        files.len(),
        load(&counts.reads),
        load(&counts.maps),
        load(&counts.greps),
        load(&counts.bytes),
        load(&counts.tailed),
    );
    drop(tails);
    mount.unmount();
}
