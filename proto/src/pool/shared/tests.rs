//! A pool and a kernel path that claims and releases behind its back, under random operations.

use std::collections::HashSet;
use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::error::Error;
use crate::pool::{Action, Claim, Grant, PoolLimits, Purpose, ServerState, Ticket};

/// A kernel path that links what is idle, as the programs do.
#[derive(Debug, Default)]
struct Kernel {
    idle: [AtomicU64; 1],
    slots: Mutex<Slots>,
}

#[derive(Debug, Default)]
struct Slots {
    links: [Option<Link>; SLOTS],
    demanded: HashSet<usize>,
    held: HashSet<usize>,
    waiting: bool,
    /// Those who wait have not waited for long.
    overtaking: bool,
    paused: bool,
}

/// More than the pool of the test ever has, because the standard library has defaults for no longer arrays.
const SLOTS: usize = 32;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Link {
    client: ClientId,
    /// Left to the user path, which has to take the pair back.
    user: bool,
}

impl Kernel {
    fn slots(&self) -> std::sync::MutexGuard<'_, Slots> {
        self.slots.lock().unwrap()
    }

    /// A client has a request: links it if it can.
    fn request(&self, client: ClientId) -> bool {
        let mut slots = self.slots();
        let idle = self.idle[0].load(Ordering::SeqCst);
        if slots.paused || (slots.waiting && !slots.overtaking) || idle == 0 {
            return false;
        }
        let slot = idle.trailing_zeros() as usize;
        self.idle[0].fetch_and(!(1 << slot), Ordering::SeqCst);
        assert_eq!(slots.links[slot].replace(Link { client, user: false }), None, "linked twice");
        true
    }

    /// The server answers: releases it, or leaves it to the user path. True when user space must be woken.
    fn reply(&self, slot: usize) -> bool {
        let mut slots = self.slots();
        let must_return = slots.paused || slots.demanded.contains(&slot) || slots.held.contains(&slot);
        if must_return {
            slots.links[slot].as_mut().unwrap().user = true;
            return false;
        }
        slots.links[slot] = None;
        self.idle[0].fetch_or(1 << slot, Ordering::SeqCst);
        slots.waiting
    }

    fn linked(&self, wanted: impl Fn(&Link) -> bool) -> Vec<(usize, ClientId)> {
        let slots = self.slots();
        let links = slots.links.iter().enumerate();
        links.filter_map(|(slot, link)| link.filter(&wanted).map(|link| (slot, link.client))).collect()
    }
}

impl Shared for Kernel {
    fn grow(&self, words: usize) -> usize {
        words.min(1)
    }

    fn idle_word(&self, index: usize) -> &AtomicU64 {
        &self.idle[index]
    }

    fn set_waiting(&self, since: Option<Instant>) {
        self.slots().waiting = since.is_some();
    }

    fn overtakes(&self, slot: usize, _: Instant) -> bool {
        let slots = self.slots();
        slots.waiting && slots.overtaking && !slots.demanded.contains(&slot)
    }

    fn set_paused(&self, paused: bool) {
        self.slots().paused = paused;
    }

    fn linked(&self, slot: usize) -> Option<ClientId> {
        self.slots().links[slot].map(|link| link.client)
    }

    fn is_orphan(&self, _: usize) -> bool {
        false
    }

    fn released_at(&self, _: usize) -> Option<Instant> {
        None
    }

    fn demand(&self, slot: usize) {
        self.slots().demanded.insert(slot);
    }

    fn take_back(&self, slot: usize, client: ClientId) -> bool {
        let mut slots = self.slots();
        let is_his = slots.links[slot].is_some_and(|link| link.client == client);
        if is_his {
            slots.links[slot] = None;
        }
        is_his
    }

    fn begin_hold(&self, slot: usize, client: ClientId) -> bool {
        let mut slots = self.slots();
        let is_his = slots.links[slot].is_some_and(|link| link.client == client);
        if is_his {
            slots.held.insert(slot);
        }
        is_his
    }

    fn end_hold(&self, slot: usize) {
        self.slots().held.remove(&slot);
    }
}

