//! A pod: a network namespace wired by the real plugin, and its object.

use std::net::IpAddr;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::{
    namespace::Netns,
    node::{Container, Node},
    objects::{Conditions, Hint, Objects, SliceMember},
};

/// What a pod is made from.
#[derive(Clone, Debug)]
pub struct PodSpec<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Its labels, an object.
    pub labels: Value,
    /// Its containers, an array.
    pub containers: Value,
}

impl<'a> PodSpec<'a> {
    /// A pod in the namespace `default` with the label `app`.
    pub fn new(name: &'a str, app: &str) -> Self {
        Self { namespace: "default", name, labels: json!({"app": app}), containers: json!([]) }
    }

    fn object(&self, node: &str, addresses: &[IpAddr]) -> Value {
        let ips: Vec<_> = addresses.iter().map(|ip| json!({"ip": ip})).collect();
        let phase = if addresses.is_empty() { "Pending" } else { "Running" };
        json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {
                "namespace": self.namespace, "name": self.name, "uid": self.uid(), "labels": self.labels,
            },
            "spec": {"nodeName": node, "containers": self.containers},
            "status": {"phase": phase, "podIPs": ips},
        })
    }

    fn uid(&self) -> String {
        format!("uid-{}-{}", self.namespace, self.name)
    }

    fn file(&self) -> String {
        format!("pod-{}-{}", self.namespace, self.name)
    }
}

/// A running pod. Its interface stays until [`Pod::stop`] or the end of its node.
#[derive(Debug)]
pub struct Pod<'c> {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Its node.
    pub node: &'c Node,
    /// Its network.
    pub netns: Netns,
    /// Its addresses, IPv4 and IPv6.
    pub addresses: [IpAddr; 2],
    /// Its labels, an object.
    pub labels: Value,
    /// Its containers, an array.
    pub containers: Value,
    file: String,
    uid: String,
}

impl<'c> Pod<'c> {
    pub(super) fn start(objects: &Objects, node: &'c Node, spec: &PodSpec<'_>) -> Result<Self> {
        objects.put(&spec.file(), &spec.object(&node.name, &[]))?;
        let mut pod = Self::unwired(node, spec)?;
        let result = node.cni("ADD", &pod.container())?;
        let ips = result["ips"].as_array().context("a CNI result with addresses")?;
        let address = |ip: &Value| {
            let text = ip["address"].as_str().context("an address")?;
            text.split('/').next().unwrap_or_default().parse().context("an address")
        };
        let addresses: Vec<IpAddr> = ips.iter().map(address).collect::<Result<_>>()?;
        ensure!(
            matches!(addresses[..], [IpAddr::V4(_), IpAddr::V6(_)]),
            "one address of each family: {result}"
        );
        pod.addresses = [addresses[0], addresses[1]];
        objects.put(&spec.file(), &spec.object(&node.name, &addresses))?;
        Ok(pod)
    }

    /// The namespace and names of a pod that has no interface yet.
    ///
    /// # Errors
    /// When the namespace cannot be made.
    pub fn unwired(node: &'c Node, spec: &PodSpec<'_>) -> Result<Self> {
        Ok(Self {
            namespace: spec.namespace.to_owned(),
            name: spec.name.to_owned(),
            node,
            netns: Netns::new()?,
            addresses: [IpAddr::from([0; 4]), IpAddr::from([0; 16])],
            labels: spec.labels.clone(),
            containers: spec.containers.clone(),
            file: spec.file(),
            uid: spec.uid(),
        })
    }

    /// What the runtime calls it.
    pub fn container(&self) -> Container<'_> {
        Container {
            id: &self.uid,
            netns: &self.netns,
            namespace: &self.namespace,
            pod: &self.name,
            uid: &self.uid,
        }
    }

    /// The pod in an EndpointSlice.
    pub fn slice_member(&self) -> SliceMember<'_> {
        SliceMember {
            pod: &self.name,
            node: &self.node.name,
            addresses: self.addresses,
            conditions: Conditions::Ready,
            hint: Hint::None,
        }
    }

    /// Stops it as kubelet and runtime do: DEL, then its object goes.
    ///
    /// # Errors
    /// When DEL fails.
    pub fn stop(self, objects: &Objects) -> Result<()> {
        self.node.cni("DEL", &self.container())?;
        objects.delete(&self.file)
    }
}
