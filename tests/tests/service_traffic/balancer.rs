//! Addresses of load balancers and other addresses that only Services have.

use std::{
    io::{self, Read as _, Write as _},
    net::{IpAddr, SocketAddr, TcpStream},
};

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::topology::{
    Cluster, OUTSIDE, PATIENCE, eventually, namespace::Netns, objects::Conditions, traffic::Want,
};

use crate::{BALANCER, DNS, EXTERNAL, HTTP, WHOAMI, World, expect, expect_who};

const HEALTH_CHECK: u16 = 32_000;

fn status() -> Value {
    json!({"loadBalancer": {"ingress": BALANCER.map(|ip| json!({"ip": ip, "ipMode": "VIP"}))}})
}

#[test]
fn addresses_of_balancers_and_external_addresses_lead_in_by_any_node() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    let fields = json!({"type": "LoadBalancer", "externalIPs": EXTERNAL});
    for node in [1, 2] {
        world.route_to(node)?;
        world.serve_with(&fields, &status(), &world.members())?;
        for port in [HTTP, DNS] {
            for probe in [port.at_all(BALANCER), port.at_all(EXTERNAL)].concat() {
                for from in world.everybody() {
                    expect_who(from, probe, &["web-1", "web-2"])?;
                }
            }
        }
        // And with the client's own address, where policy is Local.
        let mut local = fields.clone();
        local["externalTrafficPolicy"] = json!("Local");
        world.serve_with(&local, &status(), &world.members())?;
        for addresses in [BALANCER, EXTERNAL] {
            for (probe, outside) in WHOAMI.at_all(addresses).into_iter().zip(OUTSIDE) {
                let seen: IpAddr = probe.answer(world.outside())?.context("an answer")?.parse()?;
                ensure!(seen == outside, "{probe:?}: {seen}");
            }
        }
    }
    Ok(())
}

#[test]
fn source_ranges_close_a_balancers_address_to_others_and_nothing_else() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    world.route_to(1)?;
    let balancer = [HTTP.at_all(BALANCER), DNS.at_all(BALANCER)].concat();
    let elsewhere = [HTTP.at_all(EXTERNAL).to_vec(), world.node_ports(HTTP), world.node_ports(DNS)].concat();
    let serve = |ranges: Value| {
        let fields =
            json!({"type": "LoadBalancer", "externalIPs": EXTERNAL, "loadBalancerSourceRanges": ranges});
        world.serve_with(&fields, &status(), &world.members())
    };
    let pods = world.clients.each_ref().map(|pod| &pod.netns);
    let nodes: Vec<&Netns> = cluster.nodes().iter().map(|node| &node.netns).collect();
    let not_from_nodes = || {
        for (node, probe) in nodes.iter().flat_map(|node| balancer.iter().map(move |probe| (node, probe))) {
            // The kernel tells the process at once: no packet is made.
            let refused = probe.send(node, PATIENCE).err().context("refused at the socket")?;
            let cause = refused.downcast_ref::<io::Error>().map(io::Error::kind);
            ensure!(cause == Some(io::ErrorKind::PermissionDenied), "{probe:?}: {refused:#}");
        }
        Ok::<_, anyhow::Error>(())
    };

    serve(json!(["198.51.100.8/29", "2001:db8:100::/64"]))?;
    expect(&[world.outside()], &balancer, Want::Answer)?;
    expect(&pods, &balancer, Want::Silence)?;
    not_from_nodes()?;

    serve(json!(["10.244.1.0/24", "fd00:10:244:1::/64"]))?;
    expect(&pods[..1], &balancer, Want::Answer)?;
    expect(&[pods[1], world.outside()], &balancer, Want::Silence)?;
    not_from_nodes()?;

    serve(json!(["192.0.2.0/24", "2001:db8:2::/64"]))?;
    expect(&nodes, &balancer, Want::Answer)?;
    expect(&[pods[0], pods[1], world.outside()], &balancer, Want::Silence)?;
    expect(&world.everybody(), &elsewhere, Want::Answer)
}

#[test]
fn health_checks_tell_which_node_has_ready_backends() -> Result<()> {
    let cluster = Cluster::start(2)?;
    let world = World::new(&cluster)?;
    let [first, second] = world.members();
    let fields = json!({
        "type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": HEALTH_CHECK,
    });
    let steps = [
        (vec![first], [200, 503]),
        (vec![first, second], [200, 200]),
        (vec![first.is(Conditions::Ending), second], [503, 200]),
        (vec![first.is(Conditions::Unready), second.is(Conditions::Ending)], [503, 503]),
    ];
    for (members, wanted) in steps {
        world.serve_with(&fields, &status(), &members)?;
        for (node, wanted) in cluster.nodes().iter().zip(wanted) {
            for ip in node.addresses() {
                // Answered beside the plan, not by it.
                eventually("a health check tells", || {
                    Ok(asked(world.outside(), SocketAddr::new(ip, HEALTH_CHECK))? == wanted)
                })
                .with_context(|| format!("{ip}: {wanted} for {members:?}"))?;
            }
        }
    }
    Ok(())
}

/// The status that an HTTP server answers with.
fn asked(from: &Netns, to: SocketAddr) -> Result<u16> {
    let ask = || {
        let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.write_all(b"GET / HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n")?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        Ok::<_, io::Error>(answer)
    };
    let answer = from.enter(ask).with_context(|| format!("asking {to}"))?;
    answer.split(' ').nth(1).context("a status")?.parse().with_context(|| answer.clone())
}
