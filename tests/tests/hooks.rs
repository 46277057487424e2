//! Packets in, verdict and packet out: what each hook does, on the loaded programs.

use std::net::{IpAddr, SocketAddr};

use sluice_abi::{
    Direction, DropKey, DropReason, Hook, Identity, Rule, RuleId, RuleSetId, RuleVerdict, protocol,
};
use sluice_tests::{
    lab::{ALLOW_ALL, Action, DENY_ALL, Lab, LabPod, UPLINK, ip},
    packet::{self, Ends},
};

const V4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 1, 0, 200));
const V6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xfd01, 0, 0, 0, 0, 0, 0, 200));
/// An address of each family that is not on this node.
const BOTH: [IpAddr; 2] = [V4, V6];

fn sock(addr: IpAddr, port: u16) -> SocketAddr {
    SocketAddr::new(addr, port)
}

/// The ClusterIP of the tests, in the family of `like`.
fn vip(like: IpAddr, port: u16) -> SocketAddr {
    let addr = if like.is_ipv4() {
        IpAddr::from([10, 96, 0, 10])
    } else {
        IpAddr::from([0xfd96, 0, 0, 0, 0, 0, 0, 10])
    };
    SocketAddr::new(addr, port)
}

/// Opens a TCP flow from `client` to `to`, answered by `server` at `port`, and gives what the server got.
fn handshake(lab: &Lab, client: &LabPod, server: &LabPod, to: SocketAddr, client_port: u16) -> Ends {
    let from = client.at(to.ip(), client_port);
    let syn = lab.from_pod(client, &packet::tcp(from, to, "S"));
    assert_eq!(syn.action, Action::Redirect, "SYN to {to}");
    let got = packet::checked(&syn.packet);
    let answer = lab.from_pod(server, &packet::tcp(got.dst, got.src, "SA"));
    assert_eq!(answer.action, Action::Redirect, "SYN-ACK from {}", got.dst);
    assert_eq!(packet::checked(&answer.packet), Ends { src: to, dst: from });
    assert_eq!(lab.from_pod(client, &packet::tcp(from, to, "A")).action, Action::Redirect, "ACK to {to}");
    got
}

#[test]
fn what_cannot_be_understood_or_may_not_be_sent_is_dropped_and_counted_under_its_own_reason() {
    let mut lab = Lab::new();
    let (pod, other) = (lab.pod(), lab.pod());
    let v4 = |dst| packet::udp(sock(pod.addrs[0], 1000), sock(dst, 2000));
    let v6 = |dst| packet::udp(sock(pod.addrs[1], 1000), sock(dst, 2000));
    let edited = |mut packet: Vec<u8>, edit: &dyn Fn(&mut Vec<u8>)| {
        edit(&mut packet);
        packet
    };
    // An IPv6 packet whose first extension header has the given type and eight bytes.
    let extended = |next: u8, header: [u8; 8]| {
        edited(v6(V6), &|packet| {
            packet[20] = next;
            packet.splice(54..54, header);
        })
    };
    let options = |bytes: [u8; 4]| {
        edited(v4(V4), &|packet| {
            packet[14] = 0x46;
            packet.splice(34..34, bytes);
            packet::fix_ipv4_checksum(packet);
        })
    };
    let cases: Vec<(&str, Vec<u8>, Result<Action, DropReason>)> = vec![
        ("another pod's address", packet::udp(other.at(V4, 1), sock(V4, 2)), Err(DropReason::SpoofedSource)),
        ("nobody's address", packet::udp(sock(V4, 1), sock(V4, 2)), Err(DropReason::SpoofedSource)),
        ("a VLAN tag", packet::frame(0x8100), Err(DropReason::VlanTagged)),
        ("a double VLAN tag", packet::frame(0x88a8), Err(DropReason::VlanTagged)),
        ("neither IP nor ARP", packet::frame(0x88cc), Err(DropReason::NotIp)),
        ("ARP is the stack's", packet::arp([10, 1, 0, 1].into()), Ok(Action::Stack)),
        ("ARP in another's name", packet::arp([10, 1, 0, 2].into()), Err(DropReason::SpoofedSource)),
        ("IPv4 multicast", v4([224, 0, 0, 251].into()), Err(DropReason::Multicast)),
        ("IPv4 broadcast", v4([255; 4].into()), Err(DropReason::Multicast)),
        ("IPv6 multicast", v6([0xff02, 0, 0, 0, 0, 0, 0, 0xfb].into()), Err(DropReason::Multicast)),
        ("a mapped address", v6([0, 0, 0, 0, 0, 0xffff, 0x0a01, 1].into()), Err(DropReason::MappedAddress)),
        ("IPv4 with version 5", edited(v4(V4), &|p| p[14] = 0x55), Err(DropReason::Malformed)),
        ("IPv4 with a header of 16 bytes", edited(v4(V4), &|p| p[14] = 0x44), Err(DropReason::Malformed)),
        ("UDP that ends in its header", edited(v4(V4), &|p| p.truncate(38)), Err(DropReason::Malformed)),
        ("IPv4 with a loose source route", options([131, 4, 4, 0]), Err(DropReason::SourceRoute)),
        (
            "IPv4 with a strict source route behind no-operations",
            options([1, 137, 3, 4]),
            Err(DropReason::SourceRoute),
        ),
        ("IPv4 with an option of length 0", options([7, 0, 0, 0]), Err(DropReason::Malformed)),
        ("IPv4 with a router alert", options([148, 4, 0, 0]), Ok(Action::Stack)),
        ("IPv6 with hop-by-hop options", extended(0, [17, 0, 1, 4, 0, 0, 0, 0]), Ok(Action::Stack)),
        (
            "IPv6 with a type 0 routing header",
            extended(43, [17, 0, 0, 0, 0, 0, 0, 0]),
            Err(DropReason::SourceRoute),
        ),
        ("IPv6 with segments left", extended(43, [17, 0, 2, 1, 0, 0, 0, 0]), Err(DropReason::SourceRoute)),
        (
            "IPv6 with an extension header cut short",
            edited(extended(60, [17, 9, 0, 0, 0, 0, 0, 0]), &|p| p.truncate(70)),
            Err(DropReason::Malformed),
        ),
        (
            "an IPv6 fragment without its first",
            extended(44, [17, 0, 0, 0x80, 0, 0, 0, 9]),
            Err(DropReason::FragmentWithoutFirst),
        ),
        ("an atomic IPv6 fragment", extended(44, [17, 0, 0, 0, 0, 0, 0, 9]), Ok(Action::Stack)),
        (
            "an IPv4 fragment without its first",
            edited(v4(V4), &|p| {
                p[21] = 16;
                packet::fix_ipv4_checksum(p);
            }),
            Err(DropReason::FragmentWithoutFirst),
        ),
    ];
    for (name, packet, wanted) in cases {
        let before = wanted.err().map(|reason| lab.dropped(reason));
        let output = lab.from_pod(&pod, &packet);
        // Without a route what may pass is left to the stack.
        assert_eq!(output.action, wanted.unwrap_or(Action::Drop), "{name}");
        let after = wanted.err().map(|reason| lab.dropped(reason));
        assert_eq!(after, before.map(|count| count + 1), "{name}: counted");
    }
}

