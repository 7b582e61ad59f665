//! Loading the programs, and the slots through which the rest of the process speaks with them.

mod clients;
mod memory;
mod pools;
mod servers;

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::mem::MaybeUninit;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use libbpf_rs::btf::{self, Btf};
use libbpf_rs::libbpf_sys;
use libbpf_rs::skel::{OpenSkel, SkelBuilder};
use libbpf_rs::{Link, MapCore, MapFlags, MapHandle};

pub use clients::ClientSlot;
pub use pools::PoolSlot;
pub use servers::{Gate, ServerSlot};

use crate::{Delivery, Ends, Sizes, Totals, Unavailable};
use memory::{Memory, Ring, Shared, field};

/// What the build makes from `src/bpf`.
#[allow(
    missing_docs,
    unreachable_pub,
    dead_code,
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    reason = "generated"
)]
mod programs {
    include!(concat!(env!("OUT_DIR"), "/tigger.skel.rs"));
}

/// The constants of `src/bpf/intf.h`.
#[allow(dead_code, reason = "some are for the programs only")]
mod intf {
    include!(concat!(env!("OUT_DIR"), "/constants.rs"));
}

/// The kernel path of this process: programs and maps. Dropping it, and the end of the process however it comes, takes
/// everything out of the kernel.
pub struct Kernel {
    memory: Memory,
    maps: Maps,
    ring: Ring,
    ask_delivery: OwnedFd,
    ask_drained: OwnedFd,
    /// The programs can redirect to our own sockets.
    remote: bool,
    programs: Vec<(String, usize)>,
    clock: Clock,
    /// Names of the clients in their slots, as the process gave them; 0 for a free slot.
    ids: Box<[AtomicU64]>,
    free: Free,
    /// First dropped of the two: no new end is captured when the maps go.
    _attached: Link,
    _object: Object,
}

/// Slots that nobody has. They are reused as late as can be: a program may still be running that saw the last owner.
struct Free {
    clients: Mutex<VecDeque<u32>>,
    chunks: Mutex<VecDeque<u32>>,
    pools: Mutex<VecDeque<u32>>,
}

struct Maps {
    socks: MapHandle,
    ends: MapHandle,
    sinks: MapHandle,
    found: MapHandle,
    slots: MapHandle,
    listeners: MapHandle,
    expected: MapHandle,
    names: MapHandle,
}

/// Keeps the loaded object; nothing is asked of it after loading.
struct Object(#[allow(dead_code, reason = "kept for its Drop")] programs::TiggerSkel<'static>);

// SAFETY: libbpf's objects have no tie to a thread, and this one is not used before it is dropped.
unsafe impl Send for Object {}
// SAFETY: there is no access through a shared reference.
unsafe impl Sync for Object {}

/// Translates the programs' clock, CLOCK_MONOTONIC in nanoseconds, which is also that of [`Instant`] on Linux.
#[derive(Clone, Copy)]
struct Clock {
    instant: Instant,
    nanos: u64,
}

impl Clock {
    fn new() -> io::Result<Self> {
        let mut now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: there is room for the time.
        if unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut now) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { instant: Instant::now(), nanos: now.tv_sec as u64 * 1_000_000_000 + now.tv_nsec as u64 })
    }

    fn now(&self) -> u64 {
        self.nanos_of(Instant::now())
    }

    fn nanos_of(&self, instant: Instant) -> u64 {
        match instant.checked_duration_since(self.instant) {
            Some(after) => self.nanos + after.as_nanos() as u64,
            None => self.nanos - (self.instant - instant).as_nanos() as u64,
        }
    }

    /// `None` for 0, which stands for never.
    fn instant(&self, nanos: u64) -> Option<Instant> {
        match nanos {
            0 => None,
            n if n >= self.nanos => Some(self.instant + Duration::from_nanos(n - self.nanos)),
            n => self.instant.checked_sub(Duration::from_nanos(self.nanos - n)),
        }
    }
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").finish_non_exhaustive()
    }
}

