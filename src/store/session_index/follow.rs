//! What came to the index of names since the last look?
//!
//! Depends on `error`, and on the lines and entries of the index.

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::lines::{ForwardLines, INDEX_LINE_BYTES_MAX, ReadFrom};
use super::{NameEntry, open_index};
use crate::store::error::{Result, StoreError};

/// How many bytes before a [`Position`] tell whether the file is still the same one.
pub const FINGERPRINT_BYTES_MAX: u64 = 4096;

/// How far a follower has read, and how it knows the file again. To be stored beside what was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    /// The file's device; 0 for a file that is not there.
    pub device: u64,
    /// The file's number on it; 0 for a file that is not there.
    pub inode: u64,
    /// The start of the first line that was not read, in bytes.
    pub offset_bytes: u64,
    /// XXH3 of the last [`FINGERPRINT_BYTES_MAX`] or fewer bytes before the offset.
    pub fingerprint: u64,
}

/// An entry and where its line starts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlacedEntry {
    /// The start of its line, in bytes from the start of the file. A larger one is newer.
    pub offset_bytes: u64,
    /// What the line says.
    pub entry: NameEntry,
}

/// What happened to the index since a position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Follow {
    /// These entries came; what was read before still stands.
    Appended(Vec<PlacedEntry>),
    /// It is another file, or it was cut or rewritten: these are all its entries, forget the others.
    Replaced(Vec<PlacedEntry>),
}

/// The answer of [`Follower::advance`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Followed {
    /// The complete lines.
    pub follow: Follow,
    /// The last line, when it has no newline yet and parses all the same. It counts as the newest entry,
    /// and comes again next time: the position stays before it.
    pub tail: Option<PlacedEntry>,
    /// Where the next look starts.
    pub position: Position,
}

/// Reads what was appended to an index since the last time.
#[derive(Debug, Clone)]
pub struct Follower {
    path: PathBuf,
    position: Option<Position>,
}

impl Follower {
    /// Follows the index at `path` from `position`, or from its start.
    pub fn new(path: PathBuf, position: Option<Position>) -> Self {
        Follower { path, position }
    }

    /// Where the next look starts; None before the first.
    pub fn position(&self) -> Option<Position> {
        self.position
    }

    /// Reads what is new. The first look without a position answers [`Follow::Replaced`]. A file that is
    /// not there has no entries.
    ///
    /// # Errors
    /// [`StoreError::Io`] when the file cannot be read; the position stays as it was.
    pub fn advance(&mut self) -> Result<Followed> {
        let followed = match open_index(&self.path)? {
            Some(file) => follow(&file, self.position).map_err(StoreError::io("read", &self.path))?,
            None => {
                let still_absent = self.position == Some(Position::default());
                let none = Vec::new();
                let follow = if still_absent { Follow::Appended(none) } else { Follow::Replaced(none) };
                Followed { follow, tail: None, position: Position::default() }
            }
        };
        self.position = Some(followed.position);
        Ok(followed)
    }
}

fn follow(file: &File, position: Option<Position>) -> io::Result<Followed> {
    let stat = file.metadata()?;
    let mut start = 0;
    let mut appended = false;
    if let Some(position) = position {
        appended = (position.device, position.inode) == (stat.dev(), stat.ino())
            && position.offset_bytes <= stat.len()
            && fingerprint(file, position.offset_bytes)? == Some(position.fingerprint);
        start = if appended { position.offset_bytes } else { 0 };
    }
    let mut lines = ForwardLines::new(ReadFrom { file, offset: start }, start, INDEX_LINE_BYTES_MAX);
    let (mut entries, mut tail, mut read_to) = (Vec::new(), None, start);
    while let Some(line) = lines.next_line()? {
        let entry = NameEntry::parse(lines.text());
        let placed = entry.map(|entry| PlacedEntry { offset_bytes: line.start, entry });
        if line.complete {
            entries.extend(placed);
            read_to = line.end;
        } else {
            tail = placed;
        }
    }
    // A file cut while it was read has no fingerprint here; 0 makes the next look start again.
    let fingerprint = fingerprint(file, read_to)?.unwrap_or(0);
    let position = Position { device: stat.dev(), inode: stat.ino(), offset_bytes: read_to, fingerprint };
    let follow = if appended { Follow::Appended(entries) } else { Follow::Replaced(entries) };
    Ok(Followed { follow, tail, position })
}

