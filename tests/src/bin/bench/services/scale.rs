//! 30 000 Services of three backends each, from a folder.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _},
    path::Path,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use aya::maps::MapData;
use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_abi::{Frontend, FrontendKey, FrontendScope, protocol};
use sluice_maps::pins::{self, PinKind};
use sluice_tests::topology::{AgentOptions, Cluster, Node, objects};

use super::figure;
use crate::{Args, control::rss_mib, report::Report, spread::quantile};

const SERVICES: u32 = 30_000;
const BACKENDS: u32 = 3;
const LOADS: usize = 5;
const CHANGES: usize = 50;
/// Longest wait for a load.
const LIMIT: Duration = Duration::from_secs(300);
/// The Service that changes; it has a file of its own.
const CHANGED: u32 = SERVICES - 1;

/// Loads, restarts, changes; then what it takes.
pub(super) fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let (mut loads, mut restarts) = (Vec::new(), Vec::new());
    let (mut cluster, mut memory) = (None, Vec::new());
    for _ in 0..args.rounds(LOADS) {
        drop(cluster.take());
        let loaded = Cluster::new(1)?;
        put_services(&loaded)?;
        loads.push(start(loaded.node(1))?);
        memory.push(rss_mib(loaded.node(1))?);
        loaded.node(1).stop_agent(Signal::SIGKILL)?;
        restarts.push(start(loaded.node(1))?);
        cluster = Some(loaded);
    }
    let cluster = cluster.context("one load at least")?;
    report.add(figure("30 000 Services × 3: agent's start → all in force".to_owned(), "s", loads, None));
    report.add(figure("30 000 Services × 3: restart → in force".to_owned(), "s", restarts, None));
    report.add(figure(
        "30 000 Services × 3: agent memory (RSS) after the load".to_owned(),
        "MiB",
        memory,
        None,
    ));
    let mut times = changes(&cluster, args.rounds(CHANGES))?;
    let slowest = quantile(&mut times, 0.99);
    report.add(figure("30 000 Services × 3: one changes → in force, p50".to_owned(), "ms", times, None));
    report.add(figure(
        "30 000 Services × 3: one changes → in force, p99".to_owned(),
        "ms",
        vec![slowest],
        None,
    ));
    let maps = map_memory(&cluster.node(1).bpffs())?;
    let total = maps.iter().map(|(_, mib)| mib).sum();
    report.add(figure("30 000 Services × 3: memory of all maps".to_owned(), "MiB", vec![total], None));
    for (name, mib) in maps.into_iter().filter(|(_, mib)| *mib >= 0.5) {
        report.add(figure(format!("30 000 Services × 3: memory of map {name}"), "MiB", vec![mib], None));
    }
    Ok(())
}

/// Seconds from the start of an agent until its first plan is in force.
fn start(node: &Node) -> Result<f64> {
    let begun = Instant::now();
    node.spawn_agent(&AgentOptions::default())?;
    while node.await_ready().is_err() {
        if begun.elapsed() > LIMIT {
            bail!("waited {LIMIT:?} for an agent:\n{}", node.log());
        }
    }
    let elapsed = begun.elapsed().as_secs_f64();
    let maps = node.maps()?;
    for number in [0, CHANGED] {
        let frontend = maps.frontends.get(&key(number))?.with_context(|| format!("Service {number}"))?;
        anyhow::ensure!(frontend.count == BACKENDS, "Service {number}: {frontend:?}");
    }
    Ok(elapsed)
}

/// Milliseconds of each change of one Service's backends.
fn changes(cluster: &Cluster, count: usize) -> Result<Vec<f64>> {
    let maps = cluster.node(1).maps()?;
    let frontend = || -> Result<Frontend> { maps.frontends.get(&key(CHANGED))?.context("a Service") };
    let mut times = Vec::with_capacity(count);
    for number in 0..count {
        let before = frontend()?;
        let backends = if number.is_multiple_of(2) { BACKENDS - 1 } else { BACKENDS };
        let begun = Instant::now();
        cluster.objects.put("changed", &service(CHANGED, backends).into())?;
        while frontend()? == before {
            if begun.elapsed() > LIMIT {
                bail!("waited {LIMIT:?} for a change");
            }
            // Leaves the CPU to the agent, where there is only one.
            thread::sleep(Duration::from_micros(20));
        }
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        cluster.settle_written()?;
    }
    Ok(times)
}

/// What the kernel has taken for each map, MiB (`memlock` of `/proc/PID/fdinfo`), the largest first.
fn map_memory(bpffs: &Path) -> Result<Vec<(String, f64)>> {
    let mut maps = Vec::new();
    for pin in pins::list(bpffs)?.into_iter().filter(|pin| pin.kind == PinKind::Map) {
        let path = pins::pin_dir(bpffs).join(&pin.path);
        let map = MapData::from_pin(&path).with_context(|| format!("opening {}", path.display()))?;
        let info = format!("/proc/self/fdinfo/{}", map.fd().as_fd().as_raw_fd());
        let text = fs::read_to_string(&info).with_context(|| format!("reading {info}"))?;
        let line = text.lines().find_map(|line| line.strip_prefix("memlock:")).context("a map's memory")?;
        let bytes: f64 = line.trim().parse().context("a map's memory")?;
        maps.push((pin.path.display().to_string(), bytes / f64::from(1 << 20)));
    }
    maps.sort_by(|(_, one), (_, other)| other.total_cmp(one));
    Ok(maps)
}

/// All Services, a thousand in a file, and the one that changes.
fn put_services(cluster: &Cluster) -> Result<()> {
    for thousand in 0..SERVICES / 1000 {
        let numbers = thousand * 1000..((thousand + 1) * 1000).min(CHANGED);
        let objects = numbers.flat_map(|number| service(number, BACKENDS));
        cluster.objects.put(&format!("services-{thousand}"), &objects.collect())?;
    }
    cluster.objects.put("changed", &service(CHANGED, BACKENDS).into())
}

/// A Service and its EndpointSlice; its backends are its own, on other nodes.
fn service(number: u32, backends: u32) -> Vec<Value> {
    let name = format!("service-{number}");
    let ports = json!([{"protocol": "TCP", "port": 80, "targetPort": 8080}]);
    let endpoints: Vec<_> = (0..backends)
        .map(|backend| {
            let [.., second, third, fourth] = (number * BACKENDS + backend).to_be_bytes();
            json!({
                "addresses": [IpAddr::from([10, 128 + second, third, fourth])],
                "nodeName": format!("node-{}", number % 1000),
                "conditions": {"ready": true, "serving": true, "terminating": false},
            })
        })
        .collect();
    let slice = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": {
            "namespace": "default", "name": format!("{name}-1"),
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4", "endpoints": endpoints, "ports": [{"protocol": "TCP", "port": 8080}],
    });
    vec![objects::service(&name, &json!({"clusterIPs": [address(number).ip()], "ports": ports})), slice]
}

fn address(number: u32) -> SocketAddr {
    let [.., high, low] = number.to_be_bytes();
    SocketAddr::new(IpAddr::from([10, 97, high, low]), 80)
}

fn key(number: u32) -> FrontendKey {
    let at = address(number);
    FrontendKey {
        addr: at.ip().into(),
        port: at.port().to_be_bytes(),
        protocol: protocol::TCP,
        scope: FrontendScope::Internal as u8,
    }
}
