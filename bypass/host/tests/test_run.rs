//! The walker that clang compiles for the kernel and the kernel's compiler then translates is the one that the other tests
//! try: it is run there (`BPF_PROG_TEST_RUN`), run by run beside the one that was compiled for the host.

mod script;

use std::env;

use libbpf_rs::{Object, ObjectBuilder, ProgramInput};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tigger_bypass_host::taps::Side;
use tigger_bypass_host::walk::Walk;
use tigger_testkit::skipped;

use script::{CARRIED, message, stream};

/// Values of `enum pool_flags`.
const NO_FLAGS: u32 = 0;
const SESSION: u32 = 4;
const PREPARED: u32 = 16;
const COMMANDS: u32 = 32;

/// Longest message.
const LEN_MAX: u32 = 1000;

/// The test program (`walk.bpf.c`), loaded.
struct Kernel {
    object: Object,
}

impl Kernel {
    /// `Err` says why it may not be loaded here.
    fn load() -> Result<Self, String> {
        let made = tempfile::tempdir().expect("there is room");
        let file = made.path().join("walk.o");
        let include = format!("-I/usr/include/{}-linux-gnu", env::consts::ARCH);
        libbpf_cargo::SkeletonBuilder::new()
            .source("src/walk.bpf.c")
            .obj(&file)
            .clang_args(["-mcpu=v3", "-Wall", "-I../src/bpf", &include])
            .build()
            .expect("clang compiles it");
        let object = ObjectBuilder::default().open_file(&file).expect("libbpf reads it").load();
        match object {
            Ok(object) => Ok(Self { object }),
            Err(error) if error.kind() == libbpf_rs::ErrorKind::PermissionDenied => Err(error.to_string()),
            Err(error) => panic!("the verifier refuses it: {error:?}"),
        }
    }

    /// What a run of `walk` through `bytes` leaves.
    fn run(&self, walk: &Walk, bytes: &[u8]) -> Vec<u8> {
        const ETHERNET_LEN: usize = 14;
        let state = walk.bytes();
        let packet = [&[0; ETHERNET_LEN], &state[..], bytes].concat();
        let mut out = vec![0; packet.len()];
        let input = ProgramInput { data_in: Some(&packet), data_out: Some(&mut out), ..ProgramInput::default() };
        let result = self.object.progs_mut().next().expect("it has one").test_run(input).expect("it runs");
        assert_eq!(result.return_value, 1, "the program could not read or write its packet");
        out[ETHERNET_LEN..][..state.len()].to_vec()
    }

    /// Walks through `stream`, cut into these pieces, on both sides; returns how many bytes of it were walked.
    fn check(&self, mut walk: Walk, stream: &[u8], cuts: &[usize]) -> usize {
        let (mut rest, mut walked) = (stream, 0);
        for &cut in cuts.iter().chain([&usize::MAX]) {
            let (piece, behind) = rest.split_at(cut.min(rest.len()));
            rest = behind;
            let in_kernel = self.run(&walk, piece);
            let n = walk.run(piece);
            assert_eq!(in_kernel, walk.bytes(), "{piece:?} of {stream:?}");
            walked += n;
            if n < piece.len() {
                break;
            }
        }
        walked
    }
}

/// Runs `test` where programs can be loaded.
fn in_kernel(name: &str, test: impl FnOnce(&Kernel)) {
    match Kernel::load() {
        Ok(kernel) => test(&kernel),
        Err(reason) => skipped(name, &reason),
    }
}

/// How the client of a pool with these flags begins.
fn requests(flags: u32) -> Walk {
    Walk::new(Side::Client, flags, LEN_MAX, 0)
}

fn replies(flags: u32, owed: u32) -> Walk {
    Walk::new(Side::Server, flags, LEN_MAX, owed)
}

