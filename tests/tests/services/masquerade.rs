//! What pods send to the world.

use sluice_abi::{CtState, DropReason, Hook, RuleId, RuleSetId, protocol};
use sluice_tests::{
    lab::{ALLOW_ALL, Action, DENY_ALL, ip},
    packet::{self},
};

use crate::{BOTH, Edge, V4, client, ends, left, node, remote, sock, vip};

#[test]
fn what_pods_send_to_the_world_has_the_nodes_address_and_its_answers_find_the_pod() {
    let mut edge = Edge::masquerading();
    let (a, b) = (edge.pod(), edge.pod());
    for like in BOTH {
        let to = sock(client(like), 443);
        for protocol in [protocol::TCP, protocol::UDP] {
            let send = |src, dst, flags| match protocol {
                protocol::TCP => packet::tcp(src, dst, flags),
                _ => packet::udp(src, dst),
            };
            let mut ports = Vec::new();
            for pod in [&a, &b] {
                edge.forget_flows();
                let from = pod.at(like, 1000);
                let opened = edge.lab.from_pod(pod, &send(from, to, "S"));
                let sent = left(&opened, Action::Redirect);
                assert_eq!((sent.src.ip(), sent.dst), (node(like), to));
                let answer = edge.outside_sends(&send(to, sent.src, "SA"));
                assert_eq!(left(&answer, Action::Redirect), ends(to, from));
                let next = edge.lab.from_pod(pod, &send(from, to, "A"));
                assert_eq!(left(&next, Action::Redirect), sent);
                assert_eq!(edge.flow().0, CtState::Established);
                ports.push(sent.src.port());
            }
            assert!(ports.iter().all(|port| *port >= 61_000), "{ports:?}");
        }
        let ping = edge.lab.from_pod(&a, &packet::ping(a.addr(like), to.ip(), 7));
        left(&ping, Action::Redirect);
        assert_eq!(packet::addresses(&ping.packet), (node(like), to.ip()));
        let id = packet::echo_id(&ping.packet);
        assert!(id >= 61_000, "{id}");
        let pong = edge.outside_sends(&packet::pong(to.ip(), node(like), id));
        left(&pong, Action::Redirect);
        assert_eq!(packet::addresses(&pong.packet), (to.ip(), a.addr(like)));
        assert_eq!(packet::echo_id(&pong.packet), 7);
        let anothers = packet::pong(to.ip(), node(like), 7);
        assert_eq!(edge.outside_sends(&anothers).action, Action::Stack, "the node's own ping");
    }
}

#[test]
fn inside_the_cluster_pods_keep_their_addresses() {
    let mut edge = Edge::masquerading();
    let (a, b) = (edge.pod(), edge.pod());
    for like in BOTH {
        edge.lab.no_masquerade(remote(like));
        for to in [remote(like), b.addr(like), node(like)] {
            let output = edge.lab.from_pod(&a, &packet::udp(a.at(like, 1000), sock(to, 53)));
            assert_eq!(packet::checked(&output.packet), ends(a.at(like, 1000), sock(to, 53)));
        }
        // Of a Service it is the backend that counts.
        for (backend, is_masked) in [(sock(remote(like), 53), false), (sock(client(like), 53), true)] {
            edge.forget_flows();
            edge.lab.service(sock(vip(like), 53), protocol::UDP, &[backend], 10);
            let output = edge.lab.from_pod(&a, &packet::udp(a.at(like, 1000), sock(vip(like), 53)));
            let sent = left(&output, Action::Redirect);
            assert_eq!((sent.src.ip() == node(like), sent.dst), (is_masked, backend));
            let answer = edge.outside_sends(&packet::udp(backend, sent.src));
            assert_eq!(left(&answer, Action::Redirect), ends(sock(vip(like), 53), a.at(like, 1000)));
        }
    }
}

#[test]
fn policy_judges_what_is_masqueraded_by_where_it_goes() {
    let mut edge = Edge::masquerading();
    let a = edge.pod();
    for like in BOTH {
        edge.lab.put_endpoint(&a, DENY_ALL, ALLOW_ALL);
        let (from, to) = (a.at(like, 1000), sock(client(like), 53));
        let sent = left(&edge.lab.from_pod(&a, &packet::udp(from, to)), Action::Redirect);
        assert_eq!(left(&edge.outside_sends(&packet::udp(to, sent.src)), Action::Redirect), ends(to, from));
        edge.lab.put_endpoint(&a, DENY_ALL, DENY_ALL);
        edge.lab.move_epoch();
        assert_eq!(edge.lab.from_pod(&a, &packet::udp(from, to)).action, Action::Drop);
        assert_eq!(edge.outside_sends(&packet::udp(to, sent.src)).action, Action::Drop);
    }
}

#[test]
fn without_a_free_port_a_flow_is_refused_and_none_of_those_it_met_suffers() {
    let mut edge = Edge::with_ports(61_000..=61_001);
    let a = edge.pod();
    let mut seen = std::collections::BTreeSet::new();
    let to = sock(client(V4), 53);
    for port in 1000..1002 {
        let sent = left(&edge.lab.from_pod(&a, &packet::udp(a.at(V4, port), to)), Action::Redirect);
        assert!(seen.insert(sent.src.port()), "each its own");
    }
    assert_eq!(edge.lab.from_pod(&a, &packet::udp(a.at(V4, 1002), to)).action, Action::Drop);
    assert_eq!(edge.lab.dropped(DropReason::SnatExhausted), 1);
    let records = edge.lab.maps().drop_records.entries().expect("records");
    let causes: Vec<_> = records.iter().map(|(_, record)| (record.rule_set, record.rule)).collect();
    assert_eq!(causes, [(RuleSetId::NONE, RuleId::NONE)], "policy is not why");
    let elsewhere = packet::udp(a.at(V4, 1002), sock(client(V4), 54));
    left(&edge.lab.from_pod(&a, &elsewhere), Action::Redirect);
    for port in 1000..1002 {
        let sent = left(&edge.lab.from_pod(&a, &packet::udp(a.at(V4, port), to)), Action::Redirect);
        assert!(seen.contains(&sent.src.port()));
    }
}

#[test]
fn a_packet_that_may_go_no_further_is_left_to_the_stack_as_it_came() {
    let mut edge = Edge::masquerading();
    let a = edge.pod();
    for like in BOTH {
        let mut packet = packet::udp(a.at(like, 1000), sock(client(like), 443));
        let ttl = packet::ETH_LEN + if like.is_ipv4() { 8 } else { 7 };
        packet[ttl] = 1;
        if like.is_ipv4() {
            packet::fix_ipv4_checksum(&mut packet);
        }
        let output = edge.lab.from_pod(&a, &packet);
        assert_eq!((output.action, &output.packet), (Action::Stack, &packet));
        let error = edge.lab.run(Hook::ToPod, a.ifindex, &packet::unreachable(node(like), &output.packet));
        assert_eq!(packet::tuple(&packet::quoted(&error.packet)), packet::tuple(&packet));
    }
}

#[test]
fn a_translated_source_waits_for_its_neighbour_behind_the_redirect() {
    let mut edge = Edge::masquerading();
    let a = edge.pod();
    ip("neigh del 192.168.7.2 dev up0");
    ip("neigh del fd77::2 dev up0");
    for like in BOTH {
        let output = edge.lab.from_pod(&a, &packet::udp(a.at(like, 1000), sock(client(like), 443)));
        left(&output, Action::Redirect);
    }
}
