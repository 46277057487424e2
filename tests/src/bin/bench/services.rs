//! Services while they change, and many of them.
//!
//! [`scale`] is the large world.

mod scale;

use std::{
    io::Read as _,
    net::{IpAddr, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use sluice_tests::topology::{
    Cluster, PATIENCE, Pod, PodSpec,
    namespace::Netns,
    objects::{self, Conditions, SliceMember},
    traffic::{Listen, Server},
};

use crate::{
    Args,
    report::{Figure, Report},
    spread::{Spread, quantile},
};

const GROUP: &str = "services";
const READINESS: usize = 200;
const MADE: usize = 100;
const PORT: u16 = 8000;
/// Services beside those that are measured.
const OTHERS: u32 = 10_000;

const NAMES: [&str; 3] =
    ["endpoint not ready → no new connection", "Service made → first connection", "30 000 Services"];

/// Measures changes of Services, first alone and then among 10 000, and then what 30 000 take.
pub(crate) fn measure(args: &Args, report: &mut Report) -> Result<()> {
    let [readiness, made, many] = NAMES.map(|name| args.wants(GROUP, name));
    if readiness || made || many {
        report.heading(
            "services: from the write of a file to what a pod sees",
            &[
                "A pod connects again and again, each time by a new socket. Not ready: from the write of the EndpointSlice to the",
                "start of the first connection after the last one that it got. Made: to the first that is established. IPv4.",
            ],
        );
    }
    if readiness || made {
        measure_changes(args, report, readiness, made)?;
    }
    if many { scale::measure(args, report) } else { Ok(()) }
}

fn measure_changes(args: &Args, report: &mut Report, readiness: bool, made: bool) -> Result<()> {
    let cluster = Cluster::start(1)?;
    let world = World::new(&cluster)?;
    for others in [0, OTHERS] {
        if others > 0 {
            put_others(&cluster, others, world.members()[0])?;
            cluster.settle_written()?;
        }
        let among = format!("{} Services", others.max(1));
        if readiness {
            let times = world.not_ready(args.rounds(READINESS))?;
            add(report, &format!("{}, {among}", NAMES[0]), times, None, Some(10.0));
        }
        if made {
            let times = world.made(args.rounds(MADE), others)?;
            add(report, &format!("{}, {among}", NAMES[1]), times, Some(15.0), None);
        }
    }
    Ok(())
}

/// Half and the slowest hundredth of the times, ms.
fn add(report: &mut Report, name: &str, times: Vec<f64>, p50: Option<f64>, p99: Option<f64>) {
    let slowest = quantile(&mut times.clone(), 0.99);
    report.add(figure(format!("{name}, p50"), "ms", times, p50));
    report.add(figure(format!("{name}, p99"), "ms", vec![slowest], p99));
}

fn figure(name: String, unit: &'static str, figures: Vec<f64>, budget: Option<f64>) -> Figure {
    Figure { group: GROUP, name, unit, spread: Spread::of(figures), budget }
}

/// A client and two backends on one node.
struct World<'c> {
    cluster: &'c Cluster,
    client: Pod<'c>,
    backends: [Pod<'c>; 2],
    _servers: [Server; 2],
}

impl<'c> World<'c> {
    fn new(cluster: &'c Cluster) -> Result<Self> {
        let pod = |name| cluster.pod(1, &PodSpec::new(name, "pod"));
        let (client, backends) = (pod("client")?, [pod("first")?, pod("second")?]);
        let serve = |pod: &Pod<'_>| Server::start(&pod.netns, &pod.name, &[Listen::Echo(PORT)]);
        let servers = [serve(&backends[0])?, serve(&backends[1])?];
        Ok(Self { cluster, client, backends, _servers: servers })
    }

    fn members(&self) -> [SliceMember<'_>; 2] {
        [self.backends[0].slice_member(), self.backends[1].slice_member()]
    }

    /// One of two backends gets unready, again and again: milliseconds until it gets no new connection.
    fn not_ready(&self, count: usize) -> Result<Vec<f64>> {
        let to = address(250);
        let [first, second] = self.members();
        self.cluster.objects.put("readiness", &service("readiness", to))?;
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            put_slices(self.cluster, "readiness", &[first, second])?;
            self.cluster.settle_written()?;
            let start = Instant::now();
            put_slices(self.cluster, "readiness", &[first.is(Conditions::Unready), second])?;
            let name = first.pod;
            times.push(self.client.netns.enter(|| last_of(to, name, start))?);
        }
        Ok(times)
    }

    /// New Services come one after the other: milliseconds until a pod can use each.
    fn made(&self, count: usize, others: u32) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(count);
        for number in 0..u8::try_from(count).context("a number for each Service")? {
            let (name, to) = (format!("made-{others}-{number}"), address(number));
            // Another address each time; the one before goes in the same file.
            let objects = with_slices(service(&name, to), &name, &self.members());
            let start = Instant::now();
            self.cluster.objects.put("made", &objects)?;
            times.push(first_connection(&self.client.netns, to, start)?);
            self.cluster.settle_written()?;
        }
        Ok(times)
    }
}

