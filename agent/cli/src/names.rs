//! Words for numbers, from the `*_META` maps.
//!
//! A number whose name is gone (its entry was deleted since) is still shown, as a number.

use std::fmt;

use serde::Serialize;
use sluice_abi::{
    Addr, Direction, EndpointId, Identity, PolicyId, PolicyKind, PolicyMode, RuleId, RuleSetId, ServiceId,
    endpoint_flags, protocol,
};
use sluice_maps::{Maps, MapsError};

/// Looks names up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Names<'a>(pub(crate) &'a Maps);

/// The rule that decided.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RuleName {
    /// The rule's number.
    pub(crate) id: u32,
    /// Namespace and name of its policy; none when no policy has a say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) policy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    direction: Option<&'static str>,
    /// Its index in the policy's list of that direction, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u16>,
    /// All of it in words.
    text: String,
}

impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// The policies that isolate a pod in one direction.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Isolation {
    /// Namespace and name of each, as many as are recorded.
    pub(crate) policies: Vec<String>,
    /// Those of them that are audited.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) audited: Vec<String>,
    /// How many there are.
    pub(crate) total: u16,
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.total == 0 {
            return f.write_str("-");
        }
        f.write_str(&self.policies.join(", "))?;
        match usize::from(self.total) - self.policies.len().min(usize::from(self.total)) {
            0 => Ok(()),
            more => write!(f, " and {more} more"),
        }
    }
}

impl Names<'_> {
    /// Namespace and name of a pod; none for the node and for what is unknown.
    pub(crate) fn pod(self, id: EndpointId) -> Result<Option<String>, MapsError> {
        let meta = self.0.endpoint_meta.get(&id)?;
        Ok(meta.map(|meta| format!("{}/{}", meta.namespace, meta.pod)))
    }

    /// Who has an address on this node: a pod, or `node`.
    pub(crate) fn local(self, addr: &Addr) -> Result<Option<String>, MapsError> {
        match self.0.endpoints.get(addr)? {
            Some(endpoint) if endpoint.flags & endpoint_flags::HOST != 0 => Ok(Some("node".to_owned())),
            Some(endpoint) => self.pod(endpoint.id),
            None => Ok(None),
        }
    }

    /// Namespace and name of a policy.
    pub(crate) fn policy(self, id: PolicyId) -> Result<String, MapsError> {
        Ok(match self.0.policy_meta.get(&id)? {
            Some(meta) if meta.kind == PolicyKind::NetworkPolicy as u8 => {
                format!("{}/{}", meta.namespace, meta.name)
            }
            Some(meta) => meta.name.to_string(),
            None => format!("policy {} (gone)", id.0),
        })
    }

    /// Namespace and name of a Service.
    pub(crate) fn service(self, id: ServiceId) -> Result<Option<String>, MapsError> {
        let meta = self.0.service_meta.get(&id)?;
        Ok(meta.map(|meta| format!("{}/{}", meta.namespace, meta.name)))
    }

    /// The selectors that an identity's addresses satisfy.
    pub(crate) fn identity(self, id: Identity) -> Result<String, MapsError> {
        if id == Identity::ANY {
            return Ok("any peer".to_owned());
        }
        let meta = self.0.identity_meta.get(&id)?;
        Ok(meta.map_or_else(|| format!("identity {} (gone)", id.0), |meta| meta.selectors.to_string()))
    }

    /// Which rule of which policy; none for [`RuleId::NONE`].
    pub(crate) fn rule(self, id: RuleId) -> Result<Option<RuleName>, MapsError> {
        let plain = |text: &str| RuleName {
            id: id.0,
            policy: None,
            direction: None,
            index: None,
            text: text.to_owned(),
        };
        Ok(match id {
            RuleId::NONE => None,
            RuleId::NOT_ISOLATED => Some(plain("not isolated")),
            RuleId::OWN_NODE => Some(plain("own node")),
            _ => Some(match self.0.rule_meta.get(&id)? {
                None => plain(&format!("rule {} (gone)", id.0)),
                Some(meta) => {
                    let (policy, direction) = (self.policy(meta.policy)?, direction(meta.direction));
                    let text = format!("{policy} {direction}[{}]", meta.index);
                    let (policy, direction, index) = (Some(policy), Some(direction), Some(meta.index));
                    RuleName { id: id.0, policy, direction, index, text }
                }
            }),
        })
    }

    /// The policies that isolate the pods of a rule set.
    pub(crate) fn isolation(self, id: RuleSetId) -> Result<Isolation, MapsError> {
        let Some(meta) = self.0.rule_set_meta.get(&id)? else { return Ok(Isolation::default()) };
        let recorded = meta.policies.iter().take(usize::from(meta.policy_count));
        let (mut policies, mut audited) = (Vec::new(), Vec::new());
        for policy in recorded {
            let name = self.policy(*policy)?;
            if self.is_audited(*policy)? {
                audited.push(name.clone());
            }
            policies.push(name);
        }
        policies.sort_unstable();
        audited.sort_unstable();
        Ok(Isolation { policies, audited, total: meta.policy_count })
    }

    /// Whether a policy is audited; one that is unknown is not.
    fn is_audited(self, id: PolicyId) -> Result<bool, MapsError> {
        Ok(self.0.policy_meta.get(&id)?.is_some_and(|meta| meta.mode == PolicyMode::Audit as u8))
    }
}

/// `ingress` or `egress`.
pub(crate) fn direction(number: u8) -> &'static str {
    Direction::from_number(number).map_or("unknown", Direction::name)
}

/// The protocol as Kubernetes spells it, else its number.
pub(crate) fn protocol(number: u8) -> String {
    match number {
        protocol::TCP => "TCP".to_owned(),
        protocol::UDP => "UDP".to_owned(),
        protocol::SCTP => "SCTP".to_owned(),
        protocol::ICMP => "ICMP".to_owned(),
        protocol::ICMPV6 => "ICMPv6".to_owned(),
        number => number.to_string(),
    }
}
