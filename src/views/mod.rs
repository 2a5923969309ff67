//! Which names does the tree have? Views compute where a thread appears; they do no I/O.

pub mod name;
pub mod place;
