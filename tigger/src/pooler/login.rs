//! Opening a server: connect, log in, give it to its pool.

use std::net::SocketAddr;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tigger_bypass::Ends;
use tigger_proto::auth::scram;
use tigger_proto::client::startup::Startup;
use tigger_proto::error::{Error, Level};
use tigger_proto::pool::ServerId;
use tigger_proto::replication::Replication;
use tigger_proto::server::Server;
use tigger_proto::server::login::{Login, Step, Welcome};
use tigger_proto::wire::startup;

use super::idle_watch::IdleWatch;
use super::pool::Pool;
use super::rules::PoolConfig;
use super::server_conn::{ServerConn, ServerInfo};
use crate::config::{Database, Host};
use crate::kernel_path::KernelServer;
use crate::net::address::Address;
use crate::net::connect::{self, Connected, Place};
use crate::net::stream::Stream;
use crate::process::{self, AtomicInstant, unix_micros};

/// Connects and logs in the server `id` of `pool`, and tells the pool how it went. For a replication client it logs in with
/// what that client has said.
pub(super) async fn connect(pool: &Arc<Pool>, id: ServerId, own: Option<&Startup>) {
    let config = pool.config();
    let host = pool.choose_host(&config.database);
    let attempt = open(pool, &config, &host, id, own);
    let result = match config.connect_timeout {
        Some(limit) => tokio::time::timeout(limit, attempt).await.unwrap_or(Err(Error::ConnectTimeout)),
        None => attempt.await,
    };
    let now = Instant::now();
    match result {
        Ok((mut server, welcome, key)) => match server.settle(&pool.tracked) {
            Ok(()) => {
                match own {
                    // What the server says is what this client has asked for.
                    Some(_) => server.welcome = Some(Box::new(welcome)),
                    None => pool.set_welcome(welcome),
                }
                pool.enter_server(id, Arc::clone(&server.info));
                pool.run(|core| core.handle_connected(now, id, server, key));
            }
            Err(error) => fail(pool, &host, id, &error),
        },
        Err(error) => fail(pool, &host, id, &error),
    }
}

fn fail(pool: &Arc<Pool>, host: &Host, id: ServerId, error: &Error) {
    let (database, user) = (&pool.database, &pool.user);
    pool.leave_host();
    match error.level() {
        Level::Warning => tracing::warn!("S: {database}/{user}@{host} login failed: {error}"),
        Level::Info => tracing::info!("S: {database}/{user}@{host} login failed: {error}"),
    }
    pool.run(|core| core.handle_connect_failed(Instant::now(), id, error));
}

type Opened = (Box<ServerConn>, Welcome, Box<[u8]>);

async fn open(
    pool: &Arc<Pool>,
    config: &PoolConfig,
    host: &Host,
    id: ServerId,
    own: Option<&Startup>,
) -> Result<Opened, Error> {
    let path = pool.kernel_path();
    // Replication stays on the user path.
    let is_shared = pool.shared().is_some() && own.is_none();
    let announce = |far, near| if is_shared { path.expect(Ends { far, near }) } else { None };
    let (logged_in, expected) = log_in(pool, config, host, own, announce).await?;
    let kernel = pool.shared().zip(expected).and_then(|(shared, _)| {
        let ends = Ends { far: logged_in.remote.socket_addr()?, near: logged_in.local.socket_addr()? };
        KernelServer::enter(path, shared, id.slot, ends, &logged_in.stream)
    });
    let info = logged_in.info(host);
    if let Some(kernel) = &kernel {
        info.set_kernel(kernel.watch());
    }
    let LoggedIn { stream, unread, welcome, key, .. } = logged_in;
    let server = Server::new(welcome.tracked.clone())
        .with_packet_len_max(config.link.limits.packet_len_max)
        .tracking(config.link.limits.prepared_max > 0)
        .shared(config.link.limits.listens);
    let (watch, info) = (IdleWatch::new(pool, id), Arc::new(info));
    let server = ServerConn { id, stream, server, unread, info, delivered: 0, watch, kernel, welcome: None };
    Ok((Box::new(server), welcome, key))
}

/// A connection that is logged in.
pub(super) struct LoggedIn {
    pub(super) stream: Stream,
    /// What came behind the login.
    pub(super) unread: Vec<u8>,
    pub(super) welcome: Welcome,
    key: Box<[u8]>,
    replication: Option<Replication>,
    serial: u64,
    /// Where a cancel request for it goes.
    place: Place,
    remote: Address,
    local: Address,
}

