#!/usr/bin/env bash
# Does the mount keep up with a home that is being written? The long forms of tests/live, in release, with their figures:
#
#   scripts/live.sh coherence [SECONDS]    readers against writers (default 600)
#   scripts/live.sh storm [THREADS]        more happens than can be followed, by events and by the clock (default 20000)
#   scripts/live.sh soak [SECONDS]         memory, descriptors and watches under churn (default 1800)
#   scripts/live.sh latency [THREADS]      from a change on the disk to the mount, in a home of so many (default 100000)
#   scripts/live.sh idle [SECONDS]         what a mount costs that nobody uses (default 60)
set -euo pipefail
cd "$(dirname "$0")/.."
what="${1:-}" amount="${2:-}"
case "$what" in
coherence) export ROLLOUTFS_COHERENCE_SECONDS="${amount:-600}" life=$((${amount:-600} + 600)) ;;
storm) export ROLLOUTFS_STORM_THREADS="${amount:-20000}" life=3600 ;;
soak) export ROLLOUTFS_SOAK_SECONDS="${amount:-1800}" life=$((${amount:-1800} + 600)) ;;
latency) export ROLLOUTFS_LATENCY_THREADS="${amount:-100000}" life=3600 ;;
idle) export ROLLOUTFS_IDLE_SECONDS="${amount:-60}" life=$((${amount:-60} + 600)) ;;
*)
    sed -n '2,8s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
export ROLLOUTFS_TEST_LIFE_SECONDS="$life"
exec cargo test --release --test live "$what::" -- --nocapture --include-ignored --test-threads 1
