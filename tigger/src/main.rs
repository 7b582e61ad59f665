//! `tigger`: arguments, configuration, start, wait for signals.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use tigger::config::{self, Config};
use tigger::kernel_path::KernelPath;
use tigger::log::Log;
use tigger::net::listener::Listener;
use tigger::pooler::Pooler;
use tigger::pooler::shutdown::Phase;
use tigger::{process, relay, startup};
use tokio::signal::unix::{SignalKind, signal};

/// PostgreSQL connection proxy, a drop-in replacement for PgBouncer.
#[derive(Parser, Debug)]
#[command(name = "tigger", version, disable_version_flag = true)]
struct Arguments {
    /// Show nothing on standard error.
    #[arg(short, long)]
    quiet: bool,
    /// Log more; may be given several times.
    #[arg(short, long, action = clap::ArgAction::Count)]
    verbose: u8,
    /// Run in the background.
    #[arg(short, long)]
    daemon: bool,
    /// Become this user.
    #[arg(short, long, value_name = "USER")]
    user: Option<String>,
    /// Show the version.
    #[arg(short = 'V', long, action = clap::ArgAction::Version)]
    version: Option<bool>,
    /// Check the configuration, print what is wrong with it, and exit.
    #[arg(long)]
    check: bool,
    /// Print the manual of the configuration (doc/config.md) and exit.
    #[arg(long, hide = true)]
    config_manual: bool,
    /// Configuration in PgBouncer's ini format.
    #[arg(value_name = "CONFIG.INI", required_unless_present = "config_manual")]
    config: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.config_manual {
        print!("{}", config::config_markdown());
        return ExitCode::SUCCESS;
    }
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tigger: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Result<(), String> {
    let path = arguments.config.as_deref().expect("clap requires it");
    // The process may change its directory in the background; a reload must find the file again.
    let path = std::path::absolute(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (config, warnings) = Config::load(&path).map_err(|error| error.to_string())?;
    if arguments.check {
        return startup::check(&config, &warnings);
    }
    let settings = config.settings.clone();
    // It needs rights that the process may give up.
    let kernel_path = KernelPath::start(&settings)?;
    startup::prepare(&settings, arguments.daemon, arguments.user.as_deref())?;
    let verbose = settings.verbose + u32::from(arguments.verbose);
    let to_stderr = !arguments.quiet && !arguments.daemon;
    let log = Log::start(settings.logfile.clone(), to_stderr, verbose)
        .map_err(|error| format!("cannot open logfile: {error}"))?;
    warnings.iter().for_each(|warning| tracing::warn!("{warning}"));

    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    if settings.worker_threads > 0 {
        runtime.worker_threads(settings.worker_threads as usize);
    }
    let runtime = runtime.enable_all().build().map_err(|error| format!("cannot start threads: {error}"))?;
    let pidfile = startup::PidFile::create(settings.pidfile.as_deref())?;
    let result = runtime.block_on(serve(config, kernel_path, log, arguments.user.is_some()));
    runtime.shutdown_background();
    drop(pidfile);
    result
}

async fn serve(config: Config, kernel_path: KernelPath, log: Log, user_given: bool) -> Result<(), String> {
    let files = process::raise_file_limit();
    let settings = config.settings.clone();
    tracing::info!("starting: Tigger {}, open files limit {files}", env!("CARGO_PKG_VERSION"));
    if u64::from(settings.max_client_conn) + 64 > files {
        tracing::warn!("max_client_conn={} may not fit into the limit of {files} open files", settings.max_client_conn);
    }
    match kernel_path.unavailable() {
        None => tracing::info!("kernel path: on"),
        Some(reason) => tracing::info!("kernel path: off ({reason})"),
    }
    let listeners = Listener::bind_all(&settings)?;
    listeners.iter().filter_map(Listener::address).for_each(|address| kernel_path.listen(address));
    if !user_given && settings.user.is_none() && nix::unistd::geteuid().is_root() {
        tracing::warn!("running as root; set `user` to give up its rights");
    }
    let pooler = Pooler::new(config, kernel_path)?;
    pooler.open_minimum();
    let mut accepting = tokio::task::JoinSet::new();
    for listener in listeners {
        accepting.spawn(relay::accept(Arc::clone(&pooler), listener));
    }
    let janitor = Arc::clone(&pooler);
    tokio::spawn(async move { janitor.run_janitor().await });
    let waker = Arc::clone(&pooler);
    tokio::spawn(async move { waker.run_wakes().await });
    let names = Arc::clone(&pooler);
    tokio::spawn(async move { names.run_name_checks().await });
    tokio::spawn(handle_signals(Arc::clone(&pooler), log)?);
    pooler.ended().await;
    tracing::info!("shutting down");
    // They end by themselves, and remove their socket files.
    while accepting.join_next().await.is_some() {}
    Ok(())
}

/// Reacts to signals as PgBouncer: INT waits for servers, TERM for clients, a second one or QUIT ends at once, HUP
/// reloads, USR1 pauses, USR2 resumes.
fn handle_signals(pooler: Arc<Pooler>, log: Log) -> Result<impl Future<Output = ()>, String> {
    let on = |kind| signal(kind).map_err(|error| format!("cannot handle signals: {error}"));
    let (mut interrupt, mut terminate) = (on(SignalKind::interrupt())?, on(SignalKind::terminate())?);
    let (mut quit, mut hangup) = (on(SignalKind::quit())?, on(SignalKind::hangup())?);
    let (mut user1, mut user2) = (on(SignalKind::user_defined1())?, on(SignalKind::user_defined2())?);
    Ok(async move {
        let end = |name: &str, phase: Phase| {
            let phase = if pooler.phase() == Phase::Running { phase } else { Phase::Stop };
            tracing::info!("got {name}, {}", phase.description());
            pooler.shut_down(phase);
        };
        loop {
            tokio::select! {
                _ = interrupt.recv() => end("SIGINT", Phase::WaitForServers),
                _ = terminate.recv() => end("SIGTERM", Phase::WaitForClients),
                _ = quit.recv() => end("SIGQUIT", Phase::Stop),
                _ = hangup.recv() => {
                    tracing::info!("got SIGHUP, re-reading config");
                    startup::reload(&pooler, &log);
                }
                _ = user1.recv() => {
                    tracing::info!("got SIGUSR1, pausing all activity");
                    pooler.pause(None);
                }
                _ = user2.recv() => if pooler.phase() > Phase::Running {
                    tracing::info!("got SIGUSR2 while shutting down, ignoring");
                } else {
                    let after = if pooler.end_suspension() { "SUSPEND" } else { "PAUSE" };
                    tracing::info!("got SIGUSR2, continuing from {after}");
                    pooler.resume(None);
                }
            }
        }
    })
}
