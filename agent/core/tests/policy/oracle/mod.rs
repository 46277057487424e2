//! A literal, slow reading of the API texts of NetworkPolicy and ClusterNetworkPolicy, over the objects as JSON.
//!
//! It shares no code with the compiler. Quotations are from `networking.k8s.io/v1` and `policy.networking.k8s.io/v1alpha2`;
//! where a text leaves something open, the comment says what Sluice promises.

mod audit;
mod ports;
mod sound;
mod words;

use std::{collections::BTreeMap, net::IpAddr};

pub(crate) use audit::enforced;
use ports::{is_port, is_protocol};

use serde_json::Value;
use sluice_abi::Direction;
use sound::{is_sound, is_sound_rule};
use words::{contains, holds, is_selector, matches_labels, requirements};

/// How often each corner of the API decided.
pub(crate) type Corners = BTreeMap<&'static str, u64>;

/// Whether something matches, as far as is known.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Match {
    No,
    Maybe,
    Yes,
}

/// What a rule does with a packet.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Act {
    Accept,
    Deny,
    Pass,
}

/// A question about one pod in one direction.
struct Question<'a> {
    pod: &'a Value,
    direction: Direction,
    peer: IpAddr,
    /// The pod that receives.
    receiver: Option<&'a Value>,
    protocol: u8,
    port: u16,
}

/// The objects of a cluster.
pub(crate) struct Oracle<'a> {
    pub(crate) objects: &'a [Value],
}

