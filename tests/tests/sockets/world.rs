//! A node of one namespace: backends are servers on addresses of its own, which tell theirs.

use std::{
    collections::BTreeSet,
    io::{self, Read as _, Write as _},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    thread,
    time::Duration,
};

use nix::sched::{CloneFlags, unshare};
use sluice_abi::{
    Backend, BackendId, BackendState, Endpoint, Frontend, FrontendKey, FrontendScope, ServiceId,
    endpoint_flags, protocol,
};
use sluice_agent::datapath::{CgroupRoot, Served, Sockets};
use sluice_maps::{Maps, testing::PrivateBpffs};
use sluice_tests::{cgroup::OwnCgroup, lab::ip};

/// How long a test waits for what must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The families as processes name addresses: IPv4, IPv6, IPv4 in an IPv6 socket.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Family {
    V4,
    V6,
    Mapped,
}

impl Family {
    pub(crate) const ALL: [Self; 3] = [Self::V4, Self::V6, Self::Mapped];

    /// The address of the family with this last number, below a prefix, as a process names it.
    pub(crate) fn at(self, prefix: u8, last: u8, port: u16) -> SocketAddr {
        self.named(self.plain(prefix, last), port)
    }

    /// The same as the maps and a server know it.
    pub(crate) fn plain(self, prefix: u8, last: u8) -> IpAddr {
        match self {
            Self::V4 | Self::Mapped => IpAddr::from([10, prefix, 0, last]),
            Self::V6 => IpAddr::from([0xfd00 + u16::from(prefix), 0, 0, 0, 0, 0, 0, u16::from(last)]),
        }
    }

    pub(crate) fn named(self, ip: IpAddr, port: u16) -> SocketAddr {
        match ip {
            IpAddr::V4(v4) if self == Self::Mapped => SocketAddr::new(v4.to_ipv6_mapped().into(), port),
            IpAddr::V4(_) | IpAddr::V6(_) => SocketAddr::new(ip, port),
        }
    }

    pub(crate) fn loopback(self) -> IpAddr {
        match self {
            Self::V4 | Self::Mapped => Ipv4Addr::LOCALHOST.into(),
            Self::V6 => Ipv6Addr::LOCALHOST.into(),
        }
    }

    /// A UDP socket of the family.
    pub(crate) fn udp(self) -> UdpSocket {
        let any: IpAddr = match self {
            Self::V4 => Ipv4Addr::UNSPECIFIED.into(),
            Self::V6 | Self::Mapped => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = UdpSocket::bind((any, 0)).expect("a socket");
        socket.set_read_timeout(Some(PATIENCE)).expect("a limit");
        socket
    }
}

/// Prefix of backends' addresses, which are the node's own here.
pub(crate) const BACKENDS: u8 = 1;
/// Prefix of Services' addresses, to which there is no route.
pub(crate) const SERVICES: u8 = 96;
/// What backends listen to, over TCP and UDP.
pub(crate) const BACKEND_PORT: u16 = 8080;

pub(crate) struct World {
    pub(crate) cgroup: OwnCgroup,
    pub(crate) bpffs: PrivateBpffs,
    pub(crate) maps: Maps,
}

impl World {
    /// Programs in force, backends 1 to 3 of both families listening, no Service.
    pub(crate) fn new() -> (Self, Sockets) {
        let world = Self::without_programs();
        let sockets = world.start();
        (world, sockets)
    }

    pub(crate) fn without_programs() -> Self {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace of the thread's own (needs root)");
        serve_backends();
        let cgroup = OwnCgroup::enter().expect("a cgroup");
        let bpffs = PrivateBpffs::mount();
        let maps = Maps::create(bpffs.path()).expect("maps");
        Self { cgroup, bpffs, maps }
    }

    pub(crate) fn start(&self) -> Sockets {
        Sockets::start(&self.maps, &CgroupRoot::At(self.cgroup.path()), Served::Node)
            .expect("programs in force")
    }

    /// A Service whose backends are those of the numbers, at `at`.
    pub(crate) fn service(&self, at: SocketAddr, protocol: u8, backends: &[u8]) {
        self.service_with(at, protocol, backends, Frontend::default());
    }

    /// The same with the flags, the affinity and, unless it has none, the Service of `frontend`.
    pub(crate) fn service_with(&self, at: SocketAddr, protocol: u8, backends: &[u8], frontend: Frontend) {
        let family = if at.is_ipv4() { Family::V4 } else { Family::V6 };
        let first_slot = u32::from(at.port()) * 2 + if at.is_ipv4() { 0 } else { 100_000 };
        for (slot, last) in (first_slot..).zip(backends) {
            let backend = Backend {
                addr: family.plain(BACKENDS, *last).into(),
                port: BACKEND_PORT.to_be_bytes(),
                protocol,
                state: BackendState::Active as u8,
            };
            let id = backend_id(family, protocol, *last);
            self.maps.backends.put(&id, &backend).expect("a backend");
            self.maps.slots.put(slot, &id).expect("a slot");
        }
        let frontend = Frontend {
            first_slot,
            count: backends.len() as u32,
            backends: backends.len() as u32,
            service: if frontend.service == ServiceId::default() { ServiceId(1) } else { frontend.service },
            service_port: at.port().to_be_bytes(),
            ..frontend
        };
        self.maps.frontends.put(&key(at, protocol), &frontend).expect("a frontend");
    }