#[test]
fn no_packet_passes_before_the_rules_are_live() {
    let mut lab = Lab::new();
    let pod = lab.pod();
    for addr in pod.addrs {
        lab.maps().endpoints.delete(&addr.into()).expect("an endpoint");
    }
    lab.maps().interfaces.delete(&pod.ifindex).expect("an interface");
    for like in BOTH {
        let out = packet::udp(pod.at(like, 1), sock(like, 2));
        assert_eq!(lab.from_pod(&pod, &out).action, Action::Drop);
        let back = packet::udp(sock(like, 2), pod.at(like, 1));
        assert_eq!(lab.run(Hook::ToPod, pod.ifindex, &back).action, Action::Drop);
    }
    assert_eq!(lab.from_pod(&pod, &packet::frame(0x0806)).action, Action::Drop, "ARP neither");
    assert_eq!(lab.dropped(DropReason::NotReady), 5);
}

#[test]
fn own_addresses_from_the_network_are_spoofed() {
    let mut lab = Lab::new();
    let (pod, other) = (lab.pod(), lab.pod());
    let node = IpAddr::from([192, 168, 0, 1]);
    lab.node_address(node);
    for src in [other.addrs[0], node] {
        let packet = packet::udp(sock(src, 1), pod.at(V4, 2));
        assert_eq!(lab.run(Hook::FromNetdev, UPLINK, &packet).action, Action::Drop);
    }
    assert_eq!(lab.dropped(DropReason::SpoofedSource), 2);
    let fine = packet::udp(sock(V4, 1), pod.at(V4, 2));
    assert_eq!(lab.run(Hook::FromNetdev, UPLINK, &fine).action, Action::Redirect);
    let for_host = packet::udp(sock(V4, 1), sock(node, 2));
    assert_eq!(lab.run(Hook::FromNetdev, UPLINK, &for_host).action, Action::Stack);
}

#[test]
fn a_pod_reaches_another_of_its_node_with_one_hop_less_and_its_checksums_right() {
    let mut lab = Lab::new();
    let (a, b) = (lab.pod(), lab.pod());
    for like in BOTH {
        for packet in [
            packet::udp(a.at(like, 1), b.at(like, 2)),
            packet::tcp(a.at(like, 1), b.at(like, 2), "S"),
            packet::ping(a.addr(like), b.addr(like), 7),
        ] {
            let out = lab.from_pod(&a, &packet);
            assert_eq!(out.action, Action::Redirect);
            assert_eq!(packet::checked(&out.packet), packet::tuple(&packet));
            assert_eq!(packet::ttl(&out.packet), packet::ttl(&packet) - 1);
            assert_eq!(out.packet[..6], [2, 0, 0, 0, 9, 9], "the pod's MAC address");
        }
    }
}

