#!/usr/bin/env bash
# How does a mount of many threads behave? From the first reading to look-ups, at a tenth, a hundredth … of N threads and at N.
#
# Usage: scripts/scale.sh [--record] [--dir DIR] [N]
#
#   N          threads (default 1000000; they take some 6 KB of disk each); 2000 is for CI, half a minute
#   --record   append the table to docs/BENCHMARKS.md, with the date
#   --dir DIR  where homes and mounts are made (default: a new folder in /var/tmp, removed at the end)
#
# Each size has one more day, of N / 50 threads. Memory is that of the daemon, in MB, after the step before it. Look-ups are of
# names that the kernel does not know: median, 99th in a hundred, longest, in microseconds.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
# shellcheck source=scripts/common.sh
. "$here/common.sh"

threads=1000000 record=no dir=
while [ $# -gt 0 ]; do
    case $1 in
    --record) record=yes ;;
    --dir) dir=$2 && shift ;;
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    [0-9]*) threads=$1 ;;
    *) die "no such argument: $1 (see --help)" ;;
    esac
    shift
done

STEP_SECONDS_MAX=3600
LOOKUPS=1000
VIEWS='sessions archived_sessions by-name by-cwd by-id by-repo by-branch by-model by-source by-provider by-parent archived health'

cd "$root"
absent=$(install_missing jq:jq fusermount3:fuse3)
[ -z "$absent" ] || die "missing: ${absent//$'\n'/ }"
cargo build --locked --release --bin rolloutfs --example bench_tool
built=$(target_dir "$root")/release
program=$built/rolloutfs
tool=$built/examples/bench_tool

made_dir=no
if [ -z "$dir" ]; then
    dir=$(mktemp -d /var/tmp/rolloutfs-scale.XXXXXX)
    made_dir=yes
fi
mkdir -p "$dir"
dir=$(cd "$dir" && pwd)
mnt=$dir/mnt
mkdir -p "$mnt"

unmount() {
    ! mountpoint -q "$mnt" || "$program" unmount "$mnt" >/dev/null 2>&1 || umount -l "$mnt"
    local waited=0
    while [ -n "${pid:-}" ] && [ -d "/proc/$pid" ] && [ "$waited" -lt 300 ]; do
        sleep 0.1
        waited=$((waited + 1))
    done
}
clean_up() {
    unmount
    if [ "$made_dir" = yes ]; then
        rm -rf --one-file-system "$dir"
    fi
}
trap clean_up EXIT

