//! What a client's task does while all clients are suspended (see [`crate::pooler::suspension`]).

use std::task::{Context, Poll};

use tigger_proto::error::Error;

use super::client::{ClientConn, Farewell};
use super::link::{Link, LinkEnd};
use super::scratch::Pending;

impl ClientConn {
    /// While all clients are suspended: sends what is pending and reads nothing. Ready when they are not.
    pub(super) fn poll_resumed(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Farewell>> {
        let Some(number) = self.pooler.suspension.current() else { return Poll::Ready(Ok(())) };
        if let Some(reason) = self.guard.info.ended() {
            return Poll::Ready(Err(Farewell::Told(reason)));
        }
        match self.poll_flush(cx) {
            Poll::Ready(Ok(())) => self.pooler.note_suspended(&self.guard.info, number),
            Poll::Ready(Err(_)) => return Poll::Ready(Err(Farewell::Silent(Error::ClientUnexpectedEof))),
            Poll::Pending => {}
        }
        Poll::Pending
    }
}

impl Link {
    /// While all clients are suspended: sends what is pending in either direction, and reads nothing.
    pub(super) fn poll_suspended(
        &mut self,
        client: &mut ClientConn,
        cx: &mut Context<'_>,
        number: u64,
    ) -> Poll<LinkEnd> {
        let flushed = [
            client.poll_flush(cx),
            // What the server said before it closed the connection is met again later.
            self.poll_flush(cx).map(|sent| {
                if sent.is_err() {
                    self.to_server = Pending::default();
                }
                Ok(())
            }),
        ];
        match flushed {
            [Poll::Ready(Err(_)), _] => return Poll::Ready(LinkEnd::ClientLeft(Error::ClientUnexpectedEof)),
            [Poll::Ready(Ok(())), Poll::Ready(_)] => client.pooler.note_suspended(&client.guard.info, number),
            _ => {}
        }
        Poll::Pending
    }
}
