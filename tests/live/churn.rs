//! What may happen to the threads of a home? Made by a seed, straight on the disk, as Codex and people do it.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::common::{thread_id, thread_text};

/// Days over which threads are spread.
const DAYS: u64 = 24;

/// A small generator (splitmix64): one seed, one series.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

/// A thread on the disk.
struct Thread {
    number: u64,
    /// Its plain path below the home.
    path: PathBuf,
    packed: bool,
}

/// What was done, by kind.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) created: u64,
    pub(crate) appended: u64,
    pub(crate) archived: u64,
    pub(crate) renamed: u64,
    pub(crate) compressed: u64,
    pub(crate) named: u64,
    pub(crate) replaced: u64,
    pub(crate) deleted: u64,
}

/// A home that is being changed.
pub(crate) struct Churn {
    home: PathBuf,
    random: Random,
    threads: Vec<Thread>,
    next: u64,
    pub(crate) done: Done,
}

impl Churn {
    pub(crate) fn new(home: &Path, seed: u64) -> Churn {
        fs::create_dir_all(home.join("archived_sessions")).unwrap();
        Churn {
            home: home.to_owned(),
            random: Random(seed),
            threads: Vec::new(),
            next: 1,
            done: Done::default(),
        }
    }

    /// Threads that are there.
    pub(crate) fn count(&self) -> usize {
        self.threads.len()
    }

    fn place(&mut self, number: u64) -> PathBuf {
        let (day, second) = (self.random.below(DAYS), number % 60);
        let (month, day) = (1 + day / 12, 1 + day % 12);
        let name = format!("rollout-2026-{month:02}-{day:02}T10-00-{second:02}-{}.jsonl", thread_id(number));
        format!("sessions/2026/{month:02}/{day:02}/{name}").into()
    }

    fn on_disk(&self, thread: &Thread) -> PathBuf {
        let plain = self.home.join(&thread.path);
        if thread.packed { format!("{}.zst", plain.display()).into() } else { plain }
    }

    /// A new thread, written in two pieces.
    pub(crate) fn create(&mut self) {
        let number = self.next;
        self.next += 1;
        let path = self.place(number);
        let file = self.home.join(&path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let text = thread_text(&thread_id(number), &format!("/srv/{}", number % 50), "a question");
        let (first, rest) = text.split_at(text.len() / 2);
        let mut open = OpenOptions::new().create_new(true).append(true).open(&file).unwrap();
        open.write_all(first.as_bytes()).unwrap();
        open.write_all(rest.as_bytes()).unwrap();
        self.threads.push(Thread { number, path, packed: false });
        self.done.created += 1;
    }

    /// Something happens to some thread. `deletes`: it may be that it goes.
    pub(crate) fn step(&mut self, deletes: bool) {
        let at = self.random.below(self.threads.len() as u64) as usize;
        match self.random.below(if deletes { 10 } else { 9 }) {
            0..=3 => self.append(at),
            4 | 5 => self.archive_or_back(at),
            6 => self.rename(at),
            7 => self.compress_or_back(at),
            8 if self.random.below(2) == 0 => self.name(at),
            8 => self.replace(at),
            _ => {
                let thread = self.threads.swap_remove(at);
                fs::remove_file(self.on_disk(&thread)).unwrap();
                self.done.deleted += 1;
            }
        }
    }

    fn append(&mut self, at: usize) {
        let thread = &self.threads[at];
        if thread.packed {
            return;
        }
        let line = format!(
            "{{\"timestamp\":\"2026-02-08T10:00:00Z\",\"type\":\"event_msg\",\"payload\":{{\"type\":\"agent_message\",\"message\":\"{}\"}}}}\n",
            self.done.appended
        );
        let mut open = OpenOptions::new().append(true).open(self.home.join(&thread.path)).unwrap();
        open.write_all(line.as_bytes()).unwrap();
        self.done.appended += 1;
    }

    fn archive_or_back(&mut self, at: usize) {
        let from = self.on_disk(&self.threads[at]);
        let name = self.threads[at].path.file_name().unwrap().to_owned();
        let is_archived = self.threads[at].path.starts_with("archived_sessions");
        let to = if is_archived { self.day_of(&name.to_string_lossy()) } else { "archived_sessions".into() };
        self.threads[at].path = to.join(name);
        let to = self.on_disk(&self.threads[at]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::rename(from, to).unwrap();
        self.done.archived += 1;
    }

    fn day_of(&self, name: &str) -> PathBuf {
        let date = &name["rollout-".len()..][..10];
        Path::new("sessions").join(date.replace('-', "/"))
    }

    fn rename(&mut self, at: usize) {
        if self.threads[at].path.starts_with("archived_sessions") {
            return self.archive_or_back(at);
        }
        let from = self.on_disk(&self.threads[at]);
        self.threads[at].path = self.place(self.threads[at].number);
        let to = self.on_disk(&self.threads[at]);
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::rename(from, to).unwrap();
        self.done.renamed += 1;
    }

    /// As Codex: a temporary, a rename, then the other one goes.
    fn compress_or_back(&mut self, at: usize) {
        let from = self.on_disk(&self.threads[at]);
        let bytes = fs::read(&from).unwrap();
        let packs = !self.threads[at].packed;
        self.threads[at].packed = packs;
        let to = self.on_disk(&self.threads[at]);
        let temporary = to.with_file_name(format!("rollout-compress-{at}.tmp"));
        let bytes = if packs { zstd::encode_all(&bytes[..], 1) } else { zstd::decode_all(&bytes[..]) };
        fs::write(&temporary, bytes.unwrap()).unwrap();
        fs::rename(temporary, to).unwrap();
        fs::remove_file(from).unwrap();
        self.done.compressed += 1;
    }

    fn name(&mut self, at: usize) {
        let (id, name) = (thread_id(self.threads[at].number), self.random.below(500));
        let line = format!(
            "{{\"id\":\"{id}\",\"thread_name\":\"name {name}\",\"updated_at\":\"2026-02-08T10:00:00Z\"}}\n"
        );
        let index = self.home.join("session_index.jsonl");
        OpenOptions::new().create(true).append(true).open(index).unwrap().write_all(line.as_bytes()).unwrap();
        self.done.named += 1;
    }

    /// As a migration: another file is renamed over it.
    fn replace(&mut self, at: usize) {
        let thread = &self.threads[at];
        let file = self.on_disk(thread);
        let text = thread_text(&thread_id(thread.number), "/srv/migrated", "a question");
        let bytes = if thread.packed { zstd::encode_all(text.as_bytes(), 1).unwrap() } else { text.into() };
        let temporary = file.with_file_name(format!(".rollout-{at}.jsonl.paginated.tmp"));
        fs::write(&temporary, bytes).unwrap();
        fs::rename(temporary, file).unwrap();
        self.done.replaced += 1;
    }
}
