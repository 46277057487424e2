//! Services that have no backend.

use sluice_abi::{CtState, DropReason, Frontend, FrontendScope, Hook, frontend_flags, protocol};
use sluice_tests::{
    lab::Action,
    packet::{self},
};

use crate::{BOTH, Edge, PORT, client, ends, left, node, sock, vip};

#[test]
fn a_service_without_backends_refuses_pods_at_once_through_the_kernel() {
    let mut edge = Edge::new();
    let a = edge.pod();
    for like in BOTH {
        edge.forget_flows();
        let (from, to, refused) = (a.at(like, 1000), sock(vip(like), 80), sock(node(like), 0));
        edge.lab.service(to, protocol::TCP, &[], 10);
        let syn = edge.lab.from_pod(&a, &packet::tcp(from, to, "S"));
        assert_eq!(left(&syn, Action::Stack), ends(from, refused));
        let reset = edge.lab.run(Hook::ToPod, a.ifindex, &packet::tcp(refused, from, "RA"));
        assert_eq!(left(&reset, Action::Stack), ends(to, from));
        assert_eq!(edge.flow().0, CtState::Closed, "soon forgotten");
        let again = edge.lab.from_pod(&a, &packet::tcp(from, to, "S"));
        assert_eq!(left(&again, Action::Stack), ends(from, refused));
    }
}

#[test]
fn a_refused_datagram_is_answered_with_port_unreachable_by_the_service_and_the_next_finds_a_new_backend() {
    let mut edge = Edge::new();
    let (a, b) = (edge.pod(), edge.pod());
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let (from, to, refused) = (a.at(like, 1000), sock(vip(like), 53), sock(node(like), 0));
        edge.lab.service(to, protocol::UDP, &[], first);
        let question = packet::udp(from, to);
        let sent = edge.lab.from_pod(&a, &question);
        assert_eq!(left(&sent, Action::Stack), ends(from, refused));
        let error = edge.lab.run(Hook::ToPod, a.ifindex, &packet::unreachable(node(like), &sent.packet));
        left(&error, Action::Stack);
        assert_eq!(packet::addresses(&error.packet), (vip(like), a.addr(like)));
        assert_eq!(packet::tuple(&packet::quoted(&error.packet)), ends(from, to));
        edge.lab.service(to, protocol::UDP, &[b.at(like, 5353)], first);
        let led = edge.lab.from_pod(&a, &question);
        assert_eq!(left(&led, Action::Redirect), ends(from, b.at(like, 5353)));
    }
}

#[test]
fn clients_outside_are_refused_in_the_same_way() {
    let mut edge = Edge::new();
    for like in BOTH {
        let (from, to, refused) = (sock(client(like), 4000), sock(node(like), PORT), sock(node(like), 0));
        edge.node_port(like, FrontendScope::External, protocol::TCP, &[], 10);
        edge.node_port(like, FrontendScope::External, protocol::UDP, &[], 10);
        let syn = edge.outside_sends(&packet::tcp(from, to, "S"));
        assert_eq!(left(&syn, Action::Stack), ends(from, refused));
        let reset = edge.host_sends(&packet::tcp(refused, from, "RA"));
        assert_eq!(left(&reset, Action::Stack), ends(to, from));
        let sent = edge.outside_sends(&packet::udp(from, to));
        assert_eq!(left(&sent, Action::Stack), ends(from, refused));
        let error = edge.host_sends(&packet::unreachable(node(like), &sent.packet));
        left(&error, Action::Stack);
        assert_eq!(packet::tuple(&packet::quoted(&error.packet)), ends(from, to));
    }
}

#[test]
fn without_a_backend_of_this_node_a_local_service_drops_under_its_own_reason() {
    let mut edge = Edge::new();
    let a = edge.pod();
    let local = Frontend { first_slot: 10, flags: frontend_flags::LOCAL, ..Frontend::default() };
    for like in BOTH {
        edge.lab.frontend(sock(vip(like), 80), protocol::TCP, FrontendScope::Internal, local, &[]);
        edge.lab.frontend(sock(like, PORT), protocol::TCP, FrontendScope::External, local, &[]);
        let from_pod = packet::tcp(a.at(like, 1000), sock(vip(like), 80), "S");
        assert_eq!(edge.lab.from_pod(&a, &from_pod).action, Action::Drop);
        let from_outside = packet::tcp(sock(client(like), 4000), sock(node(like), PORT), "S");
        assert_eq!(edge.outside_sends(&from_outside).action, Action::Drop);
    }
    assert_eq!(edge.lab.dropped(DropReason::NoLocalBackend), 4);
}
