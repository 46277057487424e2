//! Services without a backend.

use anyhow::{Result, ensure};
use serde_json::json;
use sluice_tests::topology::{Cluster, objects::Conditions, traffic::Want};

use crate::{BALANCER, CLUSTER_IPS, DNS, EXTERNAL, HTTP, World, expect};

#[test]
fn without_a_backend_everybody_is_refused_at_once() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    world.route_to(1)?;
    for node in cluster.nodes() {
        // Linux limits how often a node says so to one host (icmp(7)).
        node.netns.sysctls(&[("net/ipv4/icmp_ratelimit", "0"), ("net/ipv6/icmp/ratelimit", "0")])?;
    }
    let [first, second] = world.members();
    let fields = json!({"type": "LoadBalancer", "externalIPs": EXTERNAL});
    let status = json!({"loadBalancer": {"ingress": BALANCER.map(|ip| json!({"ip": ip}))}});
    let unready = [first.is(Conditions::Unready), second.is(Conditions::Ended)];
    for members in [&[][..], &unready] {
        world.serve_with(&fields, &status, members)?;
        for port in [HTTP, DNS] {
            let addresses = [port.at_all(BALANCER), port.at_all(EXTERNAL)].concat();
            let from_anywhere = [addresses, world.node_ports(port)].concat();
            expect(&world.everybody(), &from_anywhere, Want::Refusal)?;
            expect(&world.inside(), &port.at_all(CLUSTER_IPS), Want::Refusal)?;
        }
    }
    // And served as soon as there is one.
    world.serve_with(&fields, &status, &[first, unready[1]])?;
    for port in [HTTP, DNS] {
        expect(&world.everybody(), &world.node_ports(port), Want::Answer)?;
        expect(&world.inside(), &port.at_all(CLUSTER_IPS), Want::Answer)?;
    }
    Ok(())
}

#[test]
fn backends_that_are_not_ready_answer_when_the_service_publishes_them() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    let unready = world.members().map(|member| member.is(Conditions::Unready));
    world.serve(&json!({"publishNotReadyAddresses": true}), &unready)?;
    for port in [HTTP, DNS] {
        expect(&world.everybody(), &world.node_ports(port), Want::Answer)?;
        expect(&world.inside(), &port.at_all(CLUSTER_IPS), Want::Answer)?;
    }
    Ok(())
}

#[test]
fn the_last_backends_serve_while_they_end() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    let [first, second] = world.members();
    for (members, names) in [
        ([first.is(Conditions::Ending), second.is(Conditions::Ending)], &["web-1", "web-2"][..]),
        ([first.is(Conditions::Ending), second.is(Conditions::Ended)], &["web-1"]),
        ([first.is(Conditions::Ending), second], &["web-2"]),
    ] {
        world.serve(&json!({}), &members)?;
        for from in world.inside() {
            for probe in HTTP.at_all(CLUSTER_IPS) {
                crate::expect_who(from, probe, names)?;
            }
        }
        for probe in world.node_ports(HTTP) {
            let found = crate::who(world.outside(), probe)?;
            ensure!(found.iter().eq(names.iter()), "{probe:?}: {found:?}, not {names:?}");
        }
    }
    Ok(())
}
