//! Keys as user space means them, and as they lie in the kernel.

use std::fmt::Debug;

use aya::maps::lpm_trie;
use sluice_abi::{
    Addr, AffinityKey, BackendId, DropKey, EndpointId, FlowKey, FragmentKey, FrontendKey, Identity, PolicyId,
    Prefix, RuleId, RuleKey, RuleSetId, ServiceId, SocketPeerKey, SourceRangeKey,
};

/// A key of a [`crate::Table`].
pub trait TableKey: Copy + Debug {
    /// What lies in the kernel.
    type Raw: aya::Pod;

    /// The key as it lies in the kernel.
    fn to_raw(&self) -> Self::Raw;

    /// The key that lies in the kernel.
    fn from_raw(raw: Self::Raw) -> Self;

    /// The key in words, for errors.
    fn words(&self) -> String {
        format!("{self:?}")
    }
}

/// A prefix of the keys of the `RULES` trie.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RuleRange {
    /// The key; the bits behind `bits` are zero.
    pub key: RuleKey,
    /// Leading bits that count, up to [`RuleKey::BITS`].
    pub bits: u32,
}

/// Clients of a Service, by their addresses: a prefix of the keys of `SOURCE_RANGES`.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SourceRange {
    /// The Service.
    pub service: ServiceId,
    /// The clients.
    pub clients: Prefix,
}

macro_rules! plain_keys {
    ($($type:ty, $key:ident => $words:expr;)+) => {
        $(impl TableKey for $type {
            type Raw = Self;

            fn to_raw(&self) -> Self {
                *self
            }

            fn from_raw(raw: Self) -> Self {
                raw
            }

            fn words(&self) -> String {
                let $key = self;
                $words
            }
        })+
    };
}

plain_keys! {
    u32, key => key.to_string();
    u64, key => key.to_string();
    Addr, key => key.to_string();
    BackendId, key => format!("backend {}", key.0);
    EndpointId, key => format!("endpoint {}", key.0);
    Identity, key => format!("identity {}", key.0);
    PolicyId, key => format!("policy {}", key.0);
    RuleId, key => format!("rule {}", key.0);
    RuleSetId, key => format!("rule set {}", key.0);
    ServiceId, key => format!("service {}", key.0);
    FrontendKey, key => {
        format!("{} port {} protocol {}", key.addr, u16::from_be_bytes(key.port), key.protocol)
    };
    FlowKey, key => {
        let tuple = &key.0;
        let (src_port, dst_port) = (u16::from_be_bytes(tuple.src_port), u16::from_be_bytes(tuple.dst_port));
        format!("{} port {src_port} to {} port {dst_port} protocol {}", tuple.src, tuple.dst, tuple.protocol)
    };
    AffinityKey, key => {
        format!("client {} of service {} port {}", key.client, key.service.0, u16::from_be_bytes(key.service_port))
    };
    SocketPeerKey, key => {
        format!("socket {} led to {} port {}", key.cookie, key.addr, u16::from_be_bytes(key.port))
    };
    FragmentKey, key => {
        format!("fragments from {} to {} id {}", key.src, key.dst, u32::from_be_bytes(key.id))
    };
    DropKey, key => format!("drops of endpoint {} with {}", key.endpoint.0, key.peer);
}

impl TableKey for Prefix {
    type Raw = lpm_trie::Key<Addr>;

    fn to_raw(&self) -> Self::Raw {
        lpm_trie::Key::new(u32::from(self.bits), self.addr)
    }

    fn from_raw(raw: Self::Raw) -> Self {
        // The kernel keeps no longer prefix than the key has bits.
        Self { addr: raw.data(), bits: raw.prefix_len() as u8 }
    }

    fn words(&self) -> String {
        self.to_string()
    }
}

impl TableKey for SourceRange {
    type Raw = lpm_trie::Key<SourceRangeKey>;

    fn to_raw(&self) -> Self::Raw {
        let key = SourceRangeKey { service: self.service, client: self.clients.addr };
        lpm_trie::Key::new(u32::BITS + u32::from(self.clients.bits), key)
    }

    fn from_raw(raw: Self::Raw) -> Self {
        let SourceRangeKey { service, client } = raw.data();
        // Shorter prefixes are of no Service, and made by somebody else.
        let bits = raw.prefix_len().saturating_sub(u32::BITS) as u8;
        Self { service, clients: Prefix { addr: client, bits } }
    }

    fn words(&self) -> String {
        format!("clients {} of service {}", self.clients, self.service.0)
    }
}

impl TableKey for RuleRange {
    type Raw = lpm_trie::Key<RuleKey>;

    fn to_raw(&self) -> Self::Raw {
        lpm_trie::Key::new(self.bits, self.key)
    }

    fn from_raw(raw: Self::Raw) -> Self {
        Self { key: raw.data(), bits: raw.prefix_len() }
    }

    fn words(&self) -> String {
        let RuleKey { rule_set, identity, protocol, port, reserved: _ } = self.key;
        let port = u16::from_be_bytes(port);
        format!(
            "rule set {} identity {} protocol {protocol} port {port}/{}",
            rule_set.0, identity.0, self.bits
        )
    }
}
