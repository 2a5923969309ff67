#!/usr/bin/env bash
# From a fresh clone to a mounted tree: installs what is missing, builds, mounts, and shows what to try.
#
# Usage: scripts/mount.sh [MOUNTPOINT]
#
# MOUNTPOINT is ~/codex unless given. The home is $CODEX_HOME or ~/.codex; who has none gets a made one with 1000
# threads in ${XDG_DATA_HOME:-~/.local/share}/rolloutfs/sample-home. Run again, it only shows what to try.
# It is for Debian and Ubuntu; elsewhere it says what to install.
set -euo pipefail

case ${1:-} in -h | --help)
    sed -n '2,8s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
# shellcheck source=scripts/common.sh
. "$here/common.sh"

SAMPLE_THREADS=1000
SAMPLE_SEED=1
# A mount that does not answer within this time is taken for a dead one.
ANSWER_SECONDS_MAX=10
# How long the first reading of a large home is waited for.
READING_SECONDS_MAX=60

rust_needed=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")

# What rustup installed may not be in the path of this shell.
find_cargo() {
    if ! has cargo && [ -x "${CARGO_HOME:-$HOME/.cargo}/bin/cargo" ]; then
        PATH="${CARGO_HOME:-$HOME/.cargo}/bin:$PATH"
    fi
    has cargo
}

need_rust() {
    local candidate
    if ! find_cargo; then
        candidate=$(LC_ALL=C apt-cache policy cargo 2>/dev/null | sed -n 's/^ *Candidate: \([0-9.]*\).*/\1/p')
        if [ -n "$candidate" ] && is_at_least "$candidate" "$rust_needed"; then
            say "Installing cargo $candidate"
            apt_install cargo || true
            hash -r
        fi
    fi
    if ! find_cargo; then
        die "a Rust toolchain is needed, $rust_needed or later, and this system's packages have none so new. Get one with
    curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs | sh
then run this script again."
    fi
    local found
    found=$(cargo --version | sed 's/^cargo \([0-9.]*\).*/\1/')
    if ! is_at_least "$found" "$rust_needed"; then
        die "cargo is $found, and $rust_needed or later is needed: rustup update, or get rustup from https://rustup.rs"
    fi
}

need_programs() {
    local missing
    missing=$(install_missing cc:gcc fusermount3:fuse3)
    # A compiler without the headers of the C library builds no SQLite.
    if has cc && ! printf '#include <stdio.h>\n' | cc -E -x c - >/dev/null 2>&1; then
        apt_install libc6-dev || missing+=" libc6-dev"
    fi
    if [ -n "$missing" ]; then
        die "missing: ${missing//$'\n'/ }. As root: apt-get install fuse3 gcc libc6-dev"
    fi
}

need_device() {
    if [ ! -c /dev/fuse ]; then
        die "there is no /dev/fuse: sudo modprobe fuse (in a container: start it with --device /dev/fuse --cap-add SYS_ADMIN)"
    fi
    if [ ! -r /dev/fuse ] || [ ! -w /dev/fuse ]; then
        die "/dev/fuse is not open to $(id -un) (its mode is $(stat -c %a /dev/fuse)). Open it, then run this script again:
    sudo chmod 666 /dev/fuse"
    fi
}

# The mount point, absolute. A dead mount cannot be looked at, so its parent is.
resolve() {
    local path=$1 parent
    if [ -L "$path" ]; then
        path=$(readlink -f "$path")
    fi
    parent=$(dirname "$path")
    mkdir -p "$parent"
    parent=$(cd "$parent" && pwd -P)
    printf '%s/%s\n' "${parent%/}" "$(basename "$path")"
}