#[derive(Clone, Copy, Debug)]
enum Operation {
    Request,
    Reply(usize),
    TakeBack(usize),
    HandOver(usize),
    Claim,
    Leave(usize),
    Release(usize),
    LogIn,
    BeginCancel(usize),
    EndCancel(usize),
    Overtake(bool),
    Serve,
    Pass(u64),
    Pause,
    Resume,
    Reconnect,
    Evict,
}

fn operation() -> impl Strategy<Value = Operation> {
    use Operation::*;
    prop_oneof![
        8 => Just(Request),
        8 => any::<usize>().prop_map(Reply),
        3 => any::<usize>().prop_map(TakeBack),
        1 => any::<usize>().prop_map(HandOver),
        4 => Just(Claim),
        1 => any::<usize>().prop_map(Leave),
        4 => any::<usize>().prop_map(Release),
        4 => Just(LogIn),
        1 => any::<usize>().prop_map(BeginCancel),
        1 => any::<usize>().prop_map(EndCancel),
        2 => any::<bool>().prop_map(Overtake),
        4 => Just(Serve),
        2 => (0..8_u64).prop_map(Pass),
        1 => Just(Pause),
        2 => Just(Resume),
        1 => Just(Reconnect),
        1 => Just(Evict),
    ]
}

struct Model {
    pool: Pool<u32, ClientId>,
    kernel: Arc<Kernel>,
    now: Instant,
    logins: Vec<ServerId>,
    /// Servers on the user path, with their clients.
    out: Vec<(ServerId, u32, ClientId)>,
    tested: Vec<(ServerId, u32)>,
    waiting: Vec<(ClientId, Ticket)>,
    /// The pool has asked to serve those who wait.
    soon: bool,
    cancels: Vec<ServerId>,
    closed: HashSet<u32>,
    servers: u32,
    clients: u64,
}

impl Model {
    fn new() -> Self {
        let limits = PoolLimits {
            pool_size: 3,
            min_pool_size: 1,
            reserve_pool_size: 0,
            reserve_pool_timeout: None,
            server_lifetime: Duration::from_secs(30),
            server_idle_timeout: Some(Duration::from_secs(10)),
            server_check_delay: Some(Duration::from_secs(3)),
            server_round_robin: true,
            server_login_retry: Duration::from_secs(1),
            query_wait_timeout: None,
        };
        let kernel = Arc::new(Kernel::default());
        let pool = Pool::new(limits, Arc::default(), Arc::default());
        Self {
            pool: pool.sharing(Arc::clone(&kernel) as Arc<dyn Shared>),
            kernel,
            now: Instant::now(),
            logins: Vec::new(),
            out: Vec::new(),
            tested: Vec::new(),
            waiting: Vec::new(),
            soon: false,
            cancels: Vec::new(),
            closed: HashSet::new(),
            servers: 0,
            clients: 0,
        }
    }

    /// One client has a server, so many wait and may be overtaken.
    fn with_overtaking(waiting: usize) -> Self {
        let mut model = Self::new();
        model.apply(Operation::Claim);
        model.apply(Operation::LogIn);
        (0..waiting).for_each(|_| model.apply(Operation::Claim));
        model.kernel.slots().overtaking = true;
        model
    }

    fn new_client(&mut self) -> ClientId {
        self.clients += 1;
        ClientId(self.clients)
    }

    fn pick<T: Copy>(from: &[T], n: usize) -> Option<T> {
        (!from.is_empty()).then(|| from[n % from.len()])
    }

