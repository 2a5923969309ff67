//! Does the mount keep up with a home that is being written? Readers against writers, storms, latency, churn and idleness.
//!
//! Each has a short form that runs with the other tests. The long forms are run by `scripts/live.sh`.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/mount.rs"]
mod harness;

mod churn;
mod coherence;
mod idle;
mod latency;
mod logs;
mod soak;
mod storm;
mod watching;

use std::path::Path;

/// A number from the environment: what the long forms are told.
fn number_from(variable: &str, default: u64) -> u64 {
    match std::env::var(variable) {
        Ok(text) => text.parse().unwrap_or_else(|_| panic!("{variable} is to be a number")),
        Err(_) => default,
    }
}

/// The value of a key in `/proc/PID/status`, without its unit.
fn process_status(process: &Path, key: &str) -> u64 {
    let text = std::fs::read_to_string(process.join("status")).unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    value.and_then(|value| value.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}
