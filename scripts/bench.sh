#!/usr/bin/env bash
# What does work on a mount cost, against the same work on the folder below and on other filesystems?
#
# Usage: scripts/bench.sh [--quick] [--record] [--install-peers] [--rounds N] [--only PATTERN] [--cold] [--dir DIR]
#
#   --quick           small trees and one round: under two minutes, to see that everything runs
#   --record          append the tables to docs/BENCHMARKS.md, with the date
#   --install-peers   get bindfs and rclone from apt, where they are missing
#   --rounds N        how often each work is done on each side (default 5)
#   --only PATTERN    only work whose name matches this extended regular expression
#   --cold            also with the page cache dropped before each work (root alone; slows everything else on the machine)
#   --dir DIR         where homes and mounts are made (default: a new folder in /var/tmp, removed at the end)
#
# Every round does a work once on each side, one after the other: below, rolloutfs, stub, bindfs, rclone. `stub` is a FUSE
# filesystem that has every answer in memory: what the kernel costs. A ratio is that of one round; the table has their
# median, and the least and the greatest. CPU is that of the program and of the daemon, user and system.
# Peers are read only; what writes is done below, through rolloutfs and through bindfs.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(dirname "$here")
# shellcheck source=scripts/common.sh
. "$here/common.sh"

quick=no record=no rounds=5 only=. cold=no dir=
while [ $# -gt 0 ]; do
    case $1 in
    --quick) quick=yes rounds=1 ;;
    --record) record=yes ;;
    --install-peers) install_missing bindfs:bindfs rclone:rclone >/dev/null ;;
    --rounds) rounds=$2 && shift ;;
    --only) only=$2 && shift ;;
    --cold) cold=yes ;;
    --dir) dir=$2 && shift ;;
    -h | --help) sed -n '2,20s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" && exit 0 ;;
    *) die "no such option: $1 (see --help)" ;;
    esac
    shift
done

# The longest that one work may take; a mount that hangs does not hang the run.
WORK_SECONDS_MAX=600
READY_SECONDS_MAX=600
if [ "$quick" = yes ]; then
    R_THREADS=60 S_THREADS=1000 LARGE_MB=16 RANDOM_READS=2000 APPEND_LINES=500 FSYNC_LINES=20 FILL_THREADS=100
else
    R_THREADS=2000 S_THREADS=10000 LARGE_MB=200 RANDOM_READS=20000 APPEND_LINES=5000 FSYNC_LINES=200 FILL_THREADS=5000
fi
JQ_FILES=50
# A day that no sample has threads in.
WRITE_DAY=sessions/2026/11/28

cd "$root"
absent=$(install_missing jq:jq rg:ripgrep rsync:rsync fusermount3:fuse3)
[ -z "$absent" ] || die "missing: ${absent//$'\n'/ }"
cargo build --locked --release --bin rolloutfs --example bench_tool
built=$(target_dir "$root")/release
program=$built/rolloutfs
tool=$built/examples/bench_tool
# A mount is writable by itself, or where it is asked for.
write_option=()
if "$program" mount --help | grep -q -- '--write'; then
    write_option=(--write)
fi

if [ -z "$dir" ]; then
    dir=$(mktemp -d /var/tmp/rolloutfs-bench.XXXXXX)
    made_dir=yes
else
    mkdir -p "$dir"
    dir=$(cd "$dir" && pwd)
    made_dir=no
fi
results=$dir/results.tsv
: >"$results"

declare -A daemon=()

unmount_side() {
    local side=$1 at=$dir/mnt/$1
    mountpoint -q "$at" || return 0
    case $side in
    rolloutfs) "$program" unmount "$at" >/dev/null 2>&1 || umount -l "$at" ;;
    *) fusermount3 -u "$at" 2>/dev/null || umount -l "$at" ;;
    esac
    local pid=${daemon[$side]:-} waited=0
    while [ -n "$pid" ] && [ -d "/proc/$pid" ] && [ "$waited" -lt 100 ]; do
        sleep 0.1
        waited=$((waited + 1))
    done
    unset "daemon[$side]"
}

clean_up() {
    local side
    for side in rolloutfs stub bindfs rclone; do unmount_side "$side" || true; done
    if [ "$made_dir" = yes ]; then
        rm -rf --one-file-system "$dir"
    fi
}
trap clean_up EXIT

