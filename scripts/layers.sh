#!/usr/bin/env bash
# Do calls go `cli -> fs -> views -> store`, and never upward? Prints file:line of each breach.
#
# Usage: scripts/layers.sh [--self-test | ROOT]
#
# Looked at are paths (`crate::`, `super::`, `rolloutfs::`, `std::`, also in nested groups) and words, outside of strings
# and comments. The rules:
#   store   names no views, fs or cli, no fuser, no errno; inode only as the number of a file on the disk below
#   views   names no fs or cli; no files, no clock, no process, no database
#   fs      names no cli
#   others  nothing but fs names fuser
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

breaches() {
    local root=$1
    (cd "$root" && find src -name '*.rs' -print0 | LC_ALL=C sort -z | xargs -0 -r perl "$program")
}

program=$(mktemp)
trap 'rm -rf "$program" "${trees:-}"' EXIT
cat >"$program" <<'PERL'
use strict;
use warnings;

# Errno values that a layer must know to understand what the disk below answers: file, and the names.
my %ERRNO_FROM_BELOW = (
    'src/store/content.rs'     => { ENXIO => 1, ELOOP => 1 },      # a socket or a link where a rollout should be
    'src/store/home.rs'        => { EWOULDBLOCK => 1 },            # flock: another process has it
    'src/store/list/source.rs' => { EWOULDBLOCK => 1 },            # the same
);
my %FORBIDDEN = (
    store => { map { $_ => 1 } qw(views fs cli) },
    views => { map { $_ => 1 } qw(fs cli) },
    fs    => { cli => 1 },
    cli   => {},
);
# Prefixes of paths that views do not need: they are pure.
my @IMPURE = qw(std::fs std::io std::net std::env std::process std::thread std::os std::time::SystemTime
    std::time::Instant);
my $found = 0;

for my $file (@ARGV) {
    open my $handle, '<', $file or die "$file: $!\n";
    local $/;
    my $text = <$handle>;
    check($file, $text);
}
exit($found ? 1 : 0);

