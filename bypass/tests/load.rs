//! The programs pass the verifier of this machine's kernel.

use tigger_bypass::{Kernel, Sizes};
use tigger_testkit::skipped;

#[test]
fn the_programs_load() {
    let kernel = match Kernel::load(Sizes { clients: 100, server_chunks: 2, pools: 2 }) {
        Ok(kernel) => kernel,
        Err(reason) => {
            let text = reason.to_string();
            assert!(!text.contains("cannot be loaded") || text.contains("needed"), "refused: {text}");
            return skipped("the_programs_load", &text);
        }
    };
    for (program, instructions) in kernel.programs() {
        println!("{program}: {instructions} instructions");
        // What older kernels take from unprivileged users is a good measure for what can still be read.
        assert!((1..4096 * 2).contains(instructions), "{program} has {instructions} instructions");
    }
    let names: Vec<&str> = kernel.programs().iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["tap", "capture_far_ends", "ask_delivery", "ask_drained"]);
    let totals = kernel.totals();
    assert_eq!((totals.captured, totals.capture_failed), (0, 0));
}
