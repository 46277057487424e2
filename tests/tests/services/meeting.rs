//! Flows that would meet in one tuple: the later one gets another source port, and nothing of either mixes.

use std::net::{IpAddr, SocketAddr};

use sluice_abi::{DropReason, FlowKey, FrontendScope, flow_flags, protocol};
use sluice_tests::{
    lab::{Action, LabPod, Output},
    packet::{self, Ends},
};

use crate::{BOTH, Edge, PORT, client, ends, left, node, sock, vip};

const PROTOCOLS: [(u8, &str, &str, &str); 2] = [(protocol::TCP, "S", "SA", "A"), (protocol::UDP, "", "", "")];

fn send(protocol: u8, src: SocketAddr, dst: SocketAddr, flags: &str) -> Vec<u8> {
    match protocol {
        protocol::TCP => packet::tcp(src, dst, flags),
        _ => packet::udp(src, dst),
    }
}

/// Opens a flow by `to` and has `server` answer; what the server got. The client sees `to`, and the server what it got.
fn opened(
    edge: &Edge,
    server: &LabPod,
    (from, to): (SocketAddr, SocketAddr),
    (protocol, open, answer, go_on): (u8, &str, &str, &str),
    sends: impl Fn(&[u8]) -> Output,
) -> Ends {
    let got = left(&sends(&send(protocol, from, to, open)), Action::Redirect);
    let answered = edge.lab.from_pod(server, &send(protocol, got.dst, got.src, answer));
    assert_eq!(left(&answered, Action::Redirect), ends(to, from), "the answer of {to}");
    assert_eq!(left(&sends(&send(protocol, from, to, go_on)), Action::Redirect), got, "{to} goes on");
    got
}

/// A Service's address and another's, and the backend that both have.
fn services(edge: &mut Edge, b: &LabPod, like: IpAddr, protocol: u8) -> [SocketAddr; 3] {
    let (one, two, at) = (sock(vip(like), 80), sock(vip(like), 81), b.at(like, 8000));
    edge.lab.service(one, protocol, &[at], 10);
    edge.lab.service(two, protocol, &[at], 20);
    [one, two, at]
}

#[test]
fn flows_that_would_meet_in_one_tuple_never_mix_and_all_of_them_go_on() {
    let mut edge = Edge::new();
    let (a, b) = (edge.pod(), edge.pod());
    for like in BOTH {
        for packets in PROTOCOLS {
            edge.forget_flows();
            let [one, two, at] = services(&mut edge, &b, like, packets.0);
            let from = a.at(like, 1000);
            // Through one, through the other, and straight; and the other way round.
            for order in [[one, two, at], [at, two, one]] {
                edge.forget_flows();
                let got = order
                    .map(|to| opened(&edge, &b, (from, to), packets, |packet| edge.lab.from_pod(&a, packet)));
                assert_eq!(got[0].src, from, "the first keeps its port");
                assert!(got[1..].iter().all(|got| got.src.ip() == from.ip() && got.src.port() >= 61_000));
                assert!(got.iter().all(|got| got.dst == at) && got[1].src != got[2].src, "{got:?}");
                // Every one still has its own.
                for (to, got) in order.into_iter().zip(got) {
                    let sent = edge.lab.from_pod(&a, &send(packets.0, from, to, "A"));
                    assert_eq!(left(&sent, Action::Redirect), got);
                    let answer = edge.lab.from_pod(&b, &send(packets.0, at, got.src, "A"));
                    assert_eq!(left(&answer, Action::Redirect), ends(to, from));
                }
            }
        }
    }
    assert_eq!(edge.lab.dropped(DropReason::TupleCollision), 0);
}

#[test]
fn a_client_outside_meets_no_flow_of_its_own() {
    let mut edge = Edge::new();
    let b = edge.pod();
    for like in BOTH {
        for packets in PROTOCOLS {
            edge.forget_flows();
            let (from, at) = (sock(client(like), 4000), b.at(like, 8000));
            edge.node_port(like, FrontendScope::External, packets.0, &[at], 10);
            let by = |to| opened(&edge, &b, (from, to), packets, |packet| edge.outside_sends(packet));
            assert_eq!(by(sock(node(like), PORT)).src, from);
            let straight = by(at);
            assert!(straight.src.ip() == from.ip() && straight.src.port() >= 61_000, "{straight:?}");
        }
    }
}

#[test]
fn a_flow_beside_another_outlives_it() {
    let mut edge = Edge::new();
    let (a, b) = (edge.pod(), edge.pod());
    for like in BOTH {
        for packets in PROTOCOLS {
            edge.forget_flows();
            let [one, _, at] = services(&mut edge, &b, like, packets.0);
            let from = a.at(like, 1000);
            for to in [one, at] {
                opened(&edge, &b, (from, to), packets, |packet| edge.lab.from_pod(&a, packet));
            }
            let before = left(&edge.lab.from_pod(&a, &send(packets.0, from, at, "A")), Action::Redirect);
            forget(&mut edge, |foreign| foreign.dst == one.ip().into());
            let after = left(&edge.lab.from_pod(&a, &send(packets.0, from, at, "A")), Action::Redirect);
            assert_eq!(before, after);
            assert_ne!(after.src, from);
        }
    }
}

#[test]
fn a_connection_beside_another_that_is_over_is_opened_anew() {
    let mut edge = Edge::new();
    let (a, b) = (edge.pod(), edge.pod());
    for like in BOTH {
        edge.forget_flows();
        let [one, _, at] = services(&mut edge, &b, like, protocol::TCP);
        let from = a.at(like, 1000);
        let open = |to| opened(&edge, &b, (from, to), PROTOCOLS[0], |packet| edge.lab.from_pod(&a, packet));
        open(one);
        let got = open(at);
        edge.lab.from_pod(&a, &packet::tcp(from, at, "R"));
        assert_ne!(open(at).src, got.src, "the old one's tuple is not used again");
        // The other is over too: the tuple is nobody's.
        edge.lab.from_pod(&a, &packet::tcp(from, at, "R"));
        edge.lab.from_pod(&a, &packet::tcp(from, one, "R"));
        assert_eq!(open(at).src, from);
    }
}

#[test]
fn what_has_no_port_to_change_is_dropped_as_a_collision() {
    let mut edge = Edge::new();
    let (a, b) = (edge.pod(), edge.pod());
    for (count, like) in (1..).zip(BOTH) {
        let (to, at) = (sock(vip(like), 8000), b.at(like, 8000));
        edge.lab.service(to, protocol::SCTP, &[at], 10);
        let from = a.at(like, 1000);
        assert_eq!(edge.lab.from_pod(&a, &packet::sctp(from, to)).action, Action::Redirect);
        assert_eq!(edge.lab.from_pod(&a, &packet::sctp(from, at)).action, Action::Drop);
        assert_eq!(edge.lab.dropped(DropReason::TupleCollision), count);
    }
}

/// Deletes flows by what their opener sends, with their aliases.
fn forget(edge: &mut Edge, is_meant: impl Fn(&sluice_abi::Tuple) -> bool) {
    let maps = edge.lab.maps();
    for table in [&maps.ct_half_open, &maps.ct_confirmed] {
        for (key, entry) in table.entries().expect("flows") {
            let is_alias = entry.flags & flow_flags::ALIAS != 0;
            if !is_alias && is_meant(&entry.other) {
                table.delete(&key).expect("deleted");
                table.delete(&FlowKey::of(&entry.other).0).expect("deleted");
            }
        }
    }
}
