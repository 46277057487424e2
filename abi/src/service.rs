//! Services: frontends and backends.

use crate::Addr;

/// Number of a Service object; never reused.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ServiceId(pub u32);
pod!(ServiceId, 4);

impl ServiceId {
    /// The first number given out.
    pub const FIRST: u32 = 1;
}

/// Number of a backend (address, protocol, port); never reused, so a stale number finds nothing.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct BackendId(pub u32);
pod!(BackendId, 4);

impl BackendId {
    /// No backend: in conntrack, a flow that was not translated.
    pub const NONE: Self = Self(0);
    /// The first number given out.
    pub const FIRST: u32 = 1;
}

/// Who may use a frontend.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum FrontendScope {
    /// Pods and the node itself.
    Internal = 0,
    /// Clients outside the cluster.
    External = 1,
}

/// Key of `FRONTENDS`: where a Service listens.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FrontendKey {
    /// The Service's address.
    pub addr: Addr,
    /// The Service's port, network order.
    pub port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    /// A [`FrontendScope`].
    pub scope: u8,
}
pod!(FrontendKey, 20);

/// Bits of [`Frontend::flags`].
pub mod frontend_flags {
    /// The same client keeps its backend for [`super::Frontend::affinity_s`] seconds.
    pub const AFFINITY: u16 = 1;
}

/// Value of `FRONTENDS`: which slice of `SLOTS` holds the backends that take new flows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Frontend {
    /// Index of the first backend in `SLOTS`.
    pub first_slot: u32,
    /// Backends in the slice; 0 refuses new flows.
    pub count: u32,
    /// Whose frontend it is.
    pub service: ServiceId,
    /// Session affinity, seconds.
    pub affinity_s: u32,
    /// See [`frontend_flags`].
    pub flags: u16,
    /// Zero.
    pub reserved: u16,
}
pod!(Frontend, 20);

/// Whether a backend takes flows.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum BackendState {
    /// Takes new flows.
    Active = 0,
    /// Keeps its established flows, takes no new one.
    Terminating = 1,
}

/// Value of `BACKENDS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Backend {
    /// The backend's address.
    pub addr: Addr,
    /// The backend's port, network order.
    pub port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    /// A [`BackendState`].
    pub state: u8,
}
pod!(Backend, 20);
