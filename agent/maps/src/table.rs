//! Hashes and tries: keys that come and go.

use std::{
    io,
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd},
};

use aya::{Pod, maps::MapData};
use sluice_abi::maps::MapSpec;

use crate::{
    MapsError, TableKey,
    handles::Handle,
    syscall::{self, Batch, Cursor},
};

/// A hash, an LRU hash or an LPM trie.
#[derive(Debug)]
pub struct Table<K, V> {
    data: MapData,
    spec: &'static MapSpec,
    shape: PhantomData<fn(K) -> V>,
}

/// Bytes that one batch may take; small, so that reading a big table does not show in the agent's memory.
const BATCH_BYTES: usize = 256 << 10;

impl<K: TableKey, V: Pod> Table<K, V> {
    /// The map as both sides see it.
    pub fn spec(&self) -> &'static MapSpec {
        self.spec
    }

    /// Reads one entry. In a trie this asks for the longest prefix that covers `key`.
    ///
    /// # Errors
    /// [`MapsError::Get`] when the kernel refuses; no entry is `None`.
    pub fn get(&self, key: &K) -> Result<Option<V>, MapsError> {
        let mut value = vec![0; size_of::<V>()];
        match syscall::lookup(self.fd(), bytes_of(&key.to_raw()), &mut value) {
            Ok(found) => Ok(found.then(|| read(&value))),
            Err(source) => Err(MapsError::Get { map: self.spec.name, key: key.words(), source }),
        }
    }

    /// Writes one entry, new or in place of the old value.
    ///
    /// # Errors
    /// [`MapsError::Full`] when it is one too many, [`MapsError::Put`] when the kernel refuses otherwise.
    pub fn put(&self, key: &K, value: &V) -> Result<(), MapsError> {
        let (map, capacity) = (self.spec.name, self.spec.max_entries);
        syscall::update(self.fd(), bytes_of(&key.to_raw()), bytes_of(value)).map_err(|source| {
            match source.raw_os_error() {
                // A full hash says the first, a full trie the second (`kernel/bpf/hashtab.c`, `lpm_trie.c`).
                Some(libc::E2BIG | libc::ENOSPC) => MapsError::Full { map, key: key.words(), capacity },
                _ => MapsError::Put { map, key: key.words(), source },
            }
        })
    }

    /// Removes one entry; says whether it was there.
    ///
    /// # Errors
    /// [`MapsError::Delete`] when the kernel refuses.
    pub fn delete(&self, key: &K) -> Result<bool, MapsError> {
        syscall::delete(self.fd(), bytes_of(&key.to_raw())).map_err(|source| MapsError::Delete {
            map: self.spec.name,
            key: key.words(),
            source,
        })
    }

    /// Reads all entries, in no order.
    ///
    /// # Errors
    /// As [`Table::for_each`].
    pub fn entries(&self) -> Result<Vec<(K, V)>, MapsError> {
        let mut entries = Vec::new();
        self.for_each(|key, value| entries.push((key, value)))?;
        Ok(entries)
    }

    /// Counts the entries.
    ///
    /// # Errors
    /// As [`Table::for_each`].
    pub fn count(&self) -> Result<u32, MapsError> {
        let mut count = 0;
        self.for_each(|_, _| count += 1)?;
        Ok(count)
    }

    /// Shows every entry to `visit`, in no order and without holding more than one batch in memory.
    ///
    /// Entries that come or go meanwhile may be seen or not; in a trie one may then be seen twice.
    ///
    /// # Errors
    /// [`MapsError::Read`] when the kernel refuses.
    pub fn for_each(&self, visit: impl FnMut(K, V)) -> Result<(), MapsError> {
        self.walk(visit).map_err(|source| MapsError::Read { map: self.spec.name, source })
    }

    fn walk(&self, mut visit: impl FnMut(K, V)) -> io::Result<()> {
        let (key_len, value_len) = (size_of::<K::Raw>(), size_of::<V>());
        let mut room = (BATCH_BYTES / (key_len + value_len)).min(self.spec.max_entries as usize);
        let (mut keys, mut values) = (vec![0; room * key_len], vec![0; room * value_len]);
        let mut cursor = Cursor::new(key_len);
        loop {
            let batch = syscall::lookup_batch(self.fd(), &mut cursor, room as u32, &mut keys, &mut values)?;
            let (count, last) = match batch {
                Batch::More(count) => (count, false),
                Batch::Last(count) => (count, true),
                Batch::Unsupported => return self.walk_singly(visit),
                Batch::TooSmall => {
                    room *= 2;
                    keys.resize(room * key_len, 0);
                    values.resize(room * value_len, 0);
                    continue;
                }
            };
            for (key, value) in keys.chunks_exact(key_len).zip(values.chunks_exact(value_len)).take(count) {
                visit(K::from_raw(read(key)), read(value));
            }
            if last {
                return Ok(());
            }
        }
    }

    /// Key by key, for kernels without batches. When the last key is deleted meanwhile the kernel starts over; the
    /// bound keeps that from going on forever.
    fn walk_singly(&self, mut visit: impl FnMut(K, V)) -> io::Result<()> {
        let mut key = vec![0; size_of::<K::Raw>()];
        let mut next = key.clone();
        let mut value = vec![0; size_of::<V>()];
        let mut more = syscall::next_key(self.fd(), None, &mut next)?;
        for _ in 0..self.spec.max_entries.saturating_mul(2) {
            if !more {
                break;
            }
            std::mem::swap(&mut key, &mut next);
            if syscall::lookup(self.fd(), &key, &mut value)? {
                visit(K::from_raw(read(&key)), read(&value));
            }
            more = syscall::next_key(self.fd(), Some(&key), &mut next)?;
        }
        Ok(())
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }
}