#[test]
fn the_last_hop_is_left_to_the_stack_which_answers() {
    let mut lab = Lab::new();
    let (a, b) = (lab.pod(), lab.pod());
    let mut packet = packet::udp(a.at(V4, 1), b.at(V4, 2));
    packet[22] = 1;
    packet::fix_ipv4_checksum(&mut packet);
    let out = lab.from_pod(&a, &packet);
    assert_eq!((out.action, packet::ttl(&out.packet)), (Action::Stack, 1));
}

#[test]
fn a_remote_pod_is_reached_by_the_nodes_routes() {
    let mut lab = Lab::new();
    let a = lab.pod();
    ip("link set lo up");
    ip("link add up0 type veth peer name up1");
    ip("link set up0 up");
    ip("link set up1 up");
    ip("addr add 192.168.7.1/24 dev up0");
    ip("addr add fd77::1/64 dev up0 nodad");
    ip("route add 10.1.0.128/25 via 192.168.7.2");
    ip("route add fd01::/64 via fd77::2");
    std::fs::write("/proc/sys/net/ipv4/conf/v1/forwarding", "1").expect("forwarding");
    std::fs::write("/proc/sys/net/ipv6/conf/v1/forwarding", "1").expect("forwarding");
    ip("link set v1 up");
    for like in BOTH {
        let packet = packet::udp(a.at(like, 1), sock(like, 2));
        assert_eq!(
            lab.from_pod(&a, &packet).action,
            Action::Stack,
            "{like}: the stack resolves, or answers for, the next hop"
        );
    }
    ip("neigh add 192.168.7.2 lladdr 02:00:00:00:00:07 dev up0");
    ip("neigh add fd77::2 lladdr 02:00:00:00:00:07 dev up0");
    for like in BOTH {
        let out = lab.from_pod(&a, &packet::udp(a.at(like, 1), sock(like, 2)));
        assert_eq!(out.action, Action::Redirect, "{like}");
        assert_eq!(packet::ttl(&out.packet), 63);
        packet::checked(&out.packet);
    }
}

#[test]
fn policy_drops_what_no_rule_allows_and_names_the_rule_set() {
    let mut lab = Lab::new();
    let (a, b, c) = (lab.pod(), lab.pod(), lab.pod());
    let web = RuleSetId(7);
    let from_a = Identity(20);
    for pod_addr in a.addrs {
        lab.identity(pod_addr, from_a);
    }
    lab.rule(web, from_a, Some((protocol::TCP, 80)), Rule::new(RuleId(33), RuleVerdict::Allow));
    lab.put_endpoint(&b, web, ALLOW_ALL);
    for like in BOTH {
        let to = |port| b.at(like, port);
        let cases = [
            ("allowed", lab.from_pod(&a, &packet::tcp(a.at(like, 1), to(80), "S")), Action::Redirect),
            ("its neighbour port", lab.from_pod(&a, &packet::tcp(a.at(like, 1), to(81), "S")), Action::Drop),
            ("the other protocol", lab.from_pod(&a, &packet::udp(a.at(like, 1), to(80))), Action::Drop),
            (
                "ICMP, by a rule with ports",
                lab.from_pod(&a, &packet::ping(a.addr(like), to(0).ip(), 1)),
                Action::Drop,
            ),
            ("another peer", lab.from_pod(&c, &packet::tcp(c.at(like, 1), to(80), "S")), Action::Drop),
            (
                "from the network",
                lab.run(Hook::FromNetdev, UPLINK, &packet::tcp(sock(like, 1), to(80), "S")),
                Action::Drop,
            ),
        ];
        for (name, output, wanted) in cases {
            assert_eq!(output.action, wanted, "{name}, {like}");
        }
    }
    assert_eq!(lab.dropped(DropReason::PolicyDenied), 10);
    let records = lab.maps().drop_records.entries().expect("records");
    assert_eq!(records.len(), 10);
    assert!(
        records.iter().all(|(key, record)| key.endpoint == b.id
            && record.rule_set == web
            && record.rule == RuleId::NONE)
    );
}

#[test]
fn a_shadow_reports_each_flow_that_it_would_drop_and_drops_none() {
    let mut lab = Lab::new();
    let (a, b) = (lab.pod(), lab.pod());
    let deny = RuleSetId(7);
    lab.rule(deny, Identity::ANY, None, Rule::new(RuleId(44), RuleVerdict::Deny));
    lab.shadow(&a, RuleSetId::NONE, deny);
    lab.shadow(&b, DENY_ALL, RuleSetId::NONE);
    handshake(&lab, &a, &b, b.at(V4, 80), 1000);
    let record = |lab: &mut Lab, pod: &LabPod, peer: &LabPod, direction: Direction, rule: RuleId| {
        let reason =
            if rule == RuleId::NONE { DropReason::PolicyDenied } else { DropReason::PolicyRuleDenied };
        let key = DropKey {
            peer: peer.addr(V4).into(),
            endpoint: pod.id,
            port: 80u16.to_be_bytes(),
            protocol: protocol::TCP,
            direction: direction as u8,
            reason: reason as u8,
            reserved: [0; 3],
        };
        let record = lab.maps().audit_records.get(&key).expect("the map").expect("a record");
        (record.count, record.rule_set, record.rule)
    };
    let told = |lab: &mut Lab| {
        let egress = record(lab, &a, &b, Direction::Egress, RuleId(44));
        (egress, record(lab, &b, &a, Direction::Ingress, RuleId::NONE))
    };
    assert_eq!(told(&mut lab), ((1, deny, RuleId(44)), (1, DENY_ALL, RuleId::NONE)));
    assert_eq!(lab.maps().counters.would_drop().expect("the counters"), 2);
    // What goes on is judged again after a change, and so it is audited again.
    lab.move_epoch();
    for _ in 0..2 {
        let packet = packet::tcp(a.at(V4, 1000), b.at(V4, 80), "A");
        assert_eq!(lab.from_pod(&a, &packet).action, Action::Redirect);
    }
    assert_eq!(told(&mut lab), ((2, deny, RuleId(44)), (2, DENY_ALL, RuleId::NONE)));
    // A flow that is dropped at one end is not audited at the other.
    lab.put_endpoint(&b, DENY_ALL, ALLOW_ALL);
    assert_eq!(lab.from_pod(&a, &packet::tcp(a.at(V4, 1001), b.at(V4, 80), "S")).action, Action::Drop);
    assert_eq!(told(&mut lab), ((2, deny, RuleId(44)), (2, DENY_ALL, RuleId::NONE)));
    assert_eq!(lab.maps().drop_records.count().expect("a count"), 1);
}

