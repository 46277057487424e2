//! Wires the tasks together; the only file that knows all parts.
//!
//! ```text
//! watch ──objects──▶ ┌────────────┐ ◀──requests── server
//! netlink ─network─▶ │ reconciler │ ──▶ maps
//!                    └─────┬──────┘
//!                      published ──▶ sysctls, routes, CNI configuration, then the node's object
//! ```
//!
//! **Invariant.** A task that ends takes the agent along: the process exits, and is started again. The datapath is
//! pinned and goes on without it, also after a clean stop.

use std::{collections::BTreeSet, net::SocketAddr, path::Path, time::Duration};

use ipnetwork::IpNetwork;
use kube::Client;
use sluice_core::{
    cluster::NodeName,
    compile::{Compiler, Settings},
};
use sluice_maps::MapsError;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{mpsc, watch as published},
};
use tracing::{info, warn};

use crate::{
    causes::Causes,
    config::{Config, prefix},
    conflist::{self, Content},
    datapath::{Datapath, DatapathConfig, LoadError},
    health_checks::Servers,
    leases,
    lock::{Lock, LockError},
    netlink::{self, Monitor, NetlinkError},
    node,
    notice::{self, Notice},
    options::Chain,
    preflight::{self, PreflightError},
    reconciler::{Inputs, Published, Reconciler},
    request::Request,
    routes::{Report, Routes},
    server::{Public, Server, ServerError, serve_public},
    sysctls::Sysctls,
    topology::Topology,
    watch::{Feed, WatchError},
};