impl Kernel {
    /// Loads the programs and attaches them to the root of the cgroup v2 tree.
    ///
    /// # Errors
    /// [`Unavailable`] with the reason; everything then works on the user path.
    pub fn load(sizes: Sizes) -> Result<Arc<Self>, Unavailable> {
        let cgroup = cgroup_root()?;
        // What goes wrong is told by the error; libbpf's own words would go to standard error.
        libbpf_rs::set_print(None);
        // The opened object borrows it for its whole life; it is a few bytes, once for each load.
        let storage: &'static mut MaybeUninit<_> = Box::leak(Box::new(MaybeUninit::uninit()));
        let mut open = programs::TiggerSkelBuilder::default().open(storage).map_err(|e| cannot("be opened", &e))?;
        let rodata =
            open.maps.rodata_data.as_deref_mut().ok_or_else(|| Unavailable("no rodata in the object".into()))?;
        rodata.our_netns = netns_cookie()?;
        let servers = sizes.server_chunks * intf::CHUNK_SERVERS;
        let captured = sizes.clients + servers;
        let resized = [
            open.maps.socks.set_max_entries(captured * 2),
            open.maps.sinks.set_max_entries(captured),
            open.maps.slots.set_max_entries(captured),
            open.maps.found.set_max_entries(captured * 2),
            open.maps.expected.set_max_entries(servers),
            open.maps.clients.set_max_entries(sizes.clients),
            open.maps.servers.set_max_entries(servers),
            open.maps.pools.set_max_entries(sizes.pools),
            open.maps.prepared.set_max_entries(servers),
            open.maps.names.set_max_entries((sizes.clients * CLIENT_NAMES).clamp(1, NAMES_MAX)),
        ];
        for result in resized {
            result.map_err(|error| cannot("be sized", &error))?;
        }
        let skeleton = open.load().map_err(|error| cannot("be loaded", &error))?;
        let attach = |error: libbpf_rs::Error| cannot("be attached", &error);
        skeleton.progs.tap.attach_sockmap(skeleton.maps.socks.as_fd().as_raw_fd()).map_err(attach)?;
        let attached = skeleton.progs.capture_far_ends.attach_cgroup(cgroup.as_raw_fd()).map_err(attach)?;
        let io = |error: io::Error| Unavailable(format!("the programs' memory cannot be mapped: {error}"));
        let programs = [
            &skeleton.progs.tap,
            &skeleton.progs.capture_far_ends,
            &skeleton.progs.ask_delivery,
            &skeleton.progs.ask_drained,
        ]
        .map(|program| (program.name().to_string_lossy().into_owned(), program.insn_cnt()));
        Ok(Arc::new(Self {
            memory: Memory::map(&skeleton.maps, sizes).map_err(io)?,
            ring: Ring::new(&skeleton.maps.wakes).map_err(io)?,
            maps: Maps::new(&skeleton.maps).map_err(|error| cannot("be used", &error))?,
            remote: has_cast_to_kern_ctx(),
            ask_delivery: skeleton.progs.ask_delivery.as_fd().try_clone_to_owned().map_err(io)?,
            ask_drained: skeleton.progs.ask_drained.as_fd().try_clone_to_owned().map_err(io)?,
            programs: programs.into(),
            clock: Clock::new().map_err(io)?,
            ids: (0..sizes.clients).map(|_| AtomicU64::new(0)).collect(),
            free: Free {
                clients: Mutex::new((0..sizes.clients).collect()),
                chunks: Mutex::new((0..sizes.server_chunks).collect()),
                pools: Mutex::new((0..sizes.pools).collect()),
            },
            _attached: attached,
            _object: Object(skeleton),
        }))
    }

