//! Which rollouts do the tests of content read?

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::*;

pub(super) const NAME: &str = "rollout-2026-02-08T10-15-01-0198c0de-0000-7000-8000-000000000001.jsonl";

/// Text that compresses to several blocks.
pub(super) fn text(lines_count: usize) -> Vec<u8> {
    (0..lines_count)
        .flat_map(|at| format!("{{\"line\":{at},\"hash\":{}}}\n", at * 7919).into_bytes())
        .collect()
}

/// As Codex compresses: a stream whose frame does not state its size.
pub(super) fn unsized_frame(content: &[u8]) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub(super) fn sized_frame(content: &[u8], checksum: bool) -> Vec<u8> {
    let mut encoder = zstd::Encoder::new(Vec::new(), 3).unwrap();
    encoder.include_checksum(checksum).unwrap();
    encoder.set_pledged_src_size(Some(content.len() as u64)).unwrap();
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub(super) struct Home {
    pub(super) folder: TempDir,
}

impl Home {
    pub(super) fn new() -> Home {
        Home { folder: TempDir::new().unwrap() }
    }

    pub(super) fn plain(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(super) fn write_plain(&self, name: &str, content: &[u8]) -> PathBuf {
        let path = self.plain(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// Puts the frames in place by rename, as Codex does. Answers the logical path.
    pub(super) fn write_zst(&self, name: &str, frames: &[u8]) -> PathBuf {
        let path = self.plain(name);
        let temporary = self.folder.path().join(format!("rollout-compress-{name}.tmp"));
        fs::write(&temporary, frames).unwrap();
        fs::rename(temporary, compressed_path(&path)).unwrap();
        path
    }

    pub(super) fn cache_folder(&self) -> PathBuf {
        self.folder.path().join("state/cache")
    }

    pub(super) fn cache(&self, bytes_max: u64) -> ContentCache {
        ContentCache::new(self.cache_folder(), bytes_max)
    }

    pub(super) fn cache_files(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.cache_folder()) else { return Vec::new() };
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
    }
}

pub(super) fn all_of(content: &Content) -> Vec<u8> {
    let mut bytes = vec![0; 64 << 20];
    let length = content.read_at(&mut bytes, 0).unwrap();
    bytes.truncate(length);
    bytes
}

pub(super) fn read_all(cache: &ContentCache, logical: &Path) -> Vec<u8> {
    all_of(&cache.open(logical).unwrap())
}

pub(super) fn all_of_small(content: &Content) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    let length = content.read_at(&mut bytes, 0).unwrap();
    bytes.truncate(length);
    bytes
}
