//! The user path: one task a client, which moves bytes between its socket and that of the server it is linked to.

mod acquire;
mod client;
mod command;
mod drain;
mod handover;
mod link;
mod login;
mod scratch;
mod suspended;

use std::sync::Arc;

pub(crate) use client::say_goodbye;
pub(crate) use scratch::Pending;

use crate::net::connect::TcpOptions;
use crate::net::listener::{Accepted, Listener};
use crate::net::stream::Stream;
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
        // Who comes while all are suspended waits, with those that are not accepted yet.
        tokio::select! {
            () = pooler.resumed() => {}
            () = &mut closing => return,
        }
        let (guard, stream) = enter(&pooler, accepted);
        tokio::spawn(login::serve(Arc::clone(&pooler), guard, stream));
    }
}

/// Gives a new client a name.
fn enter(pooler: &Arc<Pooler>, accepted: Accepted) -> (Guard, Stream) {
    let id = pooler.clients.next_id();
    let info = ClientInfo::new(id, accepted.remote, accepted.local, process::unix_micros());
    (pooler.clients.enter(info), accepted.stream)
}