#[test]
fn an_explicit_deny_names_its_rule() {
    let mut lab = Lab::new();
    let (a, b) = (lab.pod(), lab.pod());
    lab.rule(RuleSetId(7), Identity::ANY, None, Rule::new(RuleId(44), RuleVerdict::Deny));
    lab.put_endpoint(&b, RuleSetId(7), ALLOW_ALL);
    assert_eq!(lab.from_pod(&a, &packet::udp(a.at(V4, 1), b.at(V4, 2))).action, Action::Drop);
    assert_eq!(lab.dropped(DropReason::PolicyRuleDenied), 1);
    let (_, record) = lab.maps().drop_records.entries().expect("records")[0];
    assert_eq!((record.rule, record.rule_set), (RuleId(44), RuleSetId(7)));
}

#[test]
fn replies_of_allowed_flows_pass_whatever_the_policy_of_the_answering_direction() {
    let mut lab = Lab::new();
    let (a, b) = (lab.pod(), lab.pod());
    lab.put_endpoint(&a, DENY_ALL, ALLOW_ALL);
    lab.put_endpoint(&b, ALLOW_ALL, DENY_ALL);
    for like in BOTH {
        let (from, to) = (a.at(like, 1000), b.at(like, 53));
        assert_eq!(lab.from_pod(&b, &packet::udp(to, from)).action, Action::Drop, "not before the question");
        assert_eq!(lab.from_pod(&a, &packet::udp(from, to)).action, Action::Redirect);
        assert_eq!(lab.from_pod(&b, &packet::udp(to, from)).action, Action::Redirect);
        assert_eq!(lab.from_pod(&a, &packet::ping(from.ip(), to.ip(), 5)).action, Action::Redirect);
        assert_eq!(lab.from_pod(&b, &packet::pong(to.ip(), from.ip(), 5)).action, Action::Redirect);
        assert_eq!(
            lab.from_pod(&b, &packet::pong(to.ip(), from.ip(), 6)).action,
            Action::Drop,
            "another's reply"
        );
    }
}

#[test]
fn a_policy_change_acts_on_established_flows_in_both_directions() {
    let mut lab = Lab::new();
    let (a, b) = (lab.pod(), lab.pod());
    for like in BOTH {
        let (from, to) = (a.at(like, 1000), b.at(like, 80));
        handshake(&lab, &a, &b, to, 1000);
        lab.put_endpoint(&b, DENY_ALL, ALLOW_ALL);
        lab.move_epoch();
        assert_eq!(lab.from_pod(&a, &packet::tcp(from, to, "A")).action, Action::Drop);
        assert_eq!(lab.from_pod(&b, &packet::tcp(to, from, "A")).action, Action::Drop);
        lab.put_endpoint(&b, ALLOW_ALL, ALLOW_ALL);
        lab.move_epoch();
        assert_eq!(lab.from_pod(&b, &packet::tcp(to, from, "A")).action, Action::Redirect);
    }
}

#[test]
fn rules_that_change_in_place_act_when_the_epoch_moves() {
    let mut lab = Lab::new();
    let (a, b) = (lab.pod(), lab.pod());
    let rule = |verdict| Rule::new(RuleId(40), verdict);
    lab.rule(RuleSetId(9), Identity::ANY, None, rule(RuleVerdict::Allow));
    lab.put_endpoint(&b, RuleSetId(9), ALLOW_ALL);
    handshake(&lab, &a, &b, b.at(V4, 80), 1000);
    lab.rule(RuleSetId(9), Identity::ANY, None, rule(RuleVerdict::Deny));
    lab.move_epoch();
    assert_eq!(lab.from_pod(&a, &packet::tcp(a.at(V4, 1000), b.at(V4, 80), "A")).action, Action::Drop);
}

