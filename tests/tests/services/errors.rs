//! ICMP errors and fragments of translated flows.

use std::net::IpAddr;

use sluice_abi::{FrontendScope, Hook, protocol};
use sluice_tests::{
    lab::{ALLOW_ALL, Action, DENY_ALL},
    packet::{self},
};

use crate::{BOTH, Edge, PORT, client, ends, left, node, remote, router, sock};

#[test]
fn errors_about_what_is_masqueraded_reach_the_pod_and_quote_what_it_sent() {
    let mut edge = Edge::masquerading();
    let a = edge.pod();
    edge.lab.put_endpoint(&a, DENY_ALL, ALLOW_ALL);
    for like in BOTH {
        let (from, to) = (a.at(like, 1000), sock(client(like), 443));
        for packet in [packet::tcp(from, to, "S"), packet::udp(from, to), packet::ping(from.ip(), to.ip(), 7)]
        {
            let sent = edge.lab.from_pod(&a, &packet);
            let error = edge.outside_sends(&packet::too_big(router(like), &sent.packet, 1400));
            left(&error, Action::Redirect);
            assert_eq!(packet::addresses(&error.packet), (router(like), a.addr(like)));
            let quoted = packet::quoted(&error.packet);
            assert_eq!(packet::tuple(&quoted), packet::tuple(&packet));
            if quoted[packet::l4_offset(&quoted)..].len() == packet[packet::l4_offset(&packet)..].len()
                && matches!(packet::protocol(&packet), protocol::ICMP | protocol::ICMPV6)
            {
                assert_eq!(packet::echo_id(&quoted), 7);
            }
        }
        // The other way: the pod cannot be reached at a port the world answers to.
        let sent = edge.lab.from_pod(&a, &packet::udp(from, to));
        let masked = packet::checked(&sent.packet).src;
        let answer = edge.outside_sends(&packet::udp(to, masked));
        let error = edge.lab.from_pod(&a, &packet::unreachable(a.addr(like), &answer.packet));
        left(&error, Action::Redirect);
        assert_eq!(packet::addresses(&error.packet), (node(like), to.ip()), "the pod's address stays inside");
        assert_eq!(packet::tuple(&packet::quoted(&error.packet)), ends(to, masked));
    }
}

#[test]
fn errors_about_a_node_ports_flow_reach_either_end_in_its_own_words() {
    let mut edge = Edge::new();
    let b = edge.pod();
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let (from, to) = (sock(client(like), 4000), sock(node(like), PORT));
        for at in [b.at(like, 8000), sock(remote(like), 8000)] {
            edge.forget_flows();
            edge.node_port(like, FrontendScope::External, protocol::UDP, &[at], first);
            let sent = edge.outside_sends(&packet::udp(from, to));
            let direct = left(&sent, Action::Redirect);
            // About the question, to the client.
            let error = packet::unreachable(at.ip(), &sent.packet);
            let got = if at.ip() == b.addr(like) {
                edge.lab.from_pod(&b, &error)
            } else {
                edge.outside_sends(&error)
            };
            left(&got, Action::Redirect);
            assert_eq!(packet::addresses(&got.packet), (node(like), client(like)));
            assert_eq!(packet::tuple(&packet::quoted(&got.packet)), ends(from, to));
            // About the answer, to the backend, from a router on the way to the client.
            let answer = packet::udp(at, direct.src);
            let answer = if at.ip() == b.addr(like) {
                edge.lab.from_pod(&b, &answer)
            } else {
                edge.outside_sends(&answer)
            };
            assert_eq!(left(&answer, Action::Redirect), ends(to, from));
            let got = edge.outside_sends(&packet::too_big(router(like), &answer.packet, 1400));
            left(&got, Action::Redirect);
            assert_eq!(packet::addresses(&got.packet), (router(like), at.ip()));
            assert_eq!(packet::tuple(&packet::quoted(&got.packet)), ends(at, direct.src));
        }
    }
}

#[test]
fn errors_of_the_nodes_stack_quote_what_the_client_sent() {
    let mut edge = Edge::new();
    let b = edge.pod();
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let (from, to) = (sock(client(like), 4000), sock(node(like), PORT));
        edge.node_port(like, FrontendScope::External, protocol::UDP, &[b.at(like, 8000)], first);
        let sent = edge.outside_sends(&packet::udp(from, to));
        let error = edge.host_sends(&packet::too_big(node(like), &sent.packet, 1400));
        left(&error, Action::Stack);
        assert_eq!(packet::tuple(&packet::quoted(&error.packet)), ends(from, to));
    }
}

#[test]
fn fragments_are_translated_with_their_first_in_every_direction() {
    let mut edge = Edge::masquerading();
    let (a, b) = (edge.pod(), edge.pod());
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let pair = |src, dst| {
            let whole = packet::udp(src, dst);
            [packet::fragment(&whole, true), packet::fragment(&whole, false)]
        };
        let (from, to, at) = (sock(client(like), 4000), sock(node(like), PORT), sock(node(like), 8000));
        let run = |edge: &Edge, hook: Hook, ifindex, pair: [Vec<u8>; 2], wanted: (IpAddr, IpAddr)| {
            for packet in pair {
                let output = edge.lab.run(hook, ifindex, &packet);
                assert_ne!(output.action, Action::Drop);
                assert_eq!(packet::addresses(&output.packet), wanted);
            }
        };
        // To a pod and back.
        edge.node_port(like, FrontendScope::External, protocol::UDP, &[b.at(like, 8000)], first);
        run(&edge, Hook::FromNetdev, edge.uplink, pair(from, to), (from.ip(), b.addr(like)));
        run(&edge, Hook::FromPod, b.ifindex, pair(b.at(like, 8000), from), (to.ip(), from.ip()));
        // To the node itself and back.
        edge.forget_flows();
        edge.node_port(like, FrontendScope::External, protocol::UDP, &[at], first);
        run(&edge, Hook::FromNetdev, edge.uplink, pair(from, to), (from.ip(), at.ip()));
        run(&edge, Hook::ToNetdev, edge.uplink, pair(at, from), (to.ip(), from.ip()));
        // To the world and back.
        edge.forget_flows();
        let out = pair(a.at(like, 1000), from);
        let opened = edge.lab.from_pod(&a, &packet::udp(a.at(like, 1000), from));
        let masked = packet::checked(&opened.packet).src;
        run(&edge, Hook::FromPod, a.ifindex, out, (node(like), from.ip()));
        run(&edge, Hook::FromNetdev, edge.uplink, pair(from, masked), (from.ip(), a.addr(like)));
    }
}
