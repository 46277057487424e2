//! Who is reached under which address, and what the process is told.

use std::{
    env,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    process::Command,
    thread,
};

use nix::sched::{CloneFlags, unshare};
use sluice_abi::{
    AffinityKey, DropKey, DropReason, EndpointId, Frontend, FrontendKey, NodeAddr, NodeFamily, Prefix,
    ServiceId, frontend_flags,
    protocol::{TCP, UDP},
};
use sluice_agent::datapath::{CgroupRoot, Served, Sockets};
use sluice_maps::SourceRange;

use crate::world::{
    BACKEND_PORT, BACKENDS, Family, SERVICES, World, connected_datagram, datagram, is_unrouted, tcp, who,
};

#[test]
fn a_process_reaches_a_backend_and_believes_in_the_service() {
    let (world, _sockets) = World::new();
    for family in Family::ALL {
        let service = SocketAddr::new(family.plain(SERVICES, 10), 80);
        world.service(service, TCP, &[2]);
        world.service(service, UDP, &[2]);
        let (named, backend) = (family.at(SERVICES, 10, 80), family.plain(BACKENDS, 2));
        assert_eq!(tcp(named).expect("TCP"), (backend, named), "{family:?}");
        let socket = family.udp();
        assert_eq!(datagram(&socket, named).expect("UDP"), (backend, named), "{family:?}, not connected");
        socket.connect(named).expect("connect");
        assert_eq!(socket.peer_addr().expect("a peer"), named, "{family:?}");
        assert_eq!(connected_datagram(&socket).expect("UDP"), backend, "{family:?}, connected");
        assert_eq!(datagram_from(&socket), (backend, named), "{family:?}, connected");
    }
}

#[test]
fn new_connections_spread_over_the_backends() {
    let (world, _sockets) = World::new();
    for family in Family::ALL {
        let service = SocketAddr::new(family.plain(SERVICES, 10), 80);
        world.service(service, TCP, &[1, 2, 3]);
        let all = (1..=3).map(|last| family.plain(BACKENDS, last)).collect();
        // All of 60 pass one of three by once in 10¹⁰.
        assert_eq!(who(family.at(SERVICES, 10, 80), 60), all, "{family:?}");
    }
}

#[test]
fn a_socket_that_is_not_connected_keeps_its_backend_while_that_serves() {
    let (world, _sockets) = World::new();
    for family in Family::ALL {
        let named = family.at(SERVICES, 10, 53);
        world.service(SocketAddr::new(family.plain(SERVICES, 10), 53), UDP, &[1, 2, 3]);
        let socket = family.udp();
        let (first, _) = datagram(&socket, named).expect("an answer");
        for _ in 0..20 {
            assert_eq!(datagram(&socket, named).expect("an answer"), (first, named), "{family:?}");
        }
        let last = (1..=3).find(|last| family.plain(BACKENDS, *last) == first).expect("a backend");
        world.remove_backend(family, UDP, last);
        for _ in 0..20 {
            let (next, from) = datagram(&socket, named).expect("an answer");
            assert!(next != first && from == named, "{family:?}: {next} as {from}");
        }
    }
}

#[test]
fn node_ports_are_reached_on_own_addresses_that_take_them_and_on_loopback() {
    let (world, _sockets) = World::new();
    for family in Family::ALL {
        let node = if family == Family::V6 { FrontendKey::NODE_V6 } else { FrontendKey::NODE_V4 };
        let (takes, refuses) = (family.plain(BACKENDS, 1), family.plain(BACKENDS, 3));
        world.node_address(takes, true);
        world.node_address(refuses, false);
        for protocol in [TCP, UDP] {
            world.service(SocketAddr::new(node.into(), 30080), protocol, &[2]);
        }
        let backend = family.plain(BACKENDS, 2);
        let mut served = vec![takes, family.loopback()];
        if family != Family::V6 {
            served.push(IpAddr::from([127, 1, 2, 3]));
        }
        for address in served {
            let named = family.named(address, 30080);
            assert_eq!(tcp(named).expect("TCP"), (backend, named), "{family:?}");
            assert_eq!(datagram(&family.udp(), named).expect("UDP"), (backend, named), "{family:?}");
        }
        let error = tcp(family.named(refuses, 30080)).expect_err("an address without node ports");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{family:?}");
        // Other ports of such an address stay the node's own.
        let own = family.named(takes, BACKEND_PORT);
        assert_eq!(tcp(own).expect("TCP"), (takes, own), "{family:?}");
    }
}

