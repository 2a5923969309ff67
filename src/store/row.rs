//! What does the index know about one file? The row of a rollout, a stray file or a missing thread.

use serde::Serialize;

use super::areas::Area;
use super::content::Encoding;
use super::metadata::ThreadMetadata;
use super::node::NodeNumber;
use super::rollout::{RolloutName, ThreadId};

/// What kind of file a row is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RowKind {
    /// A file with a legal rollout name.
    Rollout,
    /// Another regular file below `sessions` or `archived_sessions`.
    Stray,
    /// A thread that `session_index.jsonl` names and that has no rollout.
    Missing,
}

/// How far the indexer came with a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum ReadState {
    /// Only its name and attributes are known, or it changed since it was read.
    Unread,
    /// Read to the end.
    Read,
    /// It could not be opened or decoded; the row's `error` says why.
    Failed,
}

/// Attributes of the file on disk that tell whether it changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskStat {
    /// Bytes on disk (of the `.zst` for a compressed rollout).
    pub size_bytes: u64,
    /// Time of last modification, nanoseconds since 1970.
    pub mtime_ns: i64,
    /// Device number.
    pub device: u64,
    /// Inode number below.
    pub inode: u64,
}

impl DiskStat {
    /// From the attributes of an open or listed file.
    pub fn of(metadata: &std::fs::Metadata) -> Self {
        use std::os::unix::fs::MetadataExt;
        DiskStat {
            size_bytes: metadata.size(),
            mtime_ns: metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec()),
            device: metadata.dev(),
            inode: metadata.ino(),
        }
    }
}

/// The part of a row that every listing needs: fixed size but for the names.
#[derive(Clone, Debug, PartialEq)]
pub struct FileRow {
    /// SQLite's row id; 0 before it is stored.
    pub row: i64,
    /// The file's node number.
    pub number: NodeNumber,
    /// What it is.
    pub kind: RowKind,
    /// Where it lies.
    pub area: Area,
    /// Logical path below the home (a compressed rollout has its plain name).
    pub path: Vec<u8>,
    /// The thread of a legal rollout name, or of a missing thread.
    pub thread_id: Option<ThreadId>,
    /// The second id of a two-id name (spec 9.6).
    pub rollout_id: Option<ThreadId>,
    /// The name's stamp as if it were UTC, unix seconds; 0 where there is none.
    pub stamp_seconds: i64,
    /// Below `archived_sessions`.
    pub archived: bool,
    /// The file that the thread's id leads to (spec 9.6, 11.3.4).
    pub current: bool,
    /// Another file has the same thread and rollout id and comes first.
    pub secondary: bool,
    /// Several files have this id, or the header has another thread's id.
    pub duplicate: bool,
    /// The thread's name, as given.
    pub name: Option<String>,
    /// The encoded name under which `by-name` lists it.
    pub listed_name: Option<String>,
    /// How it lies on disk.
    pub encoding: Encoding,
    /// When it was last looked at.
    pub disk: DiskStat,
    /// Size of the decoded bytes, where it is known and differs from the disk's.
    pub decoded_bytes: Option<u64>,
    /// How far it was read.
    pub state: ReadState,
    /// The last line is cut.
    pub torn: bool,
    /// Written before September 2025, without envelopes (spec 2.10).
    pub bare: bool,
    /// Lines that did not parse.
    pub parse_errors: u64,
}

impl FileRow {
    /// The last component of the path.
    pub fn file_name(&self) -> &[u8] {
        match self.path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => &self.path[slash + 1..],
            None => &self.path,
        }
    }

    /// The path without its last component.
    pub fn dir_path(&self) -> &[u8] {
        match self.path.iter().rposition(|&byte| byte == b'/') {
            Some(slash) => &self.path[..slash],
            None => b"",
        }
    }

    /// The parsed rollout name, for rollouts.
    pub fn rollout_name(&self) -> Option<RolloutName> {
        match self.kind {
            RowKind::Rollout => RolloutName::parse(self.file_name()),
            RowKind::Stray | RowKind::Missing => None,
        }
    }

    /// The id that tells the files of one thread apart: the rollout id where it has one of its own.
    pub fn key_id(&self) -> Option<ThreadId> {
        self.rollout_id.or(self.thread_id)
    }

    /// Size of the bytes that a reader sees, where it is known.
    pub fn content_bytes(&self) -> Option<u64> {
        match self.encoding {
            Encoding::Plain => Some(self.disk.size_bytes),
            Encoding::Zstd => self.decoded_bytes,
        }
    }
}

/// A whole row.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// What every listing needs.
    pub file: FileRow,
    /// What the file's lines say.
    pub meta: ThreadMetadata,
    /// Where to go on reading, as the extractor stored it.
    pub resume: Option<String>,
    /// Decoded bytes read so far, to the end of the last complete line.
    pub indexed_bytes: u64,
    /// Lines read so far.
    pub lines: u64,
    /// Why it could not be read.
    pub error: Option<String>,
    /// Position in `session_index.jsonl` of the entry that named it; -1 for a name from its own lines.
    pub name_position: i64,
}

impl Row {
    /// A row of which only the name and the attributes are known.
    pub fn found(area: Area, path: Vec<u8>, encoding: Encoding, disk: DiskStat) -> Self {
        let archived = path.starts_with(b"archived_sessions/");
        let mut file = FileRow {
            row: 0,
            number: NodeNumber(0),
            kind: RowKind::Stray,
            area,
            path,
            thread_id: None,
            rollout_id: None,
            stamp_seconds: 0,
            archived,
            current: false,
            secondary: false,
            duplicate: false,
            name: None,
            listed_name: None,
            encoding,
            disk,
            decoded_bytes: None,
            state: ReadState::Unread,
            torn: false,
            bare: false,
            parse_errors: 0,
        };
        if let Some(name) = RolloutName::parse(file.file_name()) {
            file.kind = RowKind::Rollout;
            file.thread_id = Some(name.thread_id());
            file.rollout_id = name.rollout_id();
            file.stamp_seconds = name.stamp_seconds();
        } else {
            file.state = ReadState::Read;
        }
        let created_at_ms = file.stamp_seconds.saturating_mul(1000);
        let meta = ThreadMetadata {
            created_at_ms,
            updated_at_ms: disk.mtime_ns.div_euclid(1_000_000),
            ..Default::default()
        };
        Row { file, meta, resume: None, indexed_bytes: 0, lines: 0, error: None, name_position: -1 }
    }
}
