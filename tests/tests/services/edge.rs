//! Ports of the node and addresses that only Services have, from outside and from pods.

use sluice_abi::{
    BackendId, CtState, DropReason, Frontend, FrontendKey, FrontendScope, Hook, RuleId, RuleSetId,
    flow_flags, frontend_flags, protocol,
};
use sluice_tests::{
    lab::{ALLOW_ALL, Action},
    packet::{self},
};

use crate::{BOTH, Edge, PORT, SCOPES, client, ends, family, left, node, remote, router, sock, vip};

#[test]
fn a_local_backend_of_a_node_port_sees_the_client_and_answers_as_the_node_port() {
    let mut edge = Edge::new();
    let b = edge.pod();
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        edge.forget_flows();
        let (from, to, at) = (sock(client(like), 4000), sock(node(like), PORT), b.at(like, 8000));
        edge.node_port(like, FrontendScope::External, protocol::TCP, &[at], first);
        let syn = edge.outside_sends(&packet::tcp(from, to, "S"));
        assert_eq!(left(&syn, Action::Redirect), ends(from, at));
        assert_eq!(syn.packet[..6], [2, 0, 0, 0, 9, 9], "into the pod");
        let answer = edge.lab.from_pod(&b, &packet::tcp(at, from, "SA"));
        assert_eq!(left(&answer, Action::Redirect), ends(to, from));
        let ack = edge.outside_sends(&packet::tcp(from, to, "A"));
        assert_eq!(left(&ack, Action::Redirect), ends(from, at));
        assert_eq!(edge.flow(), (CtState::Established, edge.flow().1));
        assert_eq!(edge.flow().1 & flow_flags::SNAT, 0);
    }
}

#[test]
fn a_backend_of_another_node_is_reached_and_answers_by_way_of_the_nodes_address() {
    let mut edge = Edge::new();
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        for (protocol, open, answer, go_on) in [(protocol::TCP, "S", "SA", "A"), (protocol::UDP, "", "", "")]
        {
            edge.forget_flows();
            let send = |src, dst, flags| match protocol {
                protocol::TCP => packet::tcp(src, dst, flags),
                _ => packet::udp(src, dst),
            };
            let (from, to, at) = (sock(client(like), 4000), sock(node(like), PORT), sock(remote(like), 8000));
            edge.node_port(like, FrontendScope::External, protocol, &[at], first);
            let opened = edge.outside_sends(&send(from, to, open));
            let sent = left(&opened, Action::Redirect);
            assert_eq!((sent.src.ip(), sent.dst), (node(like), at));
            assert!(sent.src.port() >= 61_000, "{sent:?}");
            assert_eq!(packet::ttl(&opened.packet), 63);
            let answered = edge.outside_sends(&send(at, sent.src, answer));
            assert_eq!(left(&answered, Action::Redirect), ends(to, from));
            let next = edge.outside_sends(&send(from, to, go_on));
            assert_eq!(left(&next, Action::Redirect), sent, "the same source again");
            let (state, flags) = edge.flow();
            assert_eq!(state, CtState::Established);
            assert_ne!(flags & flow_flags::SNAT, 0);
        }
    }
}

#[test]
fn a_backend_in_the_nodes_own_network_answers_through_the_stack() {
    let mut edge = Edge::new();
    let a = edge.pod();
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let (to, at) = (sock(node(like), PORT), sock(node(like), 8000));
        for scope in SCOPES {
            edge.node_port(like, scope, protocol::UDP, &[at], first);
        }
        let from = sock(client(like), 4000);
        let sent = edge.outside_sends(&packet::udp(from, to));
        assert_eq!(left(&sent, Action::Stack), ends(from, at));
        let answer = edge.host_sends(&packet::udp(at, from));
        assert_eq!(left(&answer, Action::Stack), ends(to, from));
        // The same for a pod.
        let from = a.at(like, 4000);
        let sent = edge.lab.from_pod(&a, &packet::udp(from, to));
        assert_eq!(left(&sent, Action::Stack), ends(from, at));
        let answer = edge.lab.run(Hook::ToPod, a.ifindex, &packet::udp(at, from));
        assert_eq!(left(&answer, Action::Stack), ends(to, from));
    }
}

