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
}

/// A result of the store.
pub type Result<T, E = StoreError> = std::result::Result<T, E>;

impl StoreError {
    /// A function for `map_err` that puts `action` and `path` on an I/O error.
    pub fn io<'a>(action: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> StoreError + 'a {
        move |source| StoreError::Io { action, path: path.to_owned(), source }
    }

    /// A function for `map_err` that puts the database's `path` on an SQLite error.
    pub fn index<'a>(path: &'a Path) -> impl FnOnce(rusqlite::Error) -> StoreError + 'a {
        move |source| StoreError::Index { path: path.to_owned(), source }
    }
}
