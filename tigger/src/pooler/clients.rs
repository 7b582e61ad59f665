//! The registry of clients: whom the console lists, cancel requests look up, and administrators disconnect.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use atomic_waker::AtomicWaker;
use tigger_bypass::ClientSlot;
use tigger_proto::cancel::CancelKey;
use tigger_proto::error::Error;
use tigger_proto::pool::ClientId;
use tigger_proto::replication::Replication;

use super::activity::{Activity, Doing};
use super::pool::Pool;
use crate::net::address::Address;
use crate::process::AtomicInstant;

/// What everybody may know about a client; its socket and its bytes belong to its task alone.
#[derive(Debug)]
pub struct ClientInfo {
    /// Unique in this process.
    pub id: ClientId,
    /// What it shows to cancel its query, from its login on.
    key: OnceLock<CancelKey>,
    /// Its end of the connection.
    pub remote: Address,
    /// Our end.
    pub local: Address,
    /// Microseconds since 1970 when it was accepted.
    pub connected_at: u64,
    /// When it last asked for a server on the user path.
    pub request_at: AtomicInstant,
    /// How many prepared statements it has, where they are tracked.
    pub prepared: AtomicUsize,
    /// The pool listens for it.
    listening: AtomicBool,
    login: Mutex<Option<LoggedIn>>,
    doing: Doing,
    notice: AtomicU8,
    notice_waker: AtomicWaker,
    /// Serial of the server it is linked to, 0 for none.
    server: AtomicU64,
    end: End,
    /// Serial of the server with which its session ends, 0 for none.
    part_from: AtomicU64,
    /// Number of the last suspension that its task heeds, 0 for none.
    suspended: AtomicU64,
    take_back: TakeBack,
    /// Its place on the kernel path, from its login on.
    kernel: Mutex<Weak<ClientSlot>>,
}

/// Who a client is, from its login on.
#[derive(Clone, Debug)]
pub struct LoggedIn {
    /// The name it logged in with.
    pub user: Arc<str>,
    /// Its pool; none for the admin console.
    pub pool: Option<Arc<Pool>>,
    /// Parameter `application_name`.
    pub application_name: Arc<str>,
    /// Set for a replication connection.
    pub replication: Option<Replication>,
}

/// The notice that it has waited for long.
#[repr(u8)]
enum Notice {
    NotDue,
    Due,
    Sent,
}

#[derive(Debug, Default)]
struct End {
    asked: AtomicBool,
    reason: Mutex<Option<Error>>,
    /// It stays, however often the task is woken.
    waker: Mutex<Option<Waker>>,
}

/// Its server spoke while the kernel path has the pair.
#[derive(Debug, Default)]
struct TakeBack {
    asked: AtomicBool,
    waker: AtomicWaker,
}

impl ClientInfo {
    /// A client that was just accepted.
    pub fn new(id: ClientId, remote: Address, local: Address, now: u64) -> Self {
        Self {
            id,
            key: OnceLock::new(),
            remote,
            local,
            connected_at: now,
            request_at: AtomicInstant::new(Instant::now()),
            listening: AtomicBool::new(false),
            login: Mutex::default(),
            prepared: AtomicUsize::new(0),
            doing: Doing::new(Instant::now()),
            notice: AtomicU8::new(Notice::NotDue as u8),
            notice_waker: AtomicWaker::new(),
            server: AtomicU64::new(0),
            end: End::default(),
            part_from: AtomicU64::new(0),
            suspended: AtomicU64::new(0),
            take_back: TakeBack::default(),
            kernel: Mutex::default(),
        }
    }

    /// Who it is; `None` before its login.
    pub fn login(&self) -> Option<LoggedIn> {
        self.login.lock().expect("nobody panics with this lock").clone()
    }

    /// True for a client of the admin console.
    pub fn is_console(&self) -> bool {
        self.login().is_some_and(|login| login.pool.is_none())
    }

    /// The user whose timeouts hold for it, after its login. None do for the console; nor for a replication connection, which is
    /// one query that has no end.
    pub fn limited_user(&self) -> Option<Arc<str>> {
        let login = self.login.lock().expect("nobody panics with this lock");
        let is_limited = |login: &&LoggedIn| login.pool.is_some() && login.replication.is_none();
        login.as_ref().filter(is_limited).map(|login| Arc::clone(&login.user))
    }

    /// Its pool, after its login to a database.
    pub fn pool(&self) -> Option<Arc<Pool>> {
        self.login()?.pool
    }