sides=(below rolloutfs stub)
has bindfs && sides+=(bindfs)
has rclone && sides+=(rclone)

wait_for_mount() {
    local at=$1 waited=0
    until mountpoint -q "$at"; do
        sleep 0.05
        waited=$((waited + 1))
        [ "$waited" -lt 400 ] || die "nothing is mounted at $at after 20 s"
    done
}

# Mounts a tree on one side, anew.
mount_side() {
    local side=$1 home=$2 at=$dir/mnt/$1
    [ "$side" != below ] || return 0
    unmount_side "$side"
    mkdir -p "$at"
    case $side in
    rolloutfs)
        "$program" mount -qq "${write_option[@]}" "$home" "$at" >/dev/null
        daemon[$side]=$(jq .pid "$at/.rolloutfs/status.json")
        local waited=0
        until jq -e .progress.settled "$at/.rolloutfs/status.json" >/dev/null; do
            sleep 0.2
            waited=$((waited + 1))
            [ "$waited" -lt $((READY_SECONDS_MAX * 5)) ] || die "the index of $home is not settled after $READY_SECONDS_MAX s"
        done
        ;;
    stub)
        "$tool" stub "$home" "$at" >/dev/null 2>&1 &
        daemon[$side]=$!
        wait_for_mount "$at"
        ;;
    bindfs)
        bindfs -f "$home" "$at" >/dev/null 2>&1 &
        daemon[$side]=$!
        wait_for_mount "$at"
        ;;
    rclone)
        rclone mount --read-only --vfs-cache-mode off --dir-cache-time 1h --attr-timeout 1h "$home" "$at" >/dev/null 2>&1 &
        daemon[$side]=$!
        wait_for_mount "$at"
        ;;
    esac
}

root_of() {
    if [ "$1" = below ]; then printf '%s\n' "$2"; else printf '%s\n' "$dir/mnt/$1"; fi
}

