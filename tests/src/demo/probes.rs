//! Who may reach whom in the examples, and how it is tried.

use std::net::IpAddr;

use anyhow::Result;

use super::control_plane::{OTHER_PORT, UPLOAD_PORT, World};
use crate::topology::{
    Cluster, OUTSIDE, Pod,
    namespace::Netns,
    traffic::{Expectation, Probe, Want},
};

/// A probe, in words and as it is sent.
#[derive(Clone, Debug)]
pub(super) struct Row<'a> {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) path: &'static str,
    pub(super) sent: Expectation<'a>,
}

/// A sender.
#[derive(Clone, Copy)]
struct From<'a> {
    name: &'a str,
    node: &'a str,
    netns: &'a Netns,
}

impl<'a> From<'a> {
    fn pod(pod: &'a Pod<'_>) -> Self {
        Self { name: &pod.name, node: &pod.node.name, netns: &pod.netns }
    }

    fn row(self, to: &str, path: &'static str, probe: Probe, want: Want) -> Row<'a> {
        let sent = Expectation { from: self.netns, probe, want };
        Row { from: self.name.to_owned(), to: to.to_owned(), path, sent }
    }

    /// The same probe to both addresses of a pod.
    fn to_pod(self, to: &Pod<'_>, probe: impl Fn(IpAddr) -> Probe, want: Want) -> [Row<'a>; 2] {
        let path = if self.node == to.node.name { "same node" } else { "across nodes" };
        to.addresses.map(|ip| self.row(&to.name, path, probe(ip), want))
    }

    /// The same probe to both addresses of a Service.
    fn to_service(
        self,
        world: &World<'_>,
        name: &str,
        probe: impl Fn(IpAddr) -> Probe,
        want: Want,
    ) -> Result<[Row<'a>; 2]> {
        Ok(world.service(name)?.map(|ip| self.row(&format!("Service {name}"), "ClusterIP", probe(ip), want)))
    }
}

fn tcp(port: u16) -> impl Fn(IpAddr) -> Probe + Copy {
    move |ip| Probe::Tcp((ip, port).into())
}

fn udp(port: u16) -> impl Fn(IpAddr) -> Probe + Copy {
    move |ip| Probe::Udp((ip, port).into())
}

/// Every probe.
pub(super) fn all<'a>(cluster: &'a Cluster, world: &'a World<'_>) -> Result<Vec<Row<'a>>> {
    let mut rows = Vec::new();
    for client in world.replicas("frontend") {
        let client = From::pod(client);
        for server in world.replicas("inference") {
            rows.extend(client.to_pod(server, tcp(8000), Want::Answer));
            rows.extend(client.to_pod(server, udp(8000), Want::Silence));
            rows.extend(client.to_pod(server, Probe::Ping, Want::Silence));
        }
        rows.extend(client.to_service(world, "inference", tcp(80), Want::Answer)?);
        rows.extend(client.to_service(world, "dns", udp(53), Want::Answer)?);
    }
    let batch = From::pod(world.pod("batch")?);
    for server in world.replicas("inference") {
        rows.extend(batch.to_pod(server, tcp(8000), Want::Silence));
    }
    for open in world.replicas("frontend") {
        rows.extend(batch.to_pod(open, tcp(8080), Want::Answer));
        rows.extend(batch.to_pod(open, Probe::Ping, Want::Answer));
    }
    rows.extend(batch.to_service(world, "inference", tcp(80), Want::Silence)?);
    rows.extend(reporter(world)?);
    rows.extend(nodes(cluster, world));
    Ok(rows)
}

/// What the pod that may only upload and ask for names may do.
fn reporter<'a>(world: &'a World<'_>) -> Result<Vec<Row<'a>>> {
    let reporter = From::pod(world.pod("reporter")?);
    let mut rows = Vec::new();
    rows.extend(reporter.to_service(world, "dns", udp(53), Want::Answer)?);
    rows.extend(reporter.to_service(world, "dns", tcp(53), Want::Answer)?);
    rows.extend(reporter.to_service(world, "inference", tcp(80), Want::Silence)?);
    for ip in OUTSIDE {
        rows.push(reporter.row("outside", "router", tcp(UPLOAD_PORT)(ip), Want::Answer));
        rows.push(reporter.row("outside", "router", tcp(OTHER_PORT)(ip), Want::Silence));
        rows.push(reporter.row("outside", "router", Probe::Ping(ip), Want::Silence));
    }
    rows.extend(From::pod(world.pod("batch")?).to_pod(world.pod("reporter")?, Probe::Ping, Want::Silence));
    Ok(rows)
}

/// A node reaches its own pods whatever the policy says (probes of the kubelet), and no other's.
fn nodes<'a>(cluster: &'a Cluster, world: &'a World<'_>) -> Vec<Row<'a>> {
    let mut rows = Vec::new();
    for node in cluster.nodes() {
        let from = From { name: &node.name, node: &node.name, netns: &node.netns };
        for pod in world.replicas("inference") {
            let want = if pod.node.name == node.name { Want::Answer } else { Want::Silence };
            rows.extend(from.to_pod(pod, tcp(8000), want));
        }
    }
    rows
}

/// The probes from and to pods of one node.
pub(super) fn on_node<'a>(cluster: &'a Cluster, world: &'a World<'_>, number: u8) -> Result<Vec<Row<'a>>> {
    let node = &cluster.node(number).name;
    let names: Vec<_> =
        world.pods.iter().filter(|pod| pod.node.name == *node).map(|pod| pod.name.clone()).collect();
    let is_there = |row: &Row<'_>| names.contains(&row.from);
    Ok(all(cluster, world)?.into_iter().filter(is_there).collect())
}
