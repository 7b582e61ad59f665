//! Whether an end has read what was redirected to it, so that it notices what comes over TCP. No event tells.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Sleep;

/// Time between two looks.
const LOOK_INTERVAL: Duration = Duration::from_millis(1);

/// Wakes a task for the next look.
#[derive(Default)]
pub(super) struct DrainTimer(Option<Pin<Box<Sleep>>>);

impl DrainTimer {
    /// Ready when `has_drained` says so.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, mut has_drained: impl FnMut() -> bool) -> Poll<()> {
        while !has_drained() {
            let timer = self.0.get_or_insert_with(|| Box::pin(tokio::time::sleep(LOOK_INTERVAL)));
            ready!(timer.as_mut().poll(cx));
            self.0 = None;
        }
        Poll::Ready(())
    }
}
