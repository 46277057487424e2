//! Round trips of real connections between real pods, beside a plain veth pair.
//!
//! TCP_RR: one byte there and back on an open connection. TCP_CRR: connect, one byte there and back, close.

mod path;

use std::net::{IpAddr, SocketAddr};

use anyhow::Result;
use path::{Path, Servers};
use serde_json::json;
use sluice_tests::topology::{
    Cluster, Pod, PodSpec,
    namespace::Netns,
    objects::{SliceMember, slices},
};

use crate::{
    Args,
    report::{Figure, Report},
    spread::Spread,
};

const GROUP: &str = "latency";
const ROUNDS: usize = 30;
/// Where the pods listen, and the Service in front of them: the first for TCP_RR, the second for TCP_CRR.
const PORTS: [u16; 2] = [8000, 8001];
const SERVICE_PORTS: [u16; 2] = [80, 81];
const CLUSTER_IP: &str = "10.96.0.10";
/// The Services of the larger world.
const SERVICES: u32 = 10_000;

/// A path's name with its budgets for TCP_RR and TCP_CRR.
type Budgets = (&'static str, [Option<f64>; 2]);

const VETH: Budgets = ("veth pair", [None, None]);
const SAME_NODE: Budgets = ("pod → pod, same node", [Some(1.10), Some(1.12)]);
const OTHER_NODE: Budgets = ("pod → pod, other node", [Some(1.45), Some(1.45)]);
const SERVICE: Budgets = ("pod → ClusterIP, local backend, 1 Service", [None, Some(1.15)]);
const ONE_OF_MANY: Budgets = ("pod → ClusterIP, local backend, 10 000 Services", [None, Some(1.15)]);

/// Measures every path in turns, first with one Service and then with 10 000.
pub(crate) fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let names = [VETH, SAME_NODE, OTHER_NODE, SERVICE, ONE_OF_MANY];
    if !names.iter().any(|(name, _)| args.wants(GROUP, name)) {
        return Ok(());
    }
    report.heading(
        "latency: round trips, and their ratio to the veth pair's",
        &[
            "Client and server are threads on one CPU. A figure is the median over rounds of the round's own p50 or p99;",
            "a ratio is of p50 within a round. IPv4.",
        ],
    );
    let veth = veth()?;
    let _veth = Servers::start(&veth.1, PORTS)?;
    let cluster = Cluster::start(2)?;
    let client = cluster.pod(1, &PodSpec::new("client", "client"))?;
    let near = cluster.pod(1, &PodSpec::new("near", "server"))?;
    let far = cluster.pod(2, &PodSpec::new("far", "server"))?;
    let _near = Servers::start(&near.netns, PORTS)?;
    let _far = Servers::start(&far.netns, PORTS)?;
    put_service(&cluster, &near)?;
    cluster.settle()?;
    let plain =
        |budgets, from, to: IpAddr| Path::open(budgets, from, PORTS.map(|port| SocketAddr::new(to, port)));
    let service = |budgets| {
        let vip: IpAddr = CLUSTER_IP.parse()?;
        Path::open(budgets, &client.netns, SERVICE_PORTS.map(|port| SocketAddr::new(vip, port)))
    };
    let mut paths = vec![
        plain(VETH, &veth.0, VETH_ADDRESS)?,
        plain(SAME_NODE, &client.netns, near.addresses[0])?,
        plain(OTHER_NODE, &client.netns, far.addresses[0])?,
        service(SERVICE)?,
    ];
    run(args, report, &mut paths)?;
    put_many_services(&cluster, near.slice_member())?;
    cluster.settle()?;
    let mut paths = [plain(VETH, &veth.0, VETH_ADDRESS)?, service(ONE_OF_MANY)?];
    run(args, report, &mut paths)
}

/// Rounds over all paths; the first path is the yardstick.
fn run(args: &Args, report: &mut Report, paths: &mut [Path<'_>]) -> Result<()> {
    for kind in ["TCP_RR", "TCP_CRR"] {
        let mut rounds = vec![Vec::new(); paths.len()];
        for path in &mut *paths {
            path.round(kind == "TCP_CRR")?; // neighbours, routes, caches
        }
        for _ in 0..args.rounds(ROUNDS) {
            for (path, rounds) in paths.iter_mut().zip(&mut rounds) {
                rounds.push(path.round(kind == "TCP_CRR")?);
            }
        }
        let Some(base) = rounds.first().cloned() else { continue };
        for (path, rounds) in paths.iter().zip(&rounds) {
            let (name, [rr, crr]) = path.budgets;
            let budget = if kind == "TCP_CRR" { crr } else { rr };
            let add = |what: &str, unit, figures: Vec<f64>, budget| Figure {
                group: GROUP,
                name: format!("{kind} {what}, {name}"),
                unit,
                spread: Spread::of(figures),
                budget,
            };
            report.add(add("p50", "us", rounds.iter().map(|round| round.p50).collect(), None));
            report.add(add("p99", "us", rounds.iter().map(|round| round.p99).collect(), None));
            if path.budgets != VETH {
                let ratios = rounds.iter().zip(&base).map(|(round, base)| round.p50 / base.p50);
                report.add(add("p50 ÷ veth", "x", ratios.collect(), budget));
            }
        }
    }
    Ok(())
}

const VETH_ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

/// Two namespaces with one veth pair between them; the second has [`VETH_ADDRESS`].
fn veth() -> Result<(Netns, Netns)> {
    let (client, server) = (Netns::new()?, Netns::new()?);
    client.ip_batch(&format!(
        "link add eth0 type veth peer name eth0 netns {}
         addr add 192.0.2.1/24 dev eth0
         link set eth0 up\n",
        server.path().display()
    ))?;
    server.ip_batch(&format!("addr add {VETH_ADDRESS}/24 dev eth0\nlink set eth0 up\n"))?;
    Ok((client, server))
}

fn put_service(cluster: &Cluster, backend: &Pod<'_>) -> Result<()> {
    let port = |name: &str, port: u16, target: u16| json!({"name": name, "protocol": "TCP", "port": port, "targetPort": target});
    let ([rr, crr], [to_rr, to_crr]) = (SERVICE_PORTS, PORTS);
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": "near"},
        "spec": {"clusterIPs": [CLUSTER_IP], "ports": [port("rr", rr, to_rr), port("crr", crr, to_crr)], "selector": {"app": "server"}},
    });
    cluster.objects.put("service-near", &service)?;
    let ports = json!([
        {"name": "rr", "protocol": "TCP", "port": to_rr},
        {"name": "crr", "protocol": "TCP", "port": to_crr},
    ]);
    cluster.objects.put("slices-near", &slices("default", "near", &ports, &[backend.slice_member()]))
}

/// Services that nobody asks, in one file each thousand.
fn put_many_services(cluster: &Cluster, backend: SliceMember<'_>) -> Result<()> {
    let ports = json!([{"protocol": "TCP", "port": 80}]);
    for thousand in 0..SERVICES / 1000 {
        let mut objects = Vec::new();
        for number in thousand * 1000..(thousand + 1) * 1000 {
            let (name, [.., high, low]) = (format!("other-{number}"), number.to_be_bytes());
            objects.push(json!({
                "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": name},
                "spec": {"clusterIPs": [format!("10.97.{high}.{low}")], "ports": [{"protocol": "TCP", "port": 80}]},
            }));
            objects.extend(
                slices("default", &name, &ports, &[backend]).as_array().into_iter().flatten().cloned(),
            );
        }
        cluster.objects.put(&format!("services-{thousand}"), &objects.into())?;
    }
    Ok(())
}
