//! What Kubernetes' controllers, scheduler, kubelets and runtimes would do with what a user wrote: pods from
//! Deployments, nodes for pods, addresses and EndpointSlices for Services.

use std::{collections::BTreeMap, fs, net::IpAddr, path::Path};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::topology::{
    Cluster, Pod, PodSpec,
    objects::slices,
    traffic::{Listen, Server},
};

/// TCP port of the host outside that takes reports.
pub(super) const UPLOAD_PORT: u16 = 8443;
/// Another TCP port of the host outside.
pub(super) const OTHER_PORT: u16 = 443;

const NAMESPACE: &str = "default";

/// Running pods, and the addresses of Services.
#[derive(Debug)]
pub(super) struct World<'c> {
    pub(super) pods: Vec<Pod<'c>>,
    /// Name → IPv4 and IPv6 address.
    pub(super) services: BTreeMap<String, [IpAddr; 2]>,
    _servers: Vec<Server>,
}

impl<'c> World<'c> {
    /// Reads the examples and makes them true.
    pub(super) fn bring_up(cluster: &'c Cluster, examples: &Path) -> Result<Self> {
        cluster.objects.put(
            "namespaces",
            &json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {
                "name": NAMESPACE, "labels": {"kubernetes.io/metadata.name": NAMESPACE},
            }}),
        )?;
        let mut world = Self { pods: Vec::new(), services: BTreeMap::new(), _servers: Vec::new() };
        let objects = read(examples)?;
        let of_kind = |kind: &'static str| objects.iter().filter(move |object| object["kind"] == kind);
        for policy in of_kind("NetworkPolicy") {
            cluster.objects.put(&format!("policy-{}", name_of(policy)?), policy)?;
        }
        for object in of_kind("Deployment").chain(of_kind("Pod")) {
            world.start(cluster, object)?;
        }
        for service in of_kind("Service") {
            world.serve(cluster, service)?;
        }
        let outside = [Listen::Sink(UPLOAD_PORT), Listen::Echo(OTHER_PORT)];
        world._servers.push(Server::start(&cluster.outside, "outside", &outside)?);
        cluster.settle()?;
        Ok(world)
    }

    /// The pod of this name.
    pub(super) fn pod(&self, name: &str) -> Result<&Pod<'c>> {
        self.pods
            .iter()
            .find(|pod| pod.name == name)
            .with_context(|| format!("no example makes a pod {name}"))
    }

    /// The pods of a Deployment, or the one of this name.
    pub(super) fn replicas(&self, of: &str) -> impl Iterator<Item = &Pod<'c>> {
        self.pods.iter().filter(move |pod| {
            pod.name.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
        })
    }

    /// The addresses of the Service of this name.
    pub(super) fn service(&self, name: &str) -> Result<[IpAddr; 2]> {
        self.services.get(name).copied().with_context(|| format!("no example makes a Service {name}"))
    }

    /// Starts the pods of a Deployment, or a pod, and what would run in them.
    fn start(&mut self, cluster: &'c Cluster, object: &Value) -> Result<()> {
        let name = name_of(object)?;
        let (template, names) = if object["kind"] == "Deployment" {
            let count = object["spec"]["replicas"].as_u64().unwrap_or(1);
            (&object["spec"]["template"], (1..=count).map(|number| format!("{name}-{number}")).collect())
        } else {
            (object, vec![name.to_owned()])
        };
        for (index, name) in names.iter().enumerate() {
            // Replicas go around the nodes.
            let node = 1 + u8::try_from(index % cluster.nodes().len()).context("a node's number")?;
            let labels = template["metadata"]["labels"].clone();
            let containers = template["spec"]["containers"].clone();
            let listen = listen(&containers)?;
            let pod = cluster.pod(node, &PodSpec { namespace: NAMESPACE, name, labels, containers })?;
            self._servers.push(Server::start(&pod.netns, name, &listen)?);
            self.pods.push(pod);
        }
        Ok(())
    }

    /// Gives a Service its addresses, and its EndpointSlices.
    fn serve(&mut self, cluster: &Cluster, service: &Value) -> Result<()> {
        let name = name_of(service)?;
        let number = 10 * (1 + self.services.len());
        let texts = [format!("10.96.0.{number}"), format!("fd00:10:96::{number}")];
        let mut object = service.clone();
        object["spec"]["clusterIP"] = json!(texts[0]);
        object["spec"]["clusterIPs"] = json!(texts);
        let selector = service["spec"]["selector"].as_object().context("a Service with a selector")?;
        let selected =
            |pod: &&Pod<'_>| selector.iter().all(|(key, value)| pod.labels.get(key) == Some(value));
        let members: Vec<_> = self.pods.iter().filter(selected).collect();
        let ports = service["spec"]["ports"].as_array().context("a Service with ports")?;
        let containers = members.first().map(|pod| &pod.containers);
        let ports: Vec<_> = ports.iter().map(|port| slice_port(port, containers)).collect::<Result<_>>()?;
        let members: Vec<_> = members.iter().map(|pod| pod.slice_member()).collect();
        cluster.objects.put(&format!("slices-{name}"), &slices(NAMESPACE, name, &json!(ports), &members))?;
        cluster.objects.put(&format!("service-{name}"), &object)?;
        let [v4, v6] = texts;
        self.services.insert(name.to_owned(), [v4.parse()?, v6.parse()?]);
        Ok(())
    }
}