#[test]
fn without_a_backend_a_process_is_refused_at_once() {
    let (world, _sockets) = World::new();
    for family in Family::ALL {
        let (service, named) = (family.plain(SERVICES, 10), family.at(SERVICES, 10, 80));
        world.service(SocketAddr::new(service, 80), TCP, &[]);
        world.service(SocketAddr::new(service, 80), UDP, &[]);
        assert_eq!(tcp(named).expect_err("no backend").kind(), ErrorKind::ConnectionRefused, "{family:?}");
        let socket = family.udp();
        socket.connect(named).expect("connect");
        // The first datagram brings the ICMP error; whichever call is next tells it.
        let error = connected_datagram(&socket).expect_err("no backend");
        assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{family:?}");
        let before = dropped(&world, DropReason::NoBackend);
        let error = datagram(&family.udp(), named).expect_err("no backend");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{family:?}");
        assert_eq!(dropped(&world, DropReason::NoBackend), before + 1);
    }
}

#[test]
fn without_a_backend_of_this_node_a_local_service_says_no_and_why() {
    let (world, _sockets) = World::new();
    for family in Family::ALL {
        let (service, named) = (family.plain(SERVICES, 10), family.at(SERVICES, 10, 80));
        let local = Frontend { flags: frontend_flags::LOCAL, ..Frontend::default() };
        for protocol in [TCP, UDP] {
            world.service_with(SocketAddr::new(service, 80), protocol, &[], local);
        }
        let before = dropped(&world, DropReason::NoLocalBackend);
        assert_eq!(tcp(named).expect_err("TCP").kind(), ErrorKind::PermissionDenied, "{family:?}");
        let error = family.udp().connect(named).expect_err("UDP");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{family:?}");
        let error = datagram(&family.udp(), named).expect_err("UDP");
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{family:?}");
        assert_eq!(dropped(&world, DropReason::NoLocalBackend), before + 3);
        let record = DropKey {
            peer: service.into(),
            endpoint: EndpointId::HOST,
            port: 80_u16.to_be_bytes(),
            protocol: TCP,
            direction: sluice_abi::Direction::Egress as u8,
            reason: DropReason::NoLocalBackend as u8,
            reserved: [0; 3],
        };
        assert!(world.maps.drop_records.get(&record).expect("the map").is_some(), "{family:?}");
    }
}

#[test]
fn the_node_may_use_a_load_balancers_address_as_its_own_address_is_in_the_source_ranges() {
    let (world, _sockets) = World::new();
    for family in Family::ALL {
        let (service, named) = (family.plain(SERVICES, 10), family.at(SERVICES, 10, 80));
        let restricted = Frontend { flags: frontend_flags::SOURCE_RANGES, ..Frontend::default() };
        for protocol in [TCP, UDP] {
            world.service_with(SocketAddr::new(service, 80), protocol, &[1], restricted);
        }
        let number = if service.is_ipv4() { NodeFamily::V4 } else { NodeFamily::V6 } as u32;
        let node = family.plain(BACKENDS, 2);
        let range = SourceRange { service: ServiceId(1), clients: Prefix::host(node.into()) };
        // It has no address of the family; then it has one that no range holds.
        for own in [None, Some(family.plain(BACKENDS, 3))] {
            if let Some(own) = own {
                let own = NodeAddr { addr: own.into(), flags: 0 };
                world.maps.node.put(&number, &own).expect("the node's address");
            }
            world.maps.source_ranges.put(&range, &1).expect("a range");
            let before = dropped(&world, DropReason::SourceRange);
            for error in [
                tcp(named).expect_err("TCP"),
                family.udp().connect(named).expect_err("UDP, connected"),
                datagram(&family.udp(), named).expect_err("UDP"),
            ] {
                assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{family:?}");
            }
            assert_eq!(dropped(&world, DropReason::SourceRange), before + 3);
        }
        let own = NodeAddr { addr: node.into(), flags: 0 };
        world.maps.node.put(&number, &own).expect("the node's address");
        assert_eq!(tcp(named).expect("TCP").0, family.plain(BACKENDS, 1), "{family:?}");
        let socket = family.udp();
        assert_eq!(datagram(&socket, named).expect("UDP").0, family.plain(BACKENDS, 1), "{family:?}");
        world.maps.source_ranges.delete(&range).expect("a range");
        // What goes on is no new flow.
        assert_eq!(datagram(&socket, named).expect("UDP").0, family.plain(BACKENDS, 1), "{family:?}");
        tcp(named).expect_err("TCP");
        world.maps.node.delete(&number).expect("the node's address");
    }
}

