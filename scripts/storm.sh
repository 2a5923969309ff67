#!/usr/bin/env bash
# Do LINES lines (default 100000) of six writers to one file land whole, once and in order?
set -euo pipefail
cd "$(dirname "$0")/.."
ROLLOUTFS_STORM_LINES="${1:-100000}" cargo test --release --test write storm:: -- --nocapture --include-ignored