# CPU seconds that a daemon has used, all threads.
daemon_cpu() {
    local pid=${daemon[$1]:-} fields
    if [ -n "$pid" ] && read -r fields 2>/dev/null <"/proc/$pid/stat"; then
        fields=${fields##*) }
        # shellcheck disable=SC2086 # fields, not one word
        set -- $fields
        printf '%s\n' $((${12} + ${13}))
    else
        printf '0\n'
    fi
}

# A status is up to half a second old.
STATUS_AGE_SECONDS=0.6
requests_of() {
    if [ "$1" != rolloutfs ] || [ "$counted" = no ]; then
        printf '0\n'
        return
    fi
    sleep "$STATUS_AGE_SECONDS"
    jq '.requests | del(.errors, .notices) | add' "$dir/mnt/rolloutfs/.rolloutfs/status.json"
}

TICKS=$(getconf CLK_TCK)
TIMEFORMAT='%R %U %S'

# Requests are counted in the first round alone.
counted=no

# Does a work once on one side: a line of results. $1 name, $2 tree, $3 side, $4 home, the rest a shell line, run in the root.
measure() {
    local name=$1 tree=$2 side=$3 home=$4 line=$5 at before after asked answered idle times real user sys
    at=$(root_of "$side" "$home")
    if [ "$cold" = yes ] && [[ $name == cold* ]]; then
        sync
        echo 3 >/proc/sys/vm/drop_caches
    fi
    idle=$(requests_of "$side")
    asked=$(requests_of "$side")
    idle=$((asked - idle))
    before=$(daemon_cpu "$side")
    times=$( { time (cd "$at" && timeout "$WORK_SECONDS_MAX" bash -c "$line" >/dev/null 2>&1) || true; } 2>&1)
    after=$(daemon_cpu "$side")
    answered=$(requests_of "$side")
    read -r real user sys <<<"$(tail -n 1 <<<"$times")"
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$name" "$tree" "$side" "$real" \
        "$(awk "BEGIN { print $user + $sys }")" "$(awk "BEGIN { print ($after - $before) / $TICKS }")" \
        "$([ "$counted" = yes ] && echo $((answered - asked - idle > 0 ? answered - asked - idle : 0)))" >>"$results"
}

wanted() { [[ $1 =~ $only ]]; }

# A work on each side, each mounted just before: nothing is in the kernel's memory of the mount.
first() {
    local name=$1 tree=$2 home=$3 line=$4 round side
    wanted "$name" || return 0
    say "$tree: $name"
    for ((round = 0; round < rounds; round++)); do
        counted=$([ "$round" -eq 0 ] && echo yes || echo no)
        for side in "${sides[@]}"; do
            mount_side "$side" "$home"
            measure "$name" "$tree" "$side" "$home" "$line"
            unmount_side "$side"
        done
    done
}

# A work on each side, done before so that what the kernel may keep is kept. $5: sides, where not all.
again() {
    local name=$1 tree=$2 home=$3 line=$4 round side
    local on=("${sides[@]}")
    [ -z "${5:-}" ] || read -ra on <<<"$5"
    wanted "$name" || return 0
    say "$tree: $name"
    for side in "${on[@]}"; do
        # Twice: what can be written has a time of its last reading, which the kernel asks for once after a reading.
        for round in 1 2; do
            (cd "$(root_of "$side" "$home")" && timeout "$WORK_SECONDS_MAX" bash -c "$line" >/dev/null 2>&1) || true
        done
    done
    for ((round = 0; round < rounds; round++)); do
        counted=$([ "$round" -eq 0 ] && echo yes || echo no)
        for side in "${on[@]}"; do
            measure "$name" "$tree" "$side" "$home" "$line"
        done
    done
}

mount_all() {
    local side
    for side in "${sides[@]}"; do mount_side "$side" "$1"; done
}

unmount_all() {
    local side
    for side in "${sides[@]}"; do unmount_side "$side"; done
}

note_rss() {
    local side pid
    for side in "${sides[@]}"; do
        pid=${daemon[$side]:-}
        [ -n "$pid" ] || continue
        printf 'RSS\t%s\t%s\t%s\n' "$1" "$side" "$(awk '/^VmRSS/ { print int($2 / 1024) }' "/proc/$pid/status")" >>"$results.rss"
    done
}

BOTH='sessions archived_sessions'

# Trees as they are searched and copied. Folders of the home alone: that is what both sides have.
reading() {
    local tree=$1 home=$2 side
    first 'first ls -lR' "$tree" "$home" "ls -lR $BOTH"
    first 'first find -size' "$tree" "$home" "find $BOTH -size +1M"
    first 'first grep -rF' "$tree" "$home" "grep -rF needle $BOTH"
    first 'first rg' "$tree" "$home" "rg -j2 --no-ignore needle $BOTH"
    if [ "$cold" = yes ] && [ "$tree" = R ]; then
        first 'cold cat' "$tree" "$home" "find $BOTH -type f -print0 | xargs -0 cat"
        first 'cold rg' "$tree" "$home" "rg -j2 --no-ignore needle $BOTH"
    fi
    mount_all "$home"
    again 'ls -lR' "$tree" "$home" "ls -lR $BOTH"
    again 'find -size' "$tree" "$home" "find $BOTH -size +1M"
    again 'find -printf %s' "$tree" "$home" "find $BOTH -printf '%s\n'"
    again 'du' "$tree" "$home" "du -s $BOTH"
    again 'grep -rF' "$tree" "$home" "grep -rF needle $BOTH"
    again 'rg' "$tree" "$home" "rg -j2 --no-ignore needle $BOTH"
    again 'cat all' "$tree" "$home" "find $BOTH -type f -print0 | xargs -0 cat"
    # Not to /dev/null itself: tar would not read the files.
    again 'tar' "$tree" "$home" "tar -cf - $BOTH | cat"
    mkdir -p "$dir/copy/$tree"
    if wanted rsync; then
        rsync -a "$home/sessions" "$home/archived_sessions" "$dir/copy/$tree/"
    fi
    again 'rsync, nothing new' "$tree" "$home" "rsync -a $BOTH $dir/copy/$tree/"
    # Every fortieth or so of all threads, the same on each side.
    find "$home/sessions" -name 'rollout-*.jsonl' -size +0 -printf 'sessions/%P\n' | sort |
        awk -v want="$JQ_FILES" '{ all[NR] = $0 } END { step = NR > want ? int(NR / want) : 1; for (i = 1; i <= NR && n < want; i += step) { print all[i]; n++ } }' >"$dir/jq-$tree"
    again "jq over $JQ_FILES" "$tree" "$home" "xargs -a $dir/jq-$tree jq -c .type"
    for side in by-name by-cwd by-id; do
        again "find $side" "$tree" "$home" "find $side -printf '%s %l\n'" rolloutfs
    done
    note_rss "$tree"
    unmount_all
}

large_file() {
    local home=$1 stem=sessions/2026/11/27/rollout-2026-11-27T10-00-00-0198c0de-0000-7000-8000-0000000000aa.jsonl
    mkdir -p "$home/sessions/2026/11/27"
    # One line, many times: what a reader of bytes makes of it is the same.
    local line='{"timestamp":"2026-11-27T10:00:00.000Z","type":"response_item","payload":{"type":"message","role":"assistant","content":[{"type":"output_text","text":"a line of a large thread"}]}}'
    # shellcheck disable=SC2016 # for the inner shell
    { yes "$line" || true; } | head -c "${LARGE_MB}M" >"$home/$stem"
    touch -d '2026-11-27 10:00:00' "$home/$stem"
    # Each read has to reach the daemon: the kernel forgets what it has of the file before.
    first "one file of $LARGE_MB MB, 1 MiB reads" L "$home" "$tool seq $stem"
    first "one file of $LARGE_MB MB, $RANDOM_READS reads of 4 KiB" L "$home" "$tool random $stem $RANDOM_READS"
    first "one file of $LARGE_MB MB, mapped" L "$home" "$tool mmap $stem"
    rm -r "$home/sessions/2026/11/27"
}

# What writes has a folder of its own below: where the mount's home is, its daemon reads what is written there.
writing() {
    local home=$1 alone=$dir/home-w writers="below rolloutfs" side round own day
    ! has bindfs || writers+=" bindfs"
    local file=$WRITE_DAY/rollout-2026-11-28T10-00-00-0198c0de-0000-7000-8000-0000000000b0.jsonl
    for own in "$home" "$alone"; do
        mkdir -p "$own/$WRITE_DAY"
        printf '%s\n' \
            '{"timestamp":"2026-11-28T10:00:00.000Z","type":"session_meta","payload":{"id":"0198c0de-0000-7000-8000-0000000000b0","timestamp":"2026-11-28T10:00:00.000Z","cwd":"/srv","originator":"bench","cli_version":"0.1.0","source":"cli"}}' \
            '{"timestamp":"2026-11-28T10:00:00.000Z","type":"event_msg","payload":{"type":"user_message","message":"hello"}}' >"$own/$file"
    done
    mount_side rolloutfs "$home"
    ! has bindfs || mount_side bindfs "$alone"
    again "append $APPEND_LINES lines" W "$alone" "$tool append $file $APPEND_LINES" "$writers"
    again "append $FSYNC_LINES lines, fsync each" W "$alone" "$tool append $file $FSYNC_LINES fsync" "$writers"
    if wanted 'create and fill'; then
        say "W: create and fill $FILL_THREADS threads"
        for ((round = 0; round < rounds; round++)); do
            counted=$([ "$round" -eq 0 ] && echo yes || echo no)
            for side in $writers; do
                day=sessions/2026/10/$((round % 20 + 10))
                measure "create and fill $FILL_THREADS" W "$side" "$alone" "$tool fill $day $FILL_THREADS"
                # What was made goes before the next: each side has the same to do.
                rm -rf "${home:?}/$day" "${alone:?}/$day"
                sleep 1
            done
        done
    fi
    note_rss W
    unmount_all
}

backfill() {
    local home=$1 round files real user sys
    wanted backfill || return 0
    say "backfill"
    for ((round = 0; round < rounds; round++)); do
        rm -rf "$home/.rolloutfs"
        # As many at once as there are processors.
        read -r real user sys <<<"$( { time find "$home/sessions" "$home/archived_sessions" -type f -print0 | xargs -0 -P "$(nproc)" -n 200 wc -l >/dev/null; } 2>&1)"
        printf 'backfill\tR\tbelow\t%s\t%s\t0\t0\n' "$real" "$(awk "BEGIN { print $user + $sys }")" >>"$results"
        read -r real user sys <<<"$( { time "$program" index -qq --home "$home" >/dev/null 2>&1; } 2>&1 | tail -n 1)"
        printf 'backfill\tR\trolloutfs\t%s\t%s\t0\t0\n' "$real" "$(awk "BEGIN { print $user + $sys }")" >>"$results"
    done
    files=$(find "$home/sessions" "$home/archived_sessions" -type f | wc -l)
    say "backfill of $files files, $(du -s --apparent-size -m "$home/sessions" | cut -f 1) MB"
}

tables() {
    printf '\n## %s\n\n' "$(date +'%Y-%m-%d %H:%M')"
    printf 'Linux %s, %s processors, load %s, commit %s, %s rounds%s. R: %s threads of real sizes; S: %s tiny ones; L: one file; W: writing, in S.\n' \
        "$(uname -r)" "$(nproc)" "$(cut -d ' ' -f 1 /proc/loadavg)" "$(git rev-parse --short HEAD 2>/dev/null || echo -)" "$rounds" \
        "$([ "$quick" = yes ] && echo ', --quick')" "$R_THREADS" "$S_THREADS"
    printf 'Ratios to the folder below in the same round: median (least to greatest) of wall time; then of CPU, with the daemon.\n\n'
    awk -F '\t' -v sides="${sides[*]}" '
        function median(list, n,   i, j, t) {
            for (i = 2; i <= n; i++) { t = list[i]; for (j = i - 1; j > 0 && list[j] > t; j--) list[j + 1] = list[j]; list[j + 1] = t }
            return n % 2 ? list[(n + 1) / 2] : (list[n / 2] + list[n / 2 + 1]) / 2
        }
        {
            key = $1 "\t" $2
            if (!(key in seen)) { seen[key] = 1; order[++keys] = key }
            n = ++count[key, $3]
            wall[key, $3, n] = $4; cpu[key, $3, n] = $5 + $6; daemon[key, $3, n] = $6
            if ($7 != "") requests[key, $3] = $7
        }
        END {
            split(sides, side, " ")
            printf "| work | tree | below s | rolloutfs s | requests | daemon CPU s |"
            for (s = 2; s in side; s++) printf " %s wall | CPU |", side[s]
            printf "\n|---|---|---|---|---|---|"
            for (s = 2; s in side; s++) printf "---|---|"
            printf "\n"
            for (k = 1; k <= keys; k++) {
                key = order[k]; split(key, part, "\t")
                printf "| %s | %s |", part[1], part[2]
                for (s = 1; s <= 2; s++) {
                    n = count[key, side[s]]
                    for (i = 1; i <= n; i++) list[i] = wall[key, side[s], i]
                    printf n ? sprintf(" %.3f |", median(list, n)) : " – |"
                }
                n = count[key, "rolloutfs"]
                for (i = 1; i <= n; i++) list[i] = daemon[key, "rolloutfs", i]
                printf " %d | %.2f |", requests[key, "rolloutfs"], n ? median(list, n) : 0
                for (s = 2; s in side; s++) {
                    n = count[key, side[s]]; below = count[key, "below"]
                    if (!n || !below) { printf " – | – |"; continue }
                    low = 1e9; high = 0
                    for (i = 1; i <= n; i++) {
                        base = wall[key, "below", i] > 0 ? wall[key, "below", i] : 0.001
                        list[i] = wall[key, side[s], i] / base
                        if (list[i] < low) low = list[i]
                        if (list[i] > high) high = list[i]
                    }
                    m = median(list, n)
                    for (i = 1; i <= n; i++) {
                        base = cpu[key, "below", i] > 0 ? cpu[key, "below", i] : 0.001
                        clist[i] = cpu[key, side[s], i] / base
                    }
                    printf " %.2f (%.2f to %.2f) | %.2f |", m, low, high, median(clist, n)
                }
                printf "\n"
            }
        }' "$results"
    if [ -s "$results.rss" ]; then
        printf '\nResident memory of the daemons after the work, MB: '
        awk -F '\t' '{ printf "%s%s %s %s", (NR > 1 ? ", " : ""), $2, $3, $4 } END { print "." }' "$results.rss"
    fi
}

r_home=$dir/home-r s_home=$dir/home-s
[ -d "$r_home" ] || "$program" sample-home -q "$r_home" --threads "$R_THREADS" --size realistic --plain >/dev/null
[ -d "$s_home" ] || "$program" sample-home -q "$s_home" --threads "$S_THREADS" --size tiny --plain >/dev/null
rm -f "$results.rss"
backfill "$r_home"
reading R "$r_home"
reading S "$s_home"
large_file "$s_home"
writing "$s_home"
tables | tee "$dir/table.md"
if [ "$record" = yes ]; then
    cat "$dir/table.md" >>docs/BENCHMARKS.md
fi
