//! Login of a client: from its first byte to its first ReadyForQuery, then on to the relay or the admin console.

use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use tigger_bypass::Ends;
use tigger_proto::cancel::CancelKey;
use tigger_proto::client::Client;
use tigger_proto::client::login::{Login, Step};
use tigger_proto::client::startup::{self, Startup, Untracked};
use tigger_proto::error::{Error, Level};
use tigger_proto::parameters::{APPLICATION_NAME, ParameterSet, Tracked};
use tigger_proto::pool::{Grant, Purpose};
use tigger_proto::replication::Replication;
use tigger_proto::server::login::Welcome;
use tigger_proto::wire::backend::{self, Authentication};
use tigger_proto::wire::version::Version;
use tokio::sync::oneshot;

use super::client::{ClientConn, say_goodbye};
use super::drain::DrainTimer;
use super::scratch::Pending;
use crate::admin;
use crate::config::{ADMIN_DATABASE, AuthType, Config, StartupParameters};
use crate::kernel_path::KernelClient;
use crate::net::stream::Stream;
use crate::pooler::clients::{ClientInfo, Guard, LoggedIn, Quotas};
use crate::pooler::pool::Pool;
use crate::pooler::server_conn::ServerConn;
use crate::pooler::shutdown::Phase;
use crate::pooler::stats::Tally;
use crate::pooler::{Pooler, cancel};
use crate::process;

/// Serves a client from accept to close.
pub(super) async fn serve(pooler: Arc<Pooler>, guard: Guard, stream: Stream) {
    // Boxed, so that the memory of a login is not kept as long as the client.
    let login = Box::pin(log_in(&pooler, guard, stream));
    match login.await {
        Outcome::Client(client) => client.serve().await,
        Outcome::Replication(client, server) => Box::pin(client.serve_replication(server)).await,
        Outcome::Console(session) => Box::pin(session.serve()).await,
        Outcome::Over => {}
    }
    pooler.changed.notify_waiters();
}

enum Outcome {
    Client(Box<ClientConn>),
    /// With a server of its own.
    Replication(Box<ClientConn>, Box<ServerConn>),
    Console(Box<admin::Session>),
    /// A cancel request, or no login.
    Over,
}

/// Where the client goes after its proof.
enum Target {
    Pool(Arc<Pool>, Startup),
    Console(Box<admin::Access>, Startup),
}

async fn log_in(pooler: &Arc<Pooler>, guard: Guard, stream: Stream) -> Outcome {
    let limit = pooler.config().settings.client_login_timeout;
    let mut attempt = Attempt {
        pooler,
        guard,
        stream,
        carry: Vec::new(),
        version: Version::default(),
        server_down: false,
        own: None,
    };
    let result = match limit {
        Some(limit) => match tokio::time::timeout(limit, attempt.run()).await {
            Ok(result) => result,
            Err(_) if attempt.server_down => Err(Error::ClientLoginTimeoutServerDown),
            Err(_) => Err(Error::ClientLoginTimeout),
        },
        None => attempt.run().await,
    };
    match result {
        Ok(Some(target)) => attempt.into_outcome(target),
        Ok(None) => Outcome::Over,
        Err(error) => {
            attempt.refuse(&error).await;
            Outcome::Over
        }
    }
}

struct Attempt<'a> {
    pooler: &'a Arc<Pooler>,
    guard: Guard,
    stream: Stream,
    carry: Vec<u8>,
    /// What is spoken with the client.
    version: Version,
    /// The client is waiting for the pool's first server.
    server_down: bool,
    /// What a replication client got.
    own: Option<(Arc<Pool>, Box<ServerConn>)>,
}

