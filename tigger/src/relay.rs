//! The user path: one task a client, which moves bytes between its socket and that of the server it is linked to.

mod client;
mod command;
mod handover;
mod link;
mod login;
mod scratch;

use std::sync::Arc;

use tigger_proto::cancel::CancelKey;

pub(crate) use client::say_goodbye;
pub(crate) use scratch::Pending;

use crate::net::connect::TcpOptions;
use crate::net::listener::{Accepted, Listener};
use crate::pooler::Pooler;
use crate::pooler::clients::{ClientInfo, Guard};
use crate::process;

/// Accepts clients until the pooler is on its way out.
pub async fn accept(pooler: Arc<Pooler>, mut listener: Listener) {
    let closing = pooler.closing();
    tokio::pin!(closing);
    loop {
        let settings = &pooler.config().settings;
        let options = TcpOptions::new(settings);
        listener.defer_accept(settings.tcp_defer_accept);
        let accepted = tokio::select! {
            accepted = listener.accept(&options) => accepted,
            () = &mut closing => return,
        };
        if let Some((guard, stream)) = enter(&pooler, accepted) {
            let pooler = Arc::clone(&pooler);
            tokio::spawn(login::serve(pooler, guard, stream));
        }
    }
}

/// Gives a new client a name and a cancel key.
fn enter(pooler: &Arc<Pooler>, accepted: Accepted) -> Option<(Guard, crate::net::stream::Stream)> {
    let id = pooler.clients.next_id();
    let now = process::unix_micros();
    loop {
        // Without random bytes no safe key can be given: the client is hung up on (and it was logged).
        let key = CancelKey::from_random(process::random().ok()?);
        let info = ClientInfo::new(id, key, accepted.remote, accepted.local, now);
        if let Some(guard) = pooler.clients.enter(info) {
            return Some((guard, accepted.stream));
        }
    }
}
