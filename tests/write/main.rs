//! Does writing through a real mount keep its promises? Kills at any moment and many writers at once.
//!
//! Each test is small here; `scripts/crash.sh` and `scripts/storm.sh` run them at full size. Where a machine has no FUSE
//! they say so and pass.

#![allow(unreachable_pub, reason = "modules of tests")]

mod bench;
#[path = "../common/mod.rs"]
mod common;
mod crash;
mod disks;
mod faults;
mod harness;
mod index_faults;
mod points;
mod storm;
mod strace;
mod syncs;
