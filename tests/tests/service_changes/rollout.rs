//! A Deployment behind a Service, and its replacement pod by pod.
//!
//! Each step is told to the agents as the EndpointSlice controller tells it, and in its order: a new pod is there, is
//! ready; an old one is being deleted and still serves, its readiness probe fails, it has ended, it is gone. Between them
//! a careful pod waits: it goes on serving until its end is in force everywhere, which is what a grace period is for.

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sluice_tests::topology::{
    Cluster, Pod, PodSpec, eventually,
    load::Load,
    objects::{self, Conditions},
    server::{Listen, Server},
};

use crate::{CLUSTER_IPS, Port};

/// A pod behind the Service, with its server and what its EndpointSlice says.
struct Replica<'c> {
    pod: Pod<'c>,
    server: Server,
    conditions: Conditions,
}

/// What a Deployment runs.
pub(crate) struct Deployment<'c> {
    cluster: &'c Cluster,
    protocol: &'static str,
    port: Port,
    listen: Listen,
    replicas: Vec<Replica<'c>>,
    made: usize,
}

impl<'c> Deployment<'c> {
    /// Pods in turns on both nodes, ready and in force.
    pub(crate) fn new(
        cluster: &'c Cluster,
        protocol: &'static str,
        port: Port,
        listen: Listen,
        count: usize,
    ) -> Result<Self> {
        let mut deployment = Self { cluster, protocol, port, listen, replicas: Vec::new(), made: 0 };
        cluster.objects.put("service", &deployment.service())?;
        (0..count).try_for_each(|_| deployment.start_one())?;
        deployment.set_all(Conditions::Ready);
        deployment.publish()?;
        cluster.settle_written()?;
        Ok(deployment)
    }

    fn service(&self) -> Value {
        let Port { number, node_port } = self.port;
        objects::service(
            "web",
            &json!({
                "type": "NodePort", "clusterIPs": CLUSTER_IPS, "selector": {"app": "web"},
                "ports": [{"protocol": self.protocol, "port": number, "targetPort": self.target(), "nodePort": node_port}],
            }),
        )
    }

    fn target(&self) -> u16 {
        match self.listen {
            Listen::Echo(port)
            | Listen::Sink(port)
            | Listen::Client(port)
            | Listen::Udp(port)
            | Listen::UdpEcho(port) => port,
        }
    }

    /// A new pod, that is not ready yet.
    fn start_one(&mut self) -> Result<()> {
        self.made += 1;
        let node = if self.made.is_multiple_of(2) { 2 } else { 1 };
        let name = format!("web-{}", self.made);
        let pod = self.cluster.pod(node, &PodSpec::new(&name, "web"))?;
        let server = Server::start(&pod.netns, &name, &[self.listen])?;
        // What a readiness probe would see: the kernel makes an IPv6 address usable from a work queue (`addrconf_dad_work`),
        // without duplicate address detection too, which on a busy machine is after ADD has answered.
        let [_, v6] = pod.addresses;
        let is_usable = || Ok(pod.netns.ip(&format!("route get {v6}"))?.starts_with("local"));
        eventually("a pod's address is usable", is_usable)?;
        self.replicas.push(Replica { pod, server, conditions: Conditions::Unready });
        Ok(())
    }

    fn set_all(&mut self, conditions: Conditions) {
        self.replicas.iter_mut().for_each(|replica| replica.conditions = conditions);
    }

    fn publish(&self) -> Result<()> {
        let members: Vec<_> =
            self.replicas.iter().map(|replica| replica.pod.slice_member().is(replica.conditions)).collect();
        let ports = json!([{"protocol": self.protocol, "port": self.target()}]);
        self.cluster.objects.put("slices", &objects::slices("default", "web", &ports, &members))
    }

    /// Names of the pods there are, oldest first.
    pub(crate) fn names(&self) -> Vec<String> {
        self.replicas.iter().map(|replica| replica.pod.name.clone()).collect()
    }

    /// Puts another condition of a pod in force.
    pub(crate) fn set(&mut self, index: usize, conditions: Conditions) -> Result<()> {
        self.replicas[index].conditions = conditions;
        self.publish()?;
        self.cluster.settle_written()
    }

    /// Replaces the oldest pod by a new one.
    pub(crate) fn replace_one(&mut self, load: &Load) -> Result<()> {
        self.start_one()?;
        self.publish()?;
        self.replicas.last_mut().context("a new pod")?.conditions = Conditions::Ready;
        self.publish()?;
        self.set(0, Conditions::Ending)?;
        // It still serves, and clients use that.
        load.rounds(2)?;
        self.set(0, Conditions::Ended)?;
        let Replica { pod, server, .. } = self.replicas.remove(0);
        let name = pod.name.clone();
        if self.protocol == "UDP" {
            // No flow stays with it; the node's own connected sockets are told right after the plan.
            load.leaves(&name)?;
        }
        let strangers = server.drain()?;
        ensure!(strangers == 0, "{strangers} new flows were led to {name}, whose end was in force");
        pod.stop(&self.cluster.objects)?;
        self.publish()?;
        load.rounds(1)
    }

    /// Takes everything away.
    pub(crate) fn end(self) -> Result<()> {
        for Replica { pod, .. } in self.replicas {
            pod.stop(&self.cluster.objects)?;
        }
        self.cluster.objects.delete("slices")?;
        self.cluster.objects.delete("service")?;
        self.cluster.settle()
    }
}
