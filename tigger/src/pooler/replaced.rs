//! Servers that must be replaced and are with clients in session mode (`server_fast_close`).

use std::sync::Arc;

use tigger_proto::pool::{ClientId, ServerId, ServerState};

use super::clients::Clients;
use super::pool::Pool;

impl Pool {
    /// Asks the clients of servers that must be replaced to part from them (`server_fast_close`).
    pub(super) fn part_from_replaced(self: &Arc<Self>, clients: &Clients) {
        let replaced: Vec<(ServerId, ClientId)> = self.run(|core| {
            let active = core.servers().filter(|server| server.close_needed).filter_map(|server| match server.state {
                ServerState::Active(client) => Some((server.id, client)),
                _ => None,
            });
            active.collect()
        });
        for (id, client) in replaced {
            if let (Some(server), Some(client)) = (self.server_info(id), clients.by_id(client)) {
                client.ask_part(server.serial);
            }
        }
    }
}
