//! Free TCP ports. A port is free when asked, not reserved: starters retry when another process was faster.

use std::{
    collections::hash_map::RandomState,
    hash::BuildHasher,
    io::ErrorKind,
    net::{Ipv4Addr, Ipv6Addr, TcpListener},
    sync::{
        OnceLock,
        atomic::{AtomicU16, Ordering},
    },
};

/// A port on which nothing listens on 127.0.0.1 nor ::1. This process never gets the same one twice before the range
/// is used up, and outgoing connections do not take it, because the range ends below Linux's ephemeral ports.
pub fn free_port() -> u16 {
    static NEXT: OnceLock<AtomicU16> = OnceLock::new();
    // Test processes run in parallel: a random start keeps them out of each other's way.
    let next = NEXT.get_or_init(|| AtomicU16::new((RandomState::new().hash_one(std::process::id()) & 0xffff) as u16));
    loop {
        let port = FIRST + next.fetch_add(1, Ordering::Relaxed) % (END - FIRST);
        if is_free(port) {
            return port;
        }
    }
}

fn is_free(port: u16) -> bool {
    let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, port));
    let v6_in_use = v6.as_ref().is_err_and(|error| error.kind() == ErrorKind::AddrInUse);
    !v6_in_use && TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

const FIRST: u16 = 12_000;
/// `net.ipv4.ip_local_port_range` starts here by default.
const END: u16 = 32_768;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_differ_and_can_be_bound() {
        let (a, b) = (free_port(), free_port());
        assert_ne!(a, b);
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, a)).unwrap();
        assert!(!is_free(a));
        drop(held);
    }
}
