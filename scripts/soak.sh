#!/usr/bin/env bash
# make soak: the cross-wire torture test (tigger/tests/integration/torture.rs) with 400 clients, for a while in each
# variant; then replies of 2 GiB that nobody reads, while the memory of all sockets is looked at.
#   TORTURE_SECONDS=60  time for each variant
#   SEED=4711           what the clients do; without it, something else each time
# Arguments choose variants by a part of their names: scripts/soak.sh session
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/need.sh
. scripts/need.sh

need_cargo
need_compiler
need_bpf_toolchain
need_postgres
if [ "$(id -u)" -eq 0 ]; then
  need_ip
  need_nft
fi
raise_fd_limit
export TORTURE=soak TORTURE_SECONDS="${TORTURE_SECONDS:-60}" SEED="${SEED:-$(date +%s)}"
say "Building ..."
test=(cargo test --quiet --release --locked -p tigger --test integration)
"${test[@]}" --no-run
say "SEED=$SEED, $TORTURE_SECONDS s for each of:"
mapfile -t variants < <("${test[@]}" -- --list torture::torture_ | sed -n "s/: test$//p" | grep -F "${1:-torture}")
[ "${#variants[@]}" -gt 0 ] || die "No variant has ${1:-torture} in its name."
printf '    %s\n' "${variants[@]}" >&2
failed=0
for variant in "${variants[@]}"; do
  say "$variant ..."
  "${test[@]}" -- --nocapture --exact "$variant" || failed=1
done
if [ $# -eq 0 ]; then
  say "Replies that are not read ..."
  BIG_REPLY_MIB=2048 "${test[@]}" -- --nocapture --test-threads=1 that_is_not_read || failed=1
fi
if [ "$failed" -ne 0 ]; then die "A variant failed. Again with: SEED=$SEED scripts/soak.sh"; fi
say "No reply went astray."
