//! What do the tests of faults do their calls to? A home with threads of known numbers and bytes, and what is seen of it on
//! disk and in the mount.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::common::thread_id;
use super::harness::{Daemon, Kind, Place, line};

/// The day of most threads here; it is in the home.
pub const DAY: &str = "sessions/2026/02/08";

/// A view follows so long after the index can be written again: the indexer pauses for five seconds.
pub const CATCH_UP_MAX: Duration = Duration::from_secs(15);

/// Paths and contents of one home for the cases, a thread number each.
pub struct Bench {
    pub place: Place,
    /// The state folder, where it is not in the home.
    beside: Option<tempfile::TempDir>,
    number: u64,
}

pub fn name(number: u64) -> String {
    format!("rollout-2026-02-08T10-15-01-{}.jsonl", thread_id(number))
}

pub fn header(number: u64) -> Vec<u8> {
    line(number, 1, 300, Kind::Meta, &thread_id(number))
}

pub fn user(number: u64) -> Vec<u8> {
    line(number, 2, 300, Kind::User, &thread_id(number))
}

pub fn answer(number: u64, line_number: u64) -> Vec<u8> {
    line(number, line_number, 300, Kind::Response, &thread_id(number))
}

pub fn text(number: u64) -> Vec<u8> {
    [header(number), user(number)].concat()
}

pub fn write_file(path: &Path, bytes: &[u8]) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
}

/// One write of all bytes on a descriptor with O_APPEND.
pub fn append(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new().append(true).open(path)?;
    let count = file.write(bytes)?;
    assert_eq!(count, bytes.len(), "{}: a short write", path.display());
    Ok(())
}

pub fn create(path: &Path) -> io::Result<()> {
    OpenOptions::new().append(true).create_new(true).mode(0o644).open(path).map(drop)
}

pub fn sync(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}

impl Bench {
    pub fn new() -> Bench {
        Bench::with(None)
    }

    /// With the state folder there: on another disk.
    pub fn with(beside: Option<tempfile::TempDir>) -> Bench {
        let bench = Bench { place: Place::new(), beside, number: 1 };
        write_file(&bench.home(&format!("{DAY}/{}", name(1))), &text(1));
        fs::create_dir_all(bench.home("archived_sessions")).unwrap();
        bench
    }

    pub fn next(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    pub fn home(&self, path: &str) -> PathBuf {
        self.place.home().join(path)
    }

    pub fn mnt(&self, path: &str) -> PathBuf {
        self.place.mnt().join(path)
    }

    pub fn pending(&self, path: &str) -> PathBuf {
        self.state("pending").join(path)
    }

    pub fn scratch(&self, path: &str) -> PathBuf {
        self.state("scratch").join(path)
    }

    /// A path in the state folder.
    pub fn state(&self, path: &str) -> PathBuf {
        match &self.beside {
            Some(dir) => dir.path().join(path),
            None => self.home(".rolloutfs").join(path),
        }
    }

    /// Mounts it, and waits until everything is read.
    pub fn mount(&self) -> Daemon {
        let daemon = match &self.beside {
            Some(dir) => self.place.mount_with(&[], &["--state-dir", dir.path().to_str().unwrap()]),
            None => self.place.mount(),
        };
        daemon.await_settled();
        daemon
    }

    /// A thread in the home.
    pub fn thread(&mut self) -> (u64, String) {
        let number = self.next();
        let path = format!("{DAY}/{}", name(number));
        write_file(&self.home(&path), &text(number));
        (number, path)
    }

    /// The path of a thread that is to be made.
    pub fn free(&mut self) -> (u64, String) {
        let number = self.next();
        (number, format!("{DAY}/{}", name(number)))
    }

    /// What lies on disk: files, and what is in the trash. Not the index, which is made of it.
    pub fn on_disk(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        let state = self.state("");
        walk(&self.place.home(), &mut |path, bytes| {
            // An empty folder may be left.
            if let Some(bytes) = bytes.filter(|_| !path.starts_with(&state)) {
                found.insert(path.to_owned(), bytes);
            }
        });
        for area in
            ["pending", "scratch", "trash"].map(|area| self.state(area)).iter().filter(|dir| dir.exists())
        {
            walk(area, &mut |path, bytes| {
                // In the trash no empty folder may be left.
                if bytes.is_some() || area.ends_with("trash") {
                    found.insert(path.to_owned(), bytes.unwrap_or_default());
                }
            });
        }
        found
    }

    /// What the mount shows.
    pub fn shown(&self) -> BTreeMap<PathBuf, Vec<u8>> {
        let mut found = BTreeMap::new();
        for root in ["sessions", "archived_sessions", "by-name"] {
            walk(&self.mnt(root), &mut |path, bytes| {
                let below = path.strip_prefix(self.place.mnt()).unwrap().to_owned();
                found.insert(below, bytes.unwrap_or_default());
            });
        }
        for entry in fs::read_dir(self.place.mnt()).unwrap().flatten() {
            let name = entry.file_name();
            let is_made_up = ["README.md", "threads.jsonl", ".ignore"].iter().any(|made_up| name == *made_up);
            if entry.file_type().unwrap().is_file() && !is_made_up {
                found.insert(name.into(), fs::read(entry.path()).unwrap());
            }
        }
        found
    }
}

/// Shows `visit` each file with its bytes, each link with its text, and each folder.
pub fn walk(dir: &Path, visit: &mut dyn FnMut(&Path, Option<Vec<u8>>)) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let found = fs::symlink_metadata(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if found.is_dir() {
            visit(&path, None);
            walk(&path, visit);
        } else if found.is_symlink() {
            visit(&path, Some(fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()));
        } else {
            let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            visit(&path, Some(bytes));
        }
    }
}

/// The first differences of two of them, for people.
pub fn differences(before: &BTreeMap<PathBuf, Vec<u8>>, after: &BTreeMap<PathBuf, Vec<u8>>) -> Vec<String> {
    let paths: std::collections::BTreeSet<_> = before.keys().chain(after.keys()).collect();
    let sizes = |path| (before.get(path).map(Vec::len), after.get(path).map(Vec::len));
    paths
        .into_iter()
        .filter(|path| before.get(*path) != after.get(*path))
        .map(|path| format!("{}: {:?}", path.display(), sizes(path)))
        .collect()
}

/// Waits until the indexer has caught up with what it could not store.
pub fn await_no_trouble(daemon: &Daemon) {
    // What the status says may be half a second old.
    std::thread::sleep(Duration::from_millis(600));
    let end = Instant::now() + CATCH_UP_MAX;
    while !daemon.status()["progress"]["trouble"].is_null() {
        assert!(Instant::now() < end, "the trouble does not end: {}", daemon.log_text());
        std::thread::sleep(Duration::from_millis(20));
    }
}
