//! What should the mount show? A copy of the home's folders with every compressed rollout decoded, made without rolloutfs.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use rolloutfs::store::rollout::RolloutName;

use crate::common::{TestHome, files_below, thread_id, thread_text};

/// The folders that hold rollouts.
pub(crate) const ROOTS: [&str; 2] = ["sessions", "archived_sessions"];
/// Bytes of the large threads: more than the kernel reads at once.
const LARGE_BYTES: usize = 3 << 20;

/// What the mount should show of a home.
pub(crate) struct Reference {
    /// Bytes by path; None where they cannot be decoded.
    pub(crate) files: BTreeMap<PathBuf, Option<Vec<u8>>>,
    /// Time of last modification by path, nanoseconds.
    pub(crate) mtimes_ns: BTreeMap<PathBuf, i64>,
}

impl Reference {
    /// Reads a home.
    pub(crate) fn of(home: &Path) -> Reference {
        let mut reference = Reference { files: BTreeMap::new(), mtimes_ns: BTreeMap::new() };
        for root in ROOTS {
            for below in files_below(&home.join(root)) {
                reference.add(home, &Path::new(root).join(below));
            }
        }
        reference
    }

    fn add(&mut self, home: &Path, path: &Path) {
        let name = path.file_name().unwrap().to_str().unwrap();
        // Codex's own temporaries are not shown.
        if name.starts_with("rollout-compress-") && name.ends_with(".tmp") {
            return;
        }
        let compressed = RolloutName::parse(name.as_bytes()).is_some_and(|name| name.is_compressed());
        let logical = if compressed { path.with_extension("") } else { path.to_owned() };
        // A plain file hides a compressed one of the same name.
        if compressed && home.join(&logical).exists() {
            return;
        }
        let file = home.join(path);
        let bytes = fs::read(&file).unwrap();
        let bytes = if compressed { zstd::decode_all(bytes.as_slice()).ok() } else { Some(bytes) };
        let metadata = fs::metadata(&file).unwrap();
        let mtime_ns = metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec();
        self.files.insert(logical.clone(), bytes);
        self.mtimes_ns.insert(logical, mtime_ns);
    }

    /// Paths whose bytes cannot be had.
    pub(crate) fn unreadable(&self) -> Vec<PathBuf> {
        self.files.iter().filter(|(_, bytes)| bytes.is_none()).map(|(path, _)| path.clone()).collect()
    }

    /// Paths with a rollout's name.
    pub(crate) fn rollouts(&self) -> impl Iterator<Item = &Path> {
        self.files.keys().map(PathBuf::as_path).filter(|path| rollout_of(path).is_some())
    }

    /// Writes the copy: every folder, and each readable file with its time.
    pub(crate) fn write(&self, home: &Path, to: &Path) {
        for root in ROOTS {
            for dir in dirs_below(&home.join(root)) {
                fs::create_dir_all(to.join(root).join(dir)).unwrap();
            }
        }
        for (path, bytes) in &self.files {
            let Some(bytes) = bytes else { continue };
            let file = to.join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, bytes).unwrap();
            let nanos = std::time::Duration::from_nanos(self.mtimes_ns[path] as u64);
            fs::File::options()
                .write(true)
                .open(&file)
                .unwrap()
                .set_modified(std::time::UNIX_EPOCH + nanos)
                .unwrap();
        }
    }
}

/// Every folder below one, relative, sorted; itself as the empty path.
pub(crate) fn dirs_below(dir: &Path) -> Vec<PathBuf> {
    let mut dirs = vec![PathBuf::new()];
    let mut next = 0;
    while next < dirs.len() {
        let at = dirs[next].clone();
        for entry in fs::read_dir(dir.join(&at)).unwrap().map(Result::unwrap) {
            if entry.file_type().unwrap().is_dir() {
                dirs.push(at.join(entry.file_name()));
            }
        }
        next += 1;
    }
    dirs.sort();
    dirs
}

/// The rollout's name, if the path has one.
pub(crate) fn rollout_of(path: &Path) -> Option<RolloutName> {
    RolloutName::parse(path.file_name()?.as_encoded_bytes())
}

/// A sample home with, besides, one large plain and one large compressed thread.
pub(crate) fn rich_home(threads: u64, seed: u64) -> TestHome {
    let home = TestHome::sample(threads, seed);
    let line = |number: usize| {
        let text = "0123456789 needle ".repeat(40);
        format!(
            "{{\"timestamp\":\"2026-02-08T09:15:02.417Z\",\"type\":\"event_msg\",\"payload\":{{\"type\":\"agent_message\",\"message\":\"{number} {text}\"}}}}\n"
        )
    };
    for (number, stamp) in [(901, "2026-02-08T09-15-02"), (902, "2026-02-09T09-15-02")] {
        let id = thread_id(number);
        let mut text = thread_text(&id, "/srv/large", "a large one");
        while text.len() < LARGE_BYTES {
            text.push_str(&line(text.len()));
        }
        let path = format!("sessions/{}/rollout-{stamp}-{id}.jsonl", stamp[..10].replace('-', "/"));
        if number == 901 {
            home.write(&path, text);
        } else {
            // By a stream, as Codex does: no size stands in the frame.
            home.write(&format!("{path}.zst"), zstd::encode_all(text.as_bytes(), 3).unwrap());
        }
    }
    home
}

/// The same without the files that nobody can decode.
pub(crate) fn readable_home(threads: u64, seed: u64) -> TestHome {
    let home = rich_home(threads, seed);
    for path in Reference::of(&home.path()).unreadable() {
        fs::remove_file(home.path().join(path.with_extension("jsonl.zst"))).unwrap();
    }
    home
}
