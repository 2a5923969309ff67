#!/usr/bin/env bash
# Does every acknowledged byte outlive kills of the daemon? RUNS of them (default 10000), at random moments.
set -euo pipefail
cd "$(dirname "$0")/.."
ROLLOUTFS_CRASH_RUNS="${1:-10000}" cargo test --release --test write crash:: -- --nocapture
