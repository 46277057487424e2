//! The contract between `diff` and whoever executes it: map entries, steps, plans, and what the maps hold.

use std::collections::BTreeMap;

use sluice_abi::{
    Addr, Backend, BackendId, Endpoint, EndpointId, EndpointMeta, Frontend, FrontendKey, Identity,
    IdentityMeta, NodeAddr, NodeFamily, PolicyId, PolicyMeta, Prefix, Rule, RuleId, RuleKey, RuleMeta,
    RuleSetId, RuleSetMeta, ServiceId, ServiceMeta, maps::Numbers,
};

use crate::desired::PortPrefix;

/// A key of the `RULES` trie with its length.
///
/// The bits of `key` behind `bits` are zero, so equal prefixes are equal values.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RulePrefix {
    /// The key.
    pub key: RuleKey,
    /// Leading bits that count: [`RuleKey::BITS_ANY_PROTOCOL`]..=[`RuleKey::BITS`].
    pub bits: u32,
}

impl RulePrefix {
    /// The prefix of a pair of rule set and identity.
    pub fn new(rule_set: RuleSetId, identity: Identity, ports: PortPrefix) -> Self {
        let key = RuleKey { rule_set, identity, ..RuleKey::default() };
        match ports {
            PortPrefix::Any => Self { key, bits: RuleKey::BITS_ANY_PROTOCOL },
            PortPrefix::Ports { protocol, first, bits } => Self {
                key: RuleKey { protocol, port: first.to_be_bytes(), ..key },
                bits: RuleKey::BITS_ANY_PORT + u32::from(bits),
            },
        }
    }

    /// Which packets it is about; `None` when it was made by somebody else.
    pub fn ports(&self) -> Option<PortPrefix> {
        if self.bits == RuleKey::BITS_ANY_PROTOCOL {
            return Some(PortPrefix::Any);
        }
        let bits = u8::try_from(self.bits.checked_sub(RuleKey::BITS_ANY_PORT)?).ok()?;
        let (protocol, first) = (self.key.protocol, u16::from_be_bytes(self.key.port));
        (bits <= 16).then_some(PortPrefix::Ports { protocol, first, bits })
    }
}

/// Clients that may use a Service: a key of the `SOURCE_RANGES` trie.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SourceRange {
    /// The Service.
    pub service: ServiceId,
    /// The clients.
    pub clients: Prefix,
}

macro_rules! entries {
    ($($(#[doc = $help:literal])+ $variant:ident($field:ident): $key:ty => $value:ty;)+) => {
        /// One entry of one map.
        #[derive(Clone, Copy, Debug, Eq, PartialEq)]
        #[expect(clippy::large_enum_variant, reason = "plans are brief and metadata entries rare")]
        pub enum Entry {
            $($(#[doc = $help])+ $variant($key, $value),)+
        }

        /// The key of one entry of one map.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Key {
            $($(#[doc = $help])+ $variant($key),)+
        }

        impl Entry {
            /// Where the entry stands.
            pub fn key(&self) -> Key {
                match self {
                    $(Self::$variant(key, _) => Key::$variant(*key),)+
                }
            }
        }

        /// What the maps hold.
        #[derive(Clone, Debug, Default, Eq, PartialEq)]
        pub struct Actual {
            $($(#[doc = $help])+ pub $field: BTreeMap<$key, $value>,)+
            /// The next unused number of each kind, and the epoch last intended; a kind that is absent was never
            /// written and is at [`Numbers::first`].
            pub numbers: BTreeMap<Numbers, u32>,
            /// The word in `EPOCH`.
            pub epoch: u32,
        }

        impl Actual {
            /// Makes `step` true, as the kernel maps would.
            pub fn apply(&mut self, step: &Step) {
                match step {
                    Step::Put(entry) => match *entry {
                        $(Entry::$variant(key, value) => { self.$field.insert(key, value); })+
                    },
                    Step::Delete(key) => match key {
                        $(Key::$variant(key) => { self.$field.remove(key); })+
                    },
                    Step::Number(kind, next) => { self.numbers.insert(*kind, *next); }
                    Step::Epoch(epoch) => self.epoch = *epoch,
                    Step::Grace => {}
                }
            }
        }
    };
}

entries! {
    /// `ENDPOINTS`.
    Endpoint(endpoints): Addr => Endpoint;
    /// `INTERFACES`.
    Interface(interfaces): u32 => EndpointId;
    /// `IPCACHE` (whole addresses) or `IPCACHE_CIDRS` (shorter prefixes).
    Ipcache(ipcache): Prefix => Identity;
    /// `RULES`.
    Rule(rules): RulePrefix => Rule;
    /// `FRONTENDS`.
    Frontend(frontends): FrontendKey => Frontend;
    /// `SLOTS`; deleting a slot writes [`BackendId::NONE`].
    Slot(slots): u32 => BackendId;
    /// `BACKENDS`.
    Backend(backends): BackendId => Backend;
    /// `SOURCE_RANGES`.
    SourceRange(source_ranges): SourceRange => u32;
    /// `NODE`.
    Node(node): NodeFamily => NodeAddr;
    /// `NO_MASQUERADE`.
    NoMasquerade(no_masquerade): Prefix => u32;
    /// `ENDPOINT_META`.
    EndpointMeta(endpoint_meta): EndpointId => EndpointMeta;
    /// `IDENTITY_META`.
    IdentityMeta(identity_meta): Identity => IdentityMeta;
    /// `RULE_SET_META`.
    RuleSetMeta(rule_set_meta): RuleSetId => RuleSetMeta;
    /// `RULE_META`.
    RuleMeta(rule_meta): RuleId => RuleMeta;
    /// `POLICY_META`.
    PolicyMeta(policy_meta): PolicyId => PolicyMeta;
    /// `SERVICE_META`.
    ServiceMeta(service_meta): ServiceId => ServiceMeta;
}

/// One step of a plan.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "plans are brief and metadata entries rare")]
pub enum Step {
    /// Write an entry, new or in place of the old value.
    Put(Entry),
    /// Remove an entry; it exists.
    Delete(Key),
    /// Write the next unused number of a kind, before any number below it is used; the epoch to come, before any step
    /// that it is to follow.
    Number(Numbers, u32),
    /// Write `EPOCH`, after every step that changes a verdict: flows judged before are judged again.
    Epoch(u32),
    /// Wait until no program that started before this step still runs (an RCU grace period), so that what follows
    /// may remove what such a program could have read.
    Grace,
}

/// An ordered list of steps.
///
/// Every moment of its execution passes what both the old and the new state pass, and nothing that neither does.
pub type Plan = Vec<Step>;