    /// It logged in, or its name changed.
    pub fn set_login(&self, login: LoggedIn) {
        *self.login.lock().expect("nobody panics with this lock") = Some(login);
    }

    /// It reported another `application_name`.
    pub fn set_application_name(&self, name: &str) {
        if let Some(login) = &mut *self.login.lock().expect("nobody panics with this lock") {
            login.application_name = name.into();
        }
    }

    /// Until then it cannot take too long for anything.
    pub fn set_next_look(&self, next: Instant) {
        self.doing.set_next_look(next);
    }

    /// What it does, as far as the user path knows.
    pub fn activity(&self) -> Activity {
        self.doing.get()
    }

    /// True while it waits for a server.
    pub fn is_waiting(&self) -> bool {
        matches!(self.activity(), Activity::Waiting { .. })
    }

    /// For its task: it does something else now.
    pub fn set_activity(&self, activity: Activity) {
        if matches!(activity, Activity::Waiting { .. }) {
            self.notice.store(Notice::NotDue as u8, Ordering::Relaxed);
        }
        self.doing.set(activity);
    }

    /// Has its task send a notice that it waits; once each time it does.
    pub fn ask_notice(&self) {
        let due = Notice::Due as u8;
        if self.notice.compare_exchange(Notice::NotDue as u8, due, Ordering::AcqRel, Ordering::Relaxed).is_ok() {
            self.notice_waker.wake();
        }
    }

    /// For its task while it waits: ready when the notice is to be sent.
    pub fn poll_notice(&self, cx: &Context<'_>) -> Poll<()> {
        self.notice_waker.register(cx.waker());
        let sent = Notice::Sent as u8;
        match self.notice.compare_exchange(Notice::Due as u8, sent, Ordering::AcqRel, Ordering::Relaxed) {
            Ok(_) => Poll::Ready(()),
            Err(_) => Poll::Pending,
        }
    }

    /// Serial of the server it is linked to; 0 for none.
    pub fn server(&self) -> u64 {
        self.server.load(Ordering::Relaxed)
    }

    /// It was linked (or, with 0, unlinked).
    pub fn set_server(&self, serial: u64) {
        self.server.store(serial, Ordering::Relaxed);
    }

    /// True while its pool listens for it to some channel.
    pub fn is_listening(&self) -> bool {
        self.listening.load(Ordering::Relaxed)
    }

    /// It has begun or ceased to listen.
    pub fn set_listening(&self, listening: bool) {
        self.listening.store(listening, Ordering::Relaxed);
    }

    /// It has a place on the kernel path.
    pub fn set_kernel(&self, kernel: Weak<ClientSlot>) {
        *self.kernel.lock().expect("nobody panics with this lock") = kernel;
    }

    /// Its place on the kernel path.
    pub fn kernel(&self) -> Option<Arc<ClientSlot>> {
        self.kernel.lock().expect("nobody panics with this lock").upgrade()
    }

    /// Has its task take the pair back from the kernel path.
    pub fn ask_take_back(&self) {
        self.take_back.asked.store(true, Ordering::Release);
        self.take_back.waker.wake();
    }

