//! Counters by drop reason, one of each per CPU.

use std::os::fd::AsFd;

use aya::{maps::MapData, util::nr_cpus};
use sluice_abi::{Counter, DropReason, maps::MapSpec};

use crate::{MapsError, handles::Handle, syscall, table::read};

/// The `COUNTERS` map; what is read is the sum over all CPUs.
#[derive(Debug)]
pub struct Counters {
    data: MapData,
    spec: &'static MapSpec,
}

/// Place of what was forwarded to or from pods.
const FORWARDED: u32 = 0;

impl Counters {
    /// The map as both sides see it.
    pub fn spec(&self) -> &'static MapSpec {
        self.spec
    }

    /// What was forwarded to or from pods since the map was made.
    ///
    /// # Errors
    /// [`MapsError::Get`] when the kernel refuses.
    pub fn forwarded(&self) -> Result<Counter, MapsError> {
        self.place(FORWARDED)
    }

    /// What was dropped for `reason` since the map was made.
    ///
    /// # Errors
    /// [`MapsError::Get`] when the kernel refuses.
    pub fn dropped(&self, reason: DropReason) -> Result<Counter, MapsError> {
        self.place(reason as u32)
    }

    /// Flows that were let pass and that a shadow rule set would have dropped, since the map was made.
    ///
    /// # Errors
    /// [`MapsError::Get`] when the kernel refuses.
    pub fn would_drop(&self) -> Result<u64, MapsError> {
        Ok(self.place(DropReason::WOULD_DROP)?.packets)
    }

    fn place(&self, index: u32) -> Result<Counter, MapsError> {
        let refused = |source| MapsError::Get { map: self.spec.name, key: index.to_string(), source };
        let cpus = nr_cpus().map_err(|(_, source)| refused(source))?;
        // The kernel gives one value for each possible CPU, each rounded up to eight bytes; a counter needs no rounding.
        let mut values = vec![0; cpus * size_of::<Counter>()];
        if !syscall::lookup(self.data.fd().as_fd(), &index.to_ne_bytes(), &mut values).map_err(refused)? {
            return Err(refused(std::io::Error::from_raw_os_error(libc::ENOENT)));
        }
        Ok(values.chunks_exact(size_of::<Counter>()).map(read::<Counter>).fold(
            Counter::default(),
            |sum, one| Counter {
                packets: sum.packets.wrapping_add(one.packets),
                bytes: sum.bytes.wrapping_add(one.bytes),
            },
        ))
    }
}

impl Handle for Counters {
    const KEY_SIZE: usize = size_of::<u32>();
    const VALUE_SIZE: usize = size_of::<Counter>();

    fn new(data: MapData, spec: &'static MapSpec) -> Self {
        Self { data, spec }
    }

    fn used(&self) -> Result<Option<u32>, MapsError> {
        Ok(None)
    }
}

const _: () = assert!(size_of::<Counter>().is_multiple_of(8), "per-CPU values lie eight bytes apart");