#[test]
fn traffic_between_a_pod_and_its_node_is_nobodys_policy() {
    let mut lab = Lab::new();
    let a = lab.pod();
    lab.put_endpoint(&a, DENY_ALL, DENY_ALL);
    for node in [IpAddr::from([192, 168, 0, 1]), IpAddr::from([0xfd99, 0, 0, 0, 0, 0, 0, 1])] {
        lab.node_address(node);
        assert_eq!(lab.from_pod(&a, &packet::udp(a.at(node, 1), sock(node, 2))).action, Action::Stack);
        assert_eq!(
            lab.run(Hook::ToPod, a.ifindex, &packet::udp(sock(node, 2), a.at(node, 1))).action,
            Action::Stack
        );
    }
}

#[test]
fn a_service_is_translated_there_and_back_with_its_checksums_right() {
    let mut lab = Lab::new();
    let (a, b) = (lab.pod(), lab.pod());
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        lab.service(vip(like, 80), protocol::TCP, &[b.at(like, 8000)], first);
        lab.service(vip(like, 53), protocol::UDP, &[b.at(like, 5353)], first + 1);
        let got = handshake(&lab, &a, &b, vip(like, 80), 1000);
        assert_eq!(got, Ends { src: a.at(like, 1000), dst: b.at(like, 8000) });
        let (from, to) = (a.at(like, 1000), vip(like, 53));
        let question = lab.from_pod(&a, &packet::udp(from, to));
        assert_eq!(packet::checked(&question.packet).dst, b.at(like, 5353));
        let answer = lab.from_pod(&b, &packet::udp(b.at(like, 5353), from));
        assert_eq!(packet::checked(&answer.packet), Ends { src: to, dst: from });
    }
}

#[test]
fn a_service_judges_the_backend_and_not_its_own_address() {
    let mut lab = Lab::new();
    let (a, b) = (lab.pod(), lab.pod());
    lab.service(vip(V4, 80), protocol::TCP, &[b.at(V4, 8000)], 10);
    lab.rule(
        RuleSetId(7),
        Identity::ANY,
        Some((protocol::TCP, 8000)),
        Rule::new(RuleId(33), RuleVerdict::Allow),
    );
    lab.put_endpoint(&b, RuleSetId(7), ALLOW_ALL);
    lab.put_endpoint(&a, ALLOW_ALL, RuleSetId(7));
    handshake(&lab, &a, &b, vip(V4, 80), 1000);
}

#[test]
fn a_reply_from_another_node_is_translated_back() {
    let mut lab = Lab::new();
    let a = lab.pod();
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        lab.service(vip(like, 53), protocol::UDP, &[sock(like, 5353)], first);
        let (from, to) = (a.at(like, 1000), vip(like, 53));
        let question = lab.from_pod(&a, &packet::udp(from, to));
        assert_eq!(packet::checked(&question.packet).dst, sock(like, 5353));
        let answer = lab.run(Hook::FromNetdev, UPLINK, &packet::udp(sock(like, 5353), from));
        assert_eq!(answer.action, Action::Redirect);
        assert_eq!(packet::checked(&answer.packet), Ends { src: to, dst: from });
    }
}

#[test]
fn a_pod_that_reaches_itself_through_its_service_sees_a_reserved_source() {
    let mut lab = Lab::new();
    let a = lab.pod();
    lab.put_endpoint(&a, DENY_ALL, DENY_ALL);
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        lab.service(vip(like, 80), protocol::TCP, &[a.at(like, 8000)], first);
        let got = handshake(&lab, &a, &a, vip(like, 80), 1000);
        assert_ne!(got.src.ip(), a.addr(like));
        assert_eq!(got.dst, a.at(like, 8000));
    }
}

#[test]
fn a_service_without_backends_refuses_under_its_own_reason() {
    let mut lab = Lab::new();
    let a = lab.pod();
    lab.service(vip(V4, 80), protocol::TCP, &[], 10);
    assert_eq!(lab.from_pod(&a, &packet::tcp(a.at(V4, 1), vip(V4, 80), "S")).action, Action::Drop);
    assert_eq!(lab.dropped(DropReason::NoBackend), 1);
}

#[test]
fn new_flows_spread_over_the_backends_and_a_flow_keeps_its_own() {
    let mut lab = Lab::new();
    let a = lab.pod();
    let backends: Vec<LabPod> = (0..3).map(|_| lab.pod()).collect();
    let at: Vec<SocketAddr> = backends.iter().map(|pod| pod.at(V4, 8000)).collect();
    lab.service(vip(V4, 80), protocol::TCP, &at, 10);
    let mut hits = [0u32; 3];
    for port in 1000..1600 {
        let syn = packet::tcp(a.at(V4, port), vip(V4, 80), "S");
        let first = packet::tuple(&lab.from_pod(&a, &syn).packet).dst;
        let again = packet::tuple(&lab.from_pod(&a, &syn).packet).dst;
        assert_eq!(first, again, "a retransmission goes to the same backend");
        hits[at.iter().position(|backend| *backend == first).expect("one of the backends")] += 1;
    }
    // 600 draws of 1 in 3: 200 ± 11.5; six standard deviations are never met by chance.
    assert!(hits.iter().all(|hit| (131..=269).contains(hit)), "{hits:?}");
}

