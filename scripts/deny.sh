#!/usr/bin/env bash
# make deny: licences, sources and known flaws of all dependencies (deny.toml). The database of known flaws comes over
# the network; without it the rest is checked all the same, and this says so.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/need.sh
. scripts/need.sh

need_cargo
need_compiler
if ! cargo deny --version >/dev/null 2>&1; then
  say "Installing cargo-deny: it checks the dependencies (takes some minutes) ..."
  cargo install cargo-deny --locked
fi
if timeout 120 cargo deny --locked fetch db; then
  cargo deny --locked check
else
  say "The advisory database cannot be reached: known flaws are NOT checked, only bans, licences and sources."
  cargo deny --locked check bans licenses sources
fi
