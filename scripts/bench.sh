#!/usr/bin/env bash
# make bench: compares direct connections, Tigger and PgBouncer; results in target/bench. It takes about half an hour.
#   QUICK=1  fewer rows and rounds: ends within two minutes
# Arguments go to tigger-bench: --only TEXT (rows whose name has it, such as "both local" or "32 clients"), --rounds N,
# --seconds N (length of each measurement), --out DIRECTORY.
# Rows with other hosts, which network namespaces stand for, are measured as root only; else the report says so.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/need.sh
. scripts/need.sh

need_cargo
need_compiler
need_bpf_toolchain
need_postgres
need_pgbouncer
if [ "$(id -u)" -eq 0 ]; then need_ip; fi
raise_fd_limit
say "Building ..."
cargo build --release --locked -p tigger -p tigger-bench
args=("$@")
if [ "${QUICK:-}" = 1 ]; then args+=(--quick); fi
say "Measuring ..."
exec cargo run --quiet --release --locked -p tigger-bench -- "${args[@]}"