# Seconds of a command, whose output goes nowhere.
TIMEFORMAT='%R'
seconds() {
    { time timeout "$STEP_SECONDS_MAX" "$@" >/dev/null 2>&1; } 2>&1 | tail -n 1
}
rss() { awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$pid/status"; }
mount_home() { "$program" mount -qq --read-only "$home" "$mnt"; }
settled() {
    until jq -e .progress.settled "$mnt/.rolloutfs/status.json" >/dev/null; do sleep 0.2; done
}
# Lines as table cells, one for each size.
declare -A cell=()
labels=()
note() {
    local label=$1 size=$2 value=$3
    [ -n "${cell[$label]:-}" ] || labels+=("$label")
    cell[$label]+=" $value |"
    say "  $label: $value"
}

sizes=()
for ((size = threads; size >= 1000 && ${#sizes[@]} < 3; size /= 10)); do sizes=("$size" "${sizes[@]}"); done
[ "${#sizes[@]}" -gt 0 ] || sizes=("$threads")

for size in "${sizes[@]}"; do
    say "$size threads"
    home=$dir/home-$size
    [ -d "$home" ] || "$program" sample-home -q "$home" --threads "$size" --size tiny >/dev/null
    day=sessions/2026/11/28
    [ -d "$home/$day" ] || "$tool" fill "$home/$day" $((size / 50))
    find "$home/$day" -exec touch -d '2026-11-28 12:00:00' {} +
    rm -rf "$home/.rolloutfs"

    note 'first reading, s (user + system CPU)' "$size" "$(
        TIMEFORMAT='%R (%U + %S)'
        { time "$program" index -qq --home "$home" >/dev/null 2>&1; } 2>&1 | tail -n 1
    )"
    note 'index, MB' "$size" "$(stat -c %s "$home/.rolloutfs/index.sqlite" | awk '{ print int($1 / 1e6) }')"

    # What is kept of the disk below stays; the mount is new.
    started=$(date +%s%N)
    mount_home >/dev/null &
    mounting=$!
    until mountpoint -q "$mnt"; do sleep 0.005; done
    for view in $VIEWS; do
        [ "$view" = by-id ] || timeout "$STEP_SECONDS_MAX" ls "$mnt/$view" >/dev/null
        [ "$view" != sessions ] || note 'mount to ls of sessions, s' "$size" "$(echo "$(date +%s%N) $started" | awk '{ printf "%.2f", ($1 - $2) / 1e9 }')"
    done
    note 'mount to ls of every root but by-id, s' "$size" "$(echo "$(date +%s%N) $started" | awk '{ printf "%.2f", ($1 - $2) / 1e9 }')"
    note 'ls of by-id, s' "$size" "$(seconds ls -f "$mnt/by-id")"
    wait "$mounting"
    pid=$(jq .pid "$mnt/.rolloutfs/status.json")
    settled
    note 'mount to everything compared, s' "$size" "$(echo "$(date +%s%N) $started" | awk '{ printf "%.1f", ($1 - $2) / 1e9 }')"
    note 'memory after that, MB' "$size" "$(rss)"
    unmount

    for view in by-name by-id by-cwd; do
        mount_home >/dev/null
        pid=$(jq .pid "$mnt/.rolloutfs/status.json")
        settled
        case $view in
        by-id) find "$home/sessions" -name 'rollout-*' | shuf -n "$LOOKUPS" --random-source=<(yes) | sed -E 's/.*T[0-9-]{8}-([0-9a-f-]{36}).*/\1.jsonl/' >"$dir/names" ;;
        by-name) jq -r 'select(.name != null and .current and (.name | test("^[a-zA-Z0-9][a-zA-Z0-9 ]*$"))) | .name + ".jsonl"' "$mnt/threads.jsonl" | sort -u | shuf -n "$LOOKUPS" --random-source=<(yes) >"$dir/names" ;;
        by-cwd) jq -r 'select(.cwd | test("^[a-zA-Z0-9/][a-zA-Z0-9/_-]*$")) | (.cwd | ltrimstr("/")) + "/" + (.path | split("/") | last)' "$mnt/threads.jsonl" | shuf -n "$LOOKUPS" --random-source=<(yes) >"$dir/names" ;;
        esac
        note "look-up in $view, µs" "$size" "$("$tool" stat "$mnt/$view" "$LOOKUPS" <"$dir/names")"
        unmount
    done

    mount_home >/dev/null
    pid=$(jq .pid "$mnt/.rolloutfs/status.json")
    settled
    note "ls -l of the day of N / 50, s" "$size" "$(seconds ls -l "$mnt/$day")"
    note 'find over everything, s' "$size" "$(seconds find "$mnt" -printf '%s\n')"
    note 'memory after that (2), MB' "$size" "$(rss)"
    note 'find once more, s' "$size" "$(seconds find "$mnt" -printf '%s\n')"
    note 'cat of threads.jsonl, s' "$size" "$(seconds cat "$mnt/threads.jsonl")"
    note 'memory at the end, MB' "$size" "$(rss)"
    unmount
    [ "$made_dir" = no ] || rm -rf "$home"
done

{
    printf '\n## %s: scale\n\n' "$(date +'%Y-%m-%d %H:%M')"
    printf 'Linux %s, %s processors, load %s, commit %s.\n\n' "$(uname -r)" "$(nproc)" "$(cut -d ' ' -f 1 /proc/loadavg)" "$(git rev-parse --short HEAD 2>/dev/null || echo -)"
    printf '| threads |%s\n|---|' "$(printf ' %s |' "${sizes[@]}")"
    printf -- '---|%.0s' "${sizes[@]}"
    printf '\n'
    for label in "${labels[@]}"; do printf '| %s |%s\n' "$label" "${cell[$label]}"; done
} | tee "$dir/scale.md"
if [ "$record" = yes ]; then
    cat "$dir/scale.md" >>docs/BENCHMARKS.md
fi
