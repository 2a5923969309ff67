# shellcheck shell=bash
# What do the scripts share? Words for the user, and the packages of Debian and Ubuntu. Sourced, never run.

say() { printf '%s\n' "$*"; }
complain() { printf '%s: %s\n' "${0##*/}" "$*" >&2; }
die() {
    complain "$*"
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

# Runs a command as root: directly, or by sudo, which may ask for a password only where someone can answer.
as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif has sudo && [ -t 0 ]; then
        sudo "$@"
    elif has sudo; then
        sudo -n "$@"
    else
        return 1
    fi
}

can_be_root() {
    [ "$(id -u)" -eq 0 ] || { has sudo && { [ -t 0 ] || sudo -n true 2>/dev/null; }; }
}

apt_is_fresh=no
# Installs packages, one by one: a package that this release does not have does not keep out the others.
apt_install() {
    has apt-get && can_be_root || return 1
    if [ "$apt_is_fresh" = no ]; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq </dev/null >/dev/null 2>&1 || true
        apt_is_fresh=yes
    fi
    local package status=0
    for package in "$@"; do
        as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$package" \
            </dev/null >/dev/null 2>&1 || status=1
    done
    return "$status"
}

# Arguments are command:package. Installs the package of each command that is missing, and prints the
# commands that are missing still.
install_missing() {
    local pair missing=()
    for pair in "$@"; do
        has "${pair%%:*}" || missing+=("${pair#*:}")
    done
    if [ "${#missing[@]}" -gt 0 ]; then
        complain "installing ${missing[*]}"
        apt_install "${missing[@]}" || true
        hash -r
    fi
    for pair in "$@"; do
        has "${pair%%:*}" || say "${pair%%:*}"
    done
}

# True if version $1 is $2 or later.
is_at_least() {
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# Where cargo puts what it builds.
target_dir() {
    cargo metadata --format-version 1 --no-deps --manifest-path "$1/Cargo.toml" |
        sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p'
}
