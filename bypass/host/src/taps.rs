//! The programs, and what the kernel does around them.

use std::ptr::NonNull;

/// Which end sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The application.
    Client,
    /// PostgreSQL.
    Server,
}

/// What holds for the pool; see `tigger_bypass::PoolRules`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A server is kept until its client leaves.
    pub session: bool,
    /// The simple query protocol is allowed.
    pub simple_query: bool,
    /// Prepared statements have other names on servers: see [`crate::eligible::STATEMENTS`].
    pub prepared: bool,
    /// Commands are the user path's.
    pub commands: bool,
    /// `kernel_path_reply_limit`
    pub reply_limit: u32,
    /// `max_packet_size`
    pub packet_len_max: u32,
    /// The end of this side is not captured: what is for it goes out through our socket.
    pub remote: Option<Side>,
}

/// What happens to our socket to a remote end: the values of `enum event` in `host.c`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkEvent {
    /// It did not take the last bytes that were redirected to it.
    TookLess,
    /// The user path sends bytes.
    GoesOn,
    /// Its buffer has room for so many bytes.
    IsFull,
    /// The connection is reset.
    HangsUp,
    /// It was closed, and another socket has its memory.
    IsReplaced,
    /// The system has no memory left for sockets.
    MemoryShort,
}

/// Where the first bytes of a send go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// To the user path: all that is left of the send.
    User,
    /// To the other end: so many bytes.
    Peer(usize),
    /// Nowhere, or to a socket that has no part in this.
    Wrong,
}

/// `struct reply_state` of `intf.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReplyState {
    pub(crate) rest: u32,
    pub(crate) answers: u32,
    pub(crate) header: [u8; 6],
    pub(crate) header_len: u8,
    pub(crate) failed: u8,
    pub(crate) status: u8,
    pub(crate) unused: [u8; 7],
}

/// `struct request_state` of `intf.h`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequestState {
    pub(crate) rest: u32,
    pub(crate) sent: u32,
    pub(crate) base: u32,
    pub(crate) bytes: u32,
}

/// `struct host_state` of `host.c`: where the link stands.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct State {
    pub(crate) linked: u32,
    pub(crate) user: u32,
    pub(crate) owed: u32,
    pub(crate) open: u32,
    pub(crate) request: RequestState,
    pub(crate) reply: ReplyState,
    pub(crate) owner: u32,
    pub(crate) reason: u32,
    pub(crate) idle: u32,
    pub(crate) wakes: u32,
    pub(crate) received: u64,
    pub(crate) requests: u64,
    pub(crate) sent: u64,
    pub(crate) queries: u64,
    pub(crate) xacts: u64,
    pub(crate) log: [u8; LOG_LEN],
}

impl State {
    /// Type bytes of the requests since the server last owed nothing.
    pub(crate) fn requests_sent(&self) -> Vec<u8> {
        (self.request.base..self.request.sent).map(|n| self.log[n as usize % LOG_LEN]).collect()
    }

    /// The start of a reply's header that the client has got already.
    pub(crate) fn header(&self) -> &[u8] {
        &self.reply.header[..usize::from(self.reply.header_len)]
    }

    /// Why the client was last left to the user path: a name of `enum reason`, in lower case.
    pub(crate) fn reason(&self) -> String {
        let names = INTF.lines().filter_map(|line| line.trim().strip_prefix("REASON_")?.split_once(','));
        names.map(|(name, _)| name.to_lowercase()).nth(self.reason as usize).unwrap_or_default()
    }
}

/// One client that is left to the kernel path, and one idle server.
#[derive(Debug)]
pub struct Taps {
    host: NonNull<Host>,
    /// The first element of the last send, as the program has left it.
    pub last: Vec<u8>,
}

impl Taps {
    /// Neither has sent anything.
    pub fn new(rules: Rules) -> Self {
        let flags = [
            (rules.session, POOL_SESSION),
            (!rules.simple_query, POOL_NO_QUERY),
            (rules.prepared, POOL_PREPARED),
            (rules.commands, POOL_COMMANDS),
        ];
        let flags = flags.iter().filter(|(wanted, _)| *wanted).map(|(_, flag)| flag).sum();
        // SAFETY: it takes any arguments, and aborts rather than returning null.
        let host = unsafe {
            let remote = |side| u32::from(rules.remote == Some(side));
            host_new(flags, rules.reply_limit, rules.packet_len_max, remote(Side::Client), remote(Side::Server))
        };
        Self { host: NonNull::new(host).expect("not null"), last: Vec::new() }
    }

