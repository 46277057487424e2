//! Keys as user space means them, and as they lie in the kernel.

use std::fmt::Debug;

use aya::maps::lpm_trie;
use sluice_abi::{
    Addr, BackendId, DropKey, EndpointId, FlowKey, FragmentKey, FrontendKey, Identity, PolicyId, Prefix,
    RuleId, RuleKey, RuleSetId, ServiceId,
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