impl Attempt<'_> {
    /// The whole login; `None` when the connection only carried a cancel request, or said goodbye.
    async fn run(&mut self) -> Result<Option<Target>, Error> {
        let mut login = Login::default();
        let mut client_key = None;
        let mut startup = None;
        loop {
            let (used, step) = login.handle_bytes(&self.carry)?;
            self.carry.drain(..used);
            let step = match step {
                Step::Startup { reply, version, parameters } => {
                    self.version = version;
                    self.send(&reply).await?;
                    let checked = self.check_startup(&parameters)?;
                    let step = self.authenticate(&mut login, &checked)?;
                    startup = Some(checked);
                    step
                }
                step => step,
            };
            match step {
                Step::More if self.read().await? => {}
                Step::More => return Err(Error::ClientUnexpectedEof),
                Step::Reply(bytes) => self.send(&bytes).await?,
                Step::Cancel(key) => {
                    cancel::cancel(self.pooler, &key).await;
                    return Ok(None);
                }
                Step::Terminate => return Ok(None),
                Step::AuthenticatedScram(bytes, key) => {
                    self.send(&bytes).await?;
                    client_key = Some(key);
                    break;
                }
                Step::Authenticated => break,
                Step::Startup { .. } => unreachable!("handled above"),
            }
        }
        let startup = startup.expect("nobody is authenticated before the start-up");
        self.enter(startup, client_key).await.map(Some)
    }

    fn check_startup(&self, parameters: &[(String, String)]) -> Result<Startup, Error> {
        let settings = &self.pooler.config().settings;
        let untracked = Untracked {
            ignored: &settings.ignore_startup_parameters,
            apply: settings.startup_parameters == StartupParameters::Apply,
        };
        let mut startup = startup::check(parameters, &self.pooler.tracked, untracked)?;
        if settings.application_name_add_host {
            let pid = self.stream.peer_cred().and_then(|peer| peer.pid());
            startup.add_host(&self.guard.info.remote.details(pid));
        }
        Ok(startup)
    }

    fn authenticate(&mut self, login: &mut Login, startup: &Startup) -> Result<Step, Error> {
        let config = self.pooler.config();
        let is_console = startup.database == ADMIN_DATABASE;
        if config.settings.log_connections {
            let (id, remote) = (self.guard.info.id.0, self.guard.info.remote);
            let (database, user) = (&startup.database, &startup.user);
            let replication = startup.replication.map_or("no", Replication::parameter);
            tracing::info!(
                "C-{id:#x}: {database}/{user}@{remote} login attempt: \
                 db={database} user={user} tls=no replication={replication}"
            );
        }
        if self.pooler.phase() > Phase::Running && !is_console {
            return Err(Error::ShuttingDown);
        }
        if !is_console && self.pooler.clients.len() > config.settings.max_client_conn as usize {
            return Err(Error::TooManyClients);
        }
        if !is_console {
            self.guard.count(client_quotas(&config, startup))?;
        }
        let method = if is_console && admin::is_local_admin(&self.stream, &startup.user) {
            if config.settings.log_connections {
                tracing::info!("C-{:#x}: {} pgbouncer access from unix socket", self.guard.info.id.0, startup.user);
            }
            tigger_proto::client::login::Method::Trust
        } else {
            self.pooler.users().method(config.settings.auth_type, &startup.user, &process::random()?)
        };
        login.authenticate(&startup.user, method)
    }

    /// After authentication: finds where the client goes, and welcomes it there.
    async fn enter(
        &mut self,
        startup: Startup,
        client_key: Option<tigger_proto::auth::secret::Key>,
    ) -> Result<Target, Error> {
        let info = Arc::clone(&self.guard.info);
        let application_name = startup.parameters.value(APPLICATION_NAME).unwrap_or_default().into();
        let user: Arc<str> = startup.user.as_str().into();
        if startup.database == ADMIN_DATABASE {
            let access = admin::Access::of(self.pooler, &self.stream, &startup.user).ok_or(Error::NotAllowed)?;
            info.set_login(LoggedIn { user, pool: None, application_name, replication: None });
            let greeting = self.greeting(&admin::login_parameters())?;
            self.send(&greeting).await?;
            return Ok(Target::Console(Box::new(access), startup));
        }
        let pool = self.pooler.pool(&startup.database, &startup.user)?;
        if let Some(key) = client_key
            && *pool.user == startup.user
        {
            pool.set_client_key(key);
        }
        let mut startup = startup;
        let replication = startup.replication;
        let welcome = match replication {
            Some(_) => self.own_server(&pool, &startup).await?,
            None => self.welcome(&pool).await?,
        };
        startup.parameters.fill_unset(&welcome.tracked);
        let greeting = self.greeting(&client_parameters(&welcome, &startup.parameters, &pool.tracked))?;
        // Before it is told: from then on the console must show it, and KILL must hit it.
        info.set_login(LoggedIn { user, pool: Some(Arc::clone(&pool)), application_name, replication });
        pool.counters.add(&Tally { client_login_count: 1, ..Tally::default() });
        self.send(&greeting).await?;
        Ok(Target::Pool(pool, startup))
    }

    /// What the pool's servers say about themselves; waits for the first one.
    async fn welcome(&mut self, pool: &Arc<Pool>) -> Result<Arc<Welcome>, Error> {
        while self.wait(pool, Purpose::Login).await?.is_some() {}
        // The first server's words were noted before it entered the pool.
        pool.welcome().ok_or(Error::ConfigError)
    }

    /// Gets a server for this replication client alone; returns what that says about itself.
    async fn own_server(&mut self, pool: &Arc<Pool>, startup: &Startup) -> Result<Arc<Welcome>, Error> {
        let granted = self.wait(pool, Purpose::Replication(Arc::new(startup.clone()))).await?;
        let Some(Grant::Server(id, mut server)) = granted else { return Err(Error::ConfigError) };
        pool.run(|core| core.set_cancelable(id, true));
        self.guard.info.set_server(server.info.serial);
        let welcome = server.welcome.take();
        self.own = Some((Arc::clone(pool), server));
        welcome.map(Arc::from).ok_or(Error::ConfigError)
    }

    /// Waits in the pool's queue; `None` when there is nothing to wait for, because the pool welcomes clients already.
    async fn wait(&mut self, pool: &Arc<Pool>, purpose: Purpose) -> Result<Option<Grant<Box<ServerConn>>>, Error> {
        let now = Instant::now();
        let id = self.guard.info.id;
        let queued = pool.run(|core| {
            if purpose == Purpose::Login && core.is_welcoming() {
                return Ok(None);
            }
            if let Some(error) = core.fail_fast(now) {
                return Err(error);
            }
            let (sender, receiver) = oneshot::channel();
            let ticket = core.wait(now, id, purpose, sender);
            Ok(Some(Queued { pool: Arc::clone(pool), ticket, receiver }))
        })?;
        let Some(mut queued) = queued else { return Ok(None) };
        self.server_down = true;
        let granted = tokio::select! {
            granted = &mut queued.receiver => granted,
            error = self.gone() => return Err(error),
        };
        self.server_down = false;
        match granted {
            Ok(Grant::Failed(error)) => Err(error),
            Ok(granted) => Ok(Some(granted)),
            Err(_) => Err(Error::ServerShuttingDown),
        }
    }

    /// Ready when the client hung up, sent what it may not send yet, or is disconnected by an administrator.
    async fn gone(&mut self) -> Error {
        let Self { stream, guard, .. } = self;
        std::future::poll_fn(|cx| {
            if let Poll::Ready(error) = guard.info.poll_end(cx) {
                return Poll::Ready(error);
            }
            let mut byte = [0; 1];
            stream.poll_read(cx, &mut byte).map(|result| match result {
                Ok(1..) => Error::FailedToParse,
                _ => Error::ClientUnexpectedEof,
            })
        })
        .await
    }

    fn greeting(&self, parameters: &[(String, String)]) -> Result<Vec<u8>, Error> {
        let mut out = Vec::new();
        backend::authentication(&mut out, &Authentication::Ok);
        for (name, value) in parameters {
            backend::parameter_status(&mut out, name, value);
        }
        let key = loop {
            let key = CancelKey::from_random(process::random()?, self.version);
            // Another client may have the same.
            if self.guard.give_key(key.clone()) {
                break key;
            }
        };
        backend::backend_key_data(&mut out, key.bytes());
        backend::ready_for_query(&mut out);
        Ok(out)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.stream.write_all(bytes).await.map_err(|_| Error::ClientUnexpectedEof)
    }

    /// Reads more; false at the end of the stream.
    async fn read(&mut self) -> Result<bool, Error> {
        let Self { stream, carry, guard, .. } = self;
        let end = std::future::poll_fn(|cx| guard.info.poll_end(cx));
        tokio::select! {
            read = stream.read_more(carry) => Ok(read.is_ok_and(|n| n > 0)),
            error = end => Err(error),
        }
    }

    async fn refuse(mut self, error: &Error) {
        if let Some((pool, server)) = self.own.take() {
            pool.give_back(Instant::now(), server);
        }
        if !matches!(error, Error::ClientUnexpectedEof) {
            say_goodbye(&mut self.stream, &mut Pending::default(), &error.response()).await;
        }
        let settings = &self.pooler.config().settings;
        let (id, remote) = (self.guard.info.id.0, self.guard.info.remote);
        match error.level() {
            Level::Warning => tracing::warn!("C-{id:#x}: (nodb)/(nouser)@{remote} closing because: {error}"),
            Level::Info if settings.log_disconnections => {
                tracing::info!("C-{id:#x}: (nodb)/(nouser)@{remote} closing because: {error}");
            }
            Level::Info => {}
        }
    }

    fn into_outcome(self, target: Target) -> Outcome {
        let Self { guard, stream, carry, pooler, own, .. } = self;
        let pooler = Arc::clone(pooler);
        match target {
            Target::Pool(pool, startup) => {
                let client = Box::new(ClientConn {
                    kernel: if own.is_none() { kernel_client(&pool, &guard.info, &stream) } else { None },
                    drain_timer: DrainTimer::default(),
                    stream,
                    client: Client::new(startup.parameters).preparing(Arc::clone(&pool.prepared)),
                    guard,
                    pool,
                    pooler,
                    carry,
                    to_client: Pending::default(),
                    listening: None,
                });
                match own {
                    Some((_, server)) => Outcome::Replication(client, server),
                    None => Outcome::Client(client),
                }
            }
            Target::Console(access, startup) => {
                Outcome::Console(Box::new(admin::Session::new(pooler, guard, stream, carry, *access, startup.user)))
            }
        }
    }
}

