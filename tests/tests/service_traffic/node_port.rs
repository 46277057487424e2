//! Ports of nodes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use anyhow::{Context as _, Result, ensure};
use serde_json::json;
use sluice_abi::DropReason;
use sluice_tests::topology::{
    Cluster, OUTSIDE, PATIENCE,
    namespace::Netns,
    objects::{Conditions, SliceMember},
    traffic::{Connection, Probe, Want},
};

use crate::{DNS, HTTP, QUESTIONS, WHOAMI, World, expect, expect_who, who};

#[test]
fn every_node_leads_every_client_to_the_backends_of_all_nodes() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    world.serve(&json!({}), &world.members())?;
    for port in [HTTP, DNS] {
        for probe in world.node_ports(port) {
            for from in world.everybody() {
                expect_who(from, probe, &["web-1", "web-2"])?;
            }
        }
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        for node in cluster.nodes() {
            for ip in loopback {
                expect_who(&node.netns, port.at(ip, port.node_port), &["web-1", "web-2"])?;
            }
        }
    }
    Ok(())
}

#[test]
fn a_client_reaches_one_backend_in_every_way_from_one_port() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    world.route_to(1)?;
    let [first, _] = world.members();
    let status = json!({"loadBalancer": {"ingress": crate::BALANCER.map(|ip| json!({"ip": ip}))}});
    world.serve_with(&json!({"externalIPs": crate::EXTERNAL}), &status, &[first])?;
    for family in [0, 1] {
        let at = |ip: IpAddr, port| SocketAddr::new(ip, port);
        let only = [crate::CLUSTER_IPS, crate::BALANCER, crate::EXTERNAL].map(|ips| ips[family].parse());
        let [cluster_ip, balancer, external] = only.map(|ip| ip.map(|ip| at(ip, DNS.number)));
        let node_port = |number| at(cluster.node(number).addresses()[family], DNS.node_port);
        let outside = [balancer?, external?, node_port(1), node_port(2)];
        ask_from_one_port(world.outside(), &outside)?;
        let straight = at(world.backends[0].addresses[family], DNS.target);
        let inside = [outside.as_slice(), &[cluster_ip?, straight]].concat();
        for from in world.inside() {
            ask_from_one_port(from, &inside)?;
        }
    }
    Ok(())
}

/// Asks all of them from the same port, and wants the answers from where the questions went.
fn ask_from_one_port(from: &Netns, all: &[SocketAddr]) -> Result<()> {
    let any = if all[0].is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let ask = |to: &SocketAddr| {
        let socket = UdpSocket::bind(SocketAddr::new(any, 5000))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"who are you?", to)?;
        let (_, answered) = socket.recv_from(&mut [0; 64]).with_context(|| format!("the answer of {to}"))?;
        ensure!(answered == *to, "{to}: {answered} answers");
        Ok(())
    };
    from.enter(|| all.iter().chain(all).try_for_each(ask))
}

#[test]
fn local_traffic_policy_keeps_the_clients_address_and_drops_where_no_backend_is() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    let [first, second] = world.members();
    let seen = |node: u8, family: usize| {
        let to = cluster.node(node).addresses()[family];
        let answer = WHOAMI.at(to, WHOAMI.node_port).answer(world.outside())?;
        answer.with_context(|| format!("an answer of {to}"))?.parse().context("an address")
    };
    for family in [0, 1] {
        let node = |number: u8| cluster.node(number).addresses()[family];
        world.serve(&json!({}), &[first])?;
        let found: [IpAddr; 2] = [seen(1, family)?, seen(2, family)?];
        ensure!(
            found == [OUTSIDE[family], node(2)],
            "cluster: the client, then the node it came by: {found:?}"
        );
        world.serve(&json!({"externalTrafficPolicy": "Local"}), &[first])?;
        let found: IpAddr = seen(1, family)?;
        ensure!(found == OUTSIDE[family], "local: {found}");
        let dropped = || {
            Ok::<_, anyhow::Error>(
                cluster.node(2).maps()?.counters.dropped(DropReason::NoLocalBackend)?.packets,
            )
        };
        let before = dropped()?;
        let away = [HTTP, DNS].map(|port| port.at(node(2), port.node_port));
        expect(&[world.outside()], &away, Want::Silence)?;
        ensure!(dropped()? >= before + 2, "counted as no_local_backend");
        // Who is on that node reaches it all the same; who is on another has come from outside.
        expect(&[&world.clients[1].netns, &cluster.node(2).netns], &away, Want::Answer)?;
        expect(&[&world.clients[0].netns, &cluster.node(1).netns], &away, Want::Silence)?;
        // Each node for its own.
        world.serve(&json!({"externalTrafficPolicy": "Local"}), &[first, second])?;
        for (number, name) in [(1, "web-1"), (2, "web-2")] {
            expect_who(world.outside(), HTTP.at(node(number), HTTP.node_port), &[name])?;
            let found: IpAddr = seen(number, family)?;
            ensure!(found == OUTSIDE[family], "local: {found}");
        }
        // A backend that is ending serves this node's port while it is the last here, whatever other nodes have.
        let ending = first.is(Conditions::Ending);
        world.serve(&json!({"externalTrafficPolicy": "Local"}), &[ending, second])?;
        expect_who(world.outside(), HTTP.at(node(1), HTTP.node_port), &["web-1"])?;
        expect_who(&world.clients[0].netns, HTTP.at_all(crate::CLUSTER_IPS)[family], &["web-2"])?;
    }
    Ok(())
}

