//! Compiles the BPF programs and generates from them and `intf.h` what user space needs, where the feature `kernel` asks
//! for it.

fn main() {
    #[cfg(feature = "kernel")]
    kernel::build();
}

#[cfg(feature = "kernel")]
mod kernel {
    use std::fmt::Write as _;
    use std::path::PathBuf;
    use std::{env, fs};

    /// `src/bpf/tigger.bpf.c` and what it includes, to `tigger.skel.rs`; the constants of `intf.h` to `constants.rs`.
    pub(super) fn build() {
        let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
        let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
        libbpf_cargo::SkeletonBuilder::new()
            .source("src/bpf/tigger.bpf.c")
            // Where Debian keeps the architecture's asm/types.h. Version 3 of the instruction set has the atomic
            // operations that return the old value.
            .clang_args(["-mcpu=v3".into(), "-Wall".into(), format!("-I/usr/include/{arch}-linux-gnu")])
            .build_and_generate(out.join("tigger.skel.rs"))
            .expect("the BPF programs compile: clang 14 or newer must be there");
        let header = fs::read_to_string("src/bpf/intf.h").expect("it is in the repository");
        fs::write(out.join("constants.rs"), constants(&header)).expect("cargo made the directory");
        println!("cargo:rerun-if-changed=src/bpf");
    }

    /// The constants of a C header that is written as `intf.h` is: BTF has no macros, and no enums that no variable has.
    fn constants(header: &str) -> String {
        let mut rust = String::new();
        let mut reasons = Vec::new();
        let mut next = None;
        for line in header.lines() {
            let code = line.split("/*").next().unwrap_or_default().trim();
            if let Some((name, value)) = code.strip_prefix("#define ").and_then(|rest| rest.split_once(' ')) {
                let value = value.trim();
                let (digits, kind) = match value.strip_suffix("ull") {
                    Some(digits) => (digits, "u64"),
                    None => (value.trim_end_matches('u'), "u32"),
                };
                writeln!(rust, "pub(crate) const {name}: {kind} = {digits};").expect("a String takes all");
            } else if code.starts_with("enum ") && code.ends_with('{') {
                next = Some(0);
            } else if code == "};" {
                next = None;
            } else if let (Some(value), Some(item)) = (next, code.strip_suffix(',')) {
                let (name, value) = match item.split_once(" = ") {
                    Some((name, text)) => (name, number(text)),
                    None => (item, value),
                };
                writeln!(rust, "pub(crate) const {name}: u32 = {value};").expect("a String takes all");
                next = Some(value + 1);
                reasons.extend(name.strip_prefix("REASON_").map(str::to_lowercase));
            }
        }
        writeln!(
            rust,
            "/// Words for the values of `enum reason`.\npub(crate) const REASON_WORDS: &[&str] = &{reasons:?};"
        )
        .expect("a String takes all");
        rust
    }

    fn number(text: &str) -> u32 {
        let parsed = match text.strip_prefix("0x") {
            Some(digits) => u32::from_str_radix(digits, 16),
            None => text.parse(),
        };
        parsed.expect("a number in intf.h")
    }
}