    /// Clients connect here: their ends are captured from now on. The unspecified address stands for all.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub fn listen(&self, address: SocketAddr) -> io::Result<()> {
        let key = listener_key(address);
        self.maps.listeners.update(&key, &1_u32.to_ne_bytes(), MapFlags::ANY).map_err(io::Error::other)
    }

    /// A connection to a server is about to be opened between these ends: the server's is captured if it is on this
    /// host. To be kept until the server has spoken.
    ///
    /// # Errors
    /// Those of bpf(2).
    pub fn expect(self: &Arc<Self>, ends: Ends) -> io::Result<Expected> {
        let key = tuple_key(ends);
        self.maps.expected.update(&key, &1_u32.to_ne_bytes(), MapFlags::ANY).map_err(io::Error::other)?;
        Ok(Expected { kernel: Arc::clone(self), key })
    }

    /// Becomes readable when the kernel path released a server while clients wait; edge-triggered readiness is enough.
    pub fn wakes(&self) -> BorrowedFd<'_> {
        self.ring.fd()
    }

    /// Takes note of all wakes that came before, so that a new one makes [`Self::wakes`] readable again. Then all pools
    /// with waiting clients must be looked at.
    pub fn clear_wakes(&self) {
        self.ring.clear();
    }

    /// What was done so far.
    pub fn totals(&self) -> Totals {
        let totals = self.memory.totals();
        let reasons = intf::REASON_WORDS.iter().enumerate().skip(1);
        Totals {
            captured: field!(totals, captured).get(),
            capture_failed: field!(totals, capture_failed).get(),
            reasons: reasons.map(|(n, word)| (*word, field!(totals, reasons[n]).get())).collect(),
        }
    }

    /// The loaded programs and how many instructions each has.
    pub fn programs(&self) -> &[(String, usize)] {
        &self.programs
    }

    /// What was captured at the far end of a connection: its cookie and where its sending began.
    fn found(&self, ends: Ends) -> Option<programs::types::captured> {
        let value = self.maps.found.lookup(&tuple_key(ends), MapFlags::ANY).ok()??;
        let cookie = u64::from_ne_bytes(*value.first_chunk()?);
        let sequence = u32::from_ne_bytes(*value[8..].first_chunk()?);
        Some(programs::types::captured { cookie, sequence, unused: 0 })
    }

    /// Lets the programs know which slot a captured end has.
    fn assign(&self, cookie: u64, slot: u32) -> bool {
        self.maps.slots.update(&cookie.to_ne_bytes(), &slot.to_ne_bytes(), MapFlags::ANY).is_ok()
    }

    /// Forgets which slot a captured end has. The end stays in `socks` until its process closes it: to take it out would
    /// drop what was redirected to it and not read yet.
    fn forget(&self, cookie: u64) {
        // It may never have had room there.
        remove(&self.maps.slots, cookie);
    }

    /// The programs no longer redirect to this socket of ours.
    fn leave_sink(&self, cookie: u64) {
        remove(&self.maps.sinks, cookie);
    }

    /// Lets go of an end to which nothing was ever redirected.
    fn release(&self, cookie: u64) {
        // It may have been closed meanwhile.
        remove(&self.maps.socks, cookie);
    }

    /// Makes our own socket a place to which the programs redirect; returns its cookie. To be left before it is closed.
    fn enter_sink(&self, socket: BorrowedFd<'_>) -> io::Result<u64> {
        // A low limit for what is not sent yet, where the system has one, would end a redirect in the middle.
        set_option(socket, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, u32::MAX >> 1)?;
        let cookie = socket_cookie(socket)?;
        insert(&self.maps.sinks, cookie, socket)?;
        Ok(cookie)
    }

    /// Has the programs see what we send through this socket to the client or server in `slot`; returns its cookie, or 0
    /// where that cannot be (the programs of another proxy see it): then all of it goes through TCP.
    fn enter_gate(&self, socket: BorrowedFd<'_>, slot: u32) -> u64 {
        self.try_enter_gate(socket, slot).unwrap_or(0)
    }

    fn try_enter_gate(&self, socket: BorrowedFd<'_>, slot: u32) -> io::Result<u64> {
        let cookie = socket_cookie(socket)?;
        // The start of `struct end`; the rest is for walks.
        let mut end = vec![0; self.maps.ends.value_size() as usize];
        end[..8].copy_from_slice(&cookie.to_ne_bytes());
        end[8..12].copy_from_slice(&(intf::ROLE_GATE | slot).to_ne_bytes());
        self.maps.ends.update(&socket.as_raw_fd().to_ne_bytes(), &end, MapFlags::ANY).map_err(io::Error::other)?;
        insert(&self.maps.socks, cookie, socket)?;
        Ok(cookie)
    }

    /// Runs the program `ask_delivery` for a server.
    fn ask_delivery(&self, server: u32) -> Delivery {
        let mut args = programs::types::delivery_args { server, answer: 0 };
        match (ask(&self.ask_delivery, &mut args), args.answer) {
            (Ok(()), intf::DELIVERY_DONE) => Delivery::Done,
            (Ok(()), intf::DELIVERY_SHORT) => Delivery::Short,
            // Also where it cannot be asked.
            _ => Delivery::InFlight,
        }
    }

    /// Runs the program `ask_drained` for a client or server, by its slot and role. Where it cannot be asked, the answer is
    /// yes.
    fn ask_drained(&self, slot: u32) -> bool {
        let mut args = programs::types::drained_args { slot, answer: 0 };
        ask(&self.ask_drained, &mut args).is_err() || args.answer != 0
    }
}

