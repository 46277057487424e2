//! The folder of Kubernetes objects that the agents watch.

use std::{fs, io, path::PathBuf};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sluice_abi::{Addr, FrontendKey, FrontendScope, protocol};

/// A folder of YAML files, written as a careful person would: whole or not at all.
#[derive(Debug)]
pub struct Objects {
    folder: PathBuf,
}

impl Objects {
    pub(super) fn new(folder: PathBuf) -> Self {
        Self { folder }
    }

    /// The folder, for processes outside the nodes.
    pub fn folder(&self) -> &std::path::Path {
        &self.folder
    }

    /// Writes an object, or an array of them, into the file `name`, in place of what was there.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put(&self, name: &str, object: &Value) -> Result<()> {
        let documents = object.as_array().map_or_else(|| std::slice::from_ref(object), Vec::as_slice);
        let texts: Vec<_> = documents
            .iter()
            .map(serde_saphyr::to_string)
            .collect::<Result<_, _>>()
            .context("writing YAML")?;
        self.put_yaml(name, &texts.join("---\n"))
    }

    /// The same with the file's text.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn put_yaml(&self, name: &str, text: &str) -> Result<()> {
        let (hidden, path) = (self.folder.join(format!(".{name}")), self.path(name));
        fs::write(&hidden, text)
            .and_then(|()| fs::rename(&hidden, &path))
            .with_context(|| format!("writing {}", path.display()))
    }

    /// Removes the file `name`; one that is gone is no error.
    ///
    /// # Errors
    /// When the file cannot be removed.
    pub fn delete(&self, name: &str) -> Result<()> {
        let path = self.path(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            other => other.with_context(|| format!("removing {}", path.display())),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.yaml"))
    }
}

/// A Service in the namespace `default`.
pub fn service(name: &str, spec: &Value) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": name}, "spec": spec})
}

/// An EndpointSlice of `service` for each address family that `addresses` has, as its controller would write it.
pub fn slices(namespace: &str, service: &str, ports: &Value, endpoints: &[SliceMember<'_>]) -> Value {
    let of_family = |family: &str, index: usize| {
        let endpoints: Vec<_> = endpoints.iter().map(|endpoint| endpoint.value(index)).collect();
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "namespace": namespace, "name": format!("{service}-{}", family.to_lowercase()),
                "labels": {"kubernetes.io/service-name": service},
            },
            "addressType": family, "ports": ports, "endpoints": endpoints,
        })
    };
    json!([of_family("IPv4", 0), of_family("IPv6", 1)])
}

/// A pod in an EndpointSlice.
#[derive(Clone, Copy, Debug)]
pub struct SliceMember<'a> {
    /// Its name.
    pub pod: &'a str,
    /// Its node.
    pub node: &'a str,
    /// Its addresses, IPv4 and IPv6.
    pub addresses: [std::net::IpAddr; 2],
    /// How far it is.
    pub conditions: Conditions,
    /// For whom it is meant.
    pub hint: Hint<'a>,
}

/// How far a pod is, as the EndpointSlice controller tells (`conditions` of EndpointSlice v1).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Conditions {
    /// Not ready, or not any more.
    Unready,
    /// Ready.
    #[default]
    Ready,
    /// It is being deleted, and its readiness probe still succeeds.
    Ending,
    /// It is being deleted, and its readiness probe fails.
    Ended,
}

/// For whom an endpoint is meant (`hints` of EndpointSlice v1).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Hint<'a> {
    /// Everybody.
    #[default]
    None,
    /// Clients in a zone.
    Zone(&'a str),
    /// Clients on a node.
    Node(&'a str),
}

impl SliceMember<'_> {
    /// The same in another condition.
    #[must_use]
    pub fn is(self, conditions: Conditions) -> Self {
        Self { conditions, ..self }
    }

    fn value(&self, family: usize) -> Value {
        let [ready, serving, terminating] = match self.conditions {
            Conditions::Unready => [false, false, false],
            Conditions::Ready => [true, true, false],
            Conditions::Ending => [false, true, true],
            Conditions::Ended => [false, false, true],
        };
        let mut value = json!({
            "addresses": [self.addresses[family]], "nodeName": self.node,
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
            "targetRef": {"kind": "Pod", "name": self.pod},
        });
        match self.hint {
            Hint::None => {}
            Hint::Zone(zone) => value["hints"] = json!({"forZones": [{"name": zone}]}),
            Hint::Node(node) => value["hints"] = json!({"forNodes": [{"name": node}]}),
        }
        value
    }
}

const MARKER_ADDRESS: [u8; 4] = [10, 96, 255, 254];
/// The marker of `Cluster::settle`; others are those of `Cluster::settle_written`.
pub(super) const MARKER: u16 = 65_535;

/// The Service by which a cluster sees that an agent has read something; its port is the number.
pub(super) fn marker(number: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"namespace": "default", "name": format!("settle-{number}")},
        "spec": {
            "clusterIPs": [std::net::Ipv4Addr::from(MARKER_ADDRESS)],
            "ports": [{"port": number, "protocol": "TCP"}],
        },
    })
}

/// Its frontend.
pub(super) fn marker_key(number: u16) -> FrontendKey {
    FrontendKey {
        addr: Addr::v4(MARKER_ADDRESS),
        port: number.to_be_bytes(),
        protocol: protocol::TCP,
        scope: FrontendScope::Internal as u8,
    }
}