#[test]
fn the_nodes_affinity_leads_to_no_backend_that_has_left_and_lives_on_for_another_service() {
    let (world, _sockets) = World::new();
    for family in Family::ALL {
        let (service, named) = (family.plain(SERVICES, 10), family.at(SERVICES, 10, 80));
        let affinity = Frontend { flags: frontend_flags::AFFINITY, affinity_s: 3600, ..Frontend::default() };
        world.service_with(SocketAddr::new(service, 80), TCP, &[1], affinity);
        assert_eq!(tcp(named).expect("TCP").0, family.plain(BACKENDS, 1), "{family:?}");
        world.service_with(SocketAddr::new(service, 80), TCP, &[2, 3], affinity);
        assert_ne!(tcp(named).expect("TCP").0, family.plain(BACKENDS, 1), "{family:?}");
    }
}

#[test]
fn the_node_keeps_its_backend_of_a_service_with_affinity() {
    let (world, _sockets) = World::new();
    for family in Family::ALL {
        let (service, named) = (family.plain(SERVICES, 10), family.at(SERVICES, 10, 80));
        let affinity = Frontend { flags: frontend_flags::AFFINITY, affinity_s: 3600, ..Frontend::default() };
        world.service_with(SocketAddr::new(service, 80), TCP, &[1, 2, 3], affinity);
        let node = if family == Family::V6 { FrontendKey::NODE_V6 } else { FrontendKey::NODE_V4 };
        let kept = who(named, 20);
        assert_eq!(kept.len(), 1, "{family:?}");
        let key = AffinityKey {
            client: node,
            service: ServiceId(1),
            service_port: 80_u16.to_be_bytes(),
            protocol: TCP,
            reserved: 0,
        };
        let mut entry = world.maps.affinity.get(&key).expect("the map").expect("an entry");
        // Longer ago than it lasts: the next connection chooses anew, and sixty miss no backend.
        let all = (0..60).flat_map(|_| {
            entry.last_used_ns = entry.last_used_ns.saturating_sub(3_601_000_000_000);
            world.maps.affinity.put(&key, &entry).expect("the map");
            let chosen = who(named, 1);
            entry = world.maps.affinity.get(&key).expect("the map").expect("an entry");
            chosen
        });
        let all: std::collections::BTreeSet<_> = all.collect();
        // The clock may not have run for an hour yet.
        assert!(all.len() == 3 || entry.last_used_ns < 3_601_000_000_000, "{family:?}: {all:?}");
        let gone = (1..=3).find(|last| kept.contains(&family.plain(BACKENDS, *last))).expect("a backend");
        world.maps.affinity.delete(&key).expect("the map");
        world.remove_backend(family, TCP, gone);
        let next = who(named, 20);
        assert!(next.len() == 1 && next != kept, "{family:?}: {kept:?}, then {next:?}");
    }
}

#[test]
fn other_destinations_are_left_alone_and_leave_nothing() {
    let (world, _sockets) = World::new();
    for family in Family::ALL {
        let service = family.plain(SERVICES, 10);
        world.service(SocketAddr::new(service, 80), TCP, &[2]);
        let own = family.at(BACKENDS, 1, BACKEND_PORT);
        assert_eq!(tcp(own).expect("TCP"), (family.plain(BACKENDS, 1), own), "{family:?}");
        assert_eq!(
            datagram(&family.udp(), own).expect("UDP"),
            (family.plain(BACKENDS, 1), own),
            "{family:?}"
        );
        // Another port and another protocol of a Service are no Service; there is no route.
        let other = tcp(family.at(SERVICES, 10, 81)).expect_err("another port");
        assert!(is_unrouted(&other), "{family:?}: {other}");
        let other = family.udp().connect(family.at(SERVICES, 10, 80)).expect_err("another protocol");
        assert!(is_unrouted(&other), "{family:?}: {other}");
    }
    assert_eq!(world.maps.socket_peers.count().expect("the map"), 0);
}

