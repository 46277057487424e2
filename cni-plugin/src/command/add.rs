//! ADD: lease → veth, links down → register → links up → await in force → result.
//!
//! Every finished step leaves its inverse on the undo stack; a failure runs them in reverse order, and what fails
//! while undoing goes to stderr and never hides the first error.

use std::{net::IpAddr, path::Path};

use serde_json::Map;
use sluice_api::endpoint::Registration;

use crate::{
    agent::{self, Agent},
    attachment::Attachment,
    config::{self, ConfigError, FieldProblem, Network},
    error::AddError,
    ipam::Ipam,
    message::default_of,
    netlink::Netlink,
    netns::Netns,
    plumb::{self, Veth, Wire, gateway_of},
    result::{Interface, Ip, Route, Success, causes, mac_text},
};

/// The inverse of a step that was done.
#[derive(Clone, Copy, Debug)]
enum Inverse {
    ReleaseLease,
    RemoveVeth,
    Deregister,
    LinksDown(Veth),
}

pub(super) fn run(network: &Network, attachment: &Attachment, netns: &Path) -> Result<Success, AddError> {
    let previous = previous(network, attachment)?;
    let netns = Netns::open(netns)?;
    // Before anything is made: without the agent, or the pod's name, there would be nothing but undoing.
    let agent = network.agent.as_ref().map(|config| Introduced::new(config, attachment)).transpose()?;
    if agent.is_none() {
        eprintln!(
            "ADD {attachment}: no agent configured: wires and addresses only, no policy and no Services"
        );
    }
    let host = Netlink::open()?;
    let ipam = Ipam::new(&network.name, &network.ipam);
    let host_ifname = attachment.host_ifname();
    let mut add =
        Add { network, attachment, host_ifname: &host_ifname, netns, agent, host, ipam, undo: Vec::new() };
    let made = add.wire().inspect_err(|_| add.roll_back())?;
    Ok(match previous {
        Some(previous) => made.behind(previous),
        None => made,
    })
}

/// What the plugin before has made, if we are not the first; it must leave us our interface to make.
fn previous(network: &Network, attachment: &Attachment) -> Result<Option<Success>, ConfigError> {
    let Some(json) = &network.prev_result else { return Ok(None) };
    let previous: Success = config::decode("prevResult", json)?;
    let is_ours = |interface: &Interface| {
        interface.name == attachment.ifname
            && interface.sandbox.as_ref().is_some_and(|sandbox| !sandbox.is_empty())
    };
    if previous.interfaces.iter().any(is_ours) {
        let ifname = attachment.ifname.clone();
        return Err(config::wrong("prevResult.interfaces", FieldProblem::Interface { ifname }));
    }
    Ok(Some(previous))
}

/// The agent, and the names under which it will look for the pod.
struct Introduced {
    agent: Agent,
    pod_namespace: String,
    pod_name: String,
}

impl Introduced {
    fn new(config: &config::Agent, attachment: &Attachment) -> Result<Self, AddError> {
        let named = |name, value: &Option<String>| value.clone().ok_or(AddError::PodUnknown { name });
        let pod_namespace = named("K8S_POD_NAMESPACE", &attachment.pod.namespace)?;
        let pod_name = named("K8S_POD_NAME", &attachment.pod.name)?;
        Ok(Self { agent: Agent::connect_patiently(config)?, pod_namespace, pod_name })
    }
}

struct Add<'a> {
    network: &'a Network,
    attachment: &'a Attachment,
    host_ifname: &'a str,
    netns: Netns,
    agent: Option<Introduced>,
    host: Netlink,
    ipam: Ipam,
    undo: Vec<Inverse>,
}

