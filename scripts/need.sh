#!/usr/bin/env bash
# Sourced by the other scripts: looks for the programs they need and installs Debian packages of those that are missing,
# saying which and why. It does nothing where all is there, and tells what to do where it cannot install.

say() { printf '==> %s\n' "$*" >&2; }

die() {
  printf 'error: %s\n' "$*" >&2
  exit 1
}

need_cargo() {
  if ! command -v cargo >/dev/null && [ -x "$HOME/.cargo/bin/cargo" ]; then
    PATH="$HOME/.cargo/bin:$PATH"
  fi
  command -v cargo >/dev/null || die "cargo is missing. Install Rust 1.95 or newer (https://rustup.rs) and try again."
}

need_compiler() {
  if ! command -v cc >/dev/null || ! command -v make >/dev/null; then
    install_package build-essential "cargo links programs with the C compiler, and make runs all this"
  fi
}

# The kernel path's programs are compiled by clang and loaded by libbpf, which libbpf-sys builds from its sources.
need_bpf_toolchain() {
  local header
  command -v clang >/dev/null || install_package clang "it compiles the programs of the kernel path"
  command -v pkg-config >/dev/null || install_package pkg-config "the build of libbpf looks for libraries with it"
  for header in libelf-dev:gelf.h zlib1g-dev:zlib.h; do
    echo "#include <${header#*:}>" | cc -E - >/dev/null 2>&1 ||
      install_package "${header%%:*}" "libbpf, which loads the programs of the kernel path, is built with it"
  done
}

need_postgres() {
  if ! command -v initdb >/dev/null && ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null; then
    install_package postgresql "a throw-away PostgreSQL server is started; the packaged one is not touched"
  fi
}

need_pgbouncer() {
  if ! command -v pgbouncer >/dev/null && [ ! -x /usr/sbin/pgbouncer ]; then
    install_package pgbouncer "it is the rival in the benchmark"
  fi
}

need_ip() {
  command -v ip >/dev/null || install_package iproute2 "network namespaces stand for other hosts in the benchmark"
  command -v nsenter >/dev/null || install_package util-linux "programs are started in network namespaces"
}

need_nft() {
  command -v nft >/dev/null || install_package nftables "it loses packets between simulated hosts"
}

need_bpftool() {
  command -v bpftool >/dev/null || install_package bpftool "it shows what a killed process leaves in the kernel"
}

need_python() {
  python3 -c 'import ensurepip, venv' >/dev/null 2>&1 ||
    install_package python3-venv "drivers for Python are tried, in a virtual environment"
}

# need_node WHY
need_node() {
  command -v node >/dev/null || install_package nodejs "$1"
  command -v npm >/dev/null || install_package npm "$1"
}

need_jdbc() {
  command -v javac >/dev/null || install_package default-jdk-headless "the JDBC driver is tried by a Java program"
  [ -e /usr/share/java/postgresql.jar ] || install_package libpostgresql-jdbc-java "this driver is tried"
}

need_shellcheck() {
  command -v shellcheck >/dev/null || install_package shellcheck "the scripts are checked, too"
}

# install_package PACKAGE WHY
install_package() {
  local package=$1 why=$2 as_root=()
  command -v apt-get >/dev/null ||
    die "$package is missing ($why) and there is no apt-get here. Install it with your package manager and try again."
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "$package is missing ($why). As root: apt-get install $package"
    as_root=(sudo)
  fi
  say "Installing $package: $why."
  "${as_root[@]}" apt-get -qq update || say "apt-get update failed; trying with the old lists."
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends "$package" >&2 ||
    die "could not install $package ($why). Install it by hand and try again."
}

# Every client and every server connection is an open file.
raise_fd_limit() {
  ulimit -n "$(ulimit -Hn)" || say "The limit on open files stays at $(ulimit -n)."
}
