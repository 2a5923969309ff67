#!/usr/bin/env bash
# Is the source as it should be? Format, lints, layers, documentation, leftovers, shell scripts.
#
# Usage: scripts/check.sh
#
# Every check is made, also when one before it failed; the exit code is 1 if any did.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/.."
# shellcheck source=scripts/common.sh
. "$here/common.sh"

# Files of the project: those that git knows or would take, or without git all but what is built.
files() {
    if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
        git ls-files --cached --others --exclude-standard "$@" | sort -u | while IFS= read -r path; do
            [ ! -f "$path" ] || printf '%s\n' "$path"
        done
    else
        find . \( -name target -o -name .git \) -prune -o -type f -print | sed 's|^\./||' | grep -E "${1:+${1#\*}\$}" || true
    fi
}

no_leftovers() {
    local pattern='\b(TO''DO|FIX''ME|XX''X)\b|\b(un''implemented|to''do|d''bg)!|[(]to be writ''ten[)]'
    ! files | grep -vE '^Cargo\.lock$' | xargs -r -d '\n' grep -nIE "$pattern" -- /dev/null
}

headers() {
    local file bare=0
    while IFS= read -r file; do
        case $(head -n 1 "$file") in
            '//!'*) ;;
            *)
                say "$file:1: does not open with //!: which question does it answer?"
                bare=1
                ;;
        esac
    done < <(files '*.rs')
    return "$bare"
}

scripts() {
    if [ -n "$(install_missing shellcheck:shellcheck)" ]; then
        complain "shellcheck is not installed, so the scripts are not looked at: apt-get install shellcheck"
        return 0
    fi
    shellcheck --external-sources scripts/*.sh .ci/run
}

layers() { scripts/layers.sh --self-test && scripts/layers.sh; }
format() { cargo fmt --all --check; }
lints() { cargo clippy --locked --all-targets -- -D warnings; }
documentation() { RUSTDOCFLAGS="-D warnings" cargo doc --locked --no-deps; }

failed=()
for check in format layers headers no_leftovers scripts lints documentation; do
    say "== $check"
    "$check" || failed+=("$check")
done
if [ "${#failed[@]}" -gt 0 ]; then
    die "failed: ${failed[*]}"
fi
say "check.sh: all good"
