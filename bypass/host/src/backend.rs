//! What a backend may answer. Where a stream of replies is none that PostgreSQL could send, the two paths need not agree
//! on what is owed: the kernel path counts replies, the user path matches them.

use std::collections::VecDeque;

use tigger_proto::wire::frontend::Request;

/// The requests that a backend has not answered, as far as its replies tell.
#[derive(Debug, Default)]
pub(crate) struct Backend {
    unanswered: VecDeque<Request>,
    /// Everything up to a Sync that was not sent yet is skipped.
    skips: bool,
    /// It has said what no backend says.
    pub(crate) is_absurd: bool,
}

impl Backend {
    pub(crate) fn asked(&mut self, request: Request) {
        if !self.skips || request == Request::Sync {
            self.skips = false;
            self.unanswered.push_back(request);
        }
    }

    /// `unfinished`: the last request is not sent to its end.
    pub(crate) fn said(&mut self, reply: u8, unfinished: bool) {
        if matches!(reply, b'N' | b'A') {
            return;
        }
        let front = self.unanswered.front().copied();
        let early = unfinished && self.unanswered.len() <= 1;
        let ends = match (front, reply) {
            (Some(Request::Query | Request::Sync), b'Z')
            | (Some(Request::Parse), b'1')
            | (Some(Request::Bind), b'2')
            | (Some(Request::Close), b'3')
            | (Some(Request::Describe), b'T' | b'n')
            | (Some(Request::Execute), b'C' | b'I' | b's') => !early,
            (Some(Request::Query), b'T' | b'D' | b'C' | b'I')
            | (Some(Request::Describe), b't')
            | (Some(Request::Execute), b'D')
                if !early =>
            {
                false
            }
            (Some(Request::Query | Request::Sync), b'E') => false,
            (Some(_), b'E') => {
                while self.unanswered.front().is_some_and(|request| *request != Request::Sync) {
                    self.unanswered.pop_front();
                }
                self.skips = self.unanswered.is_empty();
                false
            }
            _ => {
                self.is_absurd = true;
                false
            }
        };
        if ends {
            self.unanswered.pop_front();
        } else if early && reply != b'E' {
            self.is_absurd = true;
        }
    }
}
