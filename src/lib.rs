//! rolloutfs mounts a Codex home as a filesystem. Which parts is it made of?
//!
//! `fs` speaks FUSE, `views` say which names the tree has, `store` reads the home and keeps the index;
//! `cli` is the program. Calls go `cli → fs → views → store`, never upward.

pub mod cli;
pub mod fs;
pub mod store;
pub mod views;