    /// Runs the program for what is left of a send: its first element, and `more` bytes behind it. `first` when nothing
    /// of the send was seen before.
    pub fn run(&mut self, side: Side, element: &[u8], more: usize, first: bool) -> Verdict {
        let mut bytes = element.to_vec();
        let len = u32::try_from(bytes.len()).expect("a send is short");
        let size = len + u32::try_from(more).expect("a send is short");
        // SAFETY: ours alone, and the bytes outlive the call.
        let verdict =
            unsafe { host_run(self.host.as_ptr(), side as u32, bytes.as_mut_ptr(), len, size, u32::from(first)) };
        self.last = bytes;
        match verdict {
            HostVerdict { place: TO_USER, len } if len == size => Verdict::User,
            HostVerdict { place: TO_PEER, len } => Verdict::Peer(len as usize),
            HostVerdict { .. } => Verdict::Wrong,
        }
    }

    /// The client reads all that was redirected to it.
    pub fn client_reads(&mut self) {
        // SAFETY: ours alone.
        unsafe { host_client_reads(self.host.as_ptr()) }
    }

    /// Something happens to our socket to the end of this side.
    pub fn sink(&mut self, side: Side, event: SinkEvent, n: u32) {
        // SAFETY: ours alone.
        unsafe { host_sink(self.host.as_ptr(), side as u32, event as u32, n) }
    }

    /// User space takes the pair back.
    pub fn take_back(&mut self) {
        // SAFETY: ours alone.
        unsafe { host_take_back(self.host.as_ptr()) }
    }

    /// Why the client was last left to the user path: a name of `enum reason`, in lower case.
    pub fn reason(&self) -> String {
        self.state().reason()
    }

    pub(crate) fn state(&self) -> State {
        // SAFETY: ours alone.
        unsafe { host_state(self.host.as_ptr()) }
    }
}

impl Drop for Taps {
    fn drop(&mut self) {
        // SAFETY: ours alone, and nobody uses it again.
        unsafe { host_free(self.host.as_ptr()) }
    }
}

/// The rest of what `host.c` has; only it looks inside.
#[repr(C)]
struct Host {
    _opaque: [u8; 0],
}

#[repr(C)]
struct HostVerdict {
    len: u32,
    place: u32,
}

// SAFETY: as `host.c` has them.
unsafe extern "C" {
    fn host_new(flags: u32, reply_limit: u32, packet_len_max: u32, remote_client: u32, remote_server: u32)
    -> *mut Host;
    fn host_sink(host: *mut Host, role: u32, event: u32, n: u32);
    fn host_free(host: *mut Host);
    fn host_run(host: *mut Host, role: u32, bytes: *mut u8, len: u32, size: u32, first: u32) -> HostVerdict;
    fn host_client_reads(host: *mut Host);
    fn host_take_back(host: *mut Host);
    fn host_state(host: *const Host) -> State;
}

const INTF: &str = include_str!("../../src/bpf/intf.h");
const LOG_LEN: usize = 64;
const POOL_SESSION: u32 = 4;
const POOL_NO_QUERY: u32 = 8;
const POOL_PREPARED: u32 = 16;
const POOL_COMMANDS: u32 = 32;
const TO_USER: u32 = 0;
const TO_PEER: u32 = 1;
/// Values of `enum owner`.
pub(crate) const OWNER_USER: u32 = 0;
/// Requests that may be unanswered.
pub(crate) const LOG_MAX: usize = LOG_LEN;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn constants_are_those_of_the_contract() {
        for (name, value) in [
            ("LOG_LEN", LOG_LEN as u32),
            ("POOL_SESSION", POOL_SESSION),
            ("POOL_NO_QUERY", POOL_NO_QUERY),
            ("POOL_PREPARED", POOL_PREPARED),
            ("POOL_COMMANDS", POOL_COMMANDS),
            ("OWNER_USER", OWNER_USER),
        ] {
            assert!(INTF.contains(&format!("{name} = {value},")), "{name} is not {value}");
        }
    }
}
