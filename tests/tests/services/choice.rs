//! Which backend, and for whom.

use std::net::{IpAddr, SocketAddr};

use sluice_abi::{
    Affinity, BackendId, BackendState, DropReason, Frontend, FrontendKey, FrontendScope, Prefix, ServiceId,
    frontend_flags, protocol,
};
use sluice_maps::SourceRange;
use sluice_tests::{
    lab::{Action, LabPod},
    packet::{self},
};

use crate::{BOTH, Edge, PORT, client, family, left, node, remote, sock, vip};

#[test]
fn only_clients_in_the_source_ranges_may_use_a_service_that_names_any() {
    let mut edge = Edge::new();
    let b = edge.pod();
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let service = ServiceId(first);
        let frontend = Frontend {
            first_slot: first,
            service,
            flags: frontend_flags::SOURCE_RANGES,
            ..Frontend::default()
        };
        edge.lab.frontend(
            sock(vip(like), 80),
            protocol::TCP,
            FrontendScope::External,
            frontend,
            &[b.at(like, 8000)],
        );
        let bits = if like.is_ipv4() { 96 + 24 } else { 64 };
        let clients = Prefix::new(client(like).into(), bits);
        edge.lab.maps().source_ranges.put(&SourceRange { service, clients }, &1).expect("a range");
        let open = |src| packet::tcp(sock(src, 4000), sock(vip(like), 80), "S");
        assert_eq!(edge.outside_sends(&open(client(like))).action, Action::Redirect);
        let outside = family(like, [203, 0, 114, 5], [0x2001, 0xdb8, 0, 1, 0, 0, 0, 5]);
        assert_eq!(edge.outside_sends(&open(outside)).action, Action::Drop);
    }
    assert_eq!(edge.lab.dropped(DropReason::SourceRange), 2);
}

#[test]
fn a_pod_outside_the_source_ranges_may_not_use_a_load_balancers_address_either() {
    let mut edge = Edge::new();
    let (a, b) = (edge.pod(), edge.pod());
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let (service, flags) = (ServiceId(first), frontend_flags::SOURCE_RANGES);
        let frontend = Frontend { first_slot: first, service, flags, ..Frontend::default() };
        let at = sock(vip(like), 80);
        edge.lab.frontend(at, protocol::TCP, FrontendScope::Internal, frontend, &[b.at(like, 8000)]);
        let clients = Prefix::host(a.addr(like).into());
        edge.lab.maps().source_ranges.put(&SourceRange { service, clients }, &1).expect("a range");
        let open = |edge: &Edge, pod: &LabPod| {
            edge.lab.from_pod(pod, &packet::tcp(pod.at(like, 4000), at, "S")).action
        };
        assert_eq!(open(&edge, &a), Action::Redirect, "by its own address");
        assert_eq!(open(&edge, &b), Action::Drop);
    }
    assert_eq!(edge.lab.dropped(DropReason::SourceRange), 2);
}