/// A cluster address.
fn address(number: u8) -> SocketAddr {
    SocketAddr::new(IpAddr::from([10, 98, 0, number]), 80)
}

fn service(name: &str, at: SocketAddr) -> Value {
    let ports = json!([{"protocol": "TCP", "port": at.port(), "targetPort": PORT}]);
    objects::service(name, &json!({"clusterIPs": [at.ip()], "ports": ports}))
}

fn with_slices(service: Value, name: &str, members: &[SliceMember<'_>]) -> Value {
    let slices = objects::slices("default", name, &json!([{"protocol": "TCP", "port": PORT}]), members);
    [service].into_iter().chain(slices.as_array().into_iter().flatten().cloned()).collect()
}

fn put_slices(cluster: &Cluster, service: &str, members: &[SliceMember<'_>]) -> Result<()> {
    let slices = objects::slices("default", service, &json!([{"protocol": "TCP", "port": PORT}]), members);
    cluster.objects.put(&format!("slices-{service}"), &slices)
}

/// Connects until the server has had none of so many connections; milliseconds from `start` to the first of those.
fn last_of(to: SocketAddr, name: &str, start: Instant) -> Result<f64> {
    /// By chance, one of two backends is missed so often once in 10^9 times.
    const MISSED: u32 = 30;
    let (mut missed, mut since) = (0, start);
    while missed < MISSED {
        if start.elapsed() > PATIENCE {
            bail!("waited {PATIENCE:?} until {name} gets no new connection");
        }
        // Leaves the CPU to the agent, where there is only one.
        thread::sleep(Duration::from_micros(100));
        let begun = Instant::now();
        let mut stream = TcpStream::connect(to).with_context(|| format!("connecting to {to}"))?;
        stream.set_read_timeout(Some(PATIENCE)).context("limiting a read")?;
        let mut answer = vec![0; name.len()];
        stream.read_exact(&mut answer).context("reading a name")?;
        if answer == name.as_bytes() {
            missed = 0;
        } else {
            since = if missed == 0 { begun } else { since };
            missed += 1;
        }
    }
    Ok((since - start).as_secs_f64() * 1e3)
}

/// Milliseconds from `start` until a connection is established: new sockets, since the first segment of one that came too
/// early is sent again only after a second.
fn first_connection(from: &Netns, to: SocketAddr, start: Instant) -> Result<f64> {
    const LIMIT: Duration = Duration::from_micros(500);
    let connect = || {
        while TcpStream::connect_timeout(&to, LIMIT).is_err() {
            if start.elapsed() > PATIENCE {
                bail!("waited {PATIENCE:?} for a connection to {to}");
            }
        }
        Ok(start.elapsed().as_secs_f64() * 1e3)
    };
    from.enter(connect)
}

/// Services that nobody asks, a thousand in a file.
fn put_others(cluster: &Cluster, count: u32, backend: SliceMember<'_>) -> Result<()> {
    for thousand in 0..count / 1000 {
        let objects = (thousand * 1000..(thousand + 1) * 1000).flat_map(|number| {
            let (name, [.., high, low]) = (format!("other-{number}"), number.to_be_bytes());
            let at = SocketAddr::new(IpAddr::from([10, 97, high, low]), 80);
            let objects = with_slices(service(&name, at), &name, &[backend]);
            objects.as_array().cloned().unwrap_or_default()
        });
        cluster.objects.put(&format!("others-{thousand}"), &objects.collect())?;
    }
    Ok(())
}