#[test]
fn every_split() {
    in_kernel("every_split", |kernel| {
        for (asked, answered) in CARRIED {
            let (asked, answered) = (stream(Side::Client, asked), stream(Side::Server, answered));
            for cut in 0..=answered.len() {
                assert_eq!(kernel.check(replies(NO_FLAGS, 3), &answered, &[cut]), answered.len());
                kernel.check(replies(PREPARED, 2), &answered, &[cut, 1, 1]);
            }
            for cut in 0..=asked.len() {
                kernel.check(requests(COMMANDS), &asked, &[cut]);
            }
            assert_eq!(kernel.check(requests(NO_FLAGS), &asked, &[]), asked.len());
        }
    });
}

#[test]
fn what_is_left_to_the_user_path() {
    in_kernel("what_is_left_to_the_user_path", |kernel| {
        for (flags, script, carried) in [
            (NO_FLAGS, "QQX", "QQ"),
            (NO_FLAGS, "QcQ", "Q"),
            (NO_FLAGS, "PBESp", "PBES"),
            (SESSION, "PBESpsbedX", "PBESpsbed"),
            (COMMANDS, "QyvQ", "Qy"),
            (COMMANDS, "QwQ", "Q"),
            (COMMANDS, "PBESaBES", "PBES"),
            (NO_FLAGS, "vwa", "vwa"),
        ] {
            let walked = kernel.check(requests(flags), &stream(Side::Client, script), &[]);
            assert_eq!(walked, stream(Side::Client, carried).len(), "{script} with {flags}");
        }
        for (owed, script, carried) in
            [(1, "TDCSz", "TDC"), (1, "zz", "z"), (0, "N", ""), (2, "tGd", "t"), (9, "?", "")]
        {
            let walked = kernel.check(replies(NO_FLAGS, owed), &stream(Side::Server, script), &[]);
            assert_eq!(walked, stream(Side::Server, carried).len(), "{script}, {owed} owed");
        }
        // More requests than one run takes.
        let many = stream(Side::Client, &"Q".repeat(40));
        assert_eq!(kernel.check(requests(NO_FLAGS), &many, &[]), many.len() / 40 * 32);
    });
}

fn check_any(kernel: &Kernel, side: Side, flags: u32, stream: &[u8], cuts: &[usize]) {
    let walk = if side == Side::Client { requests(flags) } else { replies(flags, 3) };
    kernel.check(walk, stream, cuts);
}

#[test]
fn any_messages_and_bytes() {
    let any_side = prop::sample::select(vec![Side::Client, Side::Server]);
    let any_flags = prop::sample::select(vec![NO_FLAGS, SESSION, PREPARED, COMMANDS, PREPARED | COMMANDS]);
    let body = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..9).boxed(),
        "[ \n]{0,40}(lis|LISTEN x|unlisten|pre|exec|deal|delete|select)".prop_map(String::into_bytes).boxed(),
        prop::sample::select(vec![&b"DISCARD ALL\0"[..], b"DEALLOCATE ALL\0", b"I", b"\0listen\0\0\0"])
            .prop_map(<[u8]>::to_vec)
            .boxed(),
    ];
    let messages = prop::collection::vec(("[QPBDECSHXFdcz123INTZnstAG]", body), 0..20);
    let cuts = prop::collection::vec(0..40_usize, 0..8);
    in_kernel("any_messages_and_bytes", |kernel| {
        let mut runner = TestRunner::default();
        let all = (&any_side, &any_flags, &messages, &cuts);
        runner
            .run(&all, |(side, flags, messages, cuts)| {
                let write = |(kind, body): &(String, Vec<u8>)| message(kind.as_bytes()[0], body);
                check_any(kernel, side, flags, &messages.iter().flat_map(write).collect::<Vec<u8>>(), &cuts);
                Ok(())
            })
            .unwrap();
        let bytes = prop::collection::vec(any::<u8>(), 0..60);
        runner
            .run(&(&any_side, &any_flags, &bytes, &cuts), |(side, flags, bytes, cuts)| {
                check_any(kernel, side, flags, &bytes, &cuts);
                Ok(())
            })
            .unwrap();
    });
}
