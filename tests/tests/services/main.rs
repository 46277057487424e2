//! Services beyond ClusterIP, on the loaded programs: from outside and from pods, refused, kept, and by way of the node's
//! own address.

mod choice;
mod edge;
mod errors;
mod masquerade;
mod meeting;
mod refusal;
mod xdp;

use std::net::{IpAddr, SocketAddr};

use sluice_abi::{CtState, Frontend, FrontendScope, Hook, ServiceId, flow_flags, node_flags};
use sluice_tests::{
    lab::{Action, Lab, LabPod, Output, ip},
    packet::{self, Ends},
};

const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED);
/// One address of each family, where only the family counts.
const BOTH: [IpAddr; 2] = [V4, V6];
/// The frontends that one scope and the other see.
const SCOPES: [FrontendScope; 2] = [FrontendScope::Internal, FrontendScope::External];
const PORT: u16 = 30_080;

fn family(like: IpAddr, v4: [u8; 4], v6: [u16; 8]) -> IpAddr {
    if like.is_ipv4() { v4.into() } else { v6.into() }
}

/// The node's address.
fn node(like: IpAddr) -> IpAddr {
    family(like, [192, 168, 7, 1], [0xfd77, 0, 0, 0, 0, 0, 0, 1])
}

/// A host somewhere outside.
fn client(like: IpAddr) -> IpAddr {
    family(like, [203, 0, 113, 5], [0x2001, 0xdb8, 0, 0, 0, 0, 0, 5])
}

/// A router on the way there.
fn router(like: IpAddr) -> IpAddr {
    family(like, [198, 51, 100, 1], [0x2001, 0xdb8, 0, 0, 0, 0, 1, 1])
}

/// A pod of another node.
fn remote(like: IpAddr) -> IpAddr {
    family(like, [10, 1, 1, 9], [0xfd01, 0, 0, 0, 0, 0, 1, 9])
}

/// An address that only Services have.
fn vip(like: IpAddr) -> IpAddr {
    family(like, [10, 96, 0, 10], [0xfd96, 0, 0, 0, 0, 0, 0, 10])
}

fn sock(addr: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(addr, port)
}

/// A node with an uplink, by which everything else is reached.
struct Edge {
    lab: Lab,
    uplink: u32,
}

impl Edge {
    fn new() -> Self {
        Self::with_flags(0)
    }

    /// A node that gives pods its own address towards the world.
    fn masquerading() -> Self {
        Self::with_flags(node_flags::MASQUERADE)
    }

    /// The same with few ports to do so.
    fn with_ports(ports: std::ops::RangeInclusive<u16>) -> Self {
        Self::of(Lab::with(|config| config.snat_ports = ports), node_flags::MASQUERADE)
    }

    fn with_flags(flags: u32) -> Self {
        Self::of(Lab::new(), flags)
    }

    fn of(mut lab: Lab, flags: u32) -> Self {
        ip("link add up0 type veth peer name up1");
        ip("link set up0 up");
        ip("link set up1 up");
        ip("addr add 192.168.7.1/24 dev up0");
        ip("addr add fd77::1/64 dev up0 nodad");
        ip("route add default via 192.168.7.2");
        ip("route add default via fd77::2");
        ip("neigh add 192.168.7.2 lladdr 02:00:00:00:00:07 dev up0");
        ip("neigh add fd77::2 lladdr 02:00:00:00:00:07 dev up0");
        for family in ["ipv4", "ipv6"] {
            std::fs::write(format!("/proc/sys/net/{family}/conf/all/forwarding"), "1").expect("forwarding");
        }
        for like in BOTH {
            lab.node(node(like), flags);
        }
        let uplink = nix::net::if_::if_nametoindex("up0").expect("the uplink");
        Self { lab, uplink }
    }

    /// A pod whose packets the node forwards.
    fn pod(&mut self) -> LabPod {
        let pod = self.lab.pod();
        ip(&format!("link set v{} up", pod.id.0));
        pod
    }

    /// What the world sends.
    fn outside_sends(&self, packet: &[u8]) -> Output {
        self.lab.run(Hook::FromNetdev, self.uplink, packet)
    }

    /// What the node's own stack sends to the world.
    fn host_sends(&self, packet: &[u8]) -> Output {
        self.lab.run(Hook::ToNetdev, self.uplink, packet)
    }

    /// Makes a port of the node, in the family of `like` and one scope.
    fn node_port(
        &mut self,
        like: IpAddr,
        scope: FrontendScope,
        protocol: u8,
        backends: &[SocketAddr],
        first: u32,
    ) {
        let frontend = Frontend { first_slot: first, service: ServiceId(1), ..Frontend::default() };
        self.lab.frontend(sock(like, PORT), protocol, scope, frontend, backends);
    }

    /// State and flags of the only flow, whatever its aliases.
    fn flow(&mut self) -> (CtState, u8) {
        let maps = self.lab.maps();
        let mut entries = maps.ct_half_open.entries().expect("flows");
        entries.extend(maps.ct_confirmed.entries().expect("flows"));
        let flows: Vec<_> =
            entries.iter().filter(|(_, entry)| entry.flags & flow_flags::ALIAS == 0).collect();
        assert_eq!(flows.len(), 1, "{flows:?}");
        (CtState::from_number(flows[0].1.state), flows[0].1.flags)
    }

    fn forget_flows(&mut self) {
        let maps = self.lab.maps();
        for table in [&maps.ct_half_open, &maps.ct_confirmed] {
            for (key, _) in table.entries().expect("flows") {
                table.delete(&key).expect("deleted");
            }
        }
    }
}

/// Checks the packet in full and that it left in the way that is wanted.
fn left(output: &Output, action: Action) -> Ends {
    assert_eq!(output.action, action);
    packet::checked(&output.packet)
}

fn ends(src: SocketAddr, dst: SocketAddr) -> Ends {
    Ends { src, dst }
}
