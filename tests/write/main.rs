//! Does writing through a real mount keep its promises? Kills at any moment and many writers at once.
//!
//! Each test is small here; `scripts/crash.sh` and `scripts/storm.sh` run them at full size. Where a machine has no FUSE
//! they say so and pass.

#![allow(unreachable_pub, reason = "modules of tests")]

#[path = "../common/mod.rs"]
mod common;
mod crash;
mod harness;
mod points;
mod storm;