#[test]
fn affinity_leads_to_no_backend_that_has_left_the_service_and_lives_on_for_another() {
    let mut edge = Edge::new();
    let pods: Vec<_> = (0..8).map(|_| edge.pod()).collect();
    let keeps = Frontend { flags: frontend_flags::AFFINITY, affinity_s: 600, ..Frontend::default() };
    for (like, first) in BOTH.into_iter().zip([10, 2000]) {
        let at: Vec<_> = pods.iter().map(|pod| pod.at(like, 80)).collect();
        let (tcp, external) = (protocol::TCP, FrontendScope::External);
        let service = ServiceId(first);
        let all = Frontend { first_slot: first, service, ..keeps };
        let chosen = |edge: &Edge, client: u8, src_port| {
            let src = family(like, [203, 0, 113, client], [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(client)]);
            let syn = packet::tcp(sock(src, src_port), sock(vip(like), 80), "S");
            left(&edge.outside_sends(&syn), Action::Redirect).dst
        };
        edge.lab.frontend(sock(vip(like), 80), tcp, external, all, &at);
        let before: Vec<_> = (0..100).map(|client| chosen(&edge, client, 1000)).collect();
        // Every other backend leaves, in one slice and in a table of consistent hashing; all of them go on living.
        let stay: Vec<_> = at.iter().copied().step_by(2).collect();
        let ids = [0, 2, 4, 6].map(|number| BackendId(first + number));
        let (slice, table) = (first + 100, first + 200);
        for (slot, id) in (slice..).zip(ids) {
            edge.lab.maps().slots.put(slot, &id).expect("a slot");
        }
        for slot in 0..251 {
            edge.lab.maps().slots.put(table + slot, &ids[slot as usize % 4]).expect("a slot");
        }
        for (slot, id) in (table + 251..).zip(ids) {
            edge.lab.maps().slots.put(slot, &id).expect("a slot");
        }
        let plain = Frontend { first_slot: slice, count: 4, backends: 4, ..all };
        let flags = all.flags | frontend_flags::MAGLEV;
        let table = Frontend { first_slot: table, count: 251, flags, ..plain };
        let key = FrontendKey {
            addr: vip(like).into(),
            port: 80_u16.to_be_bytes(),
            protocol: tcp,
            scope: external as u8,
        };
        for (src_port, frontend) in [(2000, plain), (3000, table)] {
            edge.lab.maps().frontends.put(&key, &frontend).expect("a frontend");
            for (client, before) in (0..100).zip(&before) {
                let now = chosen(&edge, client, src_port);
                assert!(stay.contains(&now), "{now} has left");
                assert!(!stay.contains(before) || now == *before, "{before} has not left");
            }
        }
    }
}

#[test]
fn a_client_keeps_its_backend_for_the_time_of_its_affinity_and_while_it_takes_flows() {
    let mut edge = Edge::new();
    let (a, b, c) = (edge.pod(), edge.pod(), edge.pod());
    let keeps = Frontend { flags: frontend_flags::AFFINITY, affinity_s: 600, ..Frontend::default() };
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let at = [a.at(like, 80), b.at(like, 80), c.at(like, 80)];
        let frontend = Frontend { first_slot: first, service: ServiceId(first), ..keeps };
        edge.lab.frontend(sock(vip(like), 80), protocol::TCP, FrontendScope::External, frontend, &at);
        let other_port = Frontend { service_port: [0, 81], ..frontend };
        edge.lab.frontend(sock(vip(like), 81), protocol::TCP, FrontendScope::External, other_port, &at);
        let chosen = |edge: &Edge, src: IpAddr, src_port, port| {
            let syn = packet::tcp(sock(src, src_port), sock(vip(like), port), "S");
            left(&edge.outside_sends(&syn), Action::Redirect).dst
        };
        let backend = chosen(&edge, client(like), 1000, 80);
        for port in 1001..1060 {
            assert_eq!(chosen(&edge, client(like), port, 80), backend);
        }
        let spread = |client: u8, port| {
            let src = family(like, [203, 0, 113, client], [0x2001, 0xdb8, 0, 0, 0, 0, 0, u16::from(client)]);
            (src, port)
        };
        // Sixty draws of one in three that are all alike are never met by chance.
        let others: Vec<_> =
            (100..160).map(|n| spread(n, 80)).map(|(src, port)| chosen(&edge, src, 1000, port)).collect();
        assert!(others.iter().any(|other| *other != others[0]), "other clients spread");
        let other_ports: Vec<_> =
            (100..160).map(|n| spread(n, 81)).map(|(src, port)| chosen(&edge, src, 1000, port)).collect();
        assert!(others != other_ports, "each port of a Service for itself");
        // The backend takes no new flows any more.
        let number = BackendId(first + at.iter().position(|at| *at == backend).expect("one of them") as u32);
        let mut ending = edge.lab.maps().backends.get(&number).expect("a backend").expect("a backend");
        ending.state = BackendState::Terminating as u8;
        edge.lab.maps().backends.put(&number, &ending).expect("a backend");
        let index = number.0 - first;
        edge.lab.maps().slots.put(number.0, &BackendId(first + (index + 1) % 3)).expect("a slot");
        let next = chosen(&edge, client(like), 2000, 80);
        assert_ne!(next, backend);
        // Longer ago than the affinity lasts.
        let brief = Frontend { affinity_s: 1, ..frontend };
        let at: Vec<_> = at.into_iter().filter(|at| *at != backend).collect();
        let brief = Frontend { first_slot: first + 4, ..brief };
        edge.lab.frontend(sock(vip(like), 80), protocol::TCP, FrontendScope::External, brief, &at);
        let later: Vec<_> = (3000..3060)
            .map(|port| {
                for (key, affinity) in edge.lab.maps().affinity.entries().expect("clients") {
                    let old = Affinity { last_used_ns: 0, ..affinity };
                    edge.lab.maps().affinity.put(&key, &old).expect("a client");
                }
                chosen(&edge, client(like), port, 80)
            })
            .collect();
        assert!(later.iter().any(|later| *later != next), "an old one binds nobody");
    }
}

