//! What the host stack forwards, on the loaded programs. Older kernels let no test say where a packet came from
//! (`ingress_ifindex`), which is why this is a target of its own.

use std::net::{IpAddr, SocketAddr};

use sluice_abi::{DropReason, Frontend, FrontendScope, Hook, protocol};
use sluice_tests::{
    lab::{Action, Lab, UPLINK},
    packet::{self, Ends},
};

/// A client outside and the node, in each family.
const PLACES: [[IpAddr; 2]; 2] = [
    [
        IpAddr::V4(std::net::Ipv4Addr::new(203, 0, 113, 5)),
        IpAddr::V4(std::net::Ipv4Addr::new(192, 168, 7, 1)),
    ],
    [
        IpAddr::V6(std::net::Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 5)),
        IpAddr::V6(std::net::Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1)),
    ],
];
const PORT: u16 = 30_080;

#[test]
fn what_the_stack_forwards_of_a_translated_flow_reaches_its_pod() {
    let mut lab = Lab::new();
    let b = lab.pod();
    for ([client, node], first_slot) in PLACES.into_iter().zip([10, 20]) {
        lab.node(node, 0);
        let (from, to, at) = (SocketAddr::new(client, 4000), SocketAddr::new(node, PORT), b.at(client, 8000));
        let any = if node.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
        let frontend = Frontend { first_slot, ..Frontend::default() };
        let every = SocketAddr::new(any, PORT);
        lab.frontend(every, protocol::UDP, FrontendScope::External, frontend, &[at]);
        let sent = lab.run(Hook::FromNetdev, UPLINK, &packet::udp(from, to));
        // Say the pod's interface takes less at once, and the stack has cut it up.
        let output = lab.run_forwarded(Hook::ToPod, b.ifindex, UPLINK, &sent.packet);
        assert_eq!(output.action, Action::Stack);
        assert_eq!(packet::checked(&output.packet), Ends { src: from, dst: at });
    }
    assert_eq!(lab.dropped(DropReason::TupleCollision), 0);
}

#[test]
fn what_is_forwarded_to_the_network_passes_without_a_look() {
    let mut lab = Lab::new();
    let b = lab.pod();
    for [client, node] in PLACES {
        let forwarded = packet::udp(SocketAddr::new(node, 61_000), SocketAddr::new(client, 1));
        let output = lab.run_forwarded(Hook::ToNetdev, UPLINK, b.ifindex, &forwarded);
        assert_eq!((output.action, output.packet), (Action::Stack, forwarded));
    }
}