#[test]
fn sockets_of_other_network_namespaces_are_left_alone() {
    let (world, _sockets) = World::new();
    let services = Family::ALL.map(|family| {
        world.service(SocketAddr::new(family.plain(SERVICES, 10), 80), TCP, &[2]);
        family.at(SERVICES, 10, 80)
    });
    let pod = thread::spawn(move || {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        services.map(|service| tcp(service).expect_err("no route from a pod"))
    });
    for error in pod.join().expect("the thread") {
        assert!(is_unrouted(&error), "{error}");
    }
    assert_eq!(world.maps.socket_peers.count().expect("the map"), 0);
}

/// In a process of its own: programs that lead every network namespace would lead those of the other tests.
#[test]
fn pods_are_led_when_asked_for_but_where_their_packets_know_better() {
    const INSIDE: &str = "SLUICE_TEST_LEADS_PODS";
    if env::var_os(INSIDE).is_some() {
        return lead_pods();
    }
    let mut inner = Command::new(env::current_exe().expect("this program"));
    let name = "reach::pods_are_led_when_asked_for_but_where_their_packets_know_better";
    let output = inner.args(["--exact", name, "--nocapture"]).env(INSIDE, "1").output();
    let output = output.expect("starting this program once more");
    let words = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{}: {}", output.status, String::from_utf8_lossy(&words));
}

fn lead_pods() {
    let world = World::without_programs();
    let root = CgroupRoot::At(world.cgroup.path());
    let _sockets = Sockets::start(&world.maps, &root, Served::NodeAndPods).expect("programs in force");
    for family in [Family::V4, Family::V6] {
        let service = |last, port| SocketAddr::new(family.plain(SERVICES, last), port);
        for protocol in [TCP, UDP] {
            world.service(service(10, 80), protocol, &[2]);
            world.service(service(10, 81), protocol, &[]);
        }
        for (port, flags) in [(82, frontend_flags::AFFINITY), (83, frontend_flags::SOURCE_RANGES)] {
            world.service_with(service(10, port), TCP, &[2], Frontend { flags, ..Frontend::default() });
        }
        let any = if family == Family::V6 { FrontendKey::NODE_V6 } else { FrontendKey::NODE_V4 };
        world.service(SocketAddr::new(any.into(), 30080), TCP, &[2]);
    }
    let pod = thread::spawn(|| {
        unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace");
        crate::world::serve_backends();
        for family in Family::ALL {
            let (named, backend) = (family.at(SERVICES, 10, 80), family.plain(BACKENDS, 2));
            assert_eq!(
                tcp(named).unwrap_or_else(|error| panic!("{family:?}: {error}")),
                (backend, named),
                "{family:?}"
            );
            assert_eq!(datagram(&family.udp(), named).expect("UDP"), (backend, named), "{family:?}");
            let error = family.udp().connect(named).expect_err("a connected datagram socket");
            assert!(is_unrouted(&error), "{family:?}: {error}");
            // No backend, affinity, source ranges.
            for port in 81..=83 {
                let error = tcp(family.at(SERVICES, 10, port)).expect_err("left to its packets");
                assert!(is_unrouted(&error), "{family:?} {port}: {error}");
            }
            // Its loopback is its own.
            let error = tcp(SocketAddr::new(family.loopback(), 30080)).expect_err("nobody listens");
            assert_eq!(error.kind(), ErrorKind::ConnectionRefused, "{family:?}");
        }
    });
    pod.join().expect("the pod");
}

#[test]
fn sockets_of_other_cgroups_are_left_alone() {
    let world = World::without_programs();
    let child = world.cgroup.child("other-cgroups").expect("a cgroup");
    let started = Sockets::start(&world.maps, &CgroupRoot::At(child), Served::Node);
    match started {
        Ok(_sockets) => {
            let service = Family::V4.at(SERVICES, 10, 80);
            world.service(service, TCP, &[2]);
            let error = tcp(service).expect_err("another cgroup");
            assert!(is_unrouted(&error), "{error}");
        }
        // A kernel that does not tell the namespace's cookie needs the agent in the cgroup, and says so.
        Err(error) => assert!(format!("{:?}", error).contains("not in the cgroup"), "{error:?}"),
    }
}

fn dropped(world: &World, reason: DropReason) -> u64 {
    world.maps.counters.dropped(reason).expect("a counter").packets
}

/// Asks on a connected socket and takes the kernel's word for who answers.
fn datagram_from(socket: &std::net::UdpSocket) -> (IpAddr, SocketAddr) {
    socket.send(b"?").expect("send");
    let mut address = [0; 16];
    let (_, from) = socket.recv_from(&mut address).expect("an answer");
    (std::net::Ipv6Addr::from(address).to_canonical(), from)
}
