//! Nodes and pods as namespaces, with the real agent and the real plugin in them.
//!
//! ```text
//!  node-1: eth0 192.0.2.11 ──┐
//!  node-2: eth0 192.0.2.12 ──┼── br0 192.0.2.1  router  wan0 (smaller MTU)── eth0 198.51.100.10  outside
//!                            │
//!  pods 10.244.N.0/24, fd00:10:244:N::/64 behind node N
//! ```
//!
//! Start at [`Cluster::start`], then [`Cluster::pod`] and [`traffic`]; [`load`] is traffic that goes on while something
//! changes. [`node`] has what lives on a node, [`objects`]
//! the folder of Kubernetes objects that all agents watch, [`namespace`] what all is made of.
//!
//! **Invariant: nothing has a name.** Namespaces, with the file systems mounted in them, are held by open files of this
//! process; processes in them die with the thread that started them. So nothing is left, however this process ends.

pub mod load;
pub mod namespace;
pub mod node;
pub mod objects;
pub mod pod;
pub mod server;
pub mod traffic;

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use namespace::{Mounts, Netns, mount_new};
pub use node::{AgentOptions, Node};
pub use objects::Objects;
pub use pod::{Pod, PodSpec};

use crate::cgroup::OwnCgroup;

/// How long anything may take that should happen at once.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// MTU in bytes of the router's way to the outside. Everything else has 1500, also the host outside: the end of a
/// connection does not know what lies between.
pub const WAN_MTU: u32 = 1400;
/// A host outside of the cluster, behind the router.
pub const OUTSIDE: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(198, 51, 100, 10)),
    IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x100, 0, 0, 0, 0, 0x10)),
];

/// Lines of a log that are shown after a failure.
const LOG_LINES: usize = 30;

/// Folder of the objects, in every node.
const OBJECTS: &str = "/run/cluster/objects";

/// Two or three nodes, a router, and a host outside.
#[derive(Debug)]
pub struct Cluster {
    /// The objects that the agents watch.
    pub objects: Objects,
    /// The router between nodes and the outside.
    pub router: Netns,
    /// The host outside.
    pub outside: Netns,
    nodes: Vec<Node>,
    /// Which of two markers says that something is in force.
    turn: AtomicBool,
    /// Holds the file system that has the objects.
    _shared: Mounts,
    /// Holds the processes of all nodes; each agent tells its own by their network namespace.
    _cgroup: OwnCgroup,
}

impl Cluster {
    /// Makes the namespaces and the Node objects; no agent runs.
    ///
    /// # Errors
    /// When the kernel refuses, or a binary is missing.
    pub fn new(count: u8) -> Result<Self> {
        let shared = Mounts::new(None, || {
            // Directories that every system has.
            mount_new("tmpfs", "/run")?;
            for folder in [OBJECTS, "/run/sluice", "/run/cni", "/run/log"] {
                fs::create_dir_all(folder).with_context(|| format!("making {folder}"))?;
            }
            Ok(())
        })?;
        let objects = Objects::new(shared.path(OBJECTS));
        let (router, outside) = (Netns::new()?, Netns::new()?);
        set_up_router(&router, &outside)?;
        let cgroup = OwnCgroup::enter()?;
        let nodes = (1..=count).map(|number| Node::new(number, &shared, &router, &cgroup));
        let nodes = nodes.collect::<Result<Vec<_>>>()?;
        for node in &nodes {
            objects.put(&format!("node-{}", node.number), &node.object())?;
        }
        let turn = AtomicBool::default();
        Ok(Self { objects, router, outside, nodes, turn, _shared: shared, _cgroup: cgroup })
    }

    /// Makes a cluster and starts an agent on every node.
    ///
    /// # Errors
    /// As [`Cluster::new`], and when an agent does not become ready.
    pub fn start(count: u8) -> Result<Self> {
        Self::start_with(count, &AgentOptions::default())
    }

    /// The same with options for the agents.
    ///
    /// # Errors
    /// As [`Cluster::start`].
    pub fn start_with(count: u8, options: &AgentOptions) -> Result<Self> {
        let cluster = Self::new(count)?;
        cluster.nodes.iter().try_for_each(|node| node.spawn_agent(options))?;
        cluster.nodes.iter().try_for_each(Node::await_ready)?;
        cluster.await_routes()?;
        Ok(cluster)
    }

