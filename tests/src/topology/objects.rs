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
}

impl SliceMember<'_> {
    fn value(&self, family: usize) -> Value {
        json!({
            "addresses": [self.addresses[family]], "nodeName": self.node,
            "conditions": {"ready": true, "serving": true, "terminating": false},
            "targetRef": {"kind": "Pod", "name": self.pod},
        })
    }
}

const MARKER_ADDRESS: [u8; 4] = [10, 96, 255, 254];
const MARKER_PORT: u16 = 65_535;

/// The Service that `Cluster::settle` uses.
pub(super) fn marker() -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "default", "name": "settle"},
        "spec": {
            "clusterIPs": [std::net::Ipv4Addr::from(MARKER_ADDRESS)],
            "ports": [{"port": MARKER_PORT, "protocol": "TCP"}],
        },
    })
}

/// Its frontend.
pub(super) fn marker_key() -> FrontendKey {
    FrontendKey {
        addr: Addr::v4(MARKER_ADDRESS),
        port: MARKER_PORT.to_be_bytes(),
        protocol: protocol::TCP,
        scope: FrontendScope::Internal as u8,
    }
}
