//! Arrays: every index up to the capacity is there, zero until written.

use std::{
    marker::PhantomData,
    os::fd::{AsFd, BorrowedFd},
};

use aya::{Pod, maps::MapData};
use sluice_abi::maps::MapSpec;

use crate::{
    MapsError,
    handles::Handle,
    syscall::{self, Batch, Cursor},
    table::{bytes_of, read},
};

/// An array of words; a word is written and read whole.
#[derive(Debug)]
pub struct Words<V> {
    data: MapData,
    spec: &'static MapSpec,
    value: PhantomData<V>,
}

/// Words that one batch reads.
const BATCH: u32 = 16_384;

impl<V: Pod> Words<V> {
    /// The map as both sides see it.
    pub fn spec(&self) -> &'static MapSpec {
        self.spec
    }

    /// Reads the word at `index`.
    ///
    /// # Errors
    /// [`MapsError::Get`] when the index is beyond the capacity.
    pub fn get(&self, index: u32) -> Result<V, MapsError> {
        let mut value = vec![0; size_of::<V>()];
        let source = match syscall::lookup(self.fd(), &index.to_ne_bytes(), &mut value) {
            Ok(true) => return Ok(read(&value)),
            Ok(false) => std::io::Error::from_raw_os_error(libc::ENOENT),
            Err(source) => source,
        };
        Err(MapsError::Get { map: self.spec.name, key: index.to_string(), source })
    }

    /// Writes the word at `index`.
    ///
    /// # Errors
    /// [`MapsError::Full`] when the index is beyond the capacity, [`MapsError::Put`] when the kernel refuses otherwise.
    pub fn put(&self, index: u32, value: &V) -> Result<(), MapsError> {
        let (map, capacity, key) = (self.spec.name, self.spec.max_entries, index.to_string());
        syscall::update(self.fd(), &index.to_ne_bytes(), bytes_of(value)).map_err(|source| {
            match source.raw_os_error() {
                Some(libc::E2BIG) => MapsError::Full { map, key, capacity },
                _ => MapsError::Put { map, key, source },
            }
        })
    }

    /// Reads all words, by index.
    ///
    /// # Errors
    /// [`MapsError::Read`] when the kernel refuses.
    pub fn all(&self) -> Result<Vec<V>, MapsError> {
        let refused = |source| MapsError::Read { map: self.spec.name, source };
        let room = BATCH.min(self.spec.max_entries);
        let mut keys = vec![0; room as usize * size_of::<u32>()];
        let mut values = vec![0; room as usize * size_of::<V>()];
        let mut words = Vec::with_capacity(self.spec.max_entries as usize);
        let mut cursor = Cursor::new(size_of::<u32>());
        loop {
            let batch = syscall::lookup_batch(self.fd(), &mut cursor, room, &mut keys, &mut values)
                .map_err(refused)?;
            let (count, last) = match batch {
                Batch::More(count) => (count, false),
                Batch::Last(count) => (count, true),
                // Arrays have had batches since 5.6 and an array has no buckets.
                Batch::TooSmall | Batch::Unsupported => {
                    return Err(refused(std::io::ErrorKind::Unsupported.into()));
                }
            };
            words.extend(values.chunks_exact(size_of::<V>()).take(count).map(read::<V>));
            if last {
                return Ok(words);
            }
        }
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }
}

impl<V: Pod> Handle for Words<V> {
    const KEY_SIZE: usize = size_of::<u32>();
    const VALUE_SIZE: usize = size_of::<V>();

    fn new(data: MapData, spec: &'static MapSpec) -> Self {
        Self { data, spec, value: PhantomData }
    }

    fn used(&self) -> Result<Option<u32>, MapsError> {
        let used = self.all()?.iter().filter(|word| bytes_of(*word).iter().any(|byte| *byte != 0)).count();
        Ok(Some(used as u32))
    }
}
