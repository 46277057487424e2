//! Services whose kind, labels or ports say something about who serves them, and where.

use std::net::IpAddr;

use anyhow::{Result, ensure};
use serde_json::{Value, json};
use sluice_tests::topology::{
    Cluster, OUTSIDE,
    objects::{self, SliceMember},
    traffic::{self, Expectation, Listen, Outcome, Probe, Server, Want},
};

use crate::{BALANCER, CLUSTER_IPS, DNS, HTTP, World, expect, expect_who, service};

#[test]
fn a_named_target_port_leads_to_the_number_that_each_pod_gives_it() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    // Neither pod listens where the other does.
    let numbers = [9001, 9002];
    let serve = |index: usize| {
        let pod = &world.backends[index];
        let listen = [Listen::Echo(numbers[index]), Listen::Udp(numbers[index])];
        Server::start(&pod.netns, &pod.name, &listen)
    };
    let _servers = [serve(0)?, serve(1)?];
    let port = |of: crate::Port| {
        json!({
            "name": of.name(), "protocol": of.protocol, "port": of.number, "targetPort": "serve",
            "nodePort": of.node_port,
        })
    };
    let fields = json!({"ports": [port(HTTP), port(DNS)]});
    let slices = world.members().into_iter().zip(numbers).flat_map(|(member, number)| {
        let target = |of: crate::Port| json!({"name": of.name(), "protocol": of.protocol, "port": number});
        named(&member, number, &json!([target(HTTP), target(DNS)]))
    });
    world.put(&service(&fields)?, &slices.collect())?;
    for port in [HTTP, DNS] {
        for from in world.inside() {
            for probe in port.at_all(CLUSTER_IPS) {
                expect_who(from, probe, &["web-1", "web-2"])?;
            }
        }
        for probe in world.node_ports(port) {
            expect_who(world.outside(), probe, &["web-1", "web-2"])?;
        }
    }
    Ok(())
}

/// EndpointSlices of one pod, with names of their own: endpoints with other numbers are in other slices.
fn named(member: &SliceMember<'_>, number: u16, ports: &Value) -> Vec<Value> {
    let Value::Array(mut slices) = objects::slices("default", "web", ports, &[*member]) else {
        unreachable!("a slice for each family")
    };
    for (family, slice) in slices.iter_mut().enumerate() {
        slice["metadata"]["name"] = json!(format!("web-{number}-{family}"));
    }
    slices
}

#[test]
fn services_that_no_proxy_serves_or_another_one_have_no_port_here() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    let targets = json!([
        {"name": HTTP.name(), "protocol": "TCP", "port": HTTP.target},
        {"name": DNS.name(), "protocol": "UDP", "port": DNS.target},
    ]);
    let slices = objects::slices("default", "web", &targets, &world.members());
    let ordinary = service(&json!({}))?;
    let headless = service(&json!({"clusterIP": "None", "clusterIPs": ["None"]}))?;
    let external = service(&json!({"type": "ExternalName", "externalName": "db.example"}))?;
    let labelled = |label: &str, value: &str| {
        let mut service = ordinary.clone();
        service["metadata"]["labels"] = json!({label: value});
        service
    };
    let others = [
        headless,
        external,
        labelled("service.kubernetes.io/service-proxy-name", "somebody"),
        labelled("service.kubernetes.io/headless", ""),
    ];
    let cluster_ports = [HTTP.at_all(CLUSTER_IPS), DNS.at_all(CLUSTER_IPS)].concat();
    let node_ports = [world.node_ports(HTTP), world.node_ports(DNS)].concat();
    for service in others {
        // Also when it was served before.
        world.put(&ordinary, &slices)?;
        expect(&world.inside(), &cluster_ports, Want::Answer)?;
        expect(&world.everybody(), &node_ports, Want::Answer)?;
        world.put(&service, &slices)?;
        unanswered(&world, &cluster_ports)?;
        unanswered(&world, &node_ports)?;
        // The pods themselves are there.
        let own = world.backends[0].addresses.map(|ip| HTTP.at(ip, HTTP.target));
        expect(&world.inside(), &own, Want::Answer)?;
    }
    Ok(())
}

/// Fails when anybody has an answer. Whether they are refused or hear nothing is for the routes to say.
fn unanswered(world: &World<'_>, probes: &[Probe]) -> Result<()> {
    let from_each =
        |from| probes.iter().map(move |probe| Expectation { from, probe: *probe, want: Want::Silence });
    let all: Vec<_> = world.everybody().into_iter().flat_map(from_each).collect();
    for (one, outcome) in all.iter().zip(traffic::send_all(&all)?) {
        ensure!(!matches!(outcome, Outcome::Answer(_)), "{:?}: {outcome:?}", one.probe);
    }
    Ok(())
}

#[test]
fn an_address_of_a_balancer_that_is_a_proxy_is_left_to_it() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    world.route_to(1)?;
    let status = |mode: &str| json!({"loadBalancer": {"ingress": BALANCER.map(|ip| json!({"ip": ip, "ipMode": mode}))}});
    let fields = json!({"type": "LoadBalancer"});
    let balancer = [HTTP.at_all(BALANCER), DNS.at_all(BALANCER)].concat();
    world.serve_with(&fields, &status("VIP"), &world.members())?;
    expect(&world.everybody(), &balancer, Want::Answer)?;
    world.serve_with(&fields, &status("Proxy"), &world.members())?;
    unanswered(&world, &balancer)?;
    // Where the proxy sends what it takes.
    for port in [HTTP, DNS] {
        expect(&world.everybody(), &world.node_ports(port), Want::Answer)?;
    }
    Ok(())
}

#[test]
fn a_balancer_needs_no_ports_of_nodes() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    world.route_to(2)?;
    let port = |of: crate::Port| json!({"name": of.name(), "protocol": of.protocol, "port": of.number, "targetPort": of.target});
    let fields = json!({
        "type": "LoadBalancer", "allocateLoadBalancerNodePorts": false, "ports": [port(HTTP), port(DNS)],
    });
    let status = json!({"loadBalancer": {"ingress": BALANCER.map(|ip| json!({"ip": ip}))}});
    world.serve_with(&fields, &status, &world.members())?;
    for port in [HTTP, DNS] {
        expect(&world.everybody(), &port.at_all(BALANCER), Want::Answer)?;
        expect(&world.inside(), &port.at_all(CLUSTER_IPS), Want::Answer)?;
        expect(&world.everybody(), &world.node_ports(port), Want::Refusal)?;
    }
    Ok(())
}

#[test]
fn a_service_without_selector_leads_to_what_is_no_pod() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    let _server = Server::start(world.outside(), "db", &[HTTP.listen, DNS.listen])?;
    let slice = |(family, ip): (&str, IpAddr)| {
        let target = |of: crate::Port| json!({"name": of.name(), "protocol": of.protocol, "port": of.target});
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": family,
            "metadata": {
                "namespace": "default", "name": format!("by-hand-{}", family.to_lowercase()),
                "labels": {"kubernetes.io/service-name": "web"},
            },
            "ports": [target(HTTP), target(DNS)], "endpoints": [{"addresses": [ip]}],
        })
    };
    let slices = ["IPv4", "IPv6"].into_iter().zip(OUTSIDE).map(slice);
    world.put(&service(&json!({}))?, &slices.collect())?;
    for port in [HTTP, DNS] {
        for from in world.inside() {
            for probe in port.at_all(CLUSTER_IPS).into_iter().chain(world.node_ports(port)) {
                expect_who(from, probe, &["db"])?;
            }
        }
    }
    Ok(())
}
