//! The upstream suite: which of its specs are run, and how.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context as _, Result};

use super::results::{self, Outcome, Spec};
use crate::{cluster, command};

/// Specs that run together.
#[derive(Clone, Copy, Debug)]
pub(super) struct Suite {
    /// Its name in results and files.
    pub(super) name: &'static str,
    /// Regular expression of the names of its specs.
    focus: &'static str,
    /// Specs at once. A `[Serial]` or `[Disruptive]` spec has the cluster to itself.
    processes: usize,
}

/// What fits the gate: every NetworkPolicy spec, and what conformance asks of Services and of pods' network.
pub(super) const GATE: &[Suite] = &[
    Suite { name: "network-policy", focus: r"\[sig-network\] Netpol", processes: PROCESSES },
    Suite { name: "services", focus: r"\[sig-network\] Services .*\[Conformance\]", processes: PROCESSES },
];

/// Everything that is about the network.
pub(super) const ALL: &[Suite] = &[
    Suite { name: "sig-network", focus: r"\[sig-network\]", processes: PROCESSES },
    Suite { name: "sig-network-serial", focus: r"\[sig-network\].*\[(Serial|Disruptive)\]", processes: 1 },
];

/// Two cores carry this many specs, most of which wait.
const PROCESSES: usize = 4;

/// Specs that are left out: a regular expression, and why.
pub(super) const LEFT_OUT: &[(&str, &str)] = &[
    (r"\[Feature:SCTPConnectivity\]", "needs SCTP in the machine's kernel"),
    (r"\[Feature:LoadBalancer\]", "needs a cloud's load balancer"),
    (r"\[Feature:Networking-(IPv4|IPv6|DNS)\]", "needs the Internet"),
    (r"\[Feature:(Networking-Performance|PerformanceDNS)\]", "a measurement of hours"),
    (
        r"\[Feature:KubeProxyNFAcct\]|\[sig-network\] KubeProxy |should check kube-proxy urls",
        "about kube-proxy, which is not there",
    ),
    (
        r"restarting kube-proxy|recreate its iptables rules|restarting apiserver",
        "logs in to a machine by SSH",
    ),
    (r"\[Provider:GCE\]", "needs Google's cloud"),
    (r"DNS configMap nameserver", "changes CoreDNS's Deployment as kubeadm makes it"),
];

/// Specs that fail, and why: one that passes must leave the table.
pub(super) const KNOWN_FAILURES: &[(&str, &str)] = &[];

/// Runs a suite against the cluster; its files go to `folder`.
///
/// # Errors
/// When the suite cannot be started, or ends without a report.
pub(super) fn run(
    suite: &Suite,
    focus: Option<&str>,
    cluster: &cluster::Access,
    folder: &Path,
) -> Result<Vec<Spec>> {
    let report = folder.join(format!("{}.json", suite.name));
    let log = folder.join(format!("{}.log", suite.name));
    let _ = std::fs::remove_file(&report); // absent at the first run
    let output = std::fs::File::create(&log).with_context(|| format!("creating {}", log.display()))?;
    let mut ginkgo = ginkgo(suite, focus, cluster, &report)?;
    // Its exit code says that a spec failed, which the report says better.
    let status = ginkgo
        .stdin(Stdio::null())
        .stderr(output.try_clone().context("copying a handle")?)
        .stdout(output)
        .status()
        .with_context(|| format!("starting {}", command::shown(&ginkgo)))?;
    let text = std::fs::read_to_string(&report).with_context(|| {
        format!("{} ended ({status}) without a report; see {}", suite.name, log.display())
    })?;
    let specs = results::read(&text).with_context(|| format!("reading {}", report.display()))?;
    Ok(specs.into_iter().map(excuse).collect())
}

fn ginkgo(suite: &Suite, focus: Option<&str>, cluster: &cluster::Access, report: &Path) -> Result<Command> {
    let bin: PathBuf = cluster.components();
    let mut skip: Vec<&str> = LEFT_OUT.iter().map(|(pattern, _)| *pattern).collect();
    if suite.processes > 1 {
        skip.extend([r"\[Serial\]", r"\[Disruptive\]"]);
    }
    let mut ginkgo = cluster.enter(&bin.join("ginkgo"))?;
    ginkgo
        .arg("run")
        .arg(format!("--procs={}", suite.processes))
        .arg(format!("--focus={}", focus.unwrap_or(suite.focus)))
        .args(skip.iter().map(|pattern| format!("--skip={pattern}")))
        // Specs have time limits of their own, and machines are shared: one more attempt, which the results tell.
        .arg("--flake-attempts=2")
        .args(["--timeout=3h", "--no-color", "--silence-skips", "--poll-progress-after=120s"])
        .arg(format!("--output-dir={}", report.parent().unwrap_or(Path::new("/")).display()))
        .arg(format!("--json-report={}", command::name_of(report)))
        .arg(bin.join("e2e.test"))
        .arg("--")
        .arg(format!("--kubeconfig={}", cluster.kubeconfig().display()))
        // Without it specs for several nodes leave themselves out.
        .arg(format!("--num-nodes={}", cluster.nodes()))
        .args(["--provider=skeleton", "--disable-log-dump", "--dump-logs-on-failure=false"])
        .args(["--allowed-not-ready-nodes=0", "--delete-namespace-on-failure=true"]);
    Ok(ginkgo)
}

/// A failure that is known is told apart from one that is not.
fn excuse(spec: Spec) -> Spec {
    let known = KNOWN_FAILURES.iter().find(|(name, _)| spec.name.contains(name));
    match (known, &spec.outcome) {
        (Some((_, why)), Outcome::Failed(_)) => {
            Spec { outcome: Outcome::KnownFailure((*why).to_owned()), ..spec }
        }
        (Some(_), Outcome::Passed) => {
            let why = "passes: take it out of the known failures".to_owned();
            Spec { outcome: Outcome::Failed(why), ..spec }
        }
        _ => spec,
    }
}
