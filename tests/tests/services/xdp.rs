//! What XDP does on an uplink is what tc's program would do, with the same flows; everything else passes as it came.

use std::net::SocketAddr;

use aya::programs::Xdp;
use sluice_abi::{CtState, DropReason, Frontend, FrontendScope, Prefix, ServiceId, frontend_flags, protocol};
use sluice_maps::SourceRange;
use sluice_tests::{
    lab::{Action, XdpAction, ip, run_xdp},
    packet::{self, Ends},
};

use crate::{BOTH, Edge, PORT, client, ends, left, node, remote, router, sock, vip};

/// The uplink's own address and the router's on the link.
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

impl Edge {
    fn with_xdp() -> (Self, Xdp) {
        let mut edge = Self::masquerading();
        let program = edge.lab.xdp();
        (edge, program)
    }

    /// What XDP sends back, checked in full.
    fn turned(&self, program: &Xdp, packet: &[u8]) -> Ends {
        let (action, out) = run_xdp(program, self.uplink, packet);
        assert_eq!(action, XdpAction::Turn);
        assert_eq!(out[..6], ROUTER_MAC, "to the next hop");
        assert_eq!(packet::ttl(&out), packet::ttl(packet) - 1);
        packet::checked(&out)
    }

    #[track_caller]
    fn passes(&self, program: &Xdp, packet: &[u8]) {
        let (action, out) = run_xdp(program, self.uplink, packet);
        assert_eq!(action, XdpAction::Pass);
        assert_eq!(out, packet, "as it came");
    }
}

fn send(protocol: u8, src: SocketAddr, dst: SocketAddr, flags: &str) -> Vec<u8> {
    if protocol == protocol::TCP { packet::tcp(src, dst, flags) } else { packet::udp(src, dst) }
}

#[test]
fn xdp_leads_a_client_to_another_node_and_its_answers_back_in_a_flow_that_tc_knows() {
    let (mut edge, xdp) = Edge::with_xdp();
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        for (protocol, open, answer) in [(protocol::TCP, "S", "SA"), (protocol::UDP, "", "")] {
            edge.forget_flows();
            let (from, to, at) = (sock(client(like), 4000), sock(node(like), PORT), sock(remote(like), 8000));
            edge.node_port(like, FrontendScope::External, protocol, &[at], first);
            let sent = edge.turned(&xdp, &send(protocol, from, to, open));
            assert_eq!((sent.src.ip(), sent.dst), (node(like), at));
            assert!(sent.src.port() >= 61_000, "{sent:?}");
            assert_eq!(edge.turned(&xdp, &send(protocol, at, sent.src, answer)), ends(to, from));
            assert_eq!(edge.turned(&xdp, &send(protocol, from, to, "A")), sent, "the same source again");
            assert_eq!(edge.flow().0, CtState::Established);
            // In tc the same.
            let next = edge.outside_sends(&send(protocol, from, to, "A"));
            assert_eq!(left(&next, Action::Redirect), sent);
            let answered = edge.outside_sends(&send(protocol, at, sent.src, "A"));
            assert_eq!(left(&answered, Action::Redirect), ends(to, from));
            // And what tc has opened goes on here.
            edge.forget_flows();
            let sent = left(&edge.outside_sends(&send(protocol, from, to, open)), Action::Redirect);
            assert_eq!(edge.turned(&xdp, &send(protocol, from, to, open)), sent);
            assert_eq!(edge.turned(&xdp, &send(protocol, at, sent.src, answer)), ends(to, from));
        }
    }
}

#[test]
fn xdp_serves_addresses_that_only_a_service_has() {
    let (mut edge, xdp) = Edge::with_xdp();
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let (from, to, at) = (sock(client(like), 4000), sock(vip(like), 80), sock(remote(like), 8000));
        let frontend = Frontend { first_slot: first, ..Frontend::default() };
        edge.lab.frontend(to, protocol::TCP, FrontendScope::External, frontend, &[at]);
        let sent = edge.turned(&xdp, &packet::tcp(from, to, "S"));
        assert_eq!(sent.dst, at);
        assert_eq!(edge.turned(&xdp, &packet::tcp(at, sent.src, "SA")), ends(to, from));
    }
}