impl Oracle<'_> {
    /// What the policies of the pod at an address say, whoever the peer is; `None` when there is no such pod.
    pub(crate) fn judged(
        &self,
        addr: IpAddr,
        direction: Direction,
        peer: IpAddr,
        (protocol, port): (u8, u16),
        corners: &mut Corners,
    ) -> Option<bool> {
        let pod = self.pod_at(addr)?;
        let receiver = if direction == Direction::Ingress { Some(pod) } else { self.pod_at(peer) };
        let question = Question { pod, direction, peer, receiver, protocol, port };
        Some(self.judge(&question, corners))
    }

    pub(crate) fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// The pod in the network that has an address. Pods of the host's network are their node, and finished pods are gone.
    pub(crate) fn pod_at(&self, addr: IpAddr) -> Option<&Value> {
        self.of_kind("Pod").find(|pod| {
            let is_finished = matches!(pod["status"]["phase"].as_str(), Some("Succeeded" | "Failed"));
            let is_of_host = pod["spec"]["hostNetwork"] == true;
            !is_finished && !is_of_host && addresses(&pod["status"]["podIPs"], "ip").any(|ip| ip == addr)
        })
    }

    /// "Policy tiers are evaluated in the following order: Admin tier, NetworkPolicy tier, Baseline tier."
    fn judge(&self, question: &Question<'_>, corners: &mut Corners) -> bool {
        match self.tier("Admin", question, corners) {
            Some(Act::Accept) => return hit(corners, "Admin accepts", true),
            Some(Act::Deny) => return hit(corners, "Admin denies", false),
            Some(Act::Pass) => drop(hit(corners, "Admin passes on", true)),
            None => {}
        }
        if let Some(verdict) = self.network_policies(question, corners) {
            // "v1.NetworkPolicy always makes a final decision for selected pods."
            return verdict;
        }
        match self.tier("Baseline", question, corners) {
            Some(Act::Accept) => hit(corners, "Baseline accepts", true),
            Some(Act::Deny) => hit(corners, "Baseline denies", false),
            Some(Act::Pass) => hit(corners, "Baseline passes on", true),
            // "the default kubernetes policy is applied, which says that all pods can communicate with each other".
            None => hit(corners, "no policy decides", true),
        }
    }

    fn network_policies(&self, question: &Question<'_>, corners: &mut Corners) -> Option<bool> {
        let namespace = &question.pod["metadata"]["namespace"];
        let mut isolating = 0;
        let mut allowed = false;
        for policy in self.of_kind("NetworkPolicy") {
            let spec = &policy["spec"];
            let selector = &spec["podSelector"];
            let selects =
                !is_selector(selector) || matches_labels(selector, &question.pod["metadata"]["labels"]);
            if policy["metadata"]["namespace"] != *namespace
                || !selects
                || !is_about(spec, question.direction)
            {
                continue;
            }
            isolating += 1;
            // Sluice: a policy that makes no sense isolates, and allows nothing.
            if !is_sound(spec) {
                hit(corners, "a policy that makes no sense", false);
                continue;
            }
            let (list, peers) = lists(question.direction);
            for rule in array(&spec[list]) {
                let is_peer = array(&rule[peers]).is_empty()
                    || array(&rule[peers])
                        .iter()
                        .any(|peer| self.is_peer(peer, namespace, question, corners));
                let is_port = array(&rule["ports"]).is_empty()
                    || array(&rule["ports"]).iter().any(|port| is_port(port, question, corners));
                allowed |= is_peer && is_port;
            }
        }
        match isolating {
            0 => None,
            1 => {
                Some(hit(corners, if allowed { "one policy allows" } else { "one policy isolates" }, allowed))
            }
            _ => Some(hit(
                corners,
                if allowed { "of several, one allows" } else { "several isolate" },
                allowed,
            )),
        }
    }

    /// "If podSelector is also set, then the rule matches the Pods matching podSelector in the Namespaces selected by
    /// namespaceSelector. Otherwise it selects all Pods in those Namespaces."
    fn is_peer(&self, peer: &Value, own: &Value, question: &Question<'_>, corners: &mut Corners) -> bool {
        if !peer["ipBlock"].is_null() {
            let block = &peer["ipBlock"];
            let except = array(&block["except"]).iter().any(|range| contains(range, question.peer));
            if except {
                hit(corners, "an exception of an ipBlock", false);
            }
            let is_in = contains(&block["cidr"], question.peer) && !except;
            if is_in && self.pod_at(question.peer).is_some() {
                hit(corners, "an ipBlock with a pod's address", true);
            }
            return is_in;
        }
        let Some(pod) = self.pod_at(question.peer) else { return false };
        let near = if peer["namespaceSelector"].is_null() {
            pod["metadata"]["namespace"] == *own
        } else {
            // Sluice: of a namespace that nobody has told of, only the name is known, and that may not open anything.
            self.namespace(pod, &peer["namespaceSelector"]) == Match::Yes
        };
        near && (peer["podSelector"].is_null()
            || matches_labels(&peer["podSelector"], &pod["metadata"]["labels"]))
    }

    /// Whether a pod's namespace has the labels of a selector.
    fn namespace(&self, pod: &Value, selector: &Value) -> Match {
        let name = &pod["metadata"]["namespace"];
        let known = self.of_kind("Namespace").find(|namespace| namespace["metadata"]["name"] == *name);
        let mut labels = known.map_or(Value::Null, |namespace| namespace["metadata"]["labels"].clone());
        if labels.is_null() {
            labels = Value::Object(serde_json::Map::new());
        }
        labels["kubernetes.io/metadata.name"] = name.clone();
        if known.is_some() {
            return if matches_labels(selector, &labels) { Match::Yes } else { Match::No };
        }
        let each = requirements(selector).into_iter().map(|(key, operator, values)| {
            let is_known = key == "kubernetes.io/metadata.name";
            match (is_known, holds(&key, &operator, &values, &labels)) {
                (false, _) => Match::Maybe,
                (true, true) => Match::Yes,
                (true, false) => Match::No,
            }
        });
        each.min().unwrap_or(Match::Yes)
    }

    /// What the first rule that matches in a tier does; "policies with lower priority values have higher precedence".
    fn tier(&self, tier: &str, question: &Question<'_>, corners: &mut Corners) -> Option<Act> {
        let mut policies: Vec<&Value> =
            self.of_kind("ClusterNetworkPolicy").filter(|policy| policy["spec"]["tier"] == tier).collect();
        // Sluice: of the same priority the first by name.
        policies.sort_by_key(|policy| {
            (policy["spec"]["priority"].as_i64(), policy["metadata"]["name"].as_str().map(str::to_owned))
        });
        for policy in policies {
            let subject = self.subject(&policy["spec"]["subject"], question.pod);
            if subject == Match::No {
                continue;
            }
            let (list, _) = lists(question.direction);
            for rule in array(&policy["spec"][list]) {
                if let Some(act) = self.rule(rule, subject, question, corners) {
                    return Some(act);
                }
            }
        }
        None
    }

    fn subject(&self, subject: &Value, pod: &Value) -> Match {
        let has = |field: &str| !subject[field].is_null();
        match (has("namespaces"), has("pods")) {
            (true, false) => self.namespace(pod, &subject["namespaces"]),
            (false, true) => self.namespaced_pod(&subject["pods"], pod),
            // Sluice: a subject that cannot be understood may be anybody.
            _ => Match::Maybe,
        }
    }

    fn namespaced_pod(&self, selected: &Value, pod: &Value) -> Match {
        if !matches_labels(&selected["podSelector"], &pod["metadata"]["labels"]) {
            return Match::No;
        }
        self.namespace(pod, &selected["namespaceSelector"])
    }

    fn rule(
        &self,
        rule: &Value,
        subject: Match,
        question: &Question<'_>,
        corners: &mut Corners,
    ) -> Option<Act> {
        let act = match rule["action"].as_str() {
            Some("Accept") => Act::Accept,
            Some("Pass") => Act::Pass,
            _ => Act::Deny,
        };
        // "For Accept rules, fail closed means: treat the rule as matching no traffic. For Deny and Pass rules: treat the
        // rule as a 'Deny all' rule."
        if !is_sound_rule(rule, question.direction) {
            return match act {
                Act::Accept => {
                    hit(corners, "an Accept of an unknown peer", false);
                    None
                }
                Act::Deny | Act::Pass => {
                    hit(corners, "a Deny or Pass of an unknown peer", false);
                    Some(Act::Deny)
                }
            };
        }
        let (_, peers) = lists(question.direction);
        let peer = array(&rule[peers]).iter().map(|peer| self.cluster_peer(peer, question, corners)).max();
        let protocols = array(&rule["protocols"]);
        let is_protocol =
            protocols.is_empty() || protocols.iter().any(|protocol| is_protocol(protocol, question, corners));
        if !is_protocol {
            return None;
        }
        // Sluice: what may match denies, where it does not have to accept.
        match (act, subject.min(peer.unwrap_or(Match::No))) {
            (_, Match::No) | (Act::Accept, Match::Maybe) => None,
            (Act::Pass | Act::Deny, Match::Maybe) => {
                hit(corners, "a namespace that is not known", false);
                Some(Act::Deny)
            }
            (act, Match::Yes) => Some(act),
        }
    }

    fn cluster_peer(&self, peer: &Value, question: &Question<'_>, corners: &mut Corners) -> Match {
        if !array(&peer["networks"]).is_empty() {
            // "cluster-internal traffic will be checked against the rule as well".
            let is_in = array(&peer["networks"]).iter().any(|range| contains(range, question.peer));
            if is_in && self.pod_at(question.peer).is_some() {
                hit(corners, "networks with a pod's address", true);
            }
            return if is_in { Match::Yes } else { Match::No };
        }
        // "Note that host-networked pods are not included in this type of peer."
        let Some(pod) = self.pod_at(question.peer) else { return Match::No };
        if peer["pods"].is_null() {
            self.namespace(pod, &peer["namespaces"])
        } else {
            self.namespaced_pod(&peer["pods"], pod)
        }
    }
}

