//! Watching idle servers: a server that hangs up or speaks while nobody is linked is looked at when that happens, not
//! when the next client needs it. It costs nothing while nothing happens: no task, no timer, no system call.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Wake, Waker};

use tigger_proto::pool::ServerId;

use super::pool::Pool;

/// The watch over one server.
#[derive(Debug)]
pub struct IdleWatch {
    /// To be registered with the socket while the server is idle.
    pub waker: Waker,
    watched: Arc<Watched>,
}

#[derive(Debug)]
struct Watched {
    pool: Weak<Pool>,
    id: ServerId,
    woken: AtomicBool,
}

impl IdleWatch {
    /// A watch over the server `id` of `pool`.
    pub(super) fn new(pool: &Arc<Pool>, id: ServerId) -> Self {
        let watched = Arc::new(Watched { pool: Arc::downgrade(pool), id, woken: AtomicBool::new(false) });
        Self { waker: Arc::clone(&watched).into(), watched }
    }

    /// Starts anew; call before the waker is registered.
    pub(super) fn reset(&self) {
        self.watched.woken.store(false, Ordering::Relaxed);
    }

    /// True when something happened since.
    pub(super) fn has_woken(&self) -> bool {
        self.watched.woken.load(Ordering::Acquire)
    }
}

impl Wake for Watched {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.woken.store(true, Ordering::Release);
        // The socket driver calls this: the work is done elsewhere.
        if let Some(pool) = self.pool.upgrade()
            && !pool.tell_linked(self.id)
        {
            let id = self.id;
            pool.runtime().clone().spawn(async move { pool.check_idle(id) });
        }
    }
}
