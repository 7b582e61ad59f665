#!/usr/bin/env bash
# make lint: clippy without warnings, also for the build without the kernel path (it must not need clang), and shellcheck
# for the scripts where it is installed (in CI always).
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/need.sh
. scripts/need.sh

need_cargo
need_compiler
need_bpf_toolchain
cargo clippy --workspace --all-targets --locked -- -D warnings
cargo clippy --locked -p tigger --no-default-features -- -D warnings
if [ -n "${CI:-}" ]; then need_shellcheck; fi
if command -v shellcheck >/dev/null; then
  shellcheck scripts/*.sh .ci/run
else
  say "shellcheck is not installed: the scripts were not checked."
fi