    /// Takes a backend away, as the agent does when it has left every slice.
    pub(crate) fn remove_backend(&self, family: Family, protocol: u8, last: u8) {
        assert!(self.maps.backends.delete(&backend_id(family, protocol, last)).expect("the map"));
    }

    /// Makes an address the node's own.
    pub(crate) fn node_address(&self, address: IpAddr, node_ports: bool) {
        let flags = endpoint_flags::HOST | if node_ports { endpoint_flags::NODE_PORT } else { 0 };
        let endpoint = Endpoint { flags, ..Endpoint::default() };
        self.maps.endpoints.put(&address.into(), &endpoint).expect("an endpoint");
    }
}

pub(crate) fn key(at: SocketAddr, protocol: u8) -> FrontendKey {
    let scope = FrontendScope::Internal as u8;
    FrontendKey { addr: at.ip().into(), port: at.port().to_be_bytes(), protocol, scope }
}

pub(crate) fn backend_id(family: Family, protocol: u8, last: u8) -> BackendId {
    let family = if family == Family::V6 { 60 } else { 40 };
    BackendId(family + if protocol == protocol::UDP { 10 } else { 0 } + u32::from(last))
}

/// The address that answers over TCP, and whom the process believes to be connected to.
pub(crate) fn tcp(to: SocketAddr) -> io::Result<(IpAddr, SocketAddr)> {
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    Ok((answer(&mut stream)?, stream.peer_addr()?))
}

/// The address of the server at the other end, which answers to each byte.
pub(crate) fn answer(stream: &mut TcpStream) -> io::Result<IpAddr> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"?")?;
    let mut address = [0; 16];
    stream.read_exact(&mut address)?;
    Ok(Ipv6Addr::from(address).to_canonical())
}

/// Sends a datagram to `to`; the address that answers by its own word, and by the kernel's.
pub(crate) fn datagram(socket: &UdpSocket, to: SocketAddr) -> io::Result<(IpAddr, SocketAddr)> {
    socket.send_to(b"?", to)?;
    let mut address = [0; 16];
    let (_, from) = socket.recv_from(&mut address)?;
    Ok((Ipv6Addr::from(address).to_canonical(), from))
}

/// The same on a connected socket.
pub(crate) fn connected_datagram(socket: &UdpSocket) -> io::Result<IpAddr> {
    socket.send(b"?")?;
    let mut address = [0; 16];
    socket.recv(&mut address)?;
    Ok(Ipv6Addr::from(address).to_canonical())
}

/// Whether there is no way to the address: nobody has translated it.
pub(crate) fn is_unrouted(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NetworkUnreachable | io::ErrorKind::AddrNotAvailable)
}

/// Who answers when it is asked `count` times over TCP.
pub(crate) fn who(to: SocketAddr, count: usize) -> BTreeSet<IpAddr> {
    (0..count).map(|_| tcp(to).expect("an answer").0).collect()
}

/// Backends 1 to 3 of both families, in the thread's network namespace.
pub(crate) fn serve_backends() {
    ip("link set lo up");
    for family in [Family::V4, Family::V6] {
        for last in 1..=3 {
            let address = family.plain(BACKENDS, last);
            let options = if address.is_ipv4() { "/32 dev lo" } else { "/128 dev lo nodad" };
            ip(&format!("addr add {address}{options}"));
            let at = SocketAddr::new(address, BACKEND_PORT);
            serve(at);
            // The route to an IPv6 address comes a moment after the address.
            while TcpStream::connect(at).is_err() {
                thread::yield_now();
            }
        }
    }
}

/// Threads that answer with their address; they end with the process.
fn serve(at: SocketAddr) {
    let IpAddr::V6(own) = (match at.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().into(),
        v6 => v6,
    }) else {
        unreachable!("mapped")
    };
    let listener = TcpListener::bind(at).expect("a listener");
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            thread::spawn(move || {
                let mut byte = [0];
                while stream.read_exact(&mut byte).is_ok() && stream.write_all(&own.octets()).is_ok() {}
            });
        }
    });
    let socket = UdpSocket::bind(at).expect("a socket");
    thread::spawn(move || {
        let mut byte = [0];
        while let Ok((_, from)) = socket.recv_from(&mut byte) {
            let _ = socket.send_to(&own.octets(), from);
        }
    });
}