#[test]
fn addresses_that_only_a_service_has_lead_in_from_outside() {
    let mut edge = Edge::new();
    let b = edge.pod();
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let (from, to, at) = (sock(client(like), 4000), sock(vip(like), 80), b.at(like, 8000));
        let frontend = Frontend { first_slot: first, ..Frontend::default() };
        edge.lab.frontend(to, protocol::TCP, FrontendScope::External, frontend, &[at]);
        let syn = edge.outside_sends(&packet::tcp(from, to, "S"));
        assert_eq!(left(&syn, Action::Redirect), ends(from, at));
        let answer = edge.lab.from_pod(&b, &packet::tcp(at, from, "SA"));
        assert_eq!(left(&answer, Action::Redirect), ends(to, from));
        let other_port = packet::tcp(from, sock(vip(like), 81), "S");
        assert_eq!(edge.outside_sends(&other_port).action, Action::Stack);
    }
}

#[test]
fn pods_reach_a_node_port_by_the_backends_that_pods_see() {
    let mut edge = Edge::new();
    let (a, b) = (edge.pod(), edge.pod());
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let (from, to, at) = (a.at(like, 1000), sock(node(like), PORT), b.at(like, 8000));
        edge.node_port(like, FrontendScope::Internal, protocol::TCP, &[at], first);
        // Clients outside have none (traffic policy Local).
        let local = Frontend { first_slot: first, flags: frontend_flags::LOCAL, ..Frontend::default() };
        edge.lab.frontend(sock(like, PORT), protocol::TCP, FrontendScope::External, local, &[]);
        let syn = edge.lab.from_pod(&a, &packet::tcp(from, to, "S"));
        assert_eq!(left(&syn, Action::Redirect), ends(from, at));
        let answer = edge.lab.from_pod(&b, &packet::tcp(at, from, "SA"));
        assert_eq!(left(&answer, Action::Redirect), ends(to, from));
        let elsewhere = packet::tcp(from, sock(node(like), PORT + 1), "S");
        assert_eq!(edge.lab.from_pod(&a, &elsewhere).action, Action::Stack, "the node's own");
    }
}

#[test]
fn an_own_address_that_takes_no_node_ports_is_the_stacks() {
    let mut edge = Edge::new();
    let b = edge.pod();
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let other = family(like, [192, 168, 8, 1], [0xfd78, 0, 0, 0, 0, 0, 0, 1]);
        edge.lab.node_address(other);
        edge.node_port(like, FrontendScope::External, protocol::TCP, &[b.at(like, 8000)], first);
        let syn = packet::tcp(sock(client(like), 4000), sock(other, PORT), "S");
        let output = edge.outside_sends(&syn);
        assert_eq!((output.action, output.packet), (Action::Stack, syn));
    }
}

#[test]
fn host_traffic_passes_untouched_and_untracked() {
    let mut edge = Edge::new();
    for like in BOTH {
        let (there, here) = (sock(client(like), 4000), sock(node(like), 22));
        let both_ways = [
            (packet::tcp(there, here, "S"), packet::tcp(here, there, "SA")),
            (packet::udp(there, here), packet::udp(here, there)),
            (packet::ping(there.ip(), here.ip(), 7), packet::pong(here.ip(), there.ip(), 7)),
            (
                packet::fragment(&packet::udp(there, here), false),
                packet::fragment(&packet::udp(here, there), false),
            ),
            (
                packet::unreachable(there.ip(), &packet::udp(here, there)),
                packet::unreachable(here.ip(), &packet::udp(there, here)),
            ),
        ];
        for (inwards, outwards) in both_ways {
            let output = edge.outside_sends(&inwards);
            assert_eq!((output.action, &output.packet), (Action::Stack, &inwards));
            let output = edge.host_sends(&outwards);
            assert_eq!((output.action, &output.packet), (Action::Stack, &outwards));
        }
    }
    assert_eq!(edge.lab.maps().ct_half_open.count().expect("a count"), 0);
}

