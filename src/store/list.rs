//! Which threads are there, in which order, and which one is meant?
//!
//! Pages with cursors, and lookups by id, part of an id, name and path (spec 8). Visibility is ours: every rollout
//! that lies in the home is listed, with or without a header, a user's message or a provider (spec 8.2 hides those).
//!
//! [`open_for_reading`] chooses whom to ask:
//! 1. The index alone, while a living process keeps it true (spec 8.5, "DB first").
//! 2. The files otherwise: names and attributes of all rollouts are taken anew, and of the index only what it read
//!    from files that have not changed by a byte or a nanosecond since. So an index that nobody keeps cannot mislead.
//!
//! Nothing is created or written, no lock is kept. Depends on the parts of the store that read.

mod cursor;
mod files;
mod filter;
mod head;
mod item;
mod lookup;
mod query;
mod source;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub use cursor::Cursor;
pub(super) use head::read_header;
pub use item::{GitInfo, ListItem, NO_MESSAGE};
pub use lookup::PREFIX_DIGITS_MIN;
pub use source::{Source, open_for_reading};

use super::error::Result;
use super::home::Home;

/// Rollouts that one page may look at (spec 13.4): a page ends there, with a cursor to go on from.
pub const SCAN_MAX: u64 = 10_000;
/// Items of a page, where the caller has no wish.
pub const LIMIT_DEFAULT: usize = 50;
/// The provider of threads that name none.
pub const PROVIDER_DEFAULT: &str = "openai";

/// What a listing is sorted by. Equal times are put in order by thread id, then by path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum SortKey {
    /// Start of the thread: its header's time, else the stamp of the name; milliseconds.
    Created,
    /// The file's mtime, nanoseconds.
    #[default]
    Updated,
}

/// What to list.
#[derive(Clone, Debug)]
pub struct ListQuery {
    /// The order.
    pub sort: SortKey,
    /// Newest first.
    pub descending: bool,
    /// Sources to list, none for all: a source as the file has it, or the outer word of one that is an object
    /// (`subagent`).
    pub sources: Vec<String>,
    /// Providers to list, none for all.
    pub providers: Vec<String>,
    /// The provider of threads that name none.
    pub default_provider: String,
    /// Working directories to list, none for all: of the session or of its last turn, compared as in spec 8.7.
    pub cwds: Vec<PathBuf>,
    /// Only archived, only active, or all.
    pub archived: Option<bool>,
    /// Text that the name, title or preview has, case-sensitive.
    pub text: Option<String>,
    /// Items of a page; 0 counts as 1.
    pub limit: usize,
    /// Rollouts that a page may look at.
    pub scan_max: u64,
    /// Where the page before ended.
    pub cursor: Option<Cursor>,
}

impl Default for ListQuery {
    fn default() -> Self {
        ListQuery {
            sort: SortKey::Updated,
            descending: true,
            sources: Vec::new(),
            providers: Vec::new(),
            default_provider: PROVIDER_DEFAULT.to_owned(),
            cwds: Vec::new(),
            archived: None,
            text: None,
            limit: LIMIT_DEFAULT,
            scan_max: SCAN_MAX,
            cursor: None,
        }
    }
}

/// One page of a listing.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Page {
    /// The items, in order.
    pub items: Vec<ListItem>,
    /// Where the next page begins; None at the end.
    pub next_cursor: Option<Cursor>,
    /// Rollouts looked at for this page.
    pub scanned: u64,
    /// The page ended because `scan_max` were looked at: there may be fewer items than wanted.
    pub reached_scan_cap: bool,
}

/// A page from the files alone.
///
/// # Errors
/// [`super::error::StoreError::Io`] where `sessions` or `archived_sessions` cannot be read. Deeper folders, rollouts and
/// names that cannot be read are no error.
pub fn list_from_files(home: &Home, query: &ListQuery) -> Result<Page> {
    Ok(files::Files::walk(home, None)?.page(query))
}

/// What a person typed or named, fit for a message on a terminal: `chars_max` characters, nothing that it obeys.
fn shown(text: &str, chars_max: usize) -> String {
    let mut line = String::new();
    for char in text.chars().take(chars_max) {
        match char {
            '\'' | '"' | '\\' => line.push(char),
            _ => line.extend(char.escape_debug()),
        }
    }
    line
}