fn socket_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    get_option(socket, libc::SOL_SOCKET, libc::SO_COOKIE)
}

/// Puts a socket of ours into a map of sockets.
fn insert(map: &MapHandle, cookie: u64, socket: BorrowedFd<'_>) -> io::Result<()> {
    let value = u64::try_from(socket.as_raw_fd()).map_err(io::Error::other)?;
    map.update(&cookie.to_ne_bytes(), &value.to_ne_bytes(), MapFlags::ANY).map_err(io::Error::other)
}

/// Takes a socket out of a map, if it is there.
fn remove(map: &MapHandle, cookie: u64) {
    if let Err(error) = map.delete(&cookie.to_ne_bytes()) {
        debug_assert_eq!(error.kind(), libbpf_rs::ErrorKind::NotFound);
    }
}

/// Runs a program of type syscall with this argument, which it answers in.
fn ask<T>(program: &OwnedFd, args: &mut T) -> io::Result<()> {
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as _,
        // The kernel writes the answer back to where the argument came from.
        ctx_in: (&raw mut *args).cast_const().cast(),
        ctx_size_in: size_of_val(args) as u32,
        ..Default::default()
    };
    // SAFETY: the options name memory that outlives the call, with its size.
    let result = unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-result)) }
}

impl Maps {
    fn new(maps: &programs::TiggerMaps<'_>) -> libbpf_rs::Result<Self> {
        Ok(Self {
            socks: MapHandle::try_from(&maps.socks)?,
            ends: MapHandle::try_from(&maps.ends)?,
            sinks: MapHandle::try_from(&maps.sinks)?,
            found: MapHandle::try_from(&maps.found)?,
            slots: MapHandle::try_from(&maps.slots)?,
            listeners: MapHandle::try_from(&maps.listeners)?,
            expected: MapHandle::try_from(&maps.expected)?,
            names: MapHandle::try_from(&maps.names)?,
        })
    }
}

/// Names of prepared statements for which there is room, for each client on the average: pgjdbc keeps 256, but few use them.
const CLIENT_NAMES: u32 = 64;
/// Each takes about 200 bytes once it is used, and 16 before.
const NAMES_MAX: u32 = 1 << 18;

/// An announced connection to a server; see [`Kernel::expect`].
#[derive(Debug)]
pub struct Expected {
    kernel: Arc<Kernel>,
    key: Vec<u8>,
}

impl Drop for Expected {
    fn drop(&mut self) {
        let gone = self.kernel.maps.expected.delete(&self.key);
        debug_assert!(gone.is_ok(), "only its owner takes it out");
    }
}

