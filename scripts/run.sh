#!/usr/bin/env bash
# make run: builds Tigger and shows it at work in front of a throw-away PostgreSQL, until Ctrl-C.
#   ONCE=1     ends after the proof; the exit status tells whether it succeeded
#   PORT=7432  Tigger's port instead of 6432
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/need.sh
. scripts/need.sh

need_cargo
need_compiler
need_bpf_toolchain
need_postgres
raise_fd_limit
say "Building (the first time takes a few minutes) ..."
cargo build --release --locked -p tigger -p tigger-testkit
args=()
if [ "${ONCE:-}" = 1 ]; then args+=(--once); fi
exec cargo run --quiet --release --locked -p tigger-testkit --bin tigger-demo -- "${args[@]}"