#[test]
fn affinity_leads_no_client_of_a_local_service_to_another_node() {
    let mut edge = Edge::new();
    let (a, b) = (edge.pod(), edge.pod());
    let keeps = Frontend { flags: frontend_flags::AFFINITY, affinity_s: 600, ..Frontend::default() };
    for (like, first) in BOTH.into_iter().zip([10, 20]) {
        let everywhere = Frontend { first_slot: first, service: ServiceId(first), ..keeps };
        edge.lab.frontend(
            sock(vip(like), 80),
            protocol::TCP,
            FrontendScope::Internal,
            everywhere,
            &[sock(remote(like), 80)],
        );
        let here =
            Frontend { first_slot: first + 1, flags: keeps.flags | frontend_flags::LOCAL, ..everywhere };
        edge.lab.frontend(
            sock(node(like), 80),
            protocol::TCP,
            FrontendScope::Internal,
            here,
            &[b.at(like, 80)],
        );
        let chosen = |to: IpAddr, port| {
            let syn = packet::tcp(a.at(like, port), sock(to, 80), "S");
            left(&edge.lab.from_pod(&a, &syn), Action::Redirect).dst
        };
        assert_eq!(chosen(vip(like), 1000), sock(remote(like), 80));
        assert_eq!(chosen(node(like), 1001), b.at(like, 80));
    }
}

#[test]
fn consistent_hashing_chooses_by_the_flow_alone() {
    let mut edge = Edge::new();
    let pods: Vec<_> = (0..4).map(|_| edge.pod()).collect();
    for (like, first) in BOTH.into_iter().zip([10, 600]) {
        // Every backend in a quarter of the table.
        let table: Vec<_> = (0..251).map(|slot| pods[slot % 4].at(like, 80)).collect();
        let frontend = Frontend { first_slot: first, flags: frontend_flags::MAGLEV, ..Frontend::default() };
        edge.lab.frontend(sock(like, PORT), protocol::TCP, FrontendScope::External, frontend, &table);
        let choose = |edge: &Edge| -> Vec<SocketAddr> {
            (1000..1400)
                .map(|port| {
                    let packet = packet::tcp(sock(client(like), port), sock(node(like), PORT), "A");
                    left(&edge.outside_sends(&packet), Action::Redirect).dst
                })
                .collect()
        };
        let chosen = choose(&edge);
        edge.forget_flows();
        assert_eq!(choose(&edge), chosen, "also in the middle of a connection that another node has lost");
        for pod in &pods {
            let share = chosen.iter().filter(|at| **at == pod.at(like, 80)).count();
            assert!((60..=140).contains(&share), "{share} of 400");
        }
    }
}
