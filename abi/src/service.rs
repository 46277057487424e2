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

impl FrontendKey {
    /// Stands for every IPv4 address of the node that takes NodePorts (those with [`crate::endpoint_flags::NODE_PORT`]).
    pub const NODE_V4: Addr = Addr::v4([0; 4]);
    /// The same for IPv6.
    pub const NODE_V6: Addr = Addr::UNSPECIFIED;
}

/// Bits of [`Frontend::flags`].
pub mod frontend_flags {
    /// The same client keeps its backend for [`super::Frontend::affinity_s`] seconds.
    pub const AFFINITY: u16 = 1;
    /// Only backends of this node count (traffic policy `Local`): without one the packet is dropped and not refused,
    /// since others may have some.
    pub const LOCAL: u16 = 2;
    /// Only clients in `SOURCE_RANGES` may use it, from wherever they come: outside, a pod, the node itself.
    pub const SOURCE_RANGES: u16 = 4;
    /// The slice is a table of consistent hashing (Maglev), equal on every node: the flow's hash chooses.
    pub const MAGLEV: u16 = 8;
    /// The address is of the Service's load balancer; for dumps.
    pub const LOAD_BALANCER: u16 = 16;
    /// The address is one of the Service's `externalIPs`; for dumps.
    pub const EXTERNAL_IP: u16 = 32;
}

/// Value of `FRONTENDS`: which slice of `SLOTS` holds the backends that take new flows.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Frontend {
    /// Index of the first backend in `SLOTS`.
    pub first_slot: u32,
    /// Slots in the slice; 0 refuses new flows (TCP reset, ICMP port unreachable), unless
    /// [`frontend_flags::LOCAL`] says otherwise.
    pub count: u32,
    /// Whose frontend it is.
    pub service: ServiceId,
    /// Session affinity, seconds.
    pub affinity_s: u32,
    /// See [`frontend_flags`].
    pub flags: u16,
    /// The Service's own port, network order, whatever port this frontend has: clients keep their backend across all
    /// frontends of one port.
    pub service_port: [u8; 2],
    /// Distinct backends, in [`Frontend::members`].
    pub backends: u32,
}
pod!(Frontend, 24);

impl Frontend {
    /// The places of `SLOTS` that hold each backend once, by rising number: the first and how many. They are the slice
    /// itself, or stand behind its table.
    #[inline(always)]
    pub const fn members(&self) -> (u32, u32) {
        let is_table = self.flags & frontend_flags::MAGLEV != 0;
        (self.first_slot.wrapping_add(if is_table { self.count } else { 0 }), self.backends)
    }
}

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

/// Key of `AFFINITY`: who asked which port of a Service.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct AffinityKey {
    /// The client's address; the unspecified one of the family, [`FrontendKey::NODE_V4`] or [`FrontendKey::NODE_V6`], for
    /// processes of the node itself.
    pub client: Addr,
    /// The Service.
    pub service: ServiceId,
    /// Its port, network order: [`Frontend::service_port`].
    pub service_port: [u8; 2],
    /// IANA protocol number.
    pub protocol: u8,
    /// Zero.
    pub reserved: u8,
}
pod!(AffinityKey, 24);

/// Value of `AFFINITY`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Affinity {
    /// Time of the client's last new flow: `CLOCK_MONOTONIC`, nanoseconds.
    pub last_used_ns: u64,
    /// The backend it keeps.
    pub backend: BackendId,
    /// Zero.
    pub reserved: u32,
}
pod!(Affinity, 16);

/// Key of `SOURCE_RANGES` behind the length: a client that may use a Service (`loadBalancerSourceRanges`).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SourceRangeKey {
    /// The Service; all its bits always count.
    pub service: ServiceId,
    /// The client.
    pub client: Addr,
}
pod!(SourceRangeKey, 20);

/// Value of `NODE`: this node as the programs use it, in one family.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct NodeAddr {
    /// The node's address, source of what is masqueraded; [`Addr::UNSPECIFIED`] when it has none in this family.
    pub addr: Addr,
    /// See [`node_flags`].
    pub flags: u32,
}
pod!(NodeAddr, 20);

/// Keys of `NODE`.
#[repr(u32)]
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum NodeFamily {
    /// IPv4.
    V4 = 0,
    /// IPv6.
    V6 = 1,
}

/// Bits of [`NodeAddr::flags`].
pub mod node_flags {
    /// What pods send to addresses outside `NO_MASQUERADE` takes the node's address.
    pub const MASQUERADE: u32 = 1;
}

/// Key of `SOCKET_PEERS`: a socket of the node and the backend it was led to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SocketPeerKey {
    /// `bpf_get_socket_cookie`.
    pub cookie: u64,
    /// The backend's address.
    pub addr: Addr,
    /// The backend's port, network order.
    pub port: [u8; 2],
    /// Zero.
    pub reserved: [u8; 6],
}
pod!(SocketPeerKey, 32);

/// Value of `SOCKET_PEERS`: what the process believes it talks to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct SocketPeer {
    /// The Service's address.
    pub addr: Addr,
    /// The backend; [`BackendId::NONE`] when there was none.
    pub backend: BackendId,
    /// The Service, which another may have followed under its address.
    pub service: ServiceId,
    /// The Service's port, network order.
    pub port: [u8; 2],
    /// Zero.
    pub reserved: [u8; 2],
}
pod!(SocketPeer, 28);

/// Value of `LED_SOCKETS`, under `bpf_get_socket_cookie`: what a UDP socket was connected to.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct SocketConnection {
    /// What the process believes it talks to.
    pub peer: SocketPeer,
    /// Where its datagrams go: the backend's address, or the loopback that refuses them.
    pub addr: Addr,
    /// The port there, network order.
    pub port: [u8; 2],
    /// Zero.
    pub reserved: [u8; 2],
}
pod!(SocketConnection, 48);
