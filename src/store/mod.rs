//! What is in a Codex home? The store reads rollouts and keeps the index of them.

pub mod content;
pub mod error;
pub mod metadata;
pub mod rollout;
pub mod session_index;
