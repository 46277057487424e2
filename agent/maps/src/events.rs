//! The consumer of the event ring.

use std::{
    fs::{File, TryLockError},
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, RawFd},
    path::Path,
};

use aya::maps::{Map, MapData, MapError, RingBuf};
use sluice_abi::{Event, maps::MapSpec};

use crate::{MapsError, handles::Handle, table::read};

/// The event ring, not listened to yet.
#[derive(Debug)]
pub(crate) struct Ring {
    data: MapData,
    spec: &'static MapSpec,
}

impl Ring {
    /// `pins` is the folder that the lock is on.
    pub(crate) fn listen(&self, pins: &Path) -> Result<Events, MapsError> {
        let refused = |source| MapsError::Listen { map: self.spec.name, source };
        let lock = File::open(pins).map_err(refused)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(MapsError::Listening { map: self.spec.name }),
            Err(TryLockError::Error(source)) => return Err(refused(source)),
        }
        let ring = self.data.fd().as_fd().try_clone_to_owned().map_err(MapError::IoError);
        let ring = ring.and_then(MapData::from_fd).and_then(Map::from_map_data).and_then(RingBuf::try_from);
        Ok(Events { ring: ring.map_err(|source| refused(io::Error::other(source)))?, _lock: lock })
    }
}

impl Handle for Ring {
    const KEY_SIZE: usize = 0;
    const VALUE_SIZE: usize = 0;

    fn new(data: MapData, spec: &'static MapSpec) -> Self {
        Self { data, spec }
    }

    fn used(&self) -> Result<Option<u32>, MapsError> {
        Ok(None)
    }
}

/// The reading end of the `EVENTS` ring.
///
/// The ring has one reading position: what one consumer takes, no other sees. A lock sees to it that there is one.
///
/// The descriptor becomes readable when events wait; then call [`Events::next`] until it has none.
pub struct Events {
    ring: RingBuf<MapData>,
    /// Locked while this lives.
    _lock: File,
}

impl Events {
    /// Takes the next event; `None` when none waits. Records of another length, which no program of this version
    /// writes, are passed over.
    #[expect(
        clippy::should_implement_trait,
        reason = "`None` is no end: there may be an event a moment later"
    )]
    pub fn next(&mut self) -> Option<Event> {
        loop {
            let record = self.ring.next()?;
            if record.len() == size_of::<Event>() {
                return Some(read(&record));
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.ring.as_fd()
    }
}

impl AsRawFd for Events {
    fn as_raw_fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }
}

impl std::fmt::Debug for Events {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Events").field("fd", &self.as_raw_fd()).finish()
    }
}