/// Every document of every file.
fn read(folder: &Path) -> Result<Vec<Value>> {
    let list = fs::read_dir(folder).and_then(Iterator::collect::<std::io::Result<Vec<_>>>);
    let mut files: Vec<_> = list
        .with_context(|| format!("listing {}", folder.display()))?
        .iter()
        .map(fs::DirEntry::path)
        .collect();
    files.sort();
    let mut objects = Vec::new();
    for file in files.iter().filter(|file| file.extension().is_some_and(|extension| extension == "yaml")) {
        let text = fs::read(file).with_context(|| format!("reading {}", file.display()))?;
        for document in serde_saphyr::read(&mut text.as_slice()) {
            let mut object: Value = document.with_context(|| format!("reading {}", file.display()))?;
            // As the API server defaults it.
            object["metadata"]["namespace"] = json!(NAMESPACE);
            objects.push(object);
        }
    }
    Ok(objects)
}

fn name_of(object: &Value) -> Result<&str> {
    object["metadata"]["name"].as_str().context("an object with a name")
}

fn container_ports(containers: &Value) -> impl Iterator<Item = &Value> {
    let ports = containers.as_array().into_iter().flatten().map(|container| &container["ports"]);
    ports.filter_map(Value::as_array).flatten()
}

/// What a pod with these containers listens to.
fn listen(containers: &Value) -> Result<Vec<Listen>> {
    let listen = container_ports(containers).map(|port| {
        let number = u16::try_from(port["containerPort"].as_u64().context("a port's number")?)?;
        Ok(match port["protocol"].as_str() {
            Some("UDP") => Listen::Udp(number),
            None | Some("TCP") => Listen::Echo(number),
            Some(other) => bail!("no server for {other}"),
        })
    });
    listen.collect()
}

/// A Service's port as its EndpointSlices have it: the target's number, looked up where it is a name.
fn slice_port(port: &Value, containers: Option<&Value>) -> Result<Value> {
    let target = port.get("targetPort").unwrap_or(&port["port"]);
    let number = if let Some(name) = target.as_str() {
        let mut ports = containers.into_iter().flat_map(container_ports);
        let named = ports.find(|port| port["name"] == name);
        &named.with_context(|| format!("no port named {name}"))?["containerPort"]
    } else {
        target
    };
    let protocol = port["protocol"].as_str().unwrap_or("TCP");
    Ok(json!({"name": port["name"].as_str().unwrap_or_default(), "protocol": protocol, "port": number}))
}
