//! Cancel requests: from the key a client shows to the server that runs that client's query.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tigger_proto::pool::ServerId;
use tigger_proto::wire::startup;

use super::Pooler;
use super::pool::Pool;
use crate::net::connect;

/// Used when `cancel_wait_timeout` is off: a cancel connection that hangs would keep its server from the pool for ever.
const CANCEL_TIME_MAX: Duration = Duration::from_secs(10);

/// Cancels the query of the client that was given `key`. There is no reply, whatever happens (manual, 55.2.8).
pub async fn cancel(pooler: &Arc<Pooler>, key: &[u8]) {
    let Some(client) = pooler.clients.by_key(key) else {
        tracing::info!("failed cancel request");
        return;
    };
    let Some(pool) = client.pool() else {
        pooler.console.cancel(client.id);
        return;
    };
    // From here to `end_cancel` the server is given to nobody else.
    let Some((server, server_key)) = pool.run(|core| core.begin_cancel(client.id)) else {
        tracing::info!("cancel request for idle client");
        return;
    };
    if server_key.is_empty() {
        tracing::info!("not sending cancel request: the server has given no key");
        return pool.run(|core| core.end_cancel(Instant::now(), server));
    }
    let limit = pooler.config().settings.cancel_wait_timeout.unwrap_or(CANCEL_TIME_MAX);
    match tokio::time::timeout(limit, send(&pool, server, &server_key)).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("could not send cancel request: {error}"),
        Err(_) => tracing::warn!("could not send cancel request: cancel_wait_timeout"),
    }
    pool.run(|core| core.end_cancel(Instant::now(), server));
}

/// Sends the key and waits until the server has closed the connection: then the signal was sent to the backend.
async fn send(pool: &Pool, server: ServerId, key: &[u8]) -> std::io::Result<()> {
    let config = pool.config();
    let gone = || std::io::Error::from(std::io::ErrorKind::NotConnected);
    let info = pool.server_info(server).ok_or_else(gone)?;
    let (connected, _) = connect::connect(&info.place, &config.tcp, |_, _| None::<()>).await?;
    let mut stream = connected.stream;
    let mut message = Vec::new();
    startup::cancel_request(&mut message, key);
    stream.write_all(&message).await?;
    let mut buffer = Vec::new();
    while stream.read_more(&mut buffer).await? > 0 {
        buffer.clear();
    }
    Ok(())
}