sub report {
    my ($file, $text, $offset, $words) = @_;
    my $line = 1 + (substr($text, 0, $offset) =~ tr/\n//);
    print "$file:$line: $words\n";
    $found = 1;
}

# The same text with strings, and comments if asked, blanked out: offsets and lines stay.
sub blank {
    my ($text, $with_comments) = @_;
    my $hide = sub { my $part = shift; $part =~ s/[^\n]/ /g; $part };
    $text =~ s{(//[^\n]*|/\*.*?\*/)|(b?r(\#*)".*?"\3|b?"(?:\\.|[^"\\])*"|b?'(?:\\.[^'\n]*|[^'\\\n])')}
              {defined $1 ? ($with_comments ? $hide->($1) : $1) : $hide->($2)}gsex;
    return $text;
}

sub check {
    my ($file, $text) = @_;
    my $code = blank($text, 1);
    my ($layer) = $file =~ m{^src/(store|views|fs|cli)(?:/|\.rs$)};
    my $tests_at = tests_begin($file, $code);

    for my $path (paths($code)) {
        my ($full, $offset) = @$path;
        my $name = target($file, $full, $offset >= $tests_at);
        if ($layer && defined $name && $FORBIDDEN{$layer}{$name}) {
            report($file, $text, $offset, "$layer must not name $name ($full)");
        }
        next unless $layer && $layer eq 'views' && $offset < $tests_at;
        for my $impure (@IMPURE) {
            report($file, $text, $offset, "views must not name $impure") if "$full\::" =~ /^\Q$impure\E::/;
        }
    }
    if (!$layer || $layer ne 'fs') {
        while ($code =~ /\bfuser\b/g) { report($file, $text, $-[0], 'only fs may name fuser') }
    }
    if ($layer && $layer eq 'views') {
        my $production = substr($code, 0, $tests_at);
        while ($production =~ /\b(libc|rusqlite|inotify|SystemTime|Instant)\b/g) {
            report($file, $text, $-[0], "views must not name $1");
        }
    }
    store_words($file, $text, $code, $tests_at) if $layer && $layer eq 'store';
}

sub store_words {
    my ($file, $text, $code, $tests_at) = @_;
    my $production = substr($code, 0, $tests_at);
    while ($production =~ /\berrno\b/gi) { report($file, $text, $-[0], 'store must not name errno') }
    # `libc::EIO`, and each name after the first of `libc::EIO | libc::EPERM`.
    while ($production =~ /\blibc::(E[A-Z][A-Z0-9]+)\b/g) {
        next if $ERRNO_FROM_BELOW{$file}{$1};
        report($file, $text, $-[0], "store must not name errno values (libc::$1)");
    }
    # With its comments: the word is about the kernel's side, except for the number on the disk below.
    my $spoken = substr(blank($text, 0), 0, $tests_at);
    while ($spoken =~ /\binodes?\b/gi) {
        my $offset = $-[0];
        my $start = 1 + rindex($spoken, "\n", $offset);
        my $end = index($spoken, "\n", $offset);
        my $line = substr($spoken, $start, ($end < 0 ? length $spoken : $end) - $start);
        next if $line =~ /device|mtime|\.ino\(\)|\.disk\.inode|inode: (?:u64|unsigned)|inode number|number below/i;
        report($file, $text, $offset, 'store must not say inode, but for the number of a file on disk');
    }
}

# Where the tests of a file begin: all of a file of tests, else its `#[cfg(test)] mod tests {`, which comes last.
sub tests_begin {
    my ($file, $code) = @_;
    return 0 if $file =~ m{(?:^|[/_])tests\.rs$|/tests/};
    return $code =~ /#\[cfg\(test\)\]\s*(?:#\[[^\]]*\]\s*)*mod\s+\w+\s*\{/ ? $-[0] : length $code;
}

# Every path that begins at a known root, groups spread out: [full path, offset].
sub paths {
    my ($code) = @_;
    my @found;
    while ($code =~ /(?<![\w:])(?=(?:crate|rolloutfs|std|core|self|super)\s*::)/g) {
        my $offset = pos $code;
        push @found, map { [$_, $offset] } spread(substr($code, $offset, 20_000));
    }
    return @found;
}

# The paths of a use tree at the start of the text.
sub spread {
    my ($text) = @_;
    my @segments;
    while ($text =~ /\G\s*(?:::)?\s*(\w+|\*)\s*(?=::|)/gc) {
        push @segments, $1;
        last unless $text =~ /\G\s*::/gc;
        if ($text =~ /\G\s*\{/gc) {
            my ($depth, $part, @parts) = (1, '');
            while ($depth > 0 && $text =~ /\G(.)/gcs) {
                my $char = $1;
                $depth++ if $char eq '{';
                $depth-- if $char eq '}';
                if ($depth == 0 || ($depth == 1 && $char eq ',')) { push @parts, $part; $part = '' }
                else { $part .= $char }
            }
            my $prefix = join '::', @segments;
            return map { "$prefix\::$_" } map { spread($_) } grep { /\S/ } @parts;
        }
    }
    return join '::', @segments;
}

# The first component below the crate's root that a path leads to; undef for a path that stays in its module, or is of
# another crate.
sub target {
    my ($file, $full, $in_tests) = @_;
    my @segments = split /::/, $full;
    my $first = shift @segments;
    return $segments[0] if $first eq 'crate' || $first eq 'rolloutfs';
    return if $first eq 'std' || $first eq 'core';
    (my $module = $file) =~ s{^src/|\.rs$}{}g;
    my @module = grep { $_ ne 'mod' && $_ ne 'lib' && $_ ne 'main' } split m{/}, $module;
    push @module, 'tests' if $in_tests && $file !~ m{tests\.rs$};
    while ($first eq 'super') {
        pop @module;
        return unless @segments;
        last if $segments[0] ne 'super';
        $first = shift @segments;
    }
    return @module ? undef : $segments[0];
}
PERL

# expect NAME FILE CODE [PATTERN...]: the code in a tree of its own has just these breaches.
expect() {
    local name=$1 file=$2 code=$3
    shift 3
    local tree=$trees/$name got wanted
    mkdir -p "$tree/$(dirname "$file")"
    printf '%s\n' "$code" >"$tree/$file"
    got=$(breaches "$tree" || true)
    wanted=$(for pattern in "$@"; do printf '%s:%s\n' "$file" "$pattern"; done)
    if [ "$got" != "$wanted" ]; then
        printf 'layers.sh: self-test %s failed\n--- wanted\n%s\n--- got\n%s\n' "$name" "$wanted" "$got" >&2
        failed=yes
    fi
}

self_test() {
    trees=$(mktemp -d)
    failed=no
    expect downward src/fs/mod.rs $'use crate::store::Store;\nuse crate::views::{self, Views};\nuse fuser::Notifier;'
    expect upward src/store/index.rs $'//! x\nuse crate::fs::Fs;\nfn f() { crate::cli::main() }' \
        '2: store must not name fs (crate::fs::Fs)' '3: store must not name cli (crate::cli::main)'
    expect grouped src/store/a/b.rs $'use crate::{\n    store::{error, index},\n    views::{name, place},\n};' \
        '1: store must not name views (crate::views::name)' '1: store must not name views (crate::views::place)'
    expect by_super src/store/a/b.rs $'use super::super::super::fs::Fs;\nuse super::super::fs;\nuse super::c;' \
        '1: store must not name fs (super::super::super::fs::Fs)'
    expect by_super_of_mod src/views/mod.rs $'use super::fs::Fs;' '1: views must not name fs (super::fs::Fs)'
    expect in_tests src/views/a.rs $'#[cfg(test)]\nmod tests {\n    use super::*;\n    use super::super::super::cli::x;\n    use std::fs;\n}' \
        '4: views must not name cli (super::super::super::cli::x)'
    expect own_name src/fs/mod.rs $'use crate::cli::x;\nuse rolloutfs::cli::y;' \
        '1: fs must not name cli (crate::cli::x)' '2: fs must not name cli (rolloutfs::cli::y)'
    expect comments src/store/a.rs $'//! crate::fs and fuser\n/* crate::cli::x */\nconst A: &str = "crate::fs::Fs fuser";\nconst B: char = \'"\'; // fuser'
    expect raw_strings src/store/a.rs $'const A: &str = r#"a " crate::fs::Fs"#;\nuse crate::views::x;' \
        '2: store must not name views (crate::views::x)'
    expect fuser src/cli/mount.rs $'use fuser::Session;' '1: only fs may name fuser'
    expect fusermount src/cli/mount.rs $'fn fusermount3() {}'
    expect pure src/views/a.rs $'use std::{fs, time::{Duration, Instant}};\nuse std::collections::BTreeMap;' \
        '1: views must not name std::fs' '1: views must not name std::time::Instant' '1: views must not name Instant'
    expect clock src/views/a.rs $'fn f() -> i64 { std::time::SystemTime::now(); 0 }' \
        '1: views must not name std::time::SystemTime' '1: views must not name SystemTime'
    expect errno src/store/a.rs $'fn f(n: i32) -> bool {\n    n == libc::EPERM\n}\n#[cfg(test)]\nmod tests { const A: i32 = libc::EIO; }' \
        '2: store must not name errno values (libc::EPERM)'
    expect errno_below src/store/home.rs $'const A: i32 = libc::EWOULDBLOCK;\nconst B: i32 = libc::EIO;' \
        '2: store must not name errno values (libc::EIO)'
    expect inode src/store/a.rs $'/// Inode number below.\npub inode: u64,\n// the inode that the kernel holds\nlet a = (stat.dev(), stat.ino());' \
        '3: store must not say inode, but for the number of a file on disk'
    if [ "$failed" = yes ]; then
        exit 1
    fi
    echo "layers.sh: self-test passed"
}

command -v perl >/dev/null || { echo "layers.sh: perl is needed: apt-get install perl-base" >&2; exit 1; }
case ${1:-} in
    --self-test) self_test ;;
    -h | --help) sed -n '2,12s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" ;;
    *)
        if ! breaches "${1:-$here/..}"; then
            echo "layers.sh: calls go cli -> fs -> views -> store; see docs/DESIGN.md, section 3" >&2
            exit 1
        fi
        ;;
esac
