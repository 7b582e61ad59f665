//! The end of the process: how far it is, and what it waits for.

use std::time::Duration;

use tigger_proto::error::Error;

use super::Pooler;

/// How far the process is on its way out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Not at all.
    Running,
    /// No new clients; ends when every client has left.
    WaitForClients,
    /// No new clients, paused; ends when every server is released.
    WaitForServers,
    /// Ends now.
    Stop,
}

impl Phase {
    /// For the log.
    pub fn description(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::WaitForClients => "waiting for clients to disconnect",
            Self::WaitForServers => "waiting for servers to be released",
            Self::Stop => "shutting down",
        }
    }
}

impl Pooler {
    /// Goes on towards the end; never back. Servers are not waited for while all clients are suspended: none would be
    /// released.
    pub fn shut_down(&self, mut phase: Phase) {
        if phase == Phase::WaitForServers && self.suspension.current().is_some() {
            tracing::info!("suspend was in effect, going down immediately");
            phase = Phase::Stop;
        }
        self.phase.send_if_modified(|now| {
            let further = phase > *now;
            *now = phase.max(*now);
            further
        });
    }

    /// How far the end is.
    pub fn phase(&self) -> Phase {
        *self.phase.borrow()
    }

    /// Waits until the process may end, having done for it what each phase asks.
    pub async fn ended(&self) {
        let mut phase = self.phase.subscribe();
        loop {
            let now = *phase.borrow_and_update();
            let done = async {
                match now {
                    Phase::Running => std::future::pending().await,
                    Phase::WaitForClients => {
                        self.until(|| self.clients.all().iter().all(|info| info.is_console())).await;
                    }
                    Phase::WaitForServers => {
                        self.pause(None);
                        self.released(None).await;
                    }
                    Phase::Stop => {}
                }
            };
            tokio::select! {
                () = done => break,
                _ = phase.changed() => {}
            }
        }
        self.end_clients(|_| true, &Error::ServerShuttingDown);
        // Clients are told; one that does not read does not hold up the end.
        if tokio::time::timeout(LAST_WORDS, self.until(|| self.clients.is_empty())).await.is_err() {
            tracing::info!("{} clients did not take their last message", self.clients.len());
        }
    }

    /// Waits until new clients are no longer accepted.
    pub async fn closing(&self) {
        let mut phase = self.phase.subscribe();
        // The sender lives as long as `self`.
        if phase.wait_for(|phase| *phase > Phase::Running).await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// How long clients may take to read why they are disconnected at the end.
const LAST_WORDS: Duration = Duration::from_secs(1);