    fn apply(&mut self, operation: Operation) {
        match operation {
            Operation::Request => {
                let client = self.new_client();
                if !self.kernel.request(client) {
                    self.claim(client);
                }
            }
            Operation::Reply(n) => {
                if let Some((slot, _)) = Self::pick(&self.kernel.linked(|link| !link.user), n)
                    && self.kernel.reply(slot)
                {
                    self.serve();
                }
            }
            Operation::TakeBack(n) => {
                if let Some((_, client)) = Self::pick(&self.kernel.linked(|_| true), n) {
                    let (id, server) = self.pool.take_back(client, Some(n % 40)).expect("it is linked");
                    self.out.push((id, server, client));
                }
            }
            Operation::HandOver(n) => {
                if !self.out.is_empty() {
                    let (id, server, client) = self.out.swap_remove(n % self.out.len());
                    let link = Link { client, user: false };
                    assert_eq!(self.kernel.slots().links[id.slot as usize].replace(link), None);
                    self.pool.hand_over(self.now, id, server);
                }
            }
            Operation::Claim => {
                let client = self.new_client();
                self.claim(client);
            }
            Operation::Leave(n) => {
                if let Some((client, ticket)) = Self::pick(&self.waiting, n) {
                    assert!(self.pool.leave(ticket));
                    self.waiting.retain(|(waiting, _)| *waiting != client);
                }
            }
            Operation::Release(n) if n % 2 == 0 && !self.tested.is_empty() => {
                let (id, server) = self.tested.swap_remove(n % self.tested.len());
                self.kernel.slots().demanded.remove(&(id.slot as usize));
                self.pool.handle_release(self.now, id, server);
            }
            Operation::Release(n) => {
                if !self.out.is_empty() {
                    let (id, server, _) = self.out.swap_remove(n % self.out.len());
                    // Lending starts anew.
                    self.kernel.slots().demanded.remove(&(id.slot as usize));
                    self.pool.handle_release(self.now, id, server);
                }
            }
            other => self.apply_rare(other),
        }
        self.judge();
    }

    fn apply_rare(&mut self, operation: Operation) {
        match operation {
            Operation::LogIn => {
                if let Some(id) = self.logins.pop() {
                    self.kernel.slots().demanded.remove(&(id.slot as usize));
                    self.servers += 1;
                    self.pool.handle_connected(self.now, id, self.servers, Box::default());
                }
            }
            Operation::BeginCancel(n) => {
                if let Some((_, client)) = Self::pick(&self.kernel.linked(|_| true), n) {
                    let (id, _) = self.pool.begin_cancel(client).expect("it is linked");
                    self.cancels.push(id);
                }
            }
            Operation::EndCancel(n) => {
                if !self.cancels.is_empty() {
                    let id = self.cancels.swap_remove(n % self.cancels.len());
                    self.pool.end_cancel(self.now, id);
                }
            }
            Operation::Overtake(overtaking) => self.kernel.slots().overtaking = overtaking,
            Operation::Serve if self.soon => self.serve(),
            Operation::Serve => {}
            Operation::Pass(seconds) => {
                self.now += Duration::from_secs(seconds);
                self.soon = false;
                self.pool.handle_tick(self.now);
            }
            Operation::Pause => self.pool.pause(),
            Operation::Resume => self.pool.resume(self.now),
            Operation::Reconnect => self.pool.reconnect(self.now, &Error::CloseNeeded),
            Operation::Evict => drop(self.pool.evict()),
            _ => unreachable!("applied before"),
        }
    }

    fn serve(&mut self) {
        self.soon = false;
        self.pool.handle_wake(self.now);
    }

    fn claim(&mut self, client: ClientId) {
        match self.pool.claim(self.now, client) {
            Claim::Linked(id, server) => self.out.push((id, server, client)),
            Claim::MustWait => {
                // In between the kernel path may release one.
                if let Some((slot, _)) = self.kernel.linked(|link| !link.user).first() {
                    self.kernel.reply(*slot);
                }
                let ticket = self.pool.wait(self.now, client, Purpose::Server, client);
                self.waiting.push((client, ticket));
            }
            Claim::Failed(error) => panic!("{error}"),
        }
    }