#[test]
fn a_udp_flow_leaves_a_dead_backend_and_a_tcp_flow_stays_with_a_terminating_one() {
    let mut lab = Lab::new();
    let (a, b, c) = (lab.pod(), lab.pod(), lab.pod());
    lab.service(vip(V4, 53), protocol::UDP, &[b.at(V4, 53)], 10);
    lab.service(vip(V4, 80), protocol::TCP, &[b.at(V4, 80)], 20);
    let question = packet::udp(a.at(V4, 1000), vip(V4, 53));
    assert_eq!(packet::tuple(&lab.from_pod(&a, &question).packet).dst, b.at(V4, 53));
    handshake(&lab, &a, &b, vip(V4, 80), 1000);
    // What a plan does: new slices with c alone, then b's backends end: at once for UDP, terminating for TCP.
    lab.service(vip(V4, 53), protocol::UDP, &[c.at(V4, 53)], 30);
    lab.service(vip(V4, 80), protocol::TCP, &[c.at(V4, 80)], 40);
    lab.maps().backends.delete(&sluice_abi::BackendId(10)).expect("a backend");
    let mut terminating =
        lab.maps().backends.get(&sluice_abi::BackendId(20)).expect("a backend").expect("a backend");
    terminating.state = sluice_abi::BackendState::Terminating as u8;
    lab.maps().backends.put(&sluice_abi::BackendId(20), &terminating).expect("a backend");
    assert_eq!(packet::tuple(&lab.from_pod(&a, &question).packet).dst, c.at(V4, 53));
    let data = packet::tcp(a.at(V4, 1000), vip(V4, 80), "A");
    assert_eq!(packet::tuple(&lab.from_pod(&a, &data).packet).dst, b.at(V4, 80));
    let opening = packet::tcp(a.at(V4, 1001), vip(V4, 80), "S");
    assert_eq!(packet::tuple(&lab.from_pod(&a, &opening).packet).dst, c.at(V4, 80));
}

#[test]
fn fragments_follow_their_first_and_are_translated_with_it() {
    let mut lab = Lab::new();
    let (a, b) = (lab.pod(), lab.pod());
    lab.service(vip(V4, 53), protocol::UDP, &[b.at(V4, 5353)], 10);
    let fragment = |offset_and_flags: [u8; 2]| {
        let mut packet = packet::udp(a.at(V4, 1000), vip(V4, 53));
        packet[20..22].copy_from_slice(&offset_and_flags);
        packet::fix_ipv4_checksum(&mut packet);
        packet
    };
    let first = lab.from_pod(&a, &fragment([0x20, 0]));
    assert_eq!(packet::tuple(&first.packet).dst, b.at(V4, 5353));
    let later = lab.from_pod(&a, &fragment([0, 3]));
    assert_eq!(later.action, Action::Redirect);
    let ends = packet::tuple(&later.packet);
    assert_eq!(ends.dst.ip(), b.addr(V4));
    assert_eq!(ends.dst.port(), 53, "what would be ports in a first fragment is payload here");
}

#[test]
fn icmp_errors_of_known_flows_pass_any_policy_and_quote_what_the_sender_sent() {
    let mut lab = Lab::new();
    let (a, b) = (lab.pod(), lab.pod());
    lab.put_endpoint(&a, DENY_ALL, ALLOW_ALL);
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let router = if like.is_ipv4() {
            IpAddr::from([192, 168, 9, 9])
        } else {
            IpAddr::from([0xfd09, 0, 0, 0, 0, 0, 0, 9])
        };
        lab.service(vip(like, 80), protocol::TCP, &[sock(like, 8000)], first);
        for to in [sock(like, 9000), vip(like, 80)] {
            let sent = lab.from_pod(&a, &packet::tcp(a.at(like, 1000), to, "S"));
            let error = packet::too_big(router, &sent.packet, 1400);
            let got = lab.run(Hook::FromNetdev, UPLINK, &error);
            assert_eq!(got.action, Action::Redirect, "{to}");
            packet::checked(&got.packet);
            let quoted = packet::tuple(&packet::quoted(&got.packet));
            assert_eq!(quoted, Ends { src: a.at(like, 1000), dst: to });
        }
        let unknown = packet::tcp(a.at(like, 1001), b.at(like, 1), "S");
        assert_eq!(
            lab.run(Hook::FromNetdev, UPLINK, &packet::too_big(router, &unknown, 1400)).action,
            Action::Drop
        );
    }
}

#[test]
fn without_related_icmp_the_same_errors_are_dropped() {
    let mut lab = Lab::with(|config| config.related_icmp = false);
    let a = lab.pod();
    lab.put_endpoint(&a, DENY_ALL, ALLOW_ALL);
    let sent = lab.from_pod(&a, &packet::tcp(a.at(V4, 1000), sock(V4, 9000), "S"));
    let error = packet::too_big([192, 168, 9, 9].into(), &sent.packet, 1400);
    assert_eq!(lab.run(Hook::FromNetdev, UPLINK, &error).action, Action::Drop);
}