/// Why the agent ends, other than by a signal.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The node lacks what the agent needs.
    #[error(transparent)]
    Preflight(#[from] PreflightError),
    /// Another agent is at work.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// The programs cannot be loaded.
    #[error("loading the datapath")]
    Load(#[from] LoadError),
    /// The maps cannot be read.
    #[error("reading the maps back")]
    Maps(#[from] MapsError),
    /// The kernel's announcements.
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    /// The socket.
    #[error(transparent)]
    Server(#[from] ServerError),
    /// The source of objects.
    #[error(transparent)]
    Watch(#[from] WatchError),
    /// Signals cannot be waited for.
    #[error("waiting for signals")]
    Signal(#[source] std::io::Error),
    /// A task that should go on has ended.
    #[error("the agent's {0} ended")]
    Ended(&'static str),
}

/// Objects that wait in memory between source and reconciler.
const OBJECTS: usize = 256;

/// Announcements and questions that wait.
const QUEUE: usize = 64;

/// Events for the API server that wait.
const NOTICES: usize = 256;

/// How long until routes or sysctls that were refused are tried again: the other node may not be up yet.
const RETRY: Duration = Duration::from_secs(5);

/// Runs the agent until a signal ends it.
///
/// # Errors
/// Any [`RunError`]; the datapath stays as it is.
pub async fn run(config: Config) -> Result<(), RunError> {
    let stop = stop_signal()?;
    preflight::check(&config.paths.bpffs)?;
    let _lock = Lock::take(&config.paths.state_dir)?;
    let mut datapath = Datapath::load(&datapath_config(&config))?;
    use_xdp(&mut datapath, &config);
    let (monitor, network) = Monitor::start(config.uplinks.clone()).await?;
    let (published, follow) = published::channel(Published::default());
    let topology = Topology::new(config.node.clone(), config.pod_cidrs.clone());
    let compiler = Compiler::with_settings(NodeName(config.node.clone()), settings(&config));
    let (notices, notices_in) = mpsc::channel(NOTICES);
    let paths = &config.paths;
    let wired = leases::wired(&paths.lease_dir, &paths.network, &network).unwrap_or_else(|error| {
        warn!(error = %Causes(&error), "leases not read: pods that the maps do not know stay as they are");
        Vec::new()
    });
    let mut reconciler = Reconciler::new(compiler, topology, datapath, network, published, notices)?;
    reconciler.adopt(wired);
    reconciler.serve_sockets(config.sockets.clone(), config.served);
    let feed = Feed::open(config.source.clone()).await?;
    let notices = publish_notices(feed.client(), &config.node, notices_in);
    let (installed, can_make_pods) = published::channel(false);
    let node = keep_node(feed.client(), &config, can_make_pods);
    let server = Server::bind(&config.paths.socket)?;
    info!(node = %config.node, socket = %config.paths.socket.display(), "agent started");

    let (objects, objects_in) = mpsc::channel(OBJECTS);
    let (events, network_in) = mpsc::channel(QUEUE);
    let (requests, requests_in) = mpsc::channel(QUEUE);
    let inputs = Inputs { objects: objects_in, network: network_in, requests: requests_in };
    let metrics = keep_public(Public::Metrics, config.metrics, requests.clone());
    let health = keep_public(Public::Health, config.health, requests.clone());
    let routes = Routes::new(netlink::connect()?);
    tokio::select! {
        name = stop => {
            info!(signal = name, "agent stops; the datapath stays in force");
            Ok(())
        }
        () = Box::pin(reconciler.run(inputs)) => Err(RunError::Ended("reconciler")),
        // On the heap: each kind has a watch of its own in it.
        ended = Box::pin(feed.run(objects)) => Err(ended.map_or_else(RunError::from, |()| RunError::Ended("source"))),
        ended = monitor.run(events) => Err(ended.map_or_else(RunError::from, |()| RunError::Ended("netlink monitor"))),
        ended = server.run(requests) => Err(ended.map_or_else(RunError::from, |()| RunError::Ended("server"))),
        ended = metrics => Err(ended.map_or_else(RunError::from, |()| RunError::Ended("metrics"))),
        ended = health => Err(ended.map_or_else(RunError::from, |()| RunError::Ended("health"))),
        () = notices => Err(RunError::Ended("Events")),
        () = keep_health_checks(follow.clone()) => Err(RunError::Ended("health checks")),
        () = node => Err(RunError::Ended("node object")),
        () = keep_sysctls(&config, follow.clone()) => Err(RunError::Ended("sysctls")),
        () = keep_routes(&routes, follow.clone()) => Err(RunError::Ended("routes")),
        () = keep_conflist(&config, follow, installed) => Err(RunError::Ended("CNI configuration")),
    }
}

/// Waits until a signal ends it.
///
/// # Errors
/// [`RunError::Signal`].
pub async fn pause() -> Result<(), RunError> {
    stop_signal()?.await;
    Ok(())
}

/// Lets uplinks run XDP, where it is asked for and the kernel does; the rest works without.
fn use_xdp(datapath: &mut Datapath, config: &Config) {
    if let Err(error) = datapath.use_xdp(&datapath_config(config), config.xdp) {
        warn!(error = %Causes(&error), "no uplink runs XDP: packets from outside go through tc");
    }
}

fn datapath_config(config: &Config) -> DatapathConfig {
    DatapathConfig {
        related_icmp: config.related_icmp,
        snat_ports: config.services.snat_ports.clone(),
        ..DatapathConfig::new(config.paths.bpffs.clone())
    }
}

/// This node's configured ranges see pods' own addresses, as those of its object would.
fn settings(config: &Config) -> Settings {
    let mut settings = config.services.settings.clone();
    settings.no_masquerade.extend(config.pod_cidrs.iter().filter_map(|range| prefix(*range)));
    settings
}

/// Installs the handlers at once; the future ends with the first signal's name.
fn stop_signal() -> Result<impl Future<Output = &'static str>, RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::Signal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(RunError::Signal)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        }
    })
}

async fn keep_public(
    what: Public,
    at: Option<SocketAddr>,
    requests: mpsc::Sender<Request>,
) -> Result<(), ServerError> {
    match at {
        Some(at) => serve_public(what, at, requests).await,
        None => std::future::pending().await,
    }
}

/// Says in the node's object that pods can be made, once they can.
async fn keep_node(client: Option<Client>, config: &Config, mut can_make_pods: published::Receiver<bool>) {
    let Some(client) = client else { return std::future::pending().await };
    if can_make_pods.wait_for(|can| *can).await.is_ok() {
        node::keep(client, &config.node, config.startup_taint.as_deref()).await;
    }
}

/// Publishes Events where there is an API server.
async fn publish_notices(client: Option<Client>, node: &str, notices: mpsc::Receiver<Notice>) {
    match client {
        Some(client) => notice::publish(client, node, notices).await,
        None => {
            drop(notices);
            std::future::pending().await
        }
    }
}

/// Answers load balancers that ask about Services.
async fn keep_health_checks(mut follow: published::Receiver<Published>) {
    let mut servers = Servers::default();
    loop {
        let wanted = follow.borrow_and_update().health_checks.clone();
        let is_done = servers.keep(&wanted).await;
        if !changed(&mut follow, !is_done).await {
            return;
        }
    }
}

/// Lets the node's stack forward what comes from the uplinks, and keeps its sockets off the ports of translated flows.
async fn keep_sysctls(config: &Config, mut follow: published::Receiver<Published>) {
    let sysctls = Sysctls::new(&config.paths.sysctl_dir, &config.paths.state_dir);
    let mut told = None;
    loop {
        let (uplinks, has_v6) = {
            let published = follow.borrow_and_update();
            (published.uplinks.clone(), published.own_ranges.iter().any(IpNetwork::is_ipv6))
        };
        let ports = &config.services.snat_ports;
        let reserved = sysctls.reserve_ports(ports).map(|changed| {
            if changed {
                info!(first = ports.start(), last = ports.end(), "ports of translated flows reserved");
            }
        });
        let set = reserved.and_then(|()| sysctls.forward(uplinks.iter().map(|uplink| &*uplink.name), has_v6));
        let refused = match set {
            Ok(0) => None,
            Ok(count) => {
                info!(count, "sysctls set");
                None
            }
            Err(error) => Some(Causes(&error).to_string()),
        };
        if let Some(error) = refused.as_ref().filter(|error| told.as_ref() != Some(*error)) {
            warn!(error, "node may not forward what the programs leave to it");
        }
        told = refused;
        if !changed(&mut follow, told.is_some()).await {
            return;
        }
    }
}

/// Waits until something else is published, or it is time to try again; false when nothing will be any more.
async fn changed(follow: &mut published::Receiver<Published>, retry: bool) -> bool {
    if retry {
        tokio::time::timeout(RETRY, follow.changed()).await.map_or(true, |changed| changed.is_ok())
    } else {
        follow.changed().await.is_ok()
    }
}

/// Keeps the routes as the nodes say, once all nodes are known.
async fn keep_routes(routes: &Routes, mut follow: published::Receiver<Published>) {
    let mut told = BTreeSet::new();
    if follow.wait_for(|published| published.synced).await.is_err() {
        return;
    }
    loop {
        let wanted = follow.borrow_and_update().routes.clone();
        let report = routes
            .sync(&wanted)
            .await
            .unwrap_or_else(|error| Report { skipped: vec![error], ..Report::default() });
        if report.written + report.deleted > 0 {
            info!(written = report.written, deleted = report.deleted, "routes changed");
        }
        let skipped: BTreeSet<_> = report.skipped.iter().map(|error| Causes(error).to_string()).collect();
        for error in skipped.difference(&told) {
            warn!(error, "route not as it should be");
        }
        told = skipped;
        if !changed(&mut follow, !told.is_empty()).await {
            return;
        }
    }
}

/// Writes the CNI configuration once pods can be made, and again when this node's ranges change. What cannot be written is
/// tried again. Then `installed` says that pods can be made.
async fn keep_conflist(
    config: &Config,
    mut follow: published::Receiver<Published>,
    installed: published::Sender<bool>,
) {
    if follow.wait_for(|published| published.ready).await.is_err() {
        return;
    }
    let mut written = None;
    loop {
        let ranges = follow.borrow_and_update().own_ranges.clone();
        let is_written = match &config.paths.conflist {
            _ if written.as_ref() == Some(&ranges) => true,
            Some(_) if ranges.is_empty() => {
                warn!(node = %config.node, "node has no pod ranges yet: no CNI configuration is written");
                true
            }
            Some(path) => tell(&installed, write_conflist(config, path, &ranges)),
            None => tell(&installed, true),
        };
        written = is_written.then_some(ranges);
        if !changed(&mut follow, !is_written).await {
            return;
        }
    }
}

/// Passes on that pods can be made, which stays true.
fn tell(installed: &published::Sender<bool>, can_make_pods: bool) -> bool {
    installed.send_if_modified(|told| can_make_pods && !std::mem::replace(told, true));
    can_make_pods
}

/// Whether the configuration is as it should be.
fn write_conflist(config: &Config, path: &Path, ranges: &[IpNetwork]) -> bool {
    let paths = &config.paths;
    let portmap = || paths.cni_bin_dir.as_ref().is_some_and(|folder| folder.join(conflist::PORTMAP).exists());
    let text = conflist::render(&Content {
        network: &paths.network,
        ranges,
        mtu: config.mtu,
        socket: &paths.socket,
        lease_dir: &paths.lease_dir,
        portmap: match config.chain {
            Chain::Auto => portmap(),
            Chain::Portmap => true,
            Chain::None => false,
        },
    });
    match conflist::write(path, &text) {
        Ok(true) => info!(path = %path.display(), "CNI configuration written"),
        Ok(false) => info!(path = %path.display(), "CNI configuration is as it should be"),
        Err(error) => {
            tracing::error!(error = %Causes(&error), "no pods can be made: trying again");
            return false;
        }
    }
    true
}
