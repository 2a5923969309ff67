//! What can a filesystem call answer besides success? One enum, each variant about one node or file.

use crate::store::error::StoreError;
use crate::store::node::NodeNumber;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum FsError {
    /// There is no entry of that name.
    #[error("no entry {name:?} in node {dir:?}")]
    NoEntry {
        /// The directory.
        dir: NodeNumber,
        /// The name asked for.
        name: String,
    },
    /// The number leads to no node (any more).
    #[error("node {0:?} is gone")]
    Stale(NodeNumber),
    /// A directory was expected.
    #[error("node {0:?} is no directory")]
    NotADirectory(NodeNumber),
    /// A file was expected.
    #[error("node {0:?} is a directory")]
    IsADirectory(NodeNumber),
    /// A link was expected.
    #[error("node {0:?} is no link")]
    NotALink(NodeNumber),
    /// What was asked makes no sense.
    #[error("{0}")]
    Invalid(String),
    /// The mount is read-only.
    #[error("the mount is read-only")]
    ReadOnly,
    /// A directory is not empty.
    #[error("directory {0:?} is not empty")]
    NotEmpty(NodeNumber),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A result of a filesystem call.
pub type Result<T, E = FsError> = std::result::Result<T, E>;
