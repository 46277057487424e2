//! The endpoints of this node: recovered, registered, removed, waited for.

use sluice_abi::{Addr, EndpointId, maps::Numbers};
use sluice_api::endpoint::{EndpointStatus, Registered, Registration};
use sluice_core::{
    cluster::{Change, LocalEndpoint},
    object::{NamespacedName, ObjectKey},
    plan::{Entry, Step},
};
use tracing::{error, info, warn};

use super::Reconciler;
use crate::{
    apply::ApplyError,
    causes::Causes,
    leases::Wired,
    netlink::Snapshot,
    notice::{Notice, Reason},
    registration,
    request::{Attachment, NotInForce, NotReady, RegisterError, Request, UnknownEndpoint},
};

impl Reconciler {
    /// Takes up what the maps remember: endpoints whose links are still there are attached again, the others are left to
    /// the first plan to delete.
    pub(super) fn recover(&mut self, network: &Snapshot) {
        let metas = self.actual.endpoint_meta.iter().rev();
        let mut known: Vec<LocalEndpoint> = Vec::new();
        // The newest first: an agent that died while an attachment registered again left two.
        for endpoint in metas.map(|(id, meta)| LocalEndpoint::from_meta(*id, meta)) {
            let is_older = |newer: &LocalEndpoint| {
                newer.ifindex == endpoint.ifindex
                    || (&newer.container, &newer.ifname) == (&endpoint.container, &endpoint.ifname)
            };
            if !known.iter().any(is_older) {
                known.push(endpoint);
            }
        }
        for endpoint in known {
            let link = network.links.get(&endpoint.ifindex);
            if link.is_none_or(|link| link.name != endpoint.host_ifname) {
                info!(endpoint = endpoint.id.0, pod = %endpoint.pod_name(), "endpoint's interface is gone");
                self.departed.extend(endpoint.addrs.iter().filter(|addr| **addr != Addr::UNSPECIFIED));
                continue;
            }
            self.attach_again(&endpoint);
            self.change(Change::Attach(endpoint.clone()));
            self.endpoints.insert(endpoint.id, endpoint);
        }
        let has_link = |ifindex: &u32| network.links.contains_key(ifindex);
        let dead: Vec<u32> = self.datapath.attached().filter(|ifindex| !has_link(ifindex)).collect();
        for ifindex in dead {
            self.datapath.detach(ifindex);
        }
        info!(endpoints = self.endpoints.len(), "endpoints recovered");
    }

    /// Takes up pods of this node that the maps do not remember, though their wires are there: programs first, which drop
    /// everything, then the name that the lease tells. Without one the pod stays shut.
    pub fn adopt(&mut self, wired: Vec<Wired>) {
        let is_known = |ifindex| self.endpoints.values().any(|endpoint| endpoint.ifindex == ifindex);
        let forgotten: Vec<Wired> = wired.into_iter().filter(|wired| !is_known(wired.ifindex)).collect();
        for Wired { ifindex, host_ifname, registration } in forgotten {
            let adopted = match registration {
                Some(registration) => {
                    self.register(&registration).map(|_| true).map_err(|error| Causes(&error).to_string())
                }
                None => self
                    .datapath
                    .attach_pod(&host_ifname, ifindex)
                    .map(|()| false)
                    .map_err(|error| Causes(&error).to_string()),
            };
            match adopted {
                Ok(true) => warn!(device = %host_ifname, "pod's programs were gone: attached again"),
                Ok(false) => warn!(device = %host_ifname, "pod without programs or lease: shut"),
                Err(error) => error!(device = %host_ifname, error, "pod has no programs"),
            }
        }
    }

    /// Attaches the programs of a recovered endpoint, or notes that it has none: it is not in force until it has.
    fn attach_again(&mut self, endpoint: &LocalEndpoint) {
        match self.datapath.keep_pod(&endpoint.host_ifname, endpoint.ifindex) {
            Ok(()) => drop(self.bare.remove(&endpoint.id)),
            Err(error) => {
                error!(endpoint = endpoint.id.0, error = %Causes(&error), "programs not attached again");
                self.bare.insert(endpoint.id);
            }
        }
    }

    /// Tries again for the endpoints without programs.
    pub(super) fn retry_bare(&mut self) {
        for id in self.bare.clone() {
            match self.endpoints.get(&id).cloned() {
                Some(endpoint) => self.attach_again(&endpoint),
                None => drop(self.bare.remove(&id)),
            }
            self.dirty |= !self.bare.contains(&id);
        }
    }

    pub(super) fn take_request(&mut self, request: Request) {
        // An asker who has gone needs no answer: every result of a send is dropped.
        match request {
            Request::Register { registration, answer } => {
                let registered = self.register(&registration);
                if let Err(error) = registered.as_ref().map_err(|error| Causes(error).to_string()) {
                    self.tell_refused(&registration.pod_namespace, &registration.pod_name, error);
                }
                let _ = answer.send(registered);
            }
            Request::Remove { at, answer } => {
                if let Some(id) = self.find(&at) {
                    self.forget(id);
                }
                let _ = answer.send(());
            }
            Request::AwaitInForce { at, answer } => match self.find(&at) {
                Some(id) => self.waiters.push((id, answer)),
                None => drop(answer.send(Err(UnknownEndpoint { at }))),
            },
            Request::WhyNotInForce { at, answer } => {
                let why = self.why_not_in_force(at);
                if let NotInForce::Rules { namespace, pod } = &why {
                    self.tell_refused(namespace, pod, why.to_string());
                }
                drop(answer.send(why));
            }
            Request::List { answer } => drop(answer.send(self.list())),
            Request::Metrics { answer } => drop(answer.send(self.scrape())),
            Request::Ready { answer } => drop(answer.send(self.ready())),
        }
    }

