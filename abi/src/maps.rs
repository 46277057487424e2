//! Name, shape and capacity of every map.
//!
//! Memory costs are for full maps on a 64-bit kernel; those without preallocation cost only what is used.

use crate::{
    Addr, Affinity, AffinityKey, Backend, Counter, CtEntry, DropKey, DropReason, DropRecord, Endpoint,
    EndpointMeta, FlowKey, FragmentKey, FragmentPorts, Frontend, FrontendKey, IdentityMeta, NodeAddr,
    PolicyMeta, Ports, Rule, RuleKey, RuleMeta, RuleSetMeta, ServiceMeta, SocketConnection, SocketPeer,
    SocketPeerKey, SourceRangeKey,
};

/// `BPF_F_NO_PREALLOC` (`linux/bpf.h`): memory is taken when an entry is made, and an update replaces the
/// element whole, so a reader never sees half of a value.
pub const NO_PREALLOC: u32 = 1;

/// The kernel's map types in use (`enum bpf_map_type`, `linux/bpf.h`).
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MapType {
    /// `BPF_MAP_TYPE_HASH`.
    Hash = 1,
    /// `BPF_MAP_TYPE_ARRAY`.
    Array = 2,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray = 6,
    /// `BPF_MAP_TYPE_LRU_HASH`.
    LruHash = 9,
    /// `BPF_MAP_TYPE_LPM_TRIE`.
    LpmTrie = 11,
    /// `BPF_MAP_TYPE_RINGBUF`.
    RingBuf = 27,
}

/// One map as both sides must see it.
#[derive(Clone, Copy, Debug)]
pub struct MapSpec {
    /// Name of the map, its symbol and its pin.
    pub name: &'static str,
    /// Its type.
    pub map_type: MapType,
    /// Key size in bytes.
    pub key_size: u32,
    /// Value size in bytes.
    pub value_size: u32,
    /// Capacity in entries (bytes for a ring buffer).
    pub max_entries: u32,
    /// Creation flags.
    pub flags: u32,
    /// The first version of the ABI whose map of this shape means what it means now: an agent takes over such a map of an
    /// earlier version, with all it holds.
    pub since: u32,
    /// What it holds, in a sentence.
    pub help: &'static str,
}