/// The fingerprint of what lies before `offset`; None when the file ends before it.
fn fingerprint(file: &File, offset: u64) -> io::Result<Option<u64>> {
    let length = offset.min(FINGERPRINT_BYTES_MAX);
    let mut bytes = vec![0; length as usize];
    match file.read_exact_at(&mut bytes, offset - length) {
        Ok(()) => Ok(Some(xxh3_64(&bytes))),
        Err(error) if error.kind() == ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};
    use std::io::Write;

    use proptest::prelude::*;

    use super::super::remove;
    use super::super::tests::{Index, entry, id, line};
    use super::*;

    fn names(follow: &Follow) -> (&'static str, Vec<&str>) {
        let (kind, entries) = match follow {
            Follow::Appended(entries) => ("appended", entries),
            Follow::Replaced(entries) => ("replaced", entries),
        };
        (kind, entries.iter().map(|placed| placed.entry.thread_name.as_str()).collect())
    }

    #[test]
    fn a_follower_reads_only_what_was_appended() {
        let index = Index::with(&[(1, "a")]);
        let mut follower = Follower::new(index.path.clone(), None);
        assert_eq!(names(&follower.advance().unwrap().follow), ("replaced", vec!["a"]));
        assert_eq!(names(&follower.advance().unwrap().follow), ("appended", vec![]));
        let offset_bytes = fs::metadata(&index.path).unwrap().len() + 4;
        index.push(&("bad\n".to_owned() + &line(2, "b")));
        let followed = follower.advance().unwrap();
        assert_eq!(
            followed.follow,
            Follow::Appended(vec![PlacedEntry { offset_bytes, entry: entry(2, "b") }])
        );
        let stored = serde_json::to_string(&followed.position).unwrap();
        index.push(&line(3, "c"));
        let mut restarted = Follower::new(index.path.clone(), serde_json::from_str(&stored).unwrap());
        assert_eq!(names(&restarted.advance().unwrap().follow), ("appended", vec!["c"]));
    }

    #[test]
    fn a_follower_leaves_a_last_line_without_newline_for_the_next_time() {
        let index = Index::with(&[(1, "a")]);
        let mut follower = Follower::new(index.path.clone(), None);
        follower.advance().unwrap();
        let position = follower.position();
        index.push(&line(2, "b")[..20]);
        let followed = follower.advance().unwrap();
        assert_eq!((names(&followed.follow), followed.tail), (("appended", vec![]), None));
        index.push(&line(2, "b").trim_end()[20..]);
        let followed = follower.advance().unwrap();
        assert_eq!(followed.tail.map(|placed| placed.entry), Some(entry(2, "b")));
        assert_eq!(follower.position(), position);
        index.push("\n");
        let followed = follower.advance().unwrap();
        assert_eq!((names(&followed.follow), followed.tail), (("appended", vec!["b"]), None));
    }

    #[test]
    fn a_follower_notices_a_file_that_was_cut_rewritten_or_replaced() {
        type Change = fn(&Index);
        let changes: &[(Change, &str, &[&str])] = &[
            (|index| fs::write(&index.path, line(1, "a")).unwrap(), "replaced", &["a"]),
            (|index| fs::write(&index.path, line(1, "x") + &line(2, "b")).unwrap(), "replaced", &["x", "b"]),
            (|index| assert_eq!(remove(&index.path, id(1)).unwrap(), 1), "replaced", &["b"]),
            (|index| fs::remove_file(&index.path).unwrap(), "replaced", &[]),
            (|index| fs::write(&index.path, "").unwrap(), "replaced", &[]),
            (|_| (), "appended", &[]),
        ];
        for (at, (change, kind, expected)) in changes.iter().enumerate() {
            let index = Index::with(&[(1, "a"), (2, "b")]);
            let mut follower = Follower::new(index.path.clone(), None);
            follower.advance().unwrap();
            change(&index);
            assert_eq!(names(&follower.advance().unwrap().follow), (*kind, expected.to_vec()), "case {at}");
            index.push(&line(3, "c"));
            let after = follower.advance().unwrap().follow;
            assert_eq!(names(&after).1, ["c"], "case {at}");
        }
    }

    #[test]
    fn a_follower_waits_for_a_file_that_is_not_there() {
        let index = Index::absent();
        let mut follower = Follower::new(index.path.clone(), None);
        assert_eq!(names(&follower.advance().unwrap().follow), ("replaced", vec![]));
        assert_eq!(names(&follower.advance().unwrap().follow), ("appended", vec![]));
        index.push(&line(1, "a"));
        assert_eq!(names(&follower.advance().unwrap().follow), ("replaced", vec!["a"]));
    }

    proptest! {
        /// However the bytes arrive, the follower ends with what a fresh look finds.
        #[test]
        fn a_follower_sees_every_entry_once(
            names in proptest::collection::vec("[a-z\u{e9}]{0,6}", 1..8),
            cuts in proptest::collection::vec(0_usize..2000, 0..6),
        ) {
            let index = Index::absent();
            let content: String =
                names.iter().enumerate().map(|(at, name)| line(at as u128, name)).collect();
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % content.len()).collect();
            cuts.sort_unstable();
            cuts.push(content.len());
            let mut follower = Follower::new(index.path.clone(), None);
            let (mut seen, mut from) = (Vec::new(), 0);
            for cut in cuts {
                let mut file = OpenOptions::new().append(true).create(true).open(&index.path).unwrap();
                file.write_all(&content.as_bytes()[from..cut]).unwrap();
                from = cut;
                match follower.advance().unwrap().follow {
                    Follow::Appended(entries) => seen.extend(entries),
                    Follow::Replaced(entries) => { prop_assert!(seen.is_empty()); seen = entries; }
                }
            }
            let fresh = Follower::new(index.path.clone(), None).advance().unwrap().follow;
            prop_assert_eq!(Follow::Replaced(seen), fresh);
        }
    }
}
