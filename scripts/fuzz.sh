#!/usr/bin/env bash
# make fuzz: runs each fuzz target (fuzz/fuzz_targets) for a while and fails on any finding.
#   scripts/fuzz.sh [SECONDS [TARGET ...]]   time for each target; all targets
#   FUZZ_SECONDS=10                          the same time, where no argument gives it
# Starts from fuzz/corpus and from what earlier runs found; new inputs go to target/fuzz, findings to fuzz/artifacts.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/need.sh
. scripts/need.sh

seconds=${1:-${FUZZ_SECONDS:-10}}
shift || true

need_cargo
need_compiler
command -v c++ >/dev/null || install_package g++ "libFuzzer, which runs the fuzz targets, is written in C++"
if ! cargo fuzz --version >/dev/null 2>&1; then
  say "Installing cargo-fuzz: it builds the fuzz targets (takes a minute or two) ..."
  cargo install cargo-fuzz --locked
fi

# The sanitizers need a nightly compiler. There is no unsafe code here for them to watch.
say "Building the fuzz targets ..."
cargo fetch --quiet --locked --manifest-path fuzz/Cargo.toml
cargo fuzz build --sanitizer none
programs=fuzz/target/$(rustc -vV | sed -n 's/^host: //p')/release

# run TARGET: one line with the result; fails on a finding.
run() {
  local target=$1 corpus=target/fuzz/corpus/$1 artifacts=fuzz/artifacts/$1 log=target/fuzz/$1.log options=() finding
  mkdir -p "$corpus" "$artifacts"
  if [ -f "fuzz/dictionaries/$target.dict" ]; then options+=("-dict=fuzz/dictionaries/$target.dict"); fi
  touch target/fuzz/started
  if RUST_BACKTRACE=0 "$programs/$target" "-max_total_time=$seconds" -timeout=10 -print_final_stats=1 \
    "-artifact_prefix=$artifacts/" "${options[@]}" "$corpus" "fuzz/corpus/$target" >"$log" 2>&1; then
    say "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") executions," \
      "$(sed -n 's/.*DONE.* corp: \([0-9]*\).*/\1/p' "$log") inputs in the corpus, no finding"
    return
  fi
  finding=$(find "$artifacts" -type f -newer target/fuzz/started | head -n 1)
  grep -a -A 3 -m 1 'panicked at' "$log" >&2 || tail -n 20 "$log" >&2
  say "$target: FAILED with ${finding:-no input}; all it said is in $log"
  say "Again with: cargo fuzz run --sanitizer none $target $finding"
  return 1
}

mapfile -t targets < <(if [ $# -gt 0 ]; then printf '%s\n' "$@"; else cargo fuzz list; fi)
failed=0
for target in "${targets[@]}"; do
  run "$target" || failed=1
done
exit "$failed"