#[test]
fn a_flood_that_is_answered_cannot_evict_the_established() {
    let mut lab = Lab::new();
    let (a, b) = (lab.pod(), lab.pod());
    lab.service(vip(V4, 80), protocol::TCP, &[b.at(V4, 8000)], 10);
    handshake(&lab, &a, &b, vip(V4, 80), 1000);
    handshake(&lab, &a, &b, b.at(V4, 22), 1000);
    let confirmed = lab.maps().ct_confirmed.count().expect("a count");
    assert_eq!(confirmed, 3, "two flows and one alias");
    // More than the half-open table holds, each answered, none confirmed.
    let capacity = sluice_abi::maps::CT_HALF_OPEN.max_entries;
    for number in 0..capacity + capacity / 4 {
        let peer = sock(IpAddr::from((0x0b00_0000 + number).to_be_bytes()), 999);
        lab.run(Hook::FromNetdev, UPLINK, &packet::tcp(peer, b.at(V4, 22), "S"));
        lab.from_pod(&b, &packet::tcp(b.at(V4, 22), peer, "SA"));
    }
    assert_eq!(lab.maps().ct_confirmed.count().expect("a count"), confirmed);
    let from = a.at(V4, 1000);
    let data = lab.from_pod(&a, &packet::tcp(from, vip(V4, 80), "A"));
    assert_eq!(packet::tuple(&data.packet).dst, b.at(V4, 8000));
    let reply = lab.from_pod(&b, &packet::tcp(b.at(V4, 8000), from, "A"));
    assert_eq!(packet::tuple(&reply.packet).src, vip(V4, 80));
}

#[test]
fn nothing_that_looks_like_neighbour_discovery_passes_policy_or_the_source_check() {
    let mut lab = Lab::new();
    let (a, b) = (lab.pod(), lab.pod());
    lab.put_endpoint(&b, DENY_ALL, ALLOW_ALL);
    // ICMPv6's number in IPv4, its types in a routed packet, a wrong hop limit, ICMP's number in IPv6.
    let solicitation = |mut packet: Vec<u8>| {
        let l4 = packet::l4_offset(&packet);
        packet[l4] = 135;
        packet
    };
    let link_local: IpAddr = [0xfe80, 0, 0, 0, 0, 0, 0, 9].into();
    let cases = [
        ("IPv4", solicitation(packet::other(a.addr(V4), b.addr(V4), 58)), DropReason::PolicyDenied),
        ("a routed one", solicitation(packet::ping(a.addr(V6), b.addr(V6), 1)), DropReason::PolicyDenied),
        ("another's source", solicitation(packet::ping(b.addr(V6), V6, 1)), DropReason::SpoofedSource),
        ("a hop limit of 64", solicitation(packet::ping(V6, link_local, 1)), DropReason::SpoofedSource),
        ("ICMP in IPv6", packet::other(a.addr(V6), b.addr(V6), 1), DropReason::PolicyDenied),
    ];
    for (name, packet, reason) in cases {
        let before = lab.dropped(reason);
        assert_eq!(lab.from_pod(&a, &packet).action, Action::Drop, "{name}");
        assert_eq!(lab.dropped(reason), before + 1, "{name}");
    }
    let from_outside = solicitation(packet::ping(V6, b.addr(V6), 1));
    assert_eq!(lab.run(Hook::FromNetdev, UPLINK, &from_outside).action, Action::Drop);
    let mut real = solicitation(packet::ping(a.addr(V6), [0xff02, 0, 0, 0, 0, 1, 0xff00, 1].into(), 1));
    real[packet::ETH_LEN + 7] = 255;
    assert_eq!(lab.from_pod(&a, &real).action, Action::Stack, "a real one");
}

#[test]
fn an_icmp_error_passes_only_to_the_sender_of_what_it_quotes() {
    let mut lab = Lab::new();
    let (a, b) = (lab.pod(), lab.pod());
    lab.put_endpoint(&b, DENY_ALL, ALLOW_ALL);
    for like in BOTH {
        let known = lab.from_pod(&a, &packet::udp(a.at(like, 1), sock(like, 53)));
        assert_eq!(known.action, Action::Stack);
        // About a real flow of a, but for b.
        let mut error = packet::too_big(a.addr(like), &known.packet, 1400);
        let at = if like.is_ipv4() { packet::ETH_LEN + 16 } else { packet::ETH_LEN + 24 };
        match b.addr(like) {
            IpAddr::V4(addr) => error[at..at + 4].copy_from_slice(&addr.octets()),
            IpAddr::V6(addr) => error[at..at + 16].copy_from_slice(&addr.octets()),
        }
        assert_eq!(lab.from_pod(&a, &error).action, Action::Drop, "{like}");
    }
}

#[test]
fn an_icmp_error_about_a_services_reply_reaches_the_backend() {
    let mut lab = Lab::new();
    let (a, b) = (lab.pod(), lab.pod());
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        lab.service(vip(like, 53), protocol::UDP, &[b.at(like, 5353)], first);
        let (from, to) = (a.at(like, 1000), vip(like, 53));
        lab.from_pod(&a, &packet::udp(from, to));
        let reply = lab.from_pod(&b, &packet::udp(b.at(like, 5353), from));
        let error = lab.from_pod(&a, &packet::too_big(from.ip(), &reply.packet, 1400));
        assert_eq!(error.action, Action::Redirect);
        assert_eq!(packet::checked(&error.packet).dst.ip(), b.addr(like));
        assert_eq!(packet::tuple(&packet::quoted(&error.packet)), Ends { src: b.at(like, 5353), dst: from });
    }
}

