//! Whole poolers: the input is the seed of a schedule of clients, servers, faults and administration, whose invariants the
//! simulator checks. The fuzzer's coverage only picks the seeds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tigger_proto::sim::{Options, run};

fuzz_target!(|data: &[u8]| {
    let Some(seed) = data.first_chunk().map(|seed| u64::from_le_bytes(*seed)) else { return };
    let options = Options { steps: 500, ..Options::default() };
    if let Err(failure) = run(seed, &options) {
        panic!("{failure}");
    }
});