    fn judge(&mut self) {
        while let Some(action) = self.pool.poll_action() {
            match action {
                Action::Connect(id) => self.logins.push(id),
                Action::Close(_, server, _) => assert!(self.closed.insert(server), "{server} closed twice"),
                Action::Grant(client, Grant::Server(id, server)) => {
                    assert_eq!(self.waiting.remove(0).0, client, "not the first");
                    self.out.push((id, server, client));
                }
                Action::Check(id, server) => self.tested.push((id, server)),
                Action::Evict(_) => {}
                Action::ServeSoon => self.soon = true,
                other @ (Action::Grant(..) | Action::ConnectReplication(..) | Action::End(..)) => panic!("{other:?}"),
            }
        }
        let mut here = HashSet::new();
        for (_, server, client) in &self.out {
            assert!(here.insert(*server), "{server} is with two, one of them {client:?}");
            assert!(!self.closed.contains(server), "{server} is closed and with {client:?}");
        }
        assert!(self.tested.iter().all(|(_, server)| here.insert(*server)), "{:?} are tested", self.tested);
        let states: Vec<ServerState> = self.pool.servers().map(|view| view.state).collect();
        let linked = self.kernel.linked(|_| true);
        let is_active = |client: ClientId| states.contains(&ServerState::Active(client));
        assert!(linked.iter().all(|(_, client)| is_active(*client)), "{linked:?} {states:?}");
        let active = states.iter().filter(|state| matches!(state, ServerState::Active(_))).count();
        assert_eq!(active, self.out.len() + linked.len(), "{states:?}");
        assert_eq!(self.pool.linked_by_kernel_count(), linked.len());
        let connected = states.iter().filter(|state| **state != ServerState::Login).count();
        assert_eq!(connected + self.closed.len(), self.servers as usize, "leaked: {states:?}");
        let idle = states.iter().filter(|state| **state == ServerState::Idle).count();
        let waits_in_vain = idle > 0 && !self.waiting.is_empty() && !self.pool.is_paused();
        assert!(!waits_in_vain || self.soon, "{idle} idle, {:?} wait", self.waiting);
        assert_eq!(self.kernel.slots().waiting, !self.waiting.is_empty());
        for (slot, _) in &linked {
            assert_eq!(self.kernel.idle[0].load(Ordering::SeqCst) & (1 << slot), 0, "slot {slot} is linked and idle");
        }
    }
}

#[test]
fn a_server_that_is_heard_of() {
    let mut model = Model::new();
    model.apply(Operation::Claim);
    model.apply(Operation::LogIn);
    let (id, server, _) = model.out[0];
    assert!(matches!(model.pool.look_idle(id), Look::Elsewhere));
    model.apply(Operation::Release(0));
    let kernel = Arc::clone(&model.kernel);
    // The kernel path claims it, links it, is done.
    let bit = 1 << id.slot;
    assert_eq!(kernel.idle[0].fetch_and(!bit, Ordering::SeqCst) & bit, bit);
    assert!(matches!(model.pool.look_idle(id), Look::Changing));
    assert_eq!(model.pool.at_home().map(|(id, server)| (id, *server)).collect::<Vec<_>>(), [(id, server)]);
    kernel.slots().links[id.slot as usize] = Some(Link { client: ClientId(99), user: false });
    assert!(matches!(model.pool.look_idle(id), Look::Linked));
    assert!(!kernel.reply(id.slot as usize));
    assert!(matches!(model.pool.look_idle(id), Look::Idle(found) if found == server));
    assert!(matches!(model.pool.look_idle(id), Look::Elsewhere));
}

#[test]
fn who_has_just_begun_to_wait_is_overtaken() {
    let mut model = Model::with_overtaking(1);
    let (first, waiting) = (model.out[0].2, model.waiting[0].0);
    assert_ne!(first, waiting);
    // The kernel path has the next request before the process gets to serve who waits.
    model.apply(Operation::Release(1));
    assert!(model.soon && model.out.is_empty());
    model.apply(Operation::Request);
    model.apply(Operation::Serve);
    assert!(model.out.is_empty());
    model.apply(Operation::Reply(0));
    assert_eq!(model.out[0].2, waiting);
    // Nobody else wants it.
    model.apply(Operation::Claim);
    model.apply(Operation::Release(1));
    assert!(model.out.is_empty());
    model.apply(Operation::Serve);
    assert_eq!(model.out.len(), 1);
    // Who has waited for long is served at once.
    model.apply(Operation::Claim);
    model.kernel.slots().overtaking = false;
    model.apply(Operation::Release(1));
    assert!(!model.soon);
    assert_eq!(model.out.len(), 1);
}

#[test]
fn no_server_is_opened_for_a_client_that_is_about_to_be_served() {
    let mut model = Model::with_overtaking(2);
    model.apply(Operation::Release(1));
    // The first gets the new one, and the second may yet get that which was released.
    model.apply(Operation::LogIn);
    assert!(model.soon && model.waiting.len() == 1 && model.logins.is_empty());
    model.apply(Operation::Request);
    model.apply(Operation::Serve);
    assert_eq!((model.waiting.len(), model.logins.len()), (1, 1));
}

proptest! {
    #[test]
    fn both_paths_never_have_the_same_server(operations in prop::collection::vec(operation(), 0..200)) {
        let mut model = Model::new();
        for operation in operations {
            model.apply(operation);
        }
    }
}