#[test]
fn a_connection_from_outside_outlives_its_service() {
    let mut edge = Edge::new();
    let b = edge.pod();
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        for at in [b.at(like, 8000), sock(node(like), 8000), sock(remote(like), 8000)] {
            edge.forget_flows();
            let (from, to) = (sock(client(like), 4000), sock(node(like), PORT));
            edge.node_port(like, FrontendScope::External, protocol::TCP, &[at], first);
            let sent = packet::checked(&edge.outside_sends(&packet::tcp(from, to, "S")).packet);
            let key = FrontendKey {
                addr: like.into(),
                port: PORT.to_be_bytes(),
                protocol: protocol::TCP,
                scope: FrontendScope::External as u8,
            };
            assert!(edge.lab.maps().frontends.delete(&key).expect("the map"));
            let answer = packet::tcp(sent.dst, sent.src, "SA");
            let answered = match at.ip() {
                ip if ip == b.addr(like) => edge.lab.from_pod(&b, &answer),
                ip if ip == node(like) => edge.host_sends(&answer),
                _ => edge.outside_sends(&answer),
            };
            assert_eq!(packet::checked(&answered.packet), ends(to, from), "{at}");
            let ack = edge.outside_sends(&packet::tcp(from, to, "A"));
            assert_eq!(packet::checked(&ack.packet), sent, "{at}");
            // A new one is the node's own business.
            let syn = packet::tcp(sock(client(like), 4001), to, "S");
            assert_eq!(edge.outside_sends(&syn).packet, syn);
        }
    }
}

#[test]
fn policy_judges_the_backend_by_the_client_that_it_sees() {
    let mut edge = Edge::new();
    let b = edge.pod();
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let from = sluice_abi::Identity(20 + u32::from(like.is_ipv4()));
        let rule = sluice_abi::Rule::new(RuleId(33), sluice_abi::RuleVerdict::Allow);
        edge.lab.identity(client(like), from);
        edge.lab.rule(RuleSetId(7), from, Some((protocol::TCP, 8000)), rule);
        edge.lab.put_endpoint(&b, RuleSetId(7), ALLOW_ALL);
        edge.node_port(like, FrontendScope::External, protocol::TCP, &[b.at(like, 8000)], first);
        let open = |src| packet::tcp(sock(src, 4000), sock(node(like), PORT), "S");
        assert_eq!(edge.outside_sends(&open(client(like))).action, Action::Redirect);
        assert_eq!(edge.outside_sends(&open(router(like))).action, Action::Drop);
    }
    assert_eq!(edge.lab.dropped(DropReason::PolicyDenied), 2);
    let records = edge.lab.maps().drop_records.entries().expect("records");
    assert!(records.iter().all(|(key, _)| key.endpoint == b.id && key.port == 8000u16.to_be_bytes()));
}

#[test]
fn a_connection_of_the_nodes_own_is_never_taken_for_a_services() {
    let mut edge = Edge::new();
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let (from, to, at) = (sock(client(like), 4000), sock(node(like), PORT), sock(node(like), 8000));
        edge.node_port(like, FrontendScope::External, protocol::TCP, &[at], first);
        assert_eq!(left(&edge.outside_sends(&packet::tcp(from, to, "S")), Action::Stack), ends(from, at));
        // The same client now speaks to the backend itself.
        let syn = packet::tcp(from, at, "S");
        let output = edge.outside_sends(&syn);
        assert_eq!((output.action, output.packet), (Action::Stack, syn));
        let answer = packet::tcp(at, from, "SA");
        let output = edge.host_sends(&answer);
        assert_eq!((output.action, output.packet), (Action::Stack, answer));
    }
}

#[test]
fn a_datagram_flow_from_outside_leaves_a_dead_backend() {
    let mut edge = Edge::new();
    let (b, c) = (edge.pod(), edge.pod());
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let question = packet::udp(sock(client(like), 4000), sock(node(like), PORT));
        edge.node_port(like, FrontendScope::External, protocol::UDP, &[b.at(like, 53)], first);
        assert_eq!(left(&edge.outside_sends(&question), Action::Redirect).dst, b.at(like, 53));
        edge.node_port(like, FrontendScope::External, protocol::UDP, &[c.at(like, 53)], first + 1);
        edge.lab.maps().backends.delete(&BackendId(first)).expect("a backend");
        assert_eq!(left(&edge.outside_sends(&question), Action::Redirect).dst, c.at(like, 53));
    }
}
