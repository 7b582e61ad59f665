#!/usr/bin/env bash
# make docs: writes the pages that are made from the code. With --check it only tells whether they are current.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/need.sh
. scripts/need.sh

need_cargo
need_compiler
need_bpf_toolchain
page=doc/config.md
fresh=$(mktemp)
trap 'rm -f "$fresh"' EXIT
cargo run --quiet --locked -p tigger -- --config-manual >"$fresh"
if [ "${1:-}" = --check ]; then
  diff -u "$page" "$fresh" || die "$page is not what the code says: run 'make docs' and commit it."
  say "$page is current."
else
  cat "$fresh" >"$page"
  say "$page is written."
fi