impl<K: TableKey, V: Pod> Handle for Table<K, V> {
    const KEY_SIZE: usize = size_of::<K::Raw>();
    const VALUE_SIZE: usize = size_of::<V>();

    fn new(data: MapData, spec: &'static MapSpec) -> Self {
        Self { data, spec, shape: PhantomData }
    }

    fn used(&self) -> Result<Option<u32>, MapsError> {
        self.count().map(Some)
    }
}

/// The bytes of a plain value.
pub(crate) fn bytes_of<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: `Pod` types are plain bytes without padding.
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}

/// The plain value in `bytes`, which must be as many as it has.
pub(crate) fn read<T: Pod>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>(), "buffers are sized by the type they hold");
    // SAFETY: the length was just checked, and every bit pattern of a `Pod` type is a value.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

#[cfg(test)]
mod tests {
    use sluice_abi::{Prefix, Rule, RuleId, RuleKey, RuleSetId, RuleVerdict};

    use crate::{Maps, RuleRange, testing::PrivateBpffs};

    #[test]
    fn a_kernel_without_batches_gives_the_same_entries() {
        let bpffs = PrivateBpffs::mount();
        let maps = Maps::create(bpffs.path()).expect("maps");
        for set in 1..=100 {
            let key = RuleKey { rule_set: RuleSetId(set), ..RuleKey::default() };
            let range = RuleRange { key, bits: RuleKey::BITS_ANY_PROTOCOL };
            maps.rules.put(&range, &Rule::new(RuleId(set), RuleVerdict::Allow)).expect("put");
            let prefix = Prefix::new(sluice_abi::Addr::v4([10, set as u8, 0, 0]), 112);
            maps.ipcache_cidrs.put(&prefix, &sluice_abi::Identity(set)).expect("put");
        }
        let mut singly = Vec::new();
        maps.rules.walk_singly(|key, rule| singly.push((key, rule.id))).expect("walk");
        let mut batched: Vec<_> =
            maps.rules.entries().expect("read").into_iter().map(|(key, rule)| (key, rule.id)).collect();
        singly.sort_unstable();
        batched.sort_unstable();
        assert_eq!(singly.len(), 100);
        assert_eq!(singly, batched);
        assert_eq!(maps.ipcache_cidrs.count().expect("count"), 100);
    }
}