    /// For the client's task while the kernel path may have the client: ready once after each [`Self::ask_take_back`].
    pub fn poll_take_back(&self, cx: &Context<'_>) -> Poll<()> {
        self.take_back.waker.register(cx.waker());
        if self.take_back.asked.swap(false, Ordering::AcqRel) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// Disconnects it with this error, as soon as its task looks.
    pub fn end(&self, reason: Error) {
        self.end.reason.lock().expect("nobody panics with this lock").get_or_insert(reason);
        self.end.asked.store(true, Ordering::Release);
        self.wake();
    }

    /// The server with this serial must be replaced: if the client is in a session with it, that ends when it is between
    /// two transactions.
    pub fn ask_part(&self, server: u64) {
        self.part_from.store(server, Ordering::Release);
        self.ask_take_back();
        self.wake();
    }

    /// Has its task, which has called [`Self::poll_end`], look at what has changed.
    pub fn wake(&self) {
        if let Some(waker) = &*self.end.waker.lock().expect("nobody panics with this lock") {
            waker.wake_by_ref();
        }
    }

    /// Its task heeds the suspension of this number; false if that is known.
    pub fn set_suspended(&self, number: u64) -> bool {
        self.suspended.swap(number, Ordering::AcqRel) != number
    }

    /// True when its task heeds the suspension of this number, or need not: it is not logged in, or the console's.
    pub fn is_suspended(&self, number: u64) -> bool {
        self.suspended.load(Ordering::Acquire) == number || self.pool().is_none()
    }

    /// For the client's task, which has called [`Self::poll_end`]: true after [`Self::ask_part`] for this server.
    pub fn must_part(&self, server: u64) -> bool {
        self.part_from.load(Ordering::Acquire) == server
    }

    /// For the client's task: why it must end. Wakes the task when that changes.
    pub fn poll_end(&self, cx: &Context<'_>) -> Poll<Error> {
        let mut waker = self.end.waker.lock().expect("nobody panics with this lock");
        if !waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        drop(waker);
        self.ended().map_or(Poll::Pending, Poll::Ready)
    }

    /// The same without the waker: for a task that has called [`Self::poll_end`] before, since a task's waker stays.
    pub fn ended(&self) -> Option<Error> {
        if !self.end.asked.load(Ordering::Acquire) {
            return None;
        }
        self.end.reason.lock().expect("nobody panics with this lock").clone()
    }
}

/// All clients, from accept to close.
#[derive(Debug, Default)]
pub struct Clients {
    inner: Mutex<Registered>,
    next: AtomicU64,
}

#[derive(Debug, Default)]
struct Registered {
    by_id: HashMap<ClientId, Arc<ClientInfo>>,
    by_key: HashMap<CancelKey, ClientId>,
    of_database: HashMap<Arc<str>, u32>,
    of_user: HashMap<Arc<str>, u32>,
}

/// Whose clients a client is counted among, and how many there may be; none = not limited.
#[derive(Debug)]
pub struct Quotas {
    /// `max_db_client_connections`
    pub database: (Arc<str>, Option<u32>),
    /// `max_user_client_connections`
    pub user: (Arc<str>, Option<u32>),
}

impl Registered {
    /// Counts a client of this database and user, or neither.
    fn count(&mut self, quotas: &Quotas) -> Result<(), Error> {
        let is_full = |counts: &HashMap<Arc<str>, u32>, (name, most): &(Arc<str>, Option<u32>)| {
            most.is_some_and(|most| counts.get(name).is_some_and(|count| *count >= most))
        };
        if is_full(&self.of_database, &quotas.database) {
            return Err(Error::TooManyDatabaseClients);
        }
        if is_full(&self.of_user, &quotas.user) {
            return Err(Error::TooManyUserClients);
        }
        *self.of_database.entry(Arc::clone(&quotas.database.0)).or_default() += 1;
        *self.of_user.entry(Arc::clone(&quotas.user.0)).or_default() += 1;
        Ok(())
    }
}

/// One client less. Names come from clients, so that those without any must not pile up.
fn uncount(counts: &mut HashMap<Arc<str>, u32>, name: &Arc<str>) {
    if let Entry::Occupied(mut entry) = counts.entry(Arc::clone(name)) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

impl Clients {
    /// A new name.
    pub fn next_id(&self) -> ClientId {
        ClientId(self.next.fetch_add(1, Ordering::Relaxed) + 1)
    }

    /// Enters a client; it leaves when the guard is dropped.
    pub fn enter(self: &Arc<Self>, info: ClientInfo) -> Guard {
        let info = Arc::new(info);
        let mut inner = self.inner.lock().expect("nobody panics with this lock");
        inner.by_id.insert(info.id, Arc::clone(&info));
        Guard { info, clients: Arc::clone(self), counted: None }
    }

    /// The client with exactly this key.
    pub fn by_key(&self, key: &[u8]) -> Option<Arc<ClientInfo>> {
        let inner = self.inner.lock().expect("nobody panics with this lock");
        inner.by_id.get(inner.by_key.get(key)?).cloned()
    }

    /// The client of this name.
    pub fn by_id(&self, id: ClientId) -> Option<Arc<ClientInfo>> {
        self.inner.lock().expect("nobody panics with this lock").by_id.get(&id).cloned()
    }

    /// All, in the order they came.
    pub fn all(&self) -> Vec<Arc<ClientInfo>> {
        let mut all: Vec<_> =
            self.inner.lock().expect("nobody panics with this lock").by_id.values().cloned().collect();
        all.sort_unstable_by_key(|info| info.id);
        all
    }

    /// Those that somebody must look at now: see [`ClientInfo::set_next_look`].
    pub fn due(&self, now: Instant) -> Vec<Arc<ClientInfo>> {
        let inner = self.inner.lock().expect("nobody panics with this lock");
        inner.by_id.values().filter(|info| info.doing.is_look_due(now)).cloned().collect()
    }

    /// Somebody must look at all of them.
    pub fn set_all_due(&self, now: Instant) {
        let inner = self.inner.lock().expect("nobody panics with this lock");
        inner.by_id.values().for_each(|info| info.set_next_look(now));
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.inner.lock().expect("nobody panics with this lock").by_id.len()
    }

    /// How many of them are counted for this database: see [`Guard::count`].
    pub fn of_database(&self, name: &str) -> u32 {
        let inner = self.inner.lock().expect("nobody panics with this lock");
        inner.of_database.get(name).copied().unwrap_or(0)
    }

    /// True without any.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A client's place in the registry.
#[derive(Debug)]
pub struct Guard {
    /// The client.
    pub info: Arc<ClientInfo>,
    clients: Arc<Clients>,
    counted: Option<Quotas>,
}

impl Guard {
    /// Gives the client the key that it shows to cancel its query. False when another has the same: a new one must be drawn.
    pub fn give_key(&self, key: CancelKey) -> bool {
        let mut inner = self.clients.inner.lock().expect("nobody panics with this lock");
        match inner.by_key.entry(key.clone()) {
            Entry::Occupied(_) => false,
            Entry::Vacant(place) => {
                place.insert(self.info.id);
                let is_first = self.info.key.set(key).is_ok();
                debug_assert!(is_first, "a client has one key");
                true
            }
        }
    }

    /// The client asks to be let in: from now on until it leaves it is counted.
    ///
    /// # Errors
    /// Its database or its user has as many clients as it may have.
    pub fn count(&mut self, quotas: Quotas) -> Result<(), Error> {
        debug_assert!(self.counted.is_none(), "counted twice");
        self.clients.inner.lock().expect("nobody panics with this lock").count(&quotas)?;
        self.counted = Some(quotas);
        Ok(())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut inner = self.clients.inner.lock().expect("nobody panics with this lock");
        if let Some(key) = self.info.key.get() {
            inner.by_key.remove(key);
        }
        inner.by_id.remove(&self.info.id);
        if let Some(Quotas { database, user }) = &self.counted {
            uncount(&mut inner.of_database, &database.0);
            uncount(&mut inner.of_user, &user.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use tigger_proto::wire::version::Version;

    use super::*;

    #[test]
    fn keys_are_unique_and_leave_with_their_client() {
        let clients = Arc::new(Clients::default());
        let enter = || clients.enter(ClientInfo::new(clients.next_id(), Address::Unix(1), Address::Unix(1), 0));
        let (short, long) = (enter(), enter());
        let key = |version| CancelKey::from_random([1; 36], version);
        assert!(short.give_key(key(Version::V3_0)) && long.give_key(key(Version::V3_2)));
        // The start of a key is another key.
        assert_eq!(clients.by_key(&[1; 8]).unwrap().id, short.info.id);
        assert_eq!(clients.by_key(&[1; 36]).unwrap().id, long.info.id);
        for len in [0, 4, 9, 35, 37, 256] {
            assert!(clients.by_key(&vec![1; len]).is_none(), "{len} bytes");
        }
        assert!(!enter().give_key(key(Version::V3_0)));
        drop(short);
        assert!(clients.by_key(&[1; 8]).is_none() && clients.len() == 1);
        drop(long);
        assert!(clients.by_key(&[1; 36]).is_none() && clients.is_empty());
    }

    #[test]
    fn quotas() {
        let clients = Arc::new(Clients::default());
        let guard = |nth| {
            let info = ClientInfo::new(clients.next_id(), Address::Unix(nth), Address::Unix(1), 0);
            clients.enter(info)
        };
        let quotas = |database: &str, user: &str| Quotas {
            database: (database.into(), Some(2)),
            user: (user.into(), if user == "free" { None } else { Some(1) }),
        };
        let mut guards: Vec<Guard> = (0..5).map(guard).collect();
        assert_eq!(guards[0].count(quotas("a", "x")), Ok(()));
        assert_eq!(guards[1].count(quotas("b", "x")), Err(Error::TooManyUserClients));
        assert_eq!(guards[2].count(quotas("a", "free")), Ok(()));
        assert_eq!(guards[3].count(quotas("a", "free")), Err(Error::TooManyDatabaseClients));
        assert_eq!(guards[3].count(quotas("b", "free")), Ok(()));
        guards.remove(0);
        assert_eq!(guards[0].count(quotas("a", "x")), Ok(()), "the place of the one that left");
        drop(guards);
        let inner = clients.inner.lock().unwrap();
        assert!(inner.of_database.is_empty() && inner.of_user.is_empty());
    }
}