    /// Tells of an ADD that could not be served, for a reason of this node's.
    fn tell_refused(&self, namespace: &str, pod: &str, note: String) {
        let regarding = ObjectKey::Pod(NamespacedName::new(namespace, pod));
        self.tell(Notice { regarding, reason: Reason::AddRefused, note });
    }

    fn find(&self, at: &Attachment) -> Option<EndpointId> {
        let is_it =
            |endpoint: &LocalEndpoint| endpoint.container == at.container && endpoint.ifname == at.ifname;
        self.endpoints.values().find(|endpoint| is_it(endpoint)).map(|endpoint| endpoint.id)
    }

    fn register(&mut self, registration: &Registration) -> Result<Registered, RegisterError> {
        let at =
            Attachment { container: registration.container.clone(), ifname: registration.ifname.clone() };
        let counted =
            self.actual.numbers.get(&Numbers::Endpoint).copied().unwrap_or(Numbers::Endpoint.first());
        // What the maps hold is taken, whatever the counter says: it may have been lost.
        let taken = self.actual.endpoint_meta.keys().next_back().map_or(0, |id| id.0 + 1);
        let id = EndpointId(counted.max(taken));
        let mut endpoint = registration::endpoint(id, registration)
            .map_err(|source| RegisterError::Registration { at: at.clone(), source })?;
        match self.find(&at).map(|known| self.endpoints[&known].clone()) {
            Some(known) if (LocalEndpoint { id, ..known.clone() }) == endpoint => endpoint.id = known.id,
            Some(known) => self.forget(known.id),
            None => {}
        }
        self.forget_links_before(&endpoint);
        if endpoint.id == id {
            self.remember(&endpoint)
                .map_err(|source| RegisterError::Remember { at: at.clone(), source: Box::new(source) })?;
        }
        if let Err(source) = self.datapath.attach_pod(&endpoint.host_ifname, endpoint.ifindex) {
            // The plugin takes the interface down again: there is nothing left to remember.
            self.forget(endpoint.id);
            return Err(RegisterError::Attach { at, source: Box::new(source) });
        }
        info!(endpoint = endpoint.id.0, pod = %endpoint.pod_name(), device = %endpoint.host_ifname, "endpoint registered");
        Ok(Registered { endpoint: endpoint.id.0 })
    }

    /// An interface index that is another endpoint's belonged to a link that is gone.
    fn forget_links_before(&mut self, endpoint: &LocalEndpoint) {
        let stale = |other: &&LocalEndpoint| other.ifindex == endpoint.ifindex && other.id != endpoint.id;
        if let Some(id) = self.endpoints.values().find(stale).map(|other| other.id) {
            self.forget(id);
        }
    }

    /// Writes a new endpoint's name, and tells the compiler.
    fn remember(&mut self, endpoint: &LocalEndpoint) -> Result<(), ApplyError> {
        let plan = vec![
            Step::Number(Numbers::Endpoint, endpoint.id.0 + 1),
            Step::Put(Entry::EndpointMeta(endpoint.id, endpoint.meta())),
        ];
        self.execute(&plan)?;
        self.endpoints.insert(endpoint.id, endpoint.clone());
        self.change(Change::Attach(endpoint.clone()));
        if self.addresses.contains_key(&endpoint.ifindex) {
            self.tell_node_addresses();
        }
        Ok(())
    }

    pub(super) fn forget(&mut self, id: EndpointId) {
        let Some(endpoint) = self.endpoints.remove(&id) else { return };
        info!(endpoint = id.0, pod = %endpoint.pod_name(), "endpoint removed");
        self.in_force.remove(&id);
        self.departed.extend(endpoint.addrs.iter().filter(|addr| **addr != Addr::UNSPECIFIED));
        self.change(Change::Detach(id));
        let at = Attachment { container: endpoint.container, ifname: endpoint.ifname };
        for (_, waiter) in self.waiters.extract_if(.., |(waits_for, _)| *waits_for == id) {
            let _ = waiter.send(Err(UnknownEndpoint { at: at.clone() }));
        }
    }

    fn why_not_in_force(&self, at: Attachment) -> NotInForce {
        let Some(endpoint) = self.find(&at).map(|id| &self.endpoints[&id]) else {
            return NotInForce::Unknown(at);
        };
        let (namespace, pod) = (endpoint.namespace.clone(), endpoint.pod.clone());
        if !self.published.borrow().synced {
            NotInForce::NotSynced
        } else if !self.compiler.cluster().pods().contains_key(&endpoint.pod_name()) {
            NotInForce::PodUnknown { namespace, pod }
        } else {
            NotInForce::Rules { namespace, pod }
        }
    }

    fn list(&self) -> Vec<EndpointStatus> {
        let status = |endpoint: &LocalEndpoint| EndpointStatus {
            endpoint: endpoint.id.0,
            registration: registration::registration(endpoint),
            in_force: self.in_force.contains(&endpoint.id),
        };
        self.endpoints.values().map(status).collect()
    }

    fn ready(&self) -> Result<(), NotReady> {
        let published = self.published.borrow();
        if let Some(endpoint) = self.bare.iter().find_map(|id| self.endpoints.get(id)) {
            return Err(NotReady::Bare { device: endpoint.host_ifname.clone() });
        }
        match (published.synced, published.ready, self.uplinks.bare()) {
            (false, _, _) => Err(NotReady::NotSynced),
            (true, false, _) => Err(NotReady::NotApplied),
            (true, true, Some(uplink)) => Err(NotReady::Uplink { device: uplink.name.clone() }),
            (true, true, None) => Ok(()),
        }
    }
}