impl Add<'_> {
    fn wire(&mut self) -> Result<Success, AddError> {
        let mtu = self.network.mtu.map_or_else(|| plumb::default_mtu(&mut self.host), Ok)?;
        let lease = self.ipam.lease(self.attachment)?;
        if lease.fresh {
            self.undo.push(Inverse::ReleaseLease);
        }
        let (attachment, host_ifname) = (self.attachment, self.host_ifname);
        let wire = Wire { attachment, host_ifname, addresses: &lease.addresses, mtu };
        let veth = plumb::create(&mut self.host, &self.netns, wire, &plumb::alias_of(&self.network.name))?;
        self.undo.push(Inverse::RemoveVeth);
        let mut pod = plumb::address_pod(&self.netns, wire, veth)?;
        self.register(wire, veth)?;
        self.undo.push(Inverse::LinksDown(veth));
        plumb::connect_host(&mut self.host, wire, veth)?;
        plumb::connect_pod(&mut pod, wire, veth)?;
        if let Some(Introduced { agent, .. }) = &mut self.agent {
            agent.await_in_force(attachment)?;
        }
        plumb::await_up(&mut self.host, &mut pod, wire)?;
        Ok(self.success(wire))
    }

    fn register(&mut self, wire: Wire<'_>, veth: Veth) -> Result<(), AddError> {
        let Some(Introduced { agent, pod_namespace, pod_name }) = &mut self.agent else { return Ok(()) };
        let registration = Registration {
            container: self.attachment.container.clone(),
            ifname: self.attachment.ifname.clone(),
            host_ifname: self.host_ifname.to_owned(),
            host_ifindex: veth.host,
            mac: mac_text(&self.attachment.pod_mac()),
            addresses: wire.addresses.to_vec(),
            pod_namespace: pod_namespace.clone(),
            pod_name: pod_name.clone(),
            pod_uid: self.attachment.pod.uid.clone(),
        };
        // Before the call: one whose answer got lost may have been served.
        self.undo.push(Inverse::Deregister);
        Ok(agent.register(&registration)?)
    }

    fn roll_back(&mut self) {
        while let Some(inverse) = self.undo.pop() {
            let (what, result) = self.undo_one(inverse);
            if let Err(error) = result {
                eprintln!("ADD {}: undoing: {what}: {error}: {}", self.attachment, causes(&error));
            }
        }
    }

    fn undo_one(&mut self, inverse: Inverse) -> (&'static str, Result<(), AddError>) {
        match inverse {
            Inverse::ReleaseLease => {
                ("releasing the lease", self.ipam.release(self.attachment).map(drop).map_err(AddError::from))
            }
            Inverse::RemoveVeth => {
                let removed = plumb::remove(&mut self.host, self.host_ifname);
                ("removing the veth", removed.map(drop).map_err(AddError::from))
            }
            Inverse::Deregister => {
                let told = self
                    .network
                    .agent
                    .as_ref()
                    .map_or(Ok(()), |config| agent::deregister(config, self.attachment));
                ("telling the agent", told.map_err(AddError::from))
            }
            Inverse::LinksDown(veth) => {
                let wire = Wire {
                    attachment: self.attachment,
                    host_ifname: self.host_ifname,
                    addresses: &[],
                    mtu: 0,
                };
                (
                    "setting the link down",
                    plumb::disconnect(&mut self.host, wire, veth).map_err(AddError::from),
                )
            }
        }
    }

    fn success(&self, wire: Wire<'_>) -> Success {
        let interface = |name: &str, mac: [u8; 6], sandbox| Interface {
            name: name.to_owned(),
            mac: Some(mac_text(&mac)),
            mtu: Some(wire.mtu),
            sandbox,
            other: Map::new(),
        };
        let sandbox = self.netns.path().display().to_string();
        let ip = |addr: &IpAddr| Ip {
            address: (*addr).into(),
            gateway: Some(gateway_of(*addr)),
            interface: Some(1),
        };
        let route =
            |addr: &IpAddr| Route { dst: default_of(*addr), gw: Some(gateway_of(*addr)), other: Map::new() };
        Success {
            interfaces: vec![
                interface(self.host_ifname, self.attachment.host_mac(), None),
                interface(&self.attachment.ifname, self.attachment.pod_mac(), Some(sandbox)),
            ],
            ips: wire.addresses.iter().map(ip).collect(),
            routes: wire.addresses.iter().map(route).collect(),
            dns: self.network.dns.clone(),
        }
    }
}
