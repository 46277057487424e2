//! What is likely wrong with policies, before they bite.
//!
//! Start at [`lint`]. `selection` looks at selectors, `blocks` at ranges, `ports` at ports, `shadow` at rules that add nothing,
//! and `reach` at what pods can no longer do: ask for names, or use the Services of their namespace.
//!
//! **Invariant: what is said about reach is the maps' verdict**, as everywhere in [`World`]; only the rest reads policies.

mod blocks;
mod ports;
mod reach;
mod selection;
mod shadow;

use std::{collections::BTreeSet, fmt};

use serde::Serialize;
use sluice_abi::Direction;

use crate::{
    cluster,
    cluster::RejectReason,
    object::{self, NamespacedName, NetworkPolicyPeer, NetworkPolicyPort, Object, ObjectKey, PolicyName},
    world::{Pod, World},
};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum Severity {
    /// Something does not work as it stands.
    Error,
    /// Something is likely not what was meant.
    Warning,
    /// Something to know.
    Note,
}

impl Severity {
    /// `error`, `warning` or `note`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

macro_rules! codes {
    ($($(#[doc = $help:literal])+ $variant:ident = $name:literal;)+) => {
        /// What kind of thing was found; the names are API.
        #[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
        pub enum Code {
            $($(#[doc = $help])+ #[serde(rename = $name)] $variant,)+
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Its stable name.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What it means, in a sentence.
            pub const fn help(self) -> &'static str {
                match self { $(Self::$variant => concat!($($help),+).trim_ascii(),)+ }
            }
        }
    };
}

codes! {
    /// An object is not understood; a policy then isolates the pods it selects and allows nothing.
    NotUnderstood = "not-understood";
    /// An exception does not lie in the range of its `ipBlock`: the API server refuses such a policy.
    ExceptOutsideCidr = "except-outside-cidr";
    /// Pods cannot ask the cluster's name servers, or some of them, over UDP or TCP.
    DnsCut = "dns-cut";
    /// A rule names a Service's port where the pods behind it listen on another: policy sees what is behind a Service.
    ServicePort = "service-port";
    /// No pod at all can use what a Service offers, though its namespace has pods that could.
    ServiceBlocked = "service-blocked";
    /// A policy selects no pod.
    SelectsNoPod = "selects-no-pod";
    /// A `namespaceSelector` selects no namespace.
    NoNamespace = "no-namespace";
    /// A peer's selectors select no pod.
    NoPeer = "no-peer";
    /// A rule names a port that none of the pods has that it is about.
    PortOfNoPod = "port-of-no-pod";
    /// An `ipBlock` covers pods: their addresses change, and their labels are what selects them.
    IpBlockCoversPods = "ip-block-covers-pods";
    /// A rule adds nothing to a wider one.
    RuleShadowed = "rule-shadowed";
    /// A policy isolates both directions and allows nothing.
    AllowsNothing = "allows-nothing";
    /// ClusterNetworkPolicies of one tier have the same priority, so their names decide.
    SamePriority = "same-priority";
    /// A namespace is not given, so only its name is known: other `namespaceSelector`s do not select it.
    NamespaceNotGiven = "namespace-not-given";
    /// A policy is only audited, so it is not enforced.
    AuditMode = "audit-mode";
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// One thing that was found.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What kind of thing.
    pub code: Code,
    /// Kind and name of the object.
    pub object: String,
    /// Where in the object.
    pub field: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub fix: String,
    /// The pods that feel it.
    pub pods: Vec<String>,
}

/// Everything that was found, the worst first.
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Findings {
    /// The findings.
    pub findings: Vec<Finding>,
    /// How many are errors.
    pub errors: usize,
    /// How many are warnings.
    pub warnings: usize,
    /// How many are notes.
    pub notes: usize,
}

/// Looks at every policy.
pub fn lint(world: &World) -> Findings {
    let policies = policies(world);
    let mut found = BTreeSet::new();
    not_understood(world, &mut found);
    audited(world, &mut found);
    selection::lint(world, &policies, &mut found);
    blocks::lint(world, &policies, &mut found);
    ports::lint(world, &policies, &mut found);
    shadow::lint(&policies, &mut found);
    reach::lint(world, &policies, &mut found);
    let count = |severity| found.iter().filter(|finding| finding.severity == severity).count();
    let (errors, warnings, notes) = (count(Severity::Error), count(Severity::Warning), count(Severity::Note));
    Findings { findings: found.into_iter().collect(), errors, warnings, notes }
}

/// A NetworkPolicy, as it stands and as it is understood.
struct Policy<'a> {
    name: &'a NamespacedName,
    object: &'a object::NetworkPolicy,
    model: &'a cluster::Policy,
    /// The pods it selects, whether it isolates them or not.
    pods: Vec<&'a Pod>,
    is_audited: bool,
}

/// A rule of a policy as it stands.
struct Rule<'a> {
    direction: Direction,
    index: usize,
    peers: &'a [NetworkPolicyPeer],
    ports: &'a [NetworkPolicyPort],
}

fn policies(world: &World) -> Vec<Policy<'_>> {
    let read = |(name, model)| {
        let Some(Object::NetworkPolicy(object)) =
            world.objects().get(&ObjectKey::NetworkPolicy(NamespacedName::clone(name)))
        else {
            return None;
        };
        let pods = world.pods().iter().filter(|pod| is_selected(world, name, model, pod)).collect();
        let is_audited = world.cluster().audited().contains(&PolicyName::NetworkPolicy(name.clone()));
        Some(Policy { name, object, model, pods, is_audited })
    };
    world.cluster().policies().iter().filter_map(read).collect()
}

fn is_selected(world: &World, policy: &NamespacedName, model: &cluster::Policy, pod: &Pod) -> bool {
    let known = world.cluster().pods().get(&pod.name);
    pod.name.namespace == policy.namespace
        && !pod.is_host
        && known.is_some_and(|known| model.pods.matches(&known.labels))
}

impl<'a> Policy<'a> {
    /// Its rules of the directions in which it isolates.
    fn rules(&self) -> impl Iterator<Item = Rule<'a>> + use<'a> {
        let spec = &self.object.spec;
        let ingress = spec.ingress.iter().enumerate().map(|(index, rule)| Rule {
            direction: Direction::Ingress,
            index,
            peers: &rule.from,
            ports: &rule.ports,
        });
        let egress = spec.egress.iter().enumerate().map(|(index, rule)| Rule {
            direction: Direction::Egress,
            index,
            peers: &rule.to,
            ports: &rule.ports,
        });
        let isolates = self.model.isolates;
        ingress.chain(egress).filter(move |rule| isolates[rule.direction as usize])
    }