/// Among whose clients this one is counted. As in PgBouncer that is what it says of itself, before its proof, so that the
/// same error comes at the same time; only with `auth_type=any`, where it need not be true, it is the forced user.
fn client_quotas(config: &Config, startup: &Startup) -> Quotas {
    let line = config.database(&startup.database);
    let forced = line.as_ref().and_then(|line| line.user.as_deref());
    let user = forced.filter(|_| config.settings.auth_type == AuthType::Any).unwrap_or(&startup.user);
    Quotas {
        database: (startup.database.as_str().into(), line.as_ref().and_then(|line| config.db_client_limit(line))),
        user: (user.into(), config.user_client_limit(user)),
    }
}

/// The client's place on the kernel path, if its own end was captured.
fn kernel_client(pool: &Pool, info: &ClientInfo, stream: &Stream) -> Option<Box<KernelClient>> {
    pool.shared()?;
    let ends = Ends { far: info.remote.socket_addr()?, near: info.local.socket_addr()? };
    let kernel = KernelClient::enter(pool.kernel_path(), ends, stream, info.id.0)?;
    info.set_kernel(kernel.watch());
    Some(Box::new(kernel))
}

/// A place in the queue of a pool; it is left when dropped (the login timed out, the client hung up).
struct Queued {
    pool: Arc<Pool>,
    ticket: tigger_proto::pool::Ticket,
    receiver: oneshot::Receiver<Grant<Box<ServerConn>>>,
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.pool.run(|core| core.leave(self.ticket));
        // From here on what is granted comes back to the pool by itself; what was granted before is here.
        self.receiver.close();
        if let Ok(Grant::Server(_, server)) = self.receiver.try_recv() {
            self.pool.give_back(Instant::now(), server);
        }
    }
}

/// The server's parameters with the client's own values of those that are tracked or applied.
fn client_parameters(welcome: &Welcome, own: &ParameterSet, tracked: &Tracked) -> Vec<(String, String)> {
    welcome
        .parameters
        .iter()
        .map(|(name, value)| {
            let own = match tracked.position(name) {
                Some(position) => own.value(position),
                None => own.applied(name),
            };
            (name.clone(), own.unwrap_or(value).to_owned())
        })
        .collect()
}
