//! What do the tests share? Made homes, stores over them, and walks over a tree without a kernel.
#![allow(dead_code, reason = "each test binary uses some of it")]
#![allow(unreachable_pub, reason = "a module of tests")]

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rolloutfs::cli::sample_home::{SampleOptions, Size, generate};
use rolloutfs::fs::attr::NodeKind;
use rolloutfs::fs::{Fs, FsOptions, ViewsAs};
use rolloutfs::store::home::Home;
use rolloutfs::store::node::NodeNumber;
use rolloutfs::store::{Store, StoreOptions};
use rolloutfs::views::Views;

/// A home in a folder of its own that goes when the test ends, also when it fails.
pub struct TestHome {
    dir: tempfile::TempDir,
}

impl TestHome {
    /// An empty home.
    pub fn empty() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("home/sessions")).unwrap();
        TestHome { dir }
    }

    /// A sample home.
    pub fn sample(threads: u64, seed: u64) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let options = SampleOptions { threads, seed, size: Size::Tiny, all_plain: false, jobs: 2 };
        generate(&dir.path().join("home"), &options, &|_| {}).unwrap();
        TestHome { dir }
    }

    /// The home's folder.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// A folder beside the home.
    pub fn beside(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a file below the home, with its folders.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let file = self.path().join(path);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, content).unwrap();
        file
    }

    /// Writes a small thread, and returns its logical path below the home.
    pub fn thread(&self, stamp: &str, number: u64, cwd: &str, message: &str) -> String {
        let id = thread_id(number);
        let day = stamp[..10].replace('-', "/");
        let path = format!("sessions/{day}/rollout-{stamp}-{id}.jsonl");
        self.write(&path, thread_text(&id, cwd, message));
        path
    }

    /// Opens the store over it, with the state in the home.
    pub fn store(&self) -> Store {
        self.store_with(StoreOptions::default())
    }

    /// Opens the store with options.
    pub fn store_with(&self, options: StoreOptions) -> Store {
        Store::open(Home::open(&self.path()).unwrap(), &options, Arc::new(Views::new())).unwrap()
    }

    /// A whole tree without a kernel, once everything is read.
    pub fn tree(&self) -> Fs {
        self.tree_as(ViewsAs::Symlinks)
    }

    /// The same, over a store with options.
    pub fn tree_with(&self, options: StoreOptions) -> Fs {
        let fs = Fs::new(self.store_with(options), FsOptions::default()).unwrap();
        fs.store().flush();
        fs
    }

    /// The same, with views shown so.
    pub fn tree_as(&self, views_as: ViewsAs) -> Fs {
        let fs = Fs::new(self.store(), FsOptions { views_as, ..FsOptions::default() }).unwrap();
        fs.store().flush();
        fs
    }

    /// Removes the state, as if it had never been mounted.
    pub fn forget_state(&self) {
        fs::remove_dir_all(self.path().join(".rolloutfs")).unwrap();
    }
}

/// The id of a test thread.
pub fn thread_id(number: u64) -> String {
    format!("0198c0de-0000-7000-8000-{number:012x}")
}

/// The lines of a small thread.
pub fn thread_text(id: &str, cwd: &str, message: &str) -> String {
    let cwd = serde_json::to_string(cwd).unwrap();
    let message = serde_json::to_string(message).unwrap();
    format!(
        "{{\"timestamp\":\"2026-02-08T09:15:02.401Z\",\"type\":\"session_meta\",\"payload\":{{\"id\":\"{id}\",\"timestamp\":\"2026-02-08T09:15:01.002Z\",\"cwd\":{cwd},\"originator\":\"codex_cli_rs\",\"cli_version\":\"0.99.0\",\"source\":\"cli\",\"model_provider\":\"openai\"}}}}\n\
         {{\"timestamp\":\"2026-02-08T09:15:02.417Z\",\"type\":\"event_msg\",\"payload\":{{\"type\":\"user_message\",\"message\":{message},\"images\":null}}}}\n"
    )
}

/// Every node of a tree: path, kind, number, size, mtime, links, and the target of a link. Sorted.
pub fn walk(fs: &Fs) -> Vec<String> {
    try_walk(fs).unwrap_or_else(|problem| panic!("{problem}"))
}

/// The same for a tree that may change meanwhile: Err says what did not fit together.
pub fn try_walk(fs: &Fs) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    walk_dir(fs, NodeNumber::ROOT, "", &mut lines)?;
    lines.sort();
    Ok(lines)
}

fn walk_dir(fs: &Fs, dir: NodeNumber, path: &str, lines: &mut Vec<String>) -> Result<(), String> {
    let mut entries = Vec::new();
    let listed = fs.readdir(dir, 0, false, &mut |entry| {
        entries.push(entry);
        true
    });
    listed.map_err(|error| format!("{path}: {error}"))?;
    let cookies: Vec<_> = entries.iter().map(|entry| entry.cookie).collect();
    if !cookies.is_sorted_by(|a, b| a < b) {
        return Err(format!("{path}: cookies are not in order"));
    }
    for entry in entries.into_iter().filter(|entry| entry.name != b"." && entry.name != b"..") {
        let child = format!("{path}/{}", String::from_utf8_lossy(&entry.name));
        let because = |error| format!("{child}: {error}");
        let found = fs.lookup(dir, &entry.name).map_err(because)?;
        let found = found.map_err(|_| format!("{child} is listed, not found"))?;
        let again = fs.getattr(entry.number).map_err(because)?.value;
        let attr = found.attr;
        if (attr.number, attr.kind) != (entry.number, entry.kind) || again != attr {
            return Err(format!("{child}: listed {entry:?}, found {attr:?}, by number {again:?}"));
        }
        let target = match entry.kind {
            NodeKind::Link => {
                format!(" -> {}", String::from_utf8_lossy(&fs.readlink(entry.number).map_err(because)?))
            }
            _ => String::new(),
        };
        lines.push(format!(
            "{child} {:?} {:#x} {} {} {}{target}",
            attr.kind, attr.number.0, attr.size_bytes, attr.mtime_ns, attr.nlink
        ));
        if entry.kind == NodeKind::Dir {
            walk_dir(fs, entry.number, &child, lines)?;
        }
    }
    Ok(())
}

/// What the first has and the second has not, and the reverse; ten of each.
pub fn difference(first: &[String], second: &[String]) -> (Vec<String>, Vec<String>) {
    let only = |a: &[String], b: &[String]| -> Vec<String> {
        let known: std::collections::HashSet<_> = b.iter().collect();
        a.iter().filter(|line| !known.contains(line)).take(10).cloned().collect()
    };
    (only(first, second), only(second, first))
}

/// Waits until `holds`, asking often; panics with what `holds` said last once `WAIT_MAX` is over.
pub fn wait_until<T>(what: &str, mut holds: impl FnMut() -> Result<T, String>) -> T {
    let end = std::time::Instant::now() + WAIT_MAX;
    loop {
        match holds() {
            Ok(value) => return value,
            Err(reason) if std::time::Instant::now() >= end => panic!("{what}: {reason}"),
            Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
        }
    }
}

/// How long a test waits for what must come.
pub const WAIT_MAX: std::time::Duration = std::time::Duration::from_secs(10);

/// Every regular file below a folder, relative, sorted.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(next) = dirs.pop() {
        for entry in fs::read_dir(&next).unwrap().map(Result::unwrap) {
            match entry.file_type().unwrap() {
                kind if kind.is_dir() => dirs.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path().strip_prefix(dir).unwrap().to_owned()),
                _ => {}
            }
        }
    }
    files.sort();
    files
}
