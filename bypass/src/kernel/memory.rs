//! The mapped memory: arrays of the structures of `intf.h`, which the programs change at any moment. No reference to
//! them is ever made: [`field`] gives each field as an atomic. What orders the accesses is said where it matters.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use super::intf;
use super::programs::TiggerMaps;
use super::programs::types;
use crate::Sizes;

/// All of it.
pub(super) struct Memory {
    clients: Array<types::client>,
    servers: Array<types::server>,
    pools: Array<types::pool>,
    prepared: Array<types::prepared>,
    totals: Array<types::totals>,
}

impl Memory {
    pub(super) fn map(maps: &TiggerMaps<'_>, sizes: Sizes) -> io::Result<Self> {
        Ok(Self {
            clients: Array::map(&maps.clients, sizes.clients)?,
            servers: Array::map(&maps.servers, sizes.server_chunks * intf::CHUNK_SERVERS)?,
            pools: Array::map(&maps.pools, sizes.pools)?,
            prepared: Array::map(&maps.prepared, sizes.server_chunks * intf::CHUNK_SERVERS)?,
            totals: Array::map(&maps.totals, 1)?,
        })
    }

    pub(super) fn client(&self, index: u32) -> Slot<'_, types::client> {
        self.clients.at(index)
    }

    pub(super) fn server(&self, index: u32) -> Slot<'_, types::server> {
        self.servers.at(index)
    }

    pub(super) fn pool(&self, index: u32) -> Slot<'_, types::pool> {
        self.pools.at(index)
    }

    pub(super) fn prepared(&self, server: u32) -> Slot<'_, types::prepared> {
        self.prepared.at(server)
    }

    pub(super) fn totals(&self) -> Slot<'_, types::totals> {
        self.totals.at(0)
    }
}

/// An array map.
struct Array<T> {
    mapping: MmapRaw,
    len: u32,
    element: PhantomData<T>,
}

/// An element of an array map.
#[derive(Clone, Copy)]
pub(super) struct Slot<'a, T> {
    pointer: *mut T,
    memory: PhantomData<&'a Memory>,
}

impl<T> Slot<'_, T> {
    /// To be used by [`field`] only.
    pub(super) fn pointer(self) -> *mut T {
        self.pointer
    }
}

// SAFETY: the memory is the kernel's, and every access to it is atomic.
unsafe impl<T> Send for Array<T> {}
// SAFETY: as above.
unsafe impl<T> Sync for Array<T> {}

impl<T> Array<T> {
    fn map(map: &impl AsFd, len: u32) -> io::Result<Self> {
        // The kernel keeps values at a distance of eight bytes' multiples (array_map_alloc, kernel/bpf/arraymap.c).
        const { assert!(size_of::<T>().is_multiple_of(8)) };
        let mapping = MmapOptions::new().len(size_of::<T>() * len as usize).map_raw(map.as_fd().as_raw_fd())?;
        Ok(Self { mapping, len, element: PhantomData })
    }

    fn at(&self, index: u32) -> Slot<'_, T> {
        assert!(index < self.len, "slot {index} of {}", self.len);
        // SAFETY: inside of the mapping, which is page-aligned.
        let pointer = unsafe { self.mapping.as_mut_ptr().cast::<T>().add(index as usize) };
        Slot { pointer, memory: PhantomData }
    }
}

/// A field of a [`Slot`] as an atomic: `field!(slot, name)`, `field!(slot, array[index])`.
macro_rules! field {
    ($slot:expr, $($field:tt)+) => {{
        let pointer = $slot.pointer();
        // SAFETY: a slot is inside of a mapping that lives as long as the memory it is borrowed from. Its fields are
        // aligned integers, for which any bytes are a value, and are reached through this macro only.
        unsafe { $crate::kernel::memory::atomic(&raw mut (*pointer).$($field)+) }
    }};
}
pub(super) use field;

/// An integer that shared memory may consist of.
pub(super) trait Integer {
    type Atomic: 'static;
}

impl Integer for u8 {
    type Atomic = AtomicU8;
}

impl Integer for u32 {
    type Atomic = AtomicU32;
}

impl Integer for u64 {
    type Atomic = AtomicU64;
}

/// # Safety
/// The pointer is valid and aligned for as long as the result is used, and everybody accesses the integer atomically.
pub(super) unsafe fn atomic<'a, I: Integer>(pointer: *mut I) -> &'a I::Atomic {
    const { assert!(size_of::<I>() == size_of::<I::Atomic>()) };
    // SAFETY: an atomic has the representation of its integer; the rest is the caller's promise.
    unsafe { &*pointer.cast::<I::Atomic>() }
}

/// The usual accesses: what was written before a `set` is seen after the `get` that finds it.
pub(super) trait Shared<I> {
    fn get(&self) -> I;
    fn set(&self, value: I);
}

macro_rules! shared {
    ($($atomic:ty: $integer:ty),*) => {
        $(impl Shared<$integer> for $atomic {
            fn get(&self) -> $integer {
                self.load(Ordering::Acquire)
            }

            fn set(&self, value: $integer) {
                self.store(value, Ordering::Release);
            }
        })*
    };
}

shared!(AtomicU8: u8, AtomicU32: u32, AtomicU64: u64);

/// The ring buffer that wakes user space. What is in it does not matter, so that nothing of it is read.
pub(super) struct Ring {
    fd: OwnedFd,
    /// The consumer's position, in a page of its own (bpf_ringbuf_alloc, kernel/bpf/ringbuf.c).
    consumer: MmapRaw,
    /// The producer's, in the next one.
    producer: MmapRaw,
}

impl Ring {
    pub(super) fn new(map: &impl AsFd) -> io::Result<Self> {
        let fd = map.as_fd().try_clone_to_owned()?;
        // SAFETY: sysconf has no preconditions.
        let page = usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).map_err(io::Error::other)?;
        let consumer = MmapOptions::new().len(page).map_raw(fd.as_raw_fd())?;
        let producer = MmapOptions::new().offset(page as u64).len(page).map_raw_read_only(fd.as_raw_fd())?;
        Ok(Self { fd, consumer, producer })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Drops all that is in it.
    pub(super) fn clear(&self) {
        // SAFETY: both positions are aligned words at the start of their mappings, which live as long as `self`.
        let (consumer, producer) = unsafe {
            (AtomicU64::from_ptr(self.consumer.as_mut_ptr().cast()), &*self.producer.as_ptr().cast::<AtomicU64>())
        };
        // Before the caller looks for what it was woken for (and after which a record wakes again).
        consumer.swap(producer.load(Ordering::Acquire), Ordering::SeqCst);
    }
}
