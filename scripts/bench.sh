#!/usr/bin/env bash
# make bench: compares direct connections, Tigger and PgBouncer; results in target/bench.
#   QUICK=1  fewer rows and rounds: ends within two minutes
# Arguments go to tigger-bench: --only TEXT, --rounds N, --out DIRECTORY.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/need.sh
. scripts/need.sh

need_cargo
need_compiler
need_postgres
need_pgbouncer
raise_fd_limit
say "Building ..."
cargo build --release --locked -p tigger -p tigger-bench
args=("$@")
if [ "${QUICK:-}" = 1 ]; then args+=(--quick); fi
say "Measuring ..."
exec cargo run --quiet --release --locked -p tigger-bench -- "${args[@]}"