impl LoggedIn {
    /// What the console shows.
    pub(super) fn info(&self, host: &Host) -> ServerInfo {
        ServerInfo {
            serial: self.serial,
            host: host.clone(),
            place: self.place.clone(),
            remote: self.remote,
            local: self.local,
            connected_at: unix_micros(),
            request_at: AtomicInstant::new(Instant::now()),
            remote_pid: self.key.first_chunk().map_or(0, |pid| u32::from_be_bytes(*pid)),
            replication: self.replication,
            prepared: AtomicUsize::new(0),
            application_name: Mutex::new(self.welcome.application_name().into()),
            kernel: Mutex::default(),
        }
    }
}

/// Connects and logs in, for a replication client with what that has said. `announce` is told of both ends before they are connected, where PostgreSQL is on this host.
pub(super) async fn log_in<A>(
    pool: &Arc<Pool>,
    config: &PoolConfig,
    host: &Host,
    own: Option<&Startup>,
    announce: impl Fn(SocketAddr, SocketAddr) -> Option<A>,
) -> Result<(LoggedIn, Option<A>), Error> {
    let database = &config.database;
    let place = pool.place(host, database.port).await?;
    let (Connected { mut stream, remote, local }, expected) =
        connect::connect(&place, &config.tcp, announce).await.map_err(|error| {
            let (name, user) = (&pool.database, &pool.user);
            tracing::warn!("S: {name}/{user}@{host}:{} connect failed: {error}", database.port);
            Error::ConnectFailed
        })?;
    let serial = process::next_serial();
    if config.log_connections {
        let (name, user) = (&pool.database, &pool.user);
        tracing::info!("S-{serial:#x}: {name}/{user}@{remote} new connection to server (from {local})");
    }
    let mut message = Vec::new();
    startup::startup_message(&mut message, config.protocol, parameters(pool, database, own).into_iter());
    let lost = |_| Error::ServerLogin("server login failed: connection lost".into());
    stream.write_all(&message).await.map_err(lost)?;

    let login = Login::new(&pool.user, pool.secret(), &scram::nonce_from_bytes(&process::random()?));
    let replication = own.and_then(|own| own.replication);
    // A WAL sender without a database knows no SQL.
    let connect_query = database.connect_query.clone().filter(|_| replication != Some(Replication::Physical));
    let mut login = login.speaking(config.protocol).querying(connect_query);
    let mut buffer = Vec::new();
    loop {
        let (used, step) = login.handle_bytes(&buffer, &pool.tracked)?;
        buffer.drain(..used);
        match step {
            Step::Reply(bytes) => stream.write_all(&bytes).await.map_err(lost)?,
            Step::QueryFailed(fields) => {
                let (name, user, message) = (&pool.database, &pool.user, &fields.message);
                tracing::warn!("S-{serial:#x}: {name}/{user}@{remote} connect_query failed: {message}");
            }
            Step::More if used > 0 => {}
            Step::More => {
                if stream.read_more(&mut buffer).await.map_err(lost)? == 0 {
                    return Err(Error::ServerLogin("server login failed: server closed the connection".into()));
                }
            }
            Step::Ready(welcome, key) => {
                let place = remote.socket_addr().map_or(place, |address| Place::Tcp(vec![address]));
                let logged_in =
                    LoggedIn { stream, unread: buffer, welcome, key, replication, serial, place, remote, local };
                return Ok((logged_in, expected));
            }
        }
    }
}

/// The start-up parameters for a server. Those of a replication client are all said here: physical replication has no SET.
fn parameters<'a>(pool: &'a Pool, database: &'a Database, own: Option<&'a Startup>) -> Vec<(&'a str, &'a str)> {
    let mut parameters = vec![("user", &*pool.user), ("database", database.server_dbname())];
    let value = |position| own?.parameters.value(position);
    let names = pool.tracked.names().enumerate();
    let tracked = names.filter_map(|(position, name)| Some((name, value(position)?)));
    let applied = own.into_iter().flat_map(|own| own.parameters.all_applied());
    let values: Vec<_> = tracked.chain(applied).collect();
    let is_said = |name: &str| values.iter().any(|(said, _)| said.eq_ignore_ascii_case(name));
    for (name, value) in database.startup_parameters() {
        if !is_said(name) {
            parameters.push((name, value));
        }
    }
    parameters.extend(&values);
    if let Some(own) = own {
        parameters.extend(own.replication.map(|replication| ("replication", replication.parameter())));
        parameters.extend(own.options.as_deref().map(|options| ("options", options)));
    }
    parameters
}
