//! The contract between the eBPF programs and user space.
//!
//! Every map key, map value, capacity, drop reason and name that both sides must agree on is written here, once.
//!
//! **Layout rules.** Shared types are `repr(C)`, made of bytes and integers, without padding, so that a map key
//! hashes the same on both sides and a value has no undefined byte. [`pod!`] proves the size at compile time.
//! Byte order is in the type: `[u8; 2]` and `[u8; 16]` are network order, integers are host order.
//!
//! **Versioning.** A change to any shared type or to the meaning of a field raises [`ABI_VERSION`], which is part
//! of the pin path: programs of two versions never share a map.

#![cfg_attr(not(feature = "user"), no_std)]
#![warn(missing_docs)]

/// Marks a shared type as plain bytes of exactly `$size` bytes, and implements `aya::Pod` in user space.
macro_rules! pod {
    ($type:ty, $size:expr) => {
        const _: () = assert!(size_of::<$type>() == $size, "unexpected padding");
        impl $crate::Plain for $type {}
        #[cfg(feature = "user")]
        // SAFETY: `repr(C)`, integers and bytes only; the assertion above excludes padding.
        unsafe impl aya::Pod for $type {}
    };
}

mod addr;
mod conntrack;
mod drop_reason;
mod endpoint;
mod event;
mod identity;
pub mod maps;
mod names;
mod policy;
mod ports;
mod service;
mod text;

pub use addr::{Addr, Prefix};
pub use conntrack::{CtEntry, CtState, FlowKey, FragmentKey, FragmentPorts, Judgement, Tuple, flow_flags};
pub use drop_reason::DropReason;
pub use endpoint::{Endpoint, EndpointId, endpoint_flags};
pub use event::{Counter, DropKey, DropRecord, Event, EventKind, Hook};
pub use identity::Identity;
pub use names::{
    EndpointMeta, IdentityMeta, PolicyKind, PolicyMeta, PolicyMode, RuleMeta, RuleSetMeta, ServiceMeta,
};
pub use policy::{Direction, PolicyId, Rule, RuleId, RuleKey, RuleSetId, RuleVerdict};
pub use ports::{PortUse, Ports};
pub use service::{
    Affinity, AffinityKey, Backend, BackendId, BackendState, Frontend, FrontendKey, FrontendScope, NodeAddr,
    NodeFamily, ServiceId, SocketConnection, SocketPeer, SocketPeerKey, SourceRangeKey, frontend_flags,
    node_flags,
};
pub use text::Text;

/// Version of every layout and meaning in this crate; part of the pin path (`/sys/fs/bpf/sluice/v<ABI>/`).
pub const ABI_VERSION: u32 = 4;

/// Types whose every bit pattern is a value and that have no padding: safe to view as bytes.
pub trait Plain: Copy {
    /// The bytes of the value as the kernel sees them.
    fn as_bytes(&self) -> &[u8] {
        // SAFETY: implemented by `pod!` only, for `repr(C)` types without padding.
        unsafe { core::slice::from_raw_parts(core::ptr::from_ref(self).cast(), size_of::<Self>()) }
    }
}

/// IANA protocol numbers the datapath knows.
pub mod protocol {
    /// Internet Control Message Protocol.
    pub const ICMP: u8 = 1;
    /// Transmission Control Protocol.
    pub const TCP: u8 = 6;
    /// User Datagram Protocol.
    pub const UDP: u8 = 17;
    /// ICMP for IPv6.
    pub const ICMPV6: u8 = 58;
    /// Stream Control Transmission Protocol.
    pub const SCTP: u8 = 132;
}
