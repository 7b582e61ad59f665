//! Compiles the taps for the host.

fn main() {
    // The pragma is for clang's BPF target, and stand-ins for helpers do not use all that helpers get.
    let flags = ["-Wno-unknown-pragmas", "-Wno-unused-parameter"];
    cc::Build::new().file("src/host.c").include("../src/bpf").flags(flags).compile("taps");
    println!("cargo:rerun-if-changed=src/host.c");
    println!("cargo:rerun-if-changed=../src/bpf");
}