fn cannot(what: &str, error: &libbpf_rs::Error) -> Unavailable {
    let hint = match error.kind() {
        libbpf_rs::ErrorKind::PermissionDenied if has_capabilities() => " (this kernel's verifier refuses them)",
        libbpf_rs::ErrorKind::PermissionDenied => " (CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON are needed)",
        libbpf_rs::ErrorKind::NotFound => " (the kernel lacks BTF or a helper; Linux 5.17 or newer is needed)",
        _ => "",
    };
    Unavailable(format!("the BPF programs cannot {what}: {error:#}{hint}"))
}

/// True if the process may load the programs (capabilities(7); `CapEff` in proc_pid_status(5)).
fn has_capabilities() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|digits| u64::from_str_radix(digits.trim(), 16).ok()).unwrap_or(0);
    [CAP_NET_ADMIN, CAP_PERFMON, CAP_BPF].iter().all(|number| effective >> number & 1 != 0)
}

/// Numbers of capabilities (include/uapi/linux/capability.h).
const CAP_NET_ADMIN: u32 = 12;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// Opens the root of the cgroup v2 tree, wherever it is mounted.
fn cgroup_root() -> Result<File, Unavailable> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")
        .map_err(|error| Unavailable(format!("/proc/self/mounts cannot be read: {error}")))?;
    let path = mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(path))
        })
        .next()
        .ok_or_else(|| Unavailable("no cgroup v2 file system is mounted".into()))?;
    File::open(&path).map_err(|error| Unavailable(format!("{} cannot be opened: {error}", path.display())))
}

/// The cookie of this process's network namespace, as the programs see it (socket(7), since Linux 5.14).
fn netns_cookie() -> Result<u64, Unavailable> {
    let unavailable = |error: io::Error| Unavailable(format!("the network namespace cannot be told: {error}"));
    let socket = std::net::UdpSocket::bind((std::net::Ipv4Addr::LOCALHOST, 0)).map_err(unavailable)?;
    get_option(socket.as_fd(), libc::SOL_SOCKET, libc::SO_NETNS_COOKIE).map_err(unavailable)
}

/// Whether this kernel lets a program see the structure behind its context.
fn has_cast_to_kern_ctx() -> bool {
    Btf::from_vmlinux().is_ok_and(|btf| btf.type_by_name::<btf::types::Func<'_>>("bpf_cast_to_kern_ctx").is_some())
}

/// An option that is an integer.
fn get_option<I: memory::Integer + Default>(socket: BorrowedFd<'_>, level: i32, name: i32) -> io::Result<I> {
    let (mut value, mut len) = (I::default(), size_of::<I>() as libc::socklen_t);
    // SAFETY: there is room for the value.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) };
    if result == 0 { Ok(value) } else { Err(io::Error::last_os_error()) }
}

fn set_option(socket: BorrowedFd<'_>, level: i32, name: i32, value: u32) -> io::Result<()> {
    let len = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the value outlives the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// Bytes of `struct tuple`.
fn tuple_key(ends: Ends) -> Vec<u8> {
    let mut key = Vec::with_capacity(size_of::<programs::types::tuple>());
    key.extend(octets(ends.far.ip()));
    key.extend(octets(ends.near.ip()));
    key.extend(ends.far.port().to_ne_bytes());
    key.extend(ends.near.port().to_ne_bytes());
    debug_assert_eq!(key.len(), size_of::<programs::types::tuple>());
    key
}

/// Bytes of `struct listener`.
fn listener_key(address: SocketAddr) -> Vec<u8> {
    let mut key = Vec::with_capacity(size_of::<programs::types::listener>());
    key.extend(if address.ip().is_unspecified() { [0; 16] } else { octets(address.ip()) });
    key.extend(address.port().to_ne_bytes());
    key
}

fn take(free: &Mutex<VecDeque<u32>>) -> Option<u32> {
    free.lock().expect("nobody panics with this lock").pop_front()
}

fn give_back(free: &Mutex<VecDeque<u32>>, slot: u32) {
    free.lock().expect("nobody panics with this lock").push_back(slot);
}

fn slot_id(kernel: &Kernel, client: u32) -> Option<u64> {
    let id = kernel.ids.get(client as usize)?.load(Ordering::Acquire);
    (id != 0).then_some(id)
}