    /// Node 1, 2, …
    ///
    /// # Panics
    /// When there is no such node.
    pub fn node(&self, number: u8) -> &Node {
        &self.nodes[usize::from(number) - 1]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Starts a pod as scheduler, kubelet and runtime do: object, ADD, status.
    ///
    /// # Errors
    /// When ADD fails; the object stays.
    pub fn pod(&self, node: u8, spec: &PodSpec<'_>) -> Result<Pod<'_>> {
        Pod::start(&self.objects, self.node(node), spec)
    }

    /// Waits until every running agent has in force what the objects say now.
    ///
    /// A Service comes and goes, in the last file of the folder: when its address has appeared in an agent's map, all
    /// changes before it have been read, and when it is gone again, the plan that had them is done.
    ///
    /// # Errors
    /// When an agent does not keep up.
    pub fn settle(&self) -> Result<()> {
        const MARKER: &str = "zz-settle";
        self.objects.put(MARKER, &objects::marker(objects::MARKER))?;
        self.await_marker(objects::MARKER, true)?;
        self.objects.delete(MARKER)?;
        self.await_marker(objects::MARKER, false)
    }

    /// The same for what was written, much sooner: a file that was removed counts as gone only after a while.
    ///
    /// Two markers take turns in a file. One that has come is in a plan with, or after, all that was written before it;
    /// when the other has come in its place, that plan is done.
    ///
    /// # Errors
    /// When an agent does not keep up.
    pub fn settle_written(&self) -> Result<()> {
        for _ in 0..2 {
            let turn = self.turn.fetch_xor(true, Ordering::Relaxed);
            let [now, before] = if turn { [1, 2] } else { [2, 1] };
            self.objects.put("zz-settle-written", &objects::marker(now))?;
            self.await_marker(now, true)?;
            self.await_marker(before, false)?;
        }
        Ok(())
    }

    fn await_marker(&self, number: u16, is_there: bool) -> Result<()> {
        let key = objects::marker_key(number);
        for node in self.nodes.iter().filter(|node| node.has_agent()) {
            let maps = node.maps()?;
            eventually("an agent takes in a change", || Ok(maps.frontends.get(&key)?.is_some() == is_there))
                .with_context(|| node.name.clone())?;
        }
        Ok(())
    }

    fn await_routes(&self) -> Result<()> {
        let want = self.nodes.len();
        for node in &self.nodes {
            for family in ["-4", "-6"] {
                eventually("an agent makes its routes", || {
                    let routes = node.netns.ip(&format!("{family} route show proto 83"))?;
                    Ok(routes.lines().filter(|line| !line.trim().is_empty()).count() >= want)
                })
                .with_context(|| node.name.clone())?;
            }
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for node in &self.nodes {
                let log = node.log();
                let lines: Vec<_> = log.lines().collect();
                let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
                eprintln!("--- last of the log of {}\n{}", node.name, last.join("\n"));
            }
        }
    }
}

/// Where the binaries of this workspace are: beside the running one, or in `SLUICE_BIN_DIR`.
///
/// # Errors
/// When it is not there; the message says how to build it.
pub fn binary(name: &str) -> Result<PathBuf> {
    let folder = match std::env::var_os("SLUICE_BIN_DIR") {
        Some(folder) => PathBuf::from(folder),
        None => {
            let own = std::env::current_exe().context("finding this executable")?;
            let folder = own.parent().context("finding this executable's folder")?;
            // Cargo puts tests one folder below the binaries.
            if folder.ends_with("deps") { folder.join("..") } else { folder.to_owned() }
        }
    };
    let path = folder.join(name);
    if !path.is_file() {
        bail!("{} is missing: run `cargo xtask build`, or set SLUICE_BIN_DIR", path.display());
    }
    Ok(path)
}

/// Asks until the answer is yes.
///
/// # Errors
/// After [`PATIENCE`], times the number in `SLUICE_SLOWNESS` where machines are emulated, and what `ask` says.
pub fn eventually(what: &str, mut ask: impl FnMut() -> Result<bool>) -> Result<()> {
    let slowness = std::env::var("SLUICE_SLOWNESS").ok().and_then(|text| text.parse().ok()).unwrap_or(1);
    let patience = PATIENCE * slowness;
    let deadline = Instant::now() + patience;
    while !ask()? {
        if Instant::now() > deadline {
            bail!("waited {patience:?} until {what}");
        }
        // What is asked about announces nothing.
        std::thread::sleep(Duration::from_millis(2));
    }
    Ok(())
}

/// No wait for duplicate addresses, and packets pass on.
const FORWARDING: &[(&str, &str)] = &[
    ("net/ipv4/ip_forward", "1"),
    ("net/ipv6/conf/all/forwarding", "1"),
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
    ("net/ipv6/conf/all/optimistic_dad", "0"),
];

fn set_up_router(router: &Netns, outside: &Netns) -> Result<()> {
    for netns in [router, outside] {
        netns.sysctls(FORWARDING)?;
    }
    let [v4, v6] = OUTSIDE;
    router.ip_batch(&format!(
        "link set lo up
         link add br0 type bridge mcast_snooping 0
         addr add 192.0.2.1/24 dev br0
         addr add 2001:db8:2::1/64 dev br0 nodad
         link set br0 up
         link add wan0 mtu {WAN_MTU} type veth peer name eth0 netns {outside}
         addr add 198.51.100.1/24 dev wan0
         addr add 2001:db8:100::1/64 dev wan0 nodad
         link set wan0 up\n",
        outside = outside.path().display(),
    ))?;
    outside.ip_batch(&format!(
        "link set lo up
         addr add {v4}/24 dev eth0
         addr add {v6}/64 dev eth0 nodad
         link set eth0 up
         route add default via 198.51.100.1
         route add default via 2001:db8:100::1\n"
    ))
}
