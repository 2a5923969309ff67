//! Where does a file appear in the tree? The question that the store asks and the views answer.
//!
//! The store keeps the directories' contents in SQLite but does not know what the views are. It is given
//! an implementation of `Placing` when it is opened; the answers must be pure functions of the row.

use super::node::NodeNumber;
use super::row::{FileRow, Row};

/// The code of a view: a small constant, part of node numbers and of the index.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ViewCode(pub u8);

/// The view code of the files themselves: places in `sessions`, `archived_sessions` and `health/missing`.
pub const FILES: ViewCode = ViewCode(0);

/// One place where a file appears.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The view; [`FILES`] for the regular file itself.
    pub view: ViewCode,
    /// Which of the file's places in this view: below 8, and stable.
    pub index: u8,
    /// The directory, as a path below the mount without slashes at its ends.
    pub dir: Vec<u8>,
    /// The entry's name there.
    pub name: Vec<u8>,
}

/// Implemented by the views.
pub trait Placing: Send + Sync {
    /// Every place of the row, in a stable order, into `places`.
    fn places(&self, row: &Row, places: &mut Vec<Place>);

    /// The name that a place of this view has. It depends on the listed part of the row alone.
    fn entry_name(&self, view: ViewCode, row: &FileRow) -> Vec<u8>;

    /// The component under which `by-name` shows a thread of this name that is not the first to bear it.
    fn second_name(&self, name: &str, suffix: &str) -> String;

    /// The component under which `by-name` shows the first thread of this name.
    fn first_name(&self, name: &str, suffix: &str) -> String;

    /// Names with the same key are duplicates of each other.
    fn name_key(&self, first_name: &str) -> String;

    /// The row's line in `threads.jsonl`, with its newline; None for rows that have none there.
    fn line(&self, row: &Row) -> Option<Vec<u8>>;

    /// Directories that exist though nothing may be in them: view roots, as paths.
    fn roots(&self) -> Vec<Vec<u8>>;

    /// Changes whenever the answers above change for an unchanged row: then the index is made again.
    fn version(&self) -> u32;
}

/// The node number of an entry at a place: the file's own, or that of a link to it.
pub fn entry_number(view: ViewCode, index: u8, dir: &[u8], file: &FileRow) -> NodeNumber {
    if view == FILES { file.number } else { NodeNumber::link(view.0, index, file.number, &[dir, &file.path]) }
}
