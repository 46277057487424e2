//! Whether a backend is still one of a frontend's: what leads a flow past the programs' choice has to be asked again.

use std::collections::{BTreeSet, HashMap};

use sluice_abi::{Addr, BackendId, BackendState, FrontendKey, FrontendScope};
use sluice_maps::{Maps, MapsError};

/// What frontends lead to, each read once.
pub(super) struct Members<'m> {
    maps: &'m Maps,
    /// None where no frontend is.
    known: HashMap<FrontendKey, Option<BTreeSet<BackendId>>>,
}

impl<'m> Members<'m> {
    pub(super) fn new(maps: &'m Maps) -> Self {
        Self { maps, known: HashMap::new() }
    }

    /// Whether the backend takes new flows, but for others than the frontend. One that is ending, and serves while it
    /// does, keeps what it has.
    pub(super) fn has_left(&mut self, key: FrontendKey, backend: BackendId) -> Result<bool, MapsError> {
        let found = self.maps.backends.get(&backend)?;
        if found.is_none_or(|found| found.state != BackendState::Active as u8) {
            return Ok(false);
        }
        Ok(self.of(key)?.is_none_or(|members| !members.contains(&backend)))
    }

    /// The backends that take new flows of a frontend, by its very address or as a port of the node; none where there is
    /// no frontend.
    pub(super) fn of(&mut self, key: FrontendKey) -> Result<Option<&BTreeSet<BackendId>>, MapsError> {
        if !self.known.contains_key(&key) {
            let node = if key.addr.is_v4() { FrontendKey::NODE_V4 } else { FrontendKey::NODE_V6 };
            let mut members = self.read(&key)?;
            if members.is_none() {
                members = self.read(&FrontendKey { addr: node, ..key })?;
            }
            self.known.insert(key, members);
        }
        Ok(self.known[&key].as_ref())
    }

    /// Reads a slice, again when the frontend was flipped meanwhile.
    fn read(&self, key: &FrontendKey) -> Result<Option<BTreeSet<BackendId>>, MapsError> {
        let mut found = self.maps.frontends.get(key)?;
        while let Some(frontend) = found {
            let (first, count) = frontend.members();
            let slots = first..first.saturating_add(count);
            let members = slots.map(|slot| self.maps.slots.get(slot)).collect::<Result<_, _>>()?;
            found = self.maps.frontends.get(key)?;
            if found == Some(frontend) {
                return Ok(Some(members));
            }
        }
        Ok(None)
    }
}

/// The key of the frontend at an address, `port` in network order.
pub(super) fn frontend(addr: Addr, port: [u8; 2], protocol: u8, scope: FrontendScope) -> FrontendKey {
    FrontendKey { addr, port, protocol, scope: scope as u8 }
}