macro_rules! maps {
    ($($(#[doc = $help:literal])+ $name:ident: $type:ident<$key:ty, $value:ty>, $entries:expr, $flags:expr
        $(, since $since:literal)?;)+) => {
        $(
            $(#[doc = $help])+
            pub const $name: MapSpec = MapSpec {
                name: stringify!($name),
                map_type: MapType::$type,
                key_size: size_of::<$key>() as u32,
                value_size: size_of::<$value>() as u32,
                max_entries: $entries,
                flags: $flags,
                since: [$($since,)? OLDEST_ABI][0],
                help: concat!($($help),+).trim_ascii(),
            };
        )+
        /// Every map, in the order of the documentation.
        pub const ALL: &[MapSpec] = &[$($name,)+];
    };
}

/// The oldest version whose maps may mean what they mean now.
const OLDEST_ABI: u32 = 2;

/// Bytes in front of the key of an LPM trie.
type LpmKey<T> = (u32, T);

maps! {
    /// Address → endpoint: every address that lives on this node, pods' and the node's own.
    ENDPOINTS: Hash<Addr, Endpoint>, 4096, NO_PREALLOC;
    /// Interface index of the host-side veth → endpoint id, of pods whose rules are in force.
    INTERFACES: Hash<u32, u32>, 4096, NO_PREALLOC;
    /// Single address → peer identity.
    IPCACHE: Hash<Addr, u32>, 131_072, NO_PREALLOC;
    /// Address range → peer identity; asked when `IPCACHE` has no answer.
    IPCACHE_CIDRS: LpmTrie<LpmKey<Addr>, u32>, 65_536, NO_PREALLOC;
    /// (rule set, identity, protocol, port) → verdict and rule.
    RULES: LpmTrie<LpmKey<RuleKey>, Rule>, 524_288, NO_PREALLOC;
    /// One word that every plan which touches rules, identities or endpoints moves last.
    EPOCH: Array<u32, u32>, 1, 0;
    /// Flows not confirmed yet, least recently used out first.
    CT_HALF_OPEN: LruHash<FlowKey, CtEntry>, 32_768, 0;
    /// Confirmed flows; a full table refuses new flows and evicts none.
    CT_CONFIRMED: Hash<FlowKey, CtEntry>, 131_072, 0;
    /// Ports of fragmented datagrams under way.
    FRAGMENTS: LruHash<FragmentKey, FragmentPorts>, 4096, 0;
    /// Where Services listen.
    FRONTENDS: Hash<FrontendKey, Frontend>, 131_072, NO_PREALLOC;
    /// Slices of backend ids that frontends point into.
    SLOTS: Array<u32, u32>, 393_216, 0;
    /// Backend id → address, port, state.
    BACKENDS: Hash<u32, Backend>, 131_072, NO_PREALLOC;
    /// Clients that keep their backend, least recently used out first.
    AFFINITY: LruHash<AffinityKey, Affinity>, 32_768, 0;
    /// Clients that may use a Service which names any.
    SOURCE_RANGES: LpmTrie<LpmKey<SourceRangeKey>, u32>, 16_384, NO_PREALLOC;
    /// This node's address by family: see `NodeFamily`.
    NODE: Hash<u32, NodeAddr>, 2, NO_PREALLOC;
    /// Ports of this node that packets of flows may be for, by protocol; other packets of the node are looked up nowhere.
    PORTS: Array<u32, Ports>, Ports::PLACES, 0;
    /// Addresses that see pods' own addresses: the cluster's pods and nodes, and what is configured.
    NO_MASQUERADE: LpmTrie<LpmKey<Addr>, u32>, 16_384, NO_PREALLOC;
    /// Sockets of the node's own processes → the Service they asked, for `recvmsg` and `getpeername`.
    SOCKET_PEERS: LruHash<SocketPeerKey, SocketPeer>, 8192, 0;
    /// Cookie → where a connected UDP socket of the node's own processes was led; gone with the socket.
    LED_SOCKETS: Hash<u64, SocketConnection>, 65_536, NO_PREALLOC;
    /// Packets and bytes by drop reason, per CPU; place 0 counts what was forwarded to or from pods, the last one flows that
    /// audited policies would have dropped.
    COUNTERS: PerCpuArray<u32, Counter>, DropReason::PLACES, 0;
    /// Recent drops that look alike, with the rule that caused them.
    DROP_RECORDS: LruHash<DropKey, DropRecord>, 4096, 0;
    /// What audited policies would have dropped, with the rule that would have: keys and values as in `DROP_RECORDS`, each
    /// new flow counted once.
    AUDIT_RECORDS: LruHash<DropKey, DropRecord>, 4096, 0, since 4;
    /// Events for the one that listens; when it is full the newest is lost.
    EVENTS: RingBuf<(), ()>, 262_144, 0;
    /// Until when (`CLOCK_MONOTONIC`, nanoseconds) new flows that are let pass are events, too.
    FLOW_EVENTS: Array<u32, u64>, 1, 0;
    /// The next number of each kind, and the epoch that a plan under way will write: see `Numbers`.
    NUMBERS: Array<u32, u32>, 8, 0;
    /// Names of endpoints, by id: also the agent's memory of them.
    ENDPOINT_META: Hash<u32, EndpointMeta>, 2048, NO_PREALLOC;
    /// What identities mean.
    IDENTITY_META: Hash<u32, IdentityMeta>, 65_536, NO_PREALLOC;
    /// What rule sets mean, and which policies isolate.
    RULE_SET_META: Hash<u32, RuleSetMeta>, 16_384, NO_PREALLOC, since 4;
    /// Rule id → policy and rule number.
    RULE_META: Hash<u32, RuleMeta>, 131_072, NO_PREALLOC;
    /// Names of policies.
    POLICY_META: Hash<u32, PolicyMeta>, 16_384, NO_PREALLOC;
    /// Names of Services.
    SERVICE_META: Hash<u32, ServiceMeta>, 65_536, NO_PREALLOC;
}

/// Places in `NUMBERS`: the next unused number of each kind, and the epoch to come. A number is never reused, so what was
/// named once keeps its meaning in conntrack entries, records and logs.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Numbers {
    /// [`crate::EndpointId`].
    Endpoint = 0,
    /// [`crate::Identity`].
    Identity = 1,
    /// [`crate::RuleSetId`].
    RuleSet = 2,
    /// [`crate::RuleId`].
    Rule = 3,
    /// [`crate::PolicyId`].
    Policy = 4,
    /// [`crate::ServiceId`].
    Service = 5,
    /// [`crate::BackendId`].
    Backend = 6,
    /// The epoch that the plan under way will write last. While it differs from `EPOCH`, verdicts may have changed and
    /// flows not been judged again yet.
    Epoch = 7,
}

impl Numbers {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Endpoint,
        Self::Identity,
        Self::RuleSet,
        Self::Rule,
        Self::Policy,
        Self::Service,
        Self::Backend,
        Self::Epoch,
    ];

    /// The first number of the kind, used while the map holds a smaller one; 0 is never an epoch that a plan writes.
    pub const fn first(self) -> u32 {
        match self {
            Self::Endpoint => crate::EndpointId::FIRST,
            Self::Identity => crate::Identity::FIRST,
            Self::RuleSet => crate::RuleSetId::FIRST,
            Self::Rule => crate::RuleId::FIRST,
            Self::Policy => crate::PolicyId::FIRST,
            Self::Service => crate::ServiceId::FIRST,
            Self::Backend => crate::BackendId::FIRST,
            Self::Epoch => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes a preallocated map takes (`kernel/bpf/hashtab.c`: element header 48, bucket 16).
    fn preallocated_bytes(map: &MapSpec) -> u64 {
        let (entries, value) = (u64::from(map.max_entries), u64::from(map.value_size.next_multiple_of(8)));
        match map.map_type {
            MapType::Hash | MapType::LruHash if map.flags & NO_PREALLOC == 0 => {
                entries * (48 + u64::from(map.key_size.next_multiple_of(8)) + value + 16)
            }
            MapType::Array => entries * value,
            MapType::RingBuf => entries,
            MapType::Hash | MapType::LruHash | MapType::LpmTrie | MapType::PerCpuArray => 0,
        }
    }

    #[test]
    fn map_memory_at_defaults_stays_in_its_budget() {
        let sum: u64 = ALL.iter().map(preallocated_bytes).sum();
        assert!(sum <= 40 << 20, "{} KiB", sum >> 10);
    }

    #[test]
    fn names_fit_the_kernel_and_are_unique() {
        for (index, map) in ALL.iter().enumerate() {
            assert!(map.name.len() < 16, "{}: BPF_OBJ_NAME_LEN is 16", map.name);
            assert!(ALL[index + 1..].iter().all(|other| other.name != map.name), "{}", map.name);
        }
    }
}
