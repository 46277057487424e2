//! What the server asks of the task that owns the state, and the answers.

use std::fmt;

use sluice_api::endpoint::{EndpointStatus, Registered, Registration};
use tokio::sync::oneshot;

use crate::{apply::ApplyError, datapath::AttachError, registration::RegistrationError};

/// Names a pod's attachment as the runtime does (CNI specification 1.1: container id and interface name).
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Attachment {
    /// Container id.
    pub container: String,
    /// The interface's name in the pod.
    pub ifname: String,
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container, self.ifname)
    }
}

/// One question; an answer whose asker has gone is dropped.
#[derive(Debug)]
pub enum Request {
    /// Attach default-drop programs and remember the endpoint.
    Register {
        /// What was wired.
        registration: Registration,
        /// The endpoint's number.
        answer: oneshot::Sender<Result<Registered, RegisterError>>,
    },
    /// Forget the endpoint, if there is one.
    Remove {
        /// Which.
        at: Attachment,
        /// Comes when it is forgotten.
        answer: oneshot::Sender<()>,
    },
    /// Answer when the endpoint's rules are in force.
    AwaitInForce {
        /// Which.
        at: Attachment,
        /// Comes when they are.
        answer: oneshot::Sender<Result<(), UnknownEndpoint>>,
    },
    /// Say what an endpoint waits for.
    WhyNotInForce {
        /// Which.
        at: Attachment,
        /// The reason.
        answer: oneshot::Sender<NotInForce>,
    },
    /// List the endpoints.
    List {
        /// All of them, by number.
        answer: oneshot::Sender<Vec<EndpointStatus>>,
    },
    /// Say what there is to count.
    Metrics {
        /// OpenMetrics text.
        answer: oneshot::Sender<String>,
    },
    /// Say whether an ADD could be served now.
    Ready {
        /// What is missing, if anything.
        answer: oneshot::Sender<Result<(), NotReady>>,
    },
}

/// Why an endpoint was not registered.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// It makes no sense.
    #[error("understanding the registration of {at}")]
    Registration {
        /// Which.
        at: Attachment,
        /// What is wrong.
        source: RegistrationError,
    },
    /// It could not be written down.
    #[error("remembering endpoint {at}")]
    Remember {
        /// Which.
        at: Attachment,
        /// Why not.
        source: Box<ApplyError>,
    },
    /// The programs could not be attached: the link must stay down.
    #[error("attaching programs to the interface of {at}")]
    Attach {
        /// Which.
        at: Attachment,
        /// Why not.
        source: Box<AttachError>,
    },
}

impl RegisterError {
    /// Whether the caller is at fault: trying again will not help.
    pub fn is_callers(&self) -> bool {
        matches!(self, Self::Registration { .. })
    }
}

/// Nobody registered it.
#[derive(Debug, thiserror::Error)]
#[error("endpoint {at} is not registered")]
pub struct UnknownEndpoint {
    /// Which.
    pub at: Attachment,
}

/// What an endpoint waits for.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotInForce {
    /// It was never registered, or removed meanwhile.
    #[error("endpoint {0} is not registered")]
    Unknown(Attachment),
    /// The sources have not told everything yet.
    #[error("the cluster's objects are not known yet")]
    NotSynced,
    /// The API server has not told about the pod yet.
    #[error("pod {namespace}/{pod} is not known yet")]
    PodUnknown {
        /// Its namespace.
        namespace: String,
        /// Its name.
        pod: String,
    },
    /// Its rules do not fit, or could not be written; the log says more.
    #[error("the rules of pod {namespace}/{pod} are not in force")]
    Rules {
        /// Its namespace.
        namespace: String,
        /// Its name.
        pod: String,
    },
}

/// Why an ADD could not be served now.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NotReady {
    /// The sources have not told everything yet.
    #[error("the cluster's objects are not known yet")]
    NotSynced,
    /// The first plan has not gone through; the log says why.
    #[error("the first plan is not in force yet")]
    NotApplied,
    /// A pod that was here before has no program, so that its policy does not hold.
    #[error("no programs on {device}, the interface of a pod")]
    Bare {
        /// The pod's host-side interface.
        device: String,
    },
    /// The program could not be attached; the log says why, and it is tried again.
    #[error("uplink {device} has no program yet")]
    Uplink {
        /// The device.
        device: String,
    },
}