#[test]
fn xdp_leaves_everything_else_to_tc_as_it_came() {
    let (mut edge, xdp) = Edge::with_xdp();
    let pod = edge.pod();
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let (from, to, at) = (sock(client(like), 4000), sock(node(like), PORT), sock(remote(like), 8000));
        edge.node_port(like, FrontendScope::External, protocol::TCP, &[at], first);
        edge.node_port(like, FrontendScope::External, protocol::UDP, &[pod.at(like, 53)], first + 1);
        edge.passes(&xdp, &packet::udp(from, to)); // a backend of this node
        edge.passes(&xdp, &packet::tcp(from, sock(node(like), 22), "S")); // the node's own
        edge.passes(&xdp, &packet::tcp(from, pod.at(like, PORT), "S")); // a pod's
        edge.passes(&xdp, &packet::ping(from.ip(), node(like), 7));
        edge.passes(&xdp, &packet::fragment(&packet::tcp(from, to, "S"), true));
        edge.passes(&xdp, &packet::fragment(&packet::tcp(from, to, "S"), false));
        edge.passes(&xdp, &packet::sctp(from, to));
        edge.passes(&xdp, &packet::arp([192, 168, 7, 9].into()));
        edge.passes(&xdp, &packet::frame(0x8100));
        edge.passes(&xdp, &packet::tcp(from, to, "S")[..40]);
        let mut last_hop = packet::tcp(from, to, "S");
        last_hop[if like.is_ipv4() { 22 } else { 21 }] = 1;
        packet::fix_ipv4_checksum(&mut last_hop);
        edge.passes(&xdp, &last_hop);
        // An error about a flow.
        let sent = edge.turned(&xdp, &packet::tcp(from, to, "S"));
        edge.passes(&xdp, &packet::too_big(router(like), &packet::tcp(sent.src, sent.dst, "A"), 1300));
        // An answer to a pod under the node's address.
        let asked = edge.lab.from_pod(&pod, &packet::udp(pod.at(like, 4000), sock(client(like), 53)));
        let asked = left(&asked, Action::Redirect);
        assert_eq!(asked.src.ip(), node(like));
        edge.passes(&xdp, &packet::udp(asked.dst, asked.src));
        // Nobody has said yet where the next hop is.
        let hop = if like.is_ipv4() { "192.168.7.2" } else { "fd77::2" };
        ip(&format!("neigh del {hop} dev up0"));
        edge.passes(&xdp, &packet::tcp(sock(client(like), 4001), to, "S"));
        ip(&format!("neigh add {hop} lladdr 02:00:00:00:00:07 dev up0"));
    }
    assert_eq!(edge.lab.maps().drop_records.count().expect("a count"), 0);
}

#[test]
fn xdp_refuses_nobody_whom_tc_would_not_and_lets_nobody_in_whom_tc_would_not() {
    let (mut edge, xdp) = Edge::with_xdp();
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let (from, to) = (sock(client(like), 4000), sock(vip(like), 80));
        let (service, flags) = (ServiceId(first), frontend_flags::SOURCE_RANGES);
        let frontend = Frontend { first_slot: first, service, flags, ..Frontend::default() };
        edge.lab.frontend(to, protocol::TCP, FrontendScope::External, frontend, &[sock(remote(like), 8000)]);
        let syn = packet::tcp(from, to, "S");
        edge.passes(&xdp, &syn);
        let before = edge.lab.dropped(DropReason::SourceRange);
        assert_eq!(edge.outside_sends(&syn).action, Action::Drop);
        assert_eq!(edge.lab.dropped(DropReason::SourceRange), before + 1, "counted once");
        let clients = Prefix::host(client(like).into());
        edge.lab.maps().source_ranges.put(&SourceRange { service, clients }, &1).expect("a range");
        assert_eq!(edge.turned(&xdp, &syn).dst, sock(remote(like), 8000));
    }
}

#[test]
fn xdp_drops_what_comes_from_outside_with_an_address_of_this_node() {
    let (mut edge, xdp) = Edge::with_xdp();
    let pod = edge.pod();
    let mut count = 0;
    for like in BOTH {
        for src in [node(like), pod.addr(like)] {
            let packet = packet::udp(sock(src, 53), sock(client(like), 4000));
            assert_eq!(run_xdp(&xdp, edge.uplink, &packet).0, XdpAction::Drop);
            count += 1;
            assert_eq!(edge.lab.dropped(DropReason::SpoofedSource), count);
        }
    }
}

#[test]
fn xdp_leaves_a_datagram_without_checksum_without() {
    let (mut edge, xdp) = Edge::with_xdp();
    let like = BOTH[0];
    let (from, to, at) = (sock(client(like), 4000), sock(node(like), PORT), sock(remote(like), 8000));
    edge.node_port(like, FrontendScope::External, protocol::UDP, &[at], 10);
    let mut packet = packet::udp(from, to);
    packet[40..42].fill(0);
    let (action, out) = run_xdp(&xdp, edge.uplink, &packet);
    assert_eq!((action, &out[40..42]), (XdpAction::Turn, &[0, 0][..]));
    assert_eq!(packet::tuple(&out).dst, at);
}
