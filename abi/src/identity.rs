//! Peer identities.

/// A class of peer addresses that no selector in use on this node tells apart (`docs/adr/0002-identities.md`).
///
/// Numbers are node-local, come from a pinned counter and are never reused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Identity(pub u32);
pod!(Identity, 4);

impl Identity {
    /// Any peer: what an address without an entry is, and what rules about every peer are filed under.
    pub const ANY: Self = Self(0);
    /// The first number given out.
    pub const FIRST: u32 = 16;
}
