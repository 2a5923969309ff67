#!/usr/bin/env bash
# Do the tests pass? Installs what they use where that is possible, runs all of them, and counts.
#
# Usage: scripts/test.sh [ARGUMENT...]
#
# Arguments go to `cargo nextest run` (`cargo test` where nextest is not installed), such as part of a test's name;
# with arguments the examples in the documentation are not run. A test that lacks something here prints
# `skipped: reason` and passes; it is counted as skipped, and its reason is shown. The last line is
# `N passed, N failed, N skipped`; the exit code is 0 if none failed.
set -euo pipefail

case ${1:-} in -h | --help)
    sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}"
    exit 0
    ;;
esac
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
# shellcheck source=scripts/common.sh
. "$here/common.sh"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
passed=0 failed=0 skipped=0
reasons=()

set_up() {
    local missing
    missing=$(install_missing fusermount3:fuse3 rg:ripgrep rsync:rsync jq:jq zstd:zstd getfattr:attr getfacl:acl \
        sqlite3:sqlite3 setpriv:util-linux strace:strace tmux:tmux vim:vim-tiny)
    if [ -n "$missing" ]; then
        complain "not here, so tests that use them are skipped: ${missing//$'\n'/ }"
    fi
    if [ "$(id -u)" -eq 0 ] && [ -c /dev/fuse ] && [ "$(stat -c %a /dev/fuse)" != 666 ]; then
        say "opening /dev/fuse for the tests of ordinary users: chmod 666 /dev/fuse"
        chmod 666 /dev/fuse || complain "/dev/fuse stays as it is"
    fi
    has cargo || die "cargo is not installed; get it from https://rustup.rs"
}

# Numbers from nextest's report. Each reason once a test, as `name: reason`.
count_report() {
    local report=$1 totals
    totals=$(sed -n 's/.*<testsuites [^>]*tests="\([0-9]*\)"[^>]*failures="\([0-9]*\)"[^>]*errors="\([0-9]*\)".*/\1 \2 \3/p' "$report" | head -n 1)
    local tests failures errors
    read -r tests failures errors <<<"$totals"
    failed=$((failed + failures + errors))
    while IFS= read -r line; do reasons+=("$line"); done < <(
        perl -ne '
            if (/<testcase name="([^"]*)" classname="([^"]*)"/) { ($name, $class, $told) = ($1, $2, 0) }
            if (!$told && /(?:^|>)skipped: ([^<]*)/) {
                my $reason = $1; chomp $reason;
                $reason =~ s/&lt;/</g; $reason =~ s/&gt;/>/g; $reason =~ s/&quot;/"/g; $reason =~ s/&apos;/\x27/g; $reason =~ s/&amp;/&/g;
                print "$class $name: $reason\n"; $told = 1;
            }' "$report")
    skipped=$((skipped + ${#reasons[@]}))
    passed=$((passed + tests - failures - errors - ${#reasons[@]}))
}

# Adds up the `test result:` lines of cargo test. Its `ignored` ones are skipped ones.
count_results() {
    local ok bad ignored
    while read -r ok bad ignored; do
        passed=$((passed + ok)) failed=$((failed + bad)) skipped=$((skipped + ignored))
    done < <(sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed; \([0-9]*\) ignored;.*/\1 \2 \3/p' "$log")
    if [ "$status" -ne 0 ] && ! grep -q '^test result: FAILED' "$log"; then
        failed=$((failed + 1)) # it did not even run
    fi
}

run_nextest() {
    local report status=0
    report=$(target_dir .)/nextest/full/junit.xml
    rm -f "$report"
    cargo nextest run --profile full "$@" 2>&1 | tee "$log" || status=$?
    if [ -f "$report" ]; then
        count_report "$report"
    else
        failed=$((failed + 1)) # it did not build
    fi
    # Tests marked `#[ignore]`; with arguments, this number holds those that were not asked for.
    local ignored
    ignored=$(sed -n 's/.*Summary .* \([0-9]*\) skipped.*/\1/p' "$log" | tail -n 1)
    if [ $# -eq 0 ] && [ "${ignored:-0}" -gt 0 ]; then
        skipped=$((skipped + ignored))
        reasons+=("$ignored marked #[ignore]: $(cargo nextest list --run-ignored only --message-format oneline 2>/dev/null | tr "\n" " ")")
    fi
    if [ "$status" -ne 0 ] && [ "$failed" -eq 0 ]; then
        failed=1
    fi
}

run_cargo_test() {
    local status=0
    cargo test --no-fail-fast --lib --bins --tests "$@" -- --show-output 2>&1 | tee "$log" || status=$?
    count_results
    # The first reason below each heading `---- name stdout ----`.
    while IFS= read -r line; do reasons+=("$line"); done < <(
        sed -nE 's/^---- (.*) stdout ----$/= \1/p; s/^skipped: /: /p' "$log" |
            awk '/^= /{ name = substr($0, 3) } /^: /{ if (name != "") print name $0; name = "" }'
    )
    skipped=$((skipped + ${#reasons[@]})) passed=$((passed - ${#reasons[@]}))
}

run_examples() {
    local status=0
    cargo test --doc 2>&1 | tee "$log" || status=$?
    count_results
}

set_up
if cargo nextest --version >/dev/null 2>&1; then
    run_nextest "$@"
else
    complain "cargo-nextest is not installed; plain cargo test does"
    run_cargo_test "$@"
fi
if [ $# -eq 0 ]; then
    run_examples
fi
for reason in "${reasons[@]}"; do
    say "skipped: $reason"
done
say "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