    fn finding(&self, severity: Severity, code: Code, message: String, fix: &str) -> Finding {
        Finding {
            severity,
            code,
            object: ObjectKey::NetworkPolicy(self.name.clone()).to_string(),
            field: None,
            message,
            fix: fix.to_owned(),
            pods: Vec::new(),
        }
    }
}

impl Rule<'_> {
    fn field(&self) -> String {
        format!("spec.{}[{}]", self.direction.name(), self.index)
    }

    fn peer_field(&self, index: usize) -> String {
        let list = match self.direction {
            Direction::Ingress => "from",
            Direction::Egress => "to",
        };
        format!("{}.{list}[{index}]", self.field())
    }
}

fn not_understood(world: &World, found: &mut BTreeSet<Finding>) {
    for rejected in world.rejected() {
        // `blocks` says more about exceptions.
        if matches!(rejected.reason, RejectReason::Except { .. }) {
            continue;
        }
        let fix = "correct the field; the API server refuses most of these";
        let mut message = rejected.reason.to_string();
        if let Some(cause) = std::error::Error::source(&rejected.reason) {
            message += &format!(": {cause}");
        }
        found.insert(Finding {
            severity: Severity::Error,
            code: Code::NotUnderstood,
            object: rejected.key.to_string(),
            field: None,
            message,
            fix: fix.to_owned(),
            pods: Vec::new(),
        });
    }
}

fn audited(world: &World, found: &mut BTreeSet<Finding>) {
    let finding = |policy: &PolicyName| Finding {
        severity: Severity::Note,
        code: Code::AuditMode,
        object: ObjectKey::from(policy.clone()).to_string(),
        field: None,
        message:
            "only audited: `explain` says what it would do, `sluice policy audit` what it would have dropped"
                .to_owned(),
        fix: "remove the annotation sluice.dev/mode, of the policy or of its namespace, to enforce it"
            .to_owned(),
        pods: Vec::new(),
    };
    found.extend(world.cluster().audited().iter().map(finding));
}

/// `1 pod`, `2 pods`.
fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Names of pods, sorted.
fn names<'a>(pods: impl IntoIterator<Item = &'a Pod>) -> Vec<String> {
    pods.into_iter().map(|pod| pod.name.to_string()).collect::<BTreeSet<_>>().into_iter().collect()
}
