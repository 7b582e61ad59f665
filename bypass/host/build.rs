//! Compiles the taps for the host.

fn main() {
    // The pragma is for clang's BPF target, and stand-ins for helpers do not use all that helpers get.
    let flags = ["-Wno-unknown-pragmas", "-Wno-unused-parameter"];
    let mut build = cc::Build::new();
    for file in ["src/host.c", "src/walk.c"] {
        build.file(file);
        println!("cargo:rerun-if-changed={file}");
    }
    build.include("../src/bpf").flags(flags).compile("taps");
    println!("cargo:rerun-if-changed=src/walk.h");
    println!("cargo:rerun-if-changed=../src/bpf");
}