#[test]
fn no_packet_of_the_opener_alone_confirms_a_flow() {
    let mut lab = Lab::new();
    let a = lab.pod();
    for flags in ["S", "R", "A", "S", "A", "A"] {
        lab.from_pod(&a, &packet::tcp(a.at(V4, 1000), sock(V4, 80), flags));
    }
    assert_eq!(lab.maps().ct_confirmed.count().expect("a count"), 0);
}

#[test]
fn an_alias_whose_flow_has_ended_leaves_alone_the_flow_that_has_its_tuple_now() {
    let mut lab = Lab::new();
    let (a, b) = (lab.pod(), lab.pod());
    let (one, two) = (vip(V4, 80), vip(V4, 81));
    lab.service(one, protocol::TCP, &[b.at(V4, 8000)], 10);
    lab.service(two, protocol::TCP, &[b.at(V4, 8000)], 20);
    let from = a.at(V4, 1000);
    handshake(&lab, &a, &b, one, 1000);
    lab.from_pod(&a, &packet::tcp(from, one, "R"));
    handshake(&lab, &a, &b, two, 1000);
    lab.maps().backends.delete(&sluice_abi::BackendId(10)).expect("a backend");
    for flags in ["A", "S", "R"] {
        lab.from_pod(&a, &packet::tcp(from, one, flags));
    }
    let reply = lab.from_pod(&b, &packet::tcp(b.at(V4, 8000), from, "A"));
    assert_eq!(packet::checked(&reply.packet), Ends { src: two, dst: from });
}

#[test]
fn a_flow_whose_alias_was_evicted_finds_its_backend_again() {
    let mut lab = Lab::new();
    let (a, b) = (lab.pod(), lab.pod());
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        lab.service(vip(like, 80), protocol::TCP, &[b.at(like, 8000)], first);
        let syn = packet::tcp(a.at(like, 1000), vip(like, 80), "S");
        lab.from_pod(&a, &syn);
        let flows = lab.maps().ct_half_open.entries().expect("flows");
        for (key, _) in flows.iter().filter(|(_, flow)| flow.flags & sluice_abi::flow_flags::ALIAS != 0) {
            lab.maps().ct_half_open.delete(key).expect("deleted");
        }
        assert_eq!(packet::checked(&lab.from_pod(&a, &syn).packet).dst, b.at(like, 8000));
    }
}

#[test]
fn the_reserved_source_of_hairpins_comes_from_no_network() {
    let mut lab = Lab::new();
    let a = lab.pod();
    for (like, hairpin) in BOTH.into_iter().zip([sluice_abi::Addr::HAIRPIN_V4, sluice_abi::Addr::HAIRPIN_V6])
    {
        let packet = packet::udp(sock(hairpin.into(), 1), a.at(like, 2));
        assert_eq!(lab.run(Hook::FromNetdev, UPLINK, &packet).action, Action::Drop);
    }
    assert_eq!(lab.dropped(DropReason::SpoofedSource), 2);
}

#[test]
fn a_full_table_refuses_new_flows_whole_and_keeps_those_it_has() {
    let mut lab = Lab::new();
    let (a, b) = (lab.pod(), lab.pod());
    lab.service(vip(V4, 80), protocol::TCP, &[b.at(V4, 8000)], 10);
    handshake(&lab, &a, &b, b.at(V4, 22), 1000);
    let capacity = sluice_abi::maps::CT_CONFIRMED.max_entries;
    // All places but one: enough for a flow, not for a flow and its alias.
    for number in 2..capacity {
        let src = IpAddr::from((0x0b00_0000 + number).to_be_bytes()).into();
        let tuple = sluice_abi::Tuple { src, protocol: protocol::TCP, ..sluice_abi::Tuple::default() };
        lab.maps()
            .ct_confirmed
            .put(&sluice_abi::FlowKey(tuple), &sluice_abi::CtEntry::default())
            .expect("a flow");
    }
    let (from, to) = (a.at(V4, 1001), vip(V4, 80));
    lab.from_pod(&a, &packet::tcp(from, to, "S"));
    lab.from_pod(&b, &packet::tcp(b.at(V4, 8000), from, "SA"));
    for refused in 1..=2 {
        assert_eq!(lab.from_pod(&a, &packet::tcp(from, to, "A")).action, Action::Drop);
        assert_eq!(lab.dropped(DropReason::ConntrackFull), refused);
    }
    let count = lab.maps().ct_confirmed.count().expect("a count");
    assert_eq!(count, capacity - 1, "neither the flow nor its alias was left in");
    let old = lab.from_pod(&a, &packet::tcp(a.at(V4, 1000), b.at(V4, 22), "A"));
    assert_eq!(old.action, Action::Redirect, "who was there goes on");
}
