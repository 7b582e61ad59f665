//! How a client behaves while it has a conversation: in which pieces it sends, when it goes on, how it reads.

use std::time::Duration;

use super::random::Random;
use super::script::Script;

/// In which pieces a script is sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Delivery {
    /// In one write.
    Whole,
    /// Cut at random places, with or without a pause between.
    Cut,
    /// The first bytes one by one.
    Bytewise,
    /// The next request when the last one is answered.
    Stepwise,
    /// The next request when the last one is answered in part.
    HalfPipelined,
}

/// How the replies are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// As they come.
    Eager,
    /// When all is sent (or does not go out any more).
    Late,
    /// With pauses.
    Slow,
}

/// Names for the report, and weights.
const DELIVERIES: &[(&str, Delivery, usize)] = &[
    ("sent whole", Delivery::Whole, 8),
    ("sent cut", Delivery::Cut, 4),
    ("sent bytewise", Delivery::Bytewise, 2),
    ("sent stepwise", Delivery::Stepwise, 4),
    ("half pipelined", Delivery::HalfPipelined, 4),
];
const READINGS: &[(&str, Reading, usize)] =
    &[("read eagerly", Reading::Eager, 8), ("read late", Reading::Late, 4), ("read slowly", Reading::Slow, 2)];

/// The manner of one conversation.
#[derive(Debug)]
pub(super) struct Manner {
    pub(super) parts: Vec<Part>,
    /// Most bytes at once.
    pub(super) read_size: usize,
    pub(super) reads_late: bool,
    /// Pauses left to make while reading.
    pub(super) pauses: usize,
    pub(super) names: [&'static str; 2],
}

/// Bytes that are written at once.
#[derive(Clone, Copy, Debug)]
pub(super) struct Part {
    /// Up to here.
    pub(super) end: usize,
    pub(super) after: Wait,
}

/// What must have happened before a part is sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Wait {
    Nothing,
    Pause(Duration),
    /// So many messages of the reply have come.
    Messages(usize),
}

impl Manner {
    pub(super) fn choose(random: &mut Random, script: &Script) -> Self {
        let &(delivery_name, delivery, _) = random.weighted(DELIVERIES, |row| row.2);
        let &(reading_name, reading, _) = random.weighted(READINGS, |row| row.2);
        Self {
            parts: delivery.parts(random, script),
            read_size: random.pick(&[100, 1500, 16 << 10, READ_SIZE_MAX]),
            reads_late: reading == Reading::Late,
            pauses: if reading == Reading::Slow { random.range(1, 5) } else { 0 },
            names: [delivery_name, reading_name],
        }
    }

    /// All in one write, read as it comes.
    pub(super) fn plain(script: &Script) -> Self {
        let parts = vec![Part { end: script.bytes.len(), after: Wait::Nothing }];
        Self { parts, read_size: READ_SIZE_MAX, reads_late: false, pauses: 0, names: [DELIVERIES[0].0, READINGS[0].0] }
    }

    /// All names there are.
    pub(super) fn all_names() -> impl Iterator<Item = &'static str> {
        DELIVERIES.iter().map(|row| row.0).chain(READINGS.iter().map(|row| row.0))
    }
}

impl Delivery {
    fn parts(self, random: &mut Random, script: &Script) -> Vec<Part> {
        let len = script.bytes.len();
        let nothing = |end| Part { end, after: Wait::Nothing };
        let mut parts: Vec<Part> = match self {
            Self::Whole => Vec::new(),
            Self::Cut => cuts(random, len),
            Self::Bytewise => (1..len.min(BYTEWISE_MAX)).map(nothing).collect(),
            Self::Stepwise | Self::HalfPipelined => {
                let mut answered = 0;
                let part = |border: &super::script::Border| {
                    let after = Wait::Messages(answered);
                    answered = match self {
                        Self::HalfPipelined => random.range(answered.min(border.messages), border.messages),
                        _ => border.messages,
                    };
                    Part { end: border.bytes, after }
                };
                script.borders.iter().map(part).collect()
            }
        };
        if parts.last().is_none_or(|part| part.end < len) {
            parts.push(nothing(len));
        }
        parts
    }
}

fn cuts(random: &mut Random, len: usize) -> Vec<Part> {
    let mut ends: Vec<usize> = (0..random.range(1, 8)).map(|_| random.range(1, len)).collect();
    ends.sort_unstable();
    ends.dedup();
    let mut part = |end| {
        let pause = Duration::from_micros(random.pick(&[0, 0, 100, 3000]));
        Part { end, after: if pause.is_zero() { Wait::Nothing } else { Wait::Pause(pause) } }
    };
    ends.into_iter().map(&mut part).collect()
}

/// Most bytes read at once.
pub(super) const READ_SIZE_MAX: usize = 64 << 10;
/// Most bytes that are sent one by one: each is a system call here and one in the proxy.
const BYTEWISE_MAX: usize = 300;
