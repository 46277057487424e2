//! What cannot be understood, and why.

use crate::{object::ObjectKey, selector::SelectorError};

/// An object that cannot be understood, or not wholly; what is left of it opens nothing.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("reading {key}")]
pub struct RejectedObject {
    /// Which object.
    pub key: ObjectKey,
    /// What is wrong with it.
    #[source]
    pub reason: RejectReason,
}

/// What is wrong with an object.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RejectReason {
    /// A label selector makes no sense.
    #[error("reading a label selector")]
    Selector(#[from] SelectorError),
    /// No address.
    #[error("{text:?} is no address")]
    Address {
        /// What was given.
        text: String,
    },
    /// No address range.
    #[error("{text:?} is no address range")]
    Cidr {
        /// What was given.
        text: String,
    },
    /// An exception outside of its range.
    #[error("the exception {except} does not lie in {cidr}")]
    Except {
        /// The exception.
        except: String,
        /// The range.
        cidr: String,
    },
    /// A protocol other than TCP, UDP and SCTP.
    #[error("{protocol:?} is no protocol of a port")]
    Protocol {
        /// What was given.
        protocol: String,
    },
    /// A port outside of 1–65535.
    #[error("{port} is no port")]
    Port {
        /// What was given.
        port: i64,
    },
    /// `endPort` without a numeric `port`, or below it.
    #[error("the port range ends at {end}, before it begins or without a first port")]
    PortRange {
        /// What was given.
        end: i64,
    },
    /// A policy type other than Ingress and Egress.
    #[error("{policy_type:?} is no policy type")]
    PolicyType {
        /// What was given.
        policy_type: String,
    },
    /// A peer that names nothing, or a range and selectors both.
    #[error("a peer is either selectors or a range")]
    Peer,
    /// A tier other than Admin and Baseline; the policy is taken for one of the Admin tier.
    #[error("{tier:?} is no tier")]
    Tier {
        /// What was given.
        tier: String,
    },
    /// A priority outside of 0–1000, or none; the policy goes first.
    #[error("{} is no priority", priority.map_or("nothing".to_owned(), |priority| priority.to_string()))]
    Priority {
        /// What was given.
        priority: Option<i64>,
    },
    /// An action other than Accept, Deny and Pass; the rule denies everything.
    #[error("{action:?} is no action")]
    Action {
        /// What was given.
        action: String,
    },
    /// A subject without a field that is known here, or with several.
    #[error("a subject is either namespaces or pods")]
    Subject,
    /// A rule of a ClusterNetworkPolicy without peers, or with one that has no field that is known here, or several.
    #[error("a peer is either namespaces or pods or, of an egress rule, networks")]
    ClusterPeer,
    /// Protocols of a ClusterNetworkPolicy that have no field that is known here, or several.
    #[error("a protocol is one of tcp, udp and sctp with a port, or a named port")]
    ClusterProtocol,
    /// A named port together with a range of addresses, which has none.
    #[error("networks have no named ports")]
    NamedPort,
    /// A mode (`sluice.dev/mode`) other than `audit` and `enforce`.
    #[error("{mode:?} is no mode of a policy: enforced")]
    Mode {
        /// What was given.
        mode: String,
    },
    /// A Service port that is not translated.
    #[error("port {port}/{protocol} is not served")]
    NotServed {
        /// The port's number.
        port: i64,
        /// Its protocol.
        protocol: String,
    },
    /// A session affinity timeout outside of 1–86400 seconds.
    #[error("{seconds} s is no session affinity timeout")]
    AffinityTimeout {
        /// What was given.
        seconds: i64,
    },
}
