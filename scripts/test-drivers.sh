#!/usr/bin/env bash
# make test-drivers: drivers of several languages (drivers/), on a PostgreSQL of their own and through Tigger in each pool
# mode, with and without the kernel path. What they need is installed, their packages into target/drivers.
#   VARIANTS='direct transaction'   some of direct, session, session+kernel, transaction, transaction+kernel; all
# Arguments choose drivers by name: scripts/test-drivers.sh psycopg jdbc
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/need.sh
. scripts/need.sh

# What the programs may rely on in transaction mode, see drivers/README.md.
in_transaction_mode=(--prepared --listen)

built=target/drivers
logs=$built/logs
drivers=("$@")
if [ $# -eq 0 ]; then drivers=(psycopg asyncpg node-postgres jdbc sqlx); fi
read -ra variants <<<"${VARIANTS:-direct session session+kernel transaction transaction+kernel}"

install_driver() {
  case $1 in
    psycopg | asyncpg)
      need_python
      [ -x "$built/$1/bin/pip" ] || python3 -m venv "$built/$1"
      "$built/$1/bin/pip" --disable-pip-version-check install --quiet --requirement "drivers/$1/requirements.txt"
      ;;
    node-postgres)
      need_node "a driver for Node.js is fetched and tried"
      mkdir -p "$built/$1"
      cp "drivers/$1/"package*.json "$built/$1"
      npm --prefix "$built/$1" --no-audit --no-fund ci >&2
      ;;
    jdbc) need_jdbc ;;
    sqlx) cargo build --locked --manifest-path drivers/sqlx/Cargo.toml --target-dir "$built/sqlx" ;;
    *) die "There is no driver $1." ;;
  esac
}

# run VARIANT DRIVER ARGUMENT ...: one that hangs fails.
run() {
  local variant=$1 driver=$2 command
  shift 2
  case $driver in
    psycopg | asyncpg) command=("$built/$driver/bin/python" "drivers/$driver/check.py") ;;
    node-postgres) command=(env "NODE_PATH=$built/$driver/node_modules" node "drivers/$driver/check.js") ;;
    jdbc) command=(java -cp /usr/share/java/postgresql.jar drivers/jdbc/Check.java) ;;
    sqlx) command=("$built/sqlx/debug/tigger-drivers-sqlx") ;;
  esac
  target/debug/tigger-with "$variant" timeout --foreground 300 "${command[@]}" "$@"
}

# try VARIANT DRIVER: sets `result`, and `failed` if something did.
try() {
  local log=$logs/$2.$1 promises=(--session --prepared --listen) ok skipped share problem=
  case $1 in transaction*) promises=("${in_transaction_mode[@]}") ;; esac
  run "$1" "$2" "${promises[@]}" >"$log" 2>&1 || problem="exit status $? (124: it took too long)"
  ok=$(grep -c '^ok ' "$log" || true)
  skipped=$(grep -c '^skipped ' "$log" || true)
  share=$(grep ' of the replies ' "$log" || true)
  # Nothing is proved of a path that was not taken.
  case $share in "0.0 %"*) problem="nothing was carried by the kernel path" ;; esac
  result="$ok ok, $skipped skipped"
  if [ -n "$problem" ]; then result="FAILED, $ok ok"; fi
  say "$2, $1: $result${share:+. $share}"
  if [ -n "$problem" ]; then
    failed=1
    grep '^FAILED ' "$log" >&2 || tail -n 20 "$log" >&2
    say "$problem; all it said is in $log"
  fi
}

need_cargo
need_compiler
need_bpf_toolchain
need_postgres
raise_fd_limit
say "Building ..."
cargo build --locked -p tigger -p tigger-testkit
for driver in "${drivers[@]}"; do
  say "Installing $driver ..."
  install_driver "$driver"
done
mkdir -p "$logs"
if ! target/debug/tigger-with session+kernel true >"$logs/kernel-path" 2>&1; then
  say "There is no kernel path here, so it is not tried: $(grep . "$logs/kernel-path" | tail -n 1)"
  mapfile -t variants < <(printf '%s\n' "${variants[@]}" | grep -v kernel)
fi

failed=0
table=$(printf '%-15s' ''; printf '%-20s' "${variants[@]}")
for driver in "${drivers[@]}"; do
  row=$(printf '%-15s' "$driver")
  for variant in "${variants[@]}"; do
    try "$variant" "$driver"
    row+=$(printf '%-20s' "$result")
  done
  table+=$'\n'$row
done
printf '\n%s\n\n' "$table"
if [ "$failed" -ne 0 ]; then die "A check failed."; fi
say "All drivers work."
