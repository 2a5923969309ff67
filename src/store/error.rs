//! What can go wrong in the store, and on which file?

use std::io;
use std::path::{Path, PathBuf};

/// An error of the store. Each variant names the file it is about and what to do, where there is
/// something to do. Damaged rollouts are data, not errors: they are counted and shown in `health/`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A system call on a file of the home or of the state directory failed.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried, as a verb ("read", "create").
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The index database answered with an error.
    #[error("index {}: {source}", path.display())]
    Index {
        /// The database file.
        path: PathBuf,
        /// SQLite's error.
        source: rusqlite::Error,
    },
    /// A compressed rollout does not decode.
    #[error("{} is damaged and cannot be decompressed: {reason}; restore it from a backup, or move it out of the home", path.display())]
    Damaged {
        /// The `.zst` file.
        path: PathBuf,
        /// What the decoder said.
        reason: String,
    },
    /// The folder is no Codex home.
    #[error("{} is not a Codex home: {reason}", path.display())]
    NotAHome {
        /// The folder given.
        path: PathBuf,
        /// Why not, and what to do.
        reason: String,
    },
    /// Another process has what this one needs alone.
    #[error("{} is in use by {holder}: {remedy}", path.display())]
    Busy {
        /// The home or the file.
        path: PathBuf,
        /// Who holds it.
        holder: String,
        /// What to do.
        remedy: String,
    },
    /// A question that has no answer, such as an unknown thread or a malformed cursor.
    #[error("{0}")]
    Invalid(String),
    /// There is no such thread, file or node.
    #[error("{what} not found")]
    NotFound {
        /// What was looked for.
        what: String,
    },
    /// Something is in the place already, or has the id already.
    #[error("{} is there already: {reason}", path.display())]
    Exists {
        /// What is there.
        path: PathBuf,
        /// Why that is in the way.
        reason: String,
    },
    /// The home's rules forbid it.
    #[error("{}: not permitted: {reason}", path.display())]
    Denied {
        /// The file or folder.
        path: PathBuf,
        /// Which rule, and what to do.
        reason: String,
    },
}

/// A result of the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

impl StoreError {
    /// A function for `map_err` that puts `action` and `path` on an I/O error.
    pub fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
        move |source| StoreError::Io { action, path: path.to_owned(), source }
    }

    /// `path` is in the way because of `reason`.
    pub fn exists(path: &Path, reason: impl Into<String>) -> StoreError {
        StoreError::Exists { path: path.to_owned(), reason: reason.into() }
    }

    /// `reason` forbids it for `path`.
    pub fn denied(path: &Path, reason: impl Into<String>) -> StoreError {
        StoreError::Denied { path: path.to_owned(), reason: reason.into() }
    }

    /// A function for `map_err` that puts the database's `path` on an SQLite error.
    pub fn index<'a>(path: &'a Path) -> impl FnOnce(rusqlite::Error) -> StoreError + 'a {
        move |source| StoreError::Index { path: path.to_owned(), source }
    }
}
