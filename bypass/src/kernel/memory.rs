//! The mapped memory: arrays of the structures of `intf.h`, which the programs change at any moment. Every access is
//! atomic, so that no reader sees a torn value; what orders them is said where it matters.

use std::io;
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
    totals: Array<types::totals>,
}

impl Memory {
    pub(super) fn map(maps: &TiggerMaps<'_>, sizes: Sizes) -> io::Result<Self> {
        Ok(Self {
            clients: Array::map(&maps.clients, sizes.clients)?,
            servers: Array::map(&maps.servers, sizes.server_chunks * intf::CHUNK_SERVERS)?,
            pools: Array::map(&maps.pools, sizes.pools)?,
            totals: Array::map(&maps.totals, 1)?,
        })
    }

    pub(super) fn client(&self, index: u32) -> &types::client {
        self.clients.at(index)
    }

    pub(super) fn server(&self, index: u32) -> &types::server {
        self.servers.at(index)
    }

    pub(super) fn pool(&self, index: u32) -> &types::pool {
        self.pools.at(index)
    }

    pub(super) fn totals(&self) -> &types::totals {
        self.totals.at(0)
    }
}

/// An array map. References to its elements are only ever used to reach their fields by the functions below.
struct Array<T> {
    mapping: MmapRaw,
    len: u32,
    element: std::marker::PhantomData<T>,
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
        Ok(Self { mapping, len, element: std::marker::PhantomData })
    }

    fn at(&self, index: u32) -> &T {
        assert!(index < self.len, "slot {index} of {}", self.len);
        // SAFETY: inside of the mapping, which is page-aligned and lives as long as `self`. All fields are integers, for
        // which any bytes are a value, and they are accessed by atomic operations only.
        unsafe { &*self.mapping.as_ptr().cast::<T>().add(index as usize) }
    }
}

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

/// A field that both sides change.
pub(super) fn atomic(field: &u64) -> &AtomicU64 {
    // SAFETY: fields of shared memory are aligned and accessed by atomic operations only.
    unsafe { AtomicU64::from_ptr((&raw const *field).cast_mut()) }
}

/// The same for 32 bits.
pub(super) fn atomic32(field: &u32) -> &AtomicU32 {
    // SAFETY: as in `atomic`.
    unsafe { AtomicU32::from_ptr((&raw const *field).cast_mut()) }
}

fn atomic8(field: &u8) -> &AtomicU8 {
    // SAFETY: as in `atomic`.
    unsafe { AtomicU8::from_ptr((&raw const *field).cast_mut()) }
}

pub(super) fn load(field: &u64) -> u64 {
    atomic(field).load(Ordering::Acquire)
}

pub(super) fn load32(field: &u32) -> u32 {
    atomic32(field).load(Ordering::Acquire)
}

pub(super) fn load8(field: &u8) -> u8 {
    atomic8(field).load(Ordering::Acquire)
}

pub(super) fn store(field: &u64, value: u64) {
    atomic(field).store(value, Ordering::Release);
}

pub(super) fn store32(field: &u32, value: u32) {
    atomic32(field).store(value, Ordering::Release);
}

pub(super) fn store8(field: &u8, value: u8) {
    atomic8(field).store(value, Ordering::Release);
}
