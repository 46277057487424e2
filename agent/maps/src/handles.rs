//! One handle for each map.

use std::path::{Path, PathBuf};

use aya::maps::MapData;
use sluice_abi::{
    Addr, Affinity, AffinityKey, Backend, BackendId, CtEntry, DropKey, DropRecord, Endpoint, EndpointId,
    EndpointMeta, FlowKey, FragmentKey, FragmentPorts, Frontend, FrontendKey, FrontendScope, Identity,
    IdentityMeta, NodeAddr, PolicyId, PolicyMeta, PortUse, Ports, Prefix, Rule, RuleId, RuleMeta, RuleSetId,
    RuleSetMeta, ServiceId, ServiceMeta, SocketConnection, SocketPeer, SocketPeerKey,
    maps::{self as specs, MapSpec, Numbers},
};

use crate::{Counters, Events, MapsError, RuleRange, SourceRange, Table, Words, events::Ring, pins};

/// What can be made of an open map whose shape was compared.
pub(crate) trait Handle {
    const KEY_SIZE: usize;
    const VALUE_SIZE: usize;

    fn new(data: MapData, spec: &'static MapSpec) -> Self;

    /// Entries in use; `None` where the word means nothing.
    fn used(&self) -> Result<Option<u32>, MapsError>;
}

/// How full a map is.
#[derive(Clone, Copy, Debug)]
pub struct Fill {
    /// Which map.
    pub spec: &'static MapSpec,
    /// Entries in use (of an array: those that are not zero); `None` for counters and the event ring.
    pub used: Option<u32>,
}

macro_rules! handles {
    ($($(#[doc = $help:literal])+ $visibility:vis $field:ident: $type:ty = $spec:ident;)+) => {
        /// All maps, open.
        #[derive(Debug)]
        pub struct Maps {
            bpffs: PathBuf,
            $($(#[doc = $help])+ $visibility $field: $type,)+
        }

        $(const _: () = assert!(
            <$type as Handle>::KEY_SIZE == specs::$spec.key_size as usize
                && <$type as Handle>::VALUE_SIZE == specs::$spec.value_size as usize
        );)+

        impl Maps {
            fn each(
                bpffs: &Path,
                open: impl Fn(&Path, &'static MapSpec) -> Result<MapData, MapsError>,
            ) -> Result<Self, MapsError> {
                Ok(Self {
                    bpffs: bpffs.to_owned(),
                    $($field: Handle::new(open(bpffs, &specs::$spec)?, &specs::$spec),)+
                })
            }
        }

        impl Maps {
            /// How full each map is, in the order of [`specs::ALL`].
            ///
            /// # Errors
            /// [`MapsError::Read`] with the first map that cannot be read.
            pub fn fill(&self) -> Result<Vec<Fill>, MapsError> {
                Ok(vec![$(Fill { spec: &specs::$spec, used: self.$field.used()? },)+])
            }
        }

        #[cfg(test)]
        const SPECS: &[MapSpec] = &[$(specs::$spec,)+];
    };
}

handles! {
    /// `ENDPOINTS`.
    pub endpoints: Table<Addr, Endpoint> = ENDPOINTS;
    /// `INTERFACES`.
    pub interfaces: Table<u32, EndpointId> = INTERFACES;
    /// `IPCACHE`.
    pub ipcache: Table<Addr, Identity> = IPCACHE;
    /// `IPCACHE_CIDRS`.
    pub ipcache_cidrs: Table<Prefix, Identity> = IPCACHE_CIDRS;
    /// `RULES`.
    pub rules: Table<RuleRange, Rule> = RULES;
    /// `EPOCH`.
    pub epoch: Words<u32> = EPOCH;
    /// `CT_HALF_OPEN`.
    pub ct_half_open: Table<FlowKey, CtEntry> = CT_HALF_OPEN;
    /// `CT_CONFIRMED`.
    pub ct_confirmed: Table<FlowKey, CtEntry> = CT_CONFIRMED;
    /// `FRAGMENTS`.
    pub fragments: Table<FragmentKey, FragmentPorts> = FRAGMENTS;
    /// `FRONTENDS`.
    pub frontends: Table<FrontendKey, Frontend> = FRONTENDS;
    /// `SLOTS`.
    pub slots: Words<BackendId> = SLOTS;
    /// `BACKENDS`.
    pub backends: Table<BackendId, Backend> = BACKENDS;
    /// `AFFINITY`.
    pub affinity: Table<AffinityKey, Affinity> = AFFINITY;
    /// `SOURCE_RANGES`.
    pub source_ranges: Table<SourceRange, u32> = SOURCE_RANGES;
    /// `NODE`.
    pub node: Table<u32, NodeAddr> = NODE;
    /// `PORTS`.
    pub(crate) ports: Words<Ports> = PORTS;
    /// `NO_MASQUERADE`.
    pub no_masquerade: Table<Prefix, u32> = NO_MASQUERADE;
    /// `SOCKET_PEERS`.
    pub socket_peers: Table<SocketPeerKey, SocketPeer> = SOCKET_PEERS;
    /// `LED_SOCKETS`, by the sockets' cookies.
    pub led_sockets: Table<u64, SocketConnection> = LED_SOCKETS;
    /// `COUNTERS`.
    pub counters: Counters = COUNTERS;
    /// `DROP_RECORDS`.
    pub drop_records: Table<DropKey, DropRecord> = DROP_RECORDS;
    /// `AUDIT_RECORDS`.
    pub audit_records: Table<DropKey, DropRecord> = AUDIT_RECORDS;
    /// `EVENTS`.
    pub(crate) ring: Ring = EVENTS;
    /// `FLOW_EVENTS`.
    pub flow_events: Words<u64> = FLOW_EVENTS;
    /// `NUMBERS`.
    pub(crate) numbers: Words<u32> = NUMBERS;
    /// `ENDPOINT_META`.
    pub endpoint_meta: Table<EndpointId, EndpointMeta> = ENDPOINT_META;
    /// `IDENTITY_META`.
    pub identity_meta: Table<Identity, IdentityMeta> = IDENTITY_META;
    /// `RULE_SET_META`.
    pub rule_set_meta: Table<RuleSetId, RuleSetMeta> = RULE_SET_META;
    /// `RULE_META`.
    pub rule_meta: Table<RuleId, RuleMeta> = RULE_META;
    /// `POLICY_META`.
    pub policy_meta: Table<PolicyId, PolicyMeta> = POLICY_META;
    /// `SERVICE_META`.
    pub service_meta: Table<ServiceId, ServiceMeta> = SERVICE_META;
}

impl Maps {
    /// Opens the maps pinned under the bpf file system `bpffs`.
    ///
    /// # Errors
    /// [`MapsError::NotBpffs`] and what [`pins::open`] says of the first map that is missing or of another shape.
    pub fn open(bpffs: &Path) -> Result<Self, MapsError> {
        pins::check_bpffs(bpffs)?;
        Self::each(bpffs, pins::open)
    }

    /// Opens the maps pinned under the bpf file system `bpffs`, making those that are missing.
    ///
    /// # Errors
    /// As [`Maps::open`], and what [`pins::open_or_create`] says of a map that cannot be made.
    pub fn create(bpffs: &Path) -> Result<Self, MapsError> {
        pins::check_bpffs(bpffs)?;
        pins::make_dir(bpffs)?;
        Self::each(bpffs, pins::open_or_create)
    }

    /// The bpf file system that holds the pins.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// Where a map is pinned.
    pub fn pin_path(&self, spec: &MapSpec) -> PathBuf {
        pins::pin_path(&self.bpffs, spec)
    }

    /// Starts to listen to the event ring, which one process can.
    ///
    /// # Errors
    /// [`MapsError::Listening`] while another does, [`MapsError::Listen`] when the ring cannot be mapped into memory.
    pub fn events(&self) -> Result<Events, MapsError> {
        self.ring.listen(&pins::pin_dir(&self.bpffs))
    }

    /// The next unused number of a kind; `None` while it is [`Numbers::first`].
    ///
    /// # Errors
    /// [`MapsError::Get`] when the kernel refuses.
    pub fn number(&self, kind: Numbers) -> Result<Option<u32>, MapsError> {
        let next = self.numbers.get(kind as u32)?;
        Ok((next >= kind.first()).then_some(next))
    }

    /// Says that packets for this frontend's port are for Services; call it before the frontend is there. A port stays noted.
    ///
    /// # Errors
    /// [`MapsError::Get`] or [`MapsError::Put`] when the kernel refuses.
    pub fn note_port(&self, frontend: &FrontendKey) -> Result<(), MapsError> {
        let place = Ports::place(PortUse::Frontend, frontend.protocol, frontend.port);
        let Some((index, byte)) = place.filter(|_| frontend.scope == FrontendScope::External as u8) else {
            return Ok(());
        };
        let mut ports = self.ports.get(index)?;
        if ports.0[byte] != 0 {
            return Ok(());
        }
        ports.0[byte] = 1;
        self.ports.put(index, &ports)
    }

    /// Writes the next unused number of a kind.
    ///
    /// # Errors
    /// [`MapsError::Put`] when the kernel refuses.
    pub fn set_number(&self, kind: Numbers, next: u32) -> Result<(), MapsError> {
        self.numbers.put(kind as u32, &next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_a_handle_for_every_map() {
        let handled: Vec<_> = SPECS.iter().map(|spec| spec.name).collect();
        let all: Vec<_> = specs::ALL.iter().map(|spec| spec.name).collect();
        assert_eq!(handled, all);
    }
}
