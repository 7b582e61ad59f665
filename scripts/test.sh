#!/usr/bin/env bash
# make test: all tests of the workspace, against real servers where they need some, then a short fuzz run.
#   FUZZ_SECONDS=5  time for each fuzz target
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/need.sh
. scripts/need.sh

need_cargo
need_compiler
need_bpf_toolchain
need_postgres
# Only root has a kernel path and can make other hosts.
if [ "$(id -u)" -eq 0 ]; then
  need_ip
  need_nft
  need_bpftool
fi
scripts/postgres18.sh || say "PostgreSQL 18 could not be fetched: what needs it is skipped."
raise_fd_limit
# Tests that lack something add a line here.
TIGGER_SKIPPED=$(mktemp)
export TIGGER_SKIPPED
trap 'rm -f "$TIGGER_SKIPPED"' EXIT

if [ -x scripts/fuzz.sh ]; then
  say "A short fuzz run ..."
  FUZZ_SECONDS="${FUZZ_SECONDS:-5}" scripts/fuzz.sh
fi
say "Tests of the workspace ..."
cargo test --workspace --locked
# Once more as where there is no kernel path. What is about it, or has a variant of its own without it, was run already.
say "Integration tests on the user path alone ..."
TIGGER_KERNEL_PATH=off cargo test --workspace --locked --test integration -- --skip kernel_path --skip torture --skip carried
skipped=$(wc -l <"$TIGGER_SKIPPED")
if [ "$skipped" -gt 0 ]; then
  say "Skipped, because something is missing here: $skipped"
  cat "$TIGGER_SKIPPED" >&2
fi
say "All tests passed."
