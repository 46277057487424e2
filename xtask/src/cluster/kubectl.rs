//! What `up` and `status` ask of Kubernetes, by kubectl.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::{
    machine,
    pid1::Request,
    place::{self, Place},
    plan::Machine,
};
use crate::command;

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(100);
/// A component that fails this often while it is waited for is not waited for any longer.
const MANY_FAILURES: u32 = 5;

/// A node, as far as it is read here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Node {
    /// Its name.
    pub name: String,
    /// Its ranges for pods.
    pub pod_ranges: Vec<String>,
    /// The status of its `Ready` condition (`True`, `False`, `Unknown`); none before kubelet has set it.
    pub ready: Option<String>,
    /// Why it is what it is.
    pub reason: String,
}

#[derive(Deserialize)]
struct NodeList {
    items: Vec<NodeObject>,
}

#[derive(Deserialize)]
struct NodeObject {
    metadata: Metadata,
    #[serde(default)]
    spec: NodeSpec,
    #[serde(default)]
    status: NodeStatus,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
}

#[derive(Default, Deserialize)]
struct NodeSpec {
    #[serde(default, rename = "podCIDRs")]
    pod_cidrs: Vec<String>,
}

#[derive(Default, Deserialize)]
struct NodeStatus {
    #[serde(default)]
    conditions: Vec<Condition>,
}

#[derive(Deserialize)]
struct Condition {
    #[serde(rename = "type")]
    kind: String,
    status: String,
    #[serde(default)]
    message: String,
}

impl From<NodeObject> for Node {
    fn from(object: NodeObject) -> Self {
        let ready = object.status.conditions.into_iter().find(|condition| condition.kind == "Ready");
        Self {
            name: object.metadata.name,
            pod_ranges: object.spec.pod_cidrs,
            reason: ready.as_ref().map(|ready| ready.message.clone()).unwrap_or_default(),
            ready: ready.map(|ready| ready.status),
        }
    }
}

/// kubectl, as administrator.
///
/// # Errors
/// When the control plane is not up.
fn kubectl(place: &Place, arguments: &[&str]) -> Result<Command> {
    let mut kubectl = machine::beside(place, Machine::ControlPlane, &place::components().join("kubectl"))?;
    kubectl.args(arguments).stdin(Stdio::null());
    Ok(kubectl)
}

/// Runs it; what it said.
///
/// # Errors
/// When the control plane is not up, or kubectl fails.
pub(super) fn run(place: &Place, arguments: &[&str]) -> Result<String> {
    command::capture(&mut kubectl(place, arguments)?)
}

/// All nodes.
///
/// # Errors
/// When the API server does not answer.
pub(super) fn nodes(place: &Place) -> Result<Vec<Node>> {
    let text =
        command::capture(&mut kubectl(place, &["get", "nodes", "-o", "json", "--request-timeout=5s"])?)?;
    let list: NodeList = serde_json::from_str(&text).context("reading the list of nodes")?;
    Ok(list.items.into_iter().map(Node::from).collect())
}

/// Applies objects. True when one of them changed.
///
/// # Errors
/// When the API server refuses one.
pub(super) fn apply(place: &Place, yaml: &str) -> Result<bool> {
    let mut kubectl = kubectl(place, &["apply", "-f", "-"])?;
    let mut child = kubectl
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting kubectl")?;
    let mut stdin = child.stdin.take().expect("stdin is piped");
    stdin.write_all(yaml.as_bytes()).context("writing to kubectl")?;
    drop(stdin);
    let output = child.wait_with_output().context("waiting for kubectl")?;
    if !output.status.success() {
        bail!("applying objects: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    let changes = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok(changes.lines().any(|line| !line.ends_with(" unchanged")))
}

/// Runs kubectl until it succeeds.
///
/// # Errors
/// When it has not in time; with what it said last, and with the component that seems to be why.
pub(super) fn until_done(place: &Place, patience: Duration, arguments: &[&str]) -> Result<()> {
    until(place, patience, Machine::ControlPlane, "kube-apiserver", || {
        run(place, arguments).map(|_| Some(()))
    })
}

/// Looks until there is something to see, which `component` of `machine` is to bring about.
///
/// # Errors
/// When there is nothing in time, when the machine has ended or a component of it does not stay up; with the end of the
/// log of what is to blame.
pub(super) fn until<T>(
    place: &Place,
    patience: Duration,
    machine: Machine,
    component: &str,
    mut look: impl FnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    let failures = Failures::of(place, machine);
    loop {
        let seen = look();
        if let Ok(Some(seen)) = seen {
            return Ok(seen);
        }
        let is_alive = machine::is_alive(place, machine);
        let failing = Failures::of(place, machine).more_than(&failures);
        if !is_alive || failing.is_some() || Instant::now() > deadline {
            let why = seen.err().map(|error| format!("{error:#}\n")).unwrap_or_default();
            let (component, what) = match &failing {
                _ if !is_alive => ("init", "has ended"),
                Some(failing) => (failing.as_str(), "does not stay up"),
                None => (component, "is not as it should be"),
            };
            let log = place.logs(machine).join(format!("{component}.log"));
            bail!("{component} of {machine} {what}\n{why}{}", machine::last_lines(&log));
        }
        thread::sleep(LOOK);
    }
}

/// How often each component of a machine has ended by itself.
struct Failures(Vec<(String, u32)>);

impl Failures {
    fn of(place: &Place, machine: Machine) -> Self {
        let answer = machine::ask(place, machine, &Request::Status);
        let components = answer.map(|answer| answer.components).unwrap_or_default();
        Self(components.into_iter().map(|component| (component.name, component.failures)).collect())
    }

    /// A component that has ended much more often than before: it will not come up.
    fn more_than(self, before: &Self) -> Option<String> {
        let known =
            |name: &str| before.0.iter().find(|(known, _)| known == name).map_or(0, |(_, count)| *count);
        self.0.into_iter().find(|(name, count)| *count >= known(name) + MANY_FAILURES).map(|(name, _)| name)
    }
}
