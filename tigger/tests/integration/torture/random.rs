//! Random numbers that a seed repeats (SplitMix64, Steele and others 2014). Nothing here needs them to be secret.

/// One stream of random numbers.
#[derive(Clone, Debug)]
pub(crate) struct Random {
    state: u64,
}

impl Random {
    /// Each `stream` of a seed is another one, so that what one client does changes nothing for the others.
    pub(crate) fn new(seed: u64, stream: u64) -> Self {
        let mut random = Self { state: seed ^ stream.wrapping_mul(0xd134_2543_de82_ef95) };
        random.state = random.next();
        random
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub(crate) fn range(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }

    /// True once in `times`.
    pub(crate) fn one_in(&mut self, times: usize) -> bool {
        self.range(1, times) == 1
    }

    /// From `low` to `high`, each power of two as likely as any other.
    pub(crate) fn logarithmic(&mut self, low: usize, high: usize) -> usize {
        let (low_bits, high_bits) = (low.ilog2() as usize, high.ilog2() as usize);
        let bits = self.range(low_bits, high_bits);
        self.range(low.max(1 << bits), high.min((2 << bits) - 1))
    }

    /// One of `choices`.
    pub(crate) fn pick<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[self.range(0, choices.len() - 1)]
    }

    /// One of `choices`, each as likely as its weight says.
    pub(crate) fn weighted<T>(&mut self, choices: &'static [T], weight: impl Fn(&T) -> usize) -> &'static T {
        let mut left = self.range(1, choices.iter().map(&weight).sum());
        for choice in choices {
            if left <= weight(choice) {
                return choice;
            }
            left -= weight(choice);
        }
        unreachable!("the weights have been added up")
    }
}