#[test]
fn a_client_outside_keeps_its_backend_under_session_affinity_until_that_leaves() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    let affinity = json!({
        "sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 600}},
    });
    world.serve(&affinity, &world.members())?;
    let clients = [world.outside(), &world.clients[0].netns, &cluster.node(2).netns];
    for from in clients {
        for probe in [world.node_ports(HTTP), world.node_ports(DNS)].concat() {
            let found = who(from, probe)?;
            ensure!(found.len() == 1, "{probe:?}: {QUESTIONS} questions and the answers of {found:?}");
        }
    }
    let to = HTTP.at(cluster.node(1).addresses()[0], HTTP.node_port);
    let kept = to.answer(world.outside())?.context("an answer")?;
    let leave = |member: SliceMember<'_>| {
        let Probe::Tcp(to) = to else { unreachable!("HTTP") };
        let mut open = Connection::open(world.outside(), to)?;
        let left =
            world.members().map(|one| if one.pod == member.pod { one.is(Conditions::Unready) } else { one });
        world.serve(&affinity, &left)?;
        ensure!(open.echoes(PATIENCE)?, "what is open goes on");
        Ok(())
    };
    let [first, second] = world.members();
    let (gone, other) = if kept == "web-1" { (first, "web-2") } else { (second, "web-1") };
    leave(gone)?;
    expect_who(world.outside(), to, &[other])?;
    // The next one is kept too, also when the first is back.
    world.serve(&affinity, &world.members())?;
    expect_who(world.outside(), to, &[other])
}

#[test]
fn a_pod_reaches_itself_by_every_address_of_its_service() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    let [first, _] = world.members();
    let status = json!({"loadBalancer": {"ingress": crate::BALANCER.map(|ip| json!({"ip": ip}))}});
    world.serve_with(&json!({"externalIPs": crate::EXTERNAL}), &status, &[first])?;
    for port in [HTTP, DNS] {
        let addresses =
            [crate::CLUSTER_IPS, crate::BALANCER, crate::EXTERNAL].map(|ips| port.at_all(ips)).concat();
        let probes = [addresses, world.node_ports(port)].concat();
        expect(&[&world.backends[0].netns], &probes, Want::Answer)?;
    }
    Ok(())
}

#[test]
fn a_service_of_one_family_has_no_port_in_the_other() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    for family in [0, 1] {
        let (name, ip) = ([("IPv4"), ("IPv6")][family], crate::CLUSTER_IPS[family]);
        let fields = json!({"clusterIPs": [ip], "ipFamilies": [name], "ipFamilyPolicy": "SingleStack"});
        world.serve(&fields, &world.members())?;
        for port in [HTTP, DNS] {
            let (mine, others): (Vec<_>, Vec<_>) =
                world.node_ports(port).into_iter().partition(|probe| match probe {
                    Probe::Tcp(to) | Probe::Udp(to) => to.is_ipv4() == (family == 0),
                    Probe::Ping(_) => false,
                });
            expect(&world.everybody(), &mine, Want::Answer)?;
            expect(&world.everybody(), &others, Want::Refusal)?;
            expect(&world.inside(), &[port.at_all(crate::CLUSTER_IPS)[family]], Want::Answer)?;
        }
    }
    Ok(())
}