# Type and source of what is mounted at $1, or nothing.
mounted_at() {
    local wanted=${1//\\/\\134}
    wanted=${wanted// /\\040}
    wanted=${wanted//$'\t'/\\011}
    wanted=${wanted//$'\n'/\\012}
    WANTED=$wanted awk '
        $5 == ENVIRON["WANTED"] { for (i = 7; i <= NF; i++) if ($i == "-") found = $(i + 1) " " $(i + 2) }
        END { if (found) print found }' /proc/self/mountinfo
}

answers() {
    timeout "$ANSWER_SECONDS_MAX" stat -f "$1" >/dev/null 2>&1
}

# The home to mount; a made one if there is none.
home() {
    local own=${CODEX_HOME:-$HOME/.codex}
    if [ -n "${CODEX_HOME:-}" ] || [ -d "$own" ]; then
        printf '%s\n' "$own"
        return
    fi
    local sample=${XDG_DATA_HOME:-$HOME/.local/share}/rolloutfs/sample-home
    if [ ! -d "$sample" ]; then
        complain "there is no $own: making a sample home of $SAMPLE_THREADS threads in $sample"
        mkdir -p "$(dirname "$sample")"
        # Made beside, then renamed: a sample that was interrupted is never taken for a whole one.
        rm -rf "$sample.partial"
        "$program" sample-home "$sample.partial" --threads "$SAMPLE_THREADS" --seed "$SAMPLE_SEED" >/dev/null
        mv "$sample.partial" "$sample"
    fi
    printf '%s\n' "$sample"
}

# Views fill while the files are read for the first time: waits for that, but not for ever.
wait_until_read() {
    local status=$1/.rolloutfs/status.json end=$((SECONDS + READING_SECONDS_MAX))
    until grep -qs '"settled": true' "$status"; do
        if [ "$SECONDS" -ge "$end" ]; then
            say "The threads are still being read: views fill meanwhile ($(printf '%q' "$program") status tells how far)"
            return
        fi
        sleep 0.2
    done
}

# One command to try, with its words as a shell would need them.
try() {
    local about=$1
    shift
    printf '  %-74s # %s\n' "$*" "$about"
}

show() {
    local mnt name dir
    mnt=$(printf '%q' "$1")
    name=$(find "$1/by-name" -mindepth 1 -maxdepth 1 2>/dev/null | LC_ALL=C sort | head -n 1 || true)
    dir=$(jq -r 'select(.cwd != "") | .cwd' "$1/threads.jsonl" 2>/dev/null | head -n 1 || true)
    say "Try:"
    try 'the threads that have a name' "ls $mnt/by-name"
    try 'what the user said last' "jq -r 'select(.payload.type? == \"user_message\").payload.message' $mnt/latest"
    try 'every thread that says so' "grep -rl error $mnt/sessions | head"
    try 'names and folders' "jq -r '[.updated_at, .name // .title, .cwd] | @tsv' $mnt/threads.jsonl | tail"
    if [ -n "$dir" ] && [ -d "$1/by-cwd$dir" ]; then
        try 'threads of one folder' "ls -l $mnt/by-cwd$(printf '%q' "$dir")"
    else
        try 'threads by folder' "ls $mnt/by-cwd"
    fi
    if [ -n "$name" ]; then
        try 'the end of a named thread' "tail -n 3 $(printf '%q' "$name")"
    else
        try 'the end of the newest thread' "tail -n 3 $mnt/latest"
    fi
    say "Unmount:"
    say "  $(printf '%q' "$program") unmount $mnt"
}

mountpoint=$(resolve "${1:-$HOME/codex}")
mounted=$(mounted_at "$mountpoint")
program=$root/target/release/rolloutfs
if find_cargo; then
    program=$(target_dir "$root")/release/rolloutfs
fi
if [ -n "$mounted" ] && answers "$mountpoint"; then
    case $mounted in
        fuse.rolloutfs*) ;;
        *) die "$mountpoint is a mount of something else (${mounted%% *}): give another mount point" ;;
    esac
    say "Already mounted at $mountpoint: ${mounted#* }"
    show "$mountpoint"
    exit 0
fi

need_device
need_programs
need_rust
program=$(target_dir "$root")/release/rolloutfs
say "Building (the first time takes some minutes)"
cargo build --release --manifest-path "$root/Cargo.toml"
if [ -n "$mounted" ]; then
    say "Clearing what is left of an earlier mount at $mountpoint"
    "$program" unmount "$mountpoint" || true
fi
mkdir -p "$mountpoint"
home=$(home)
"$program" mount "$home" "$mountpoint"
wait_until_read "$mountpoint"
show "$mountpoint"