pub(crate) fn hit(corners: &mut Corners, corner: &'static str, verdict: bool) -> bool {
    *corners.entry(corner).or_default() += 1;
    verdict
}

/// The list of rules of a direction, and the list of peers in a rule.
fn lists(direction: Direction) -> (&'static str, &'static str) {
    match direction {
        Direction::Ingress => ("ingress", "from"),
        Direction::Egress => ("egress", "to"),
    }
}

fn array(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub(crate) fn addresses<'a>(list: &'a Value, field: &'a str) -> impl Iterator<Item = IpAddr> + 'a {
    array(list).iter().filter_map(move |item| item[field].as_str()?.parse().ok())
}

/// "If no policyTypes are specified on a NetworkPolicy then by default Ingress will always be set and Egress will be set if
/// the NetworkPolicy has any egress rules."
fn is_about(spec: &Value, direction: Direction) -> bool {
    let types = array(&spec["policyTypes"]);
    match direction {
        _ if types.iter().any(|word| word != "Ingress" && word != "Egress") => true,
        Direction::Ingress => types.is_empty() || types.iter().any(|word| word == "Ingress"),
        Direction::Egress if types.is_empty() => !array(&spec["egress"]).is_empty(),
        Direction::Egress => types.iter().any(|word| word == "Egress"),
    }
}
