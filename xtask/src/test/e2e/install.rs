//! Bringing the cluster up and installing Sluice, as a user would.

use std::fs;

use anyhow::{Context as _, Result, ensure};

use crate::{cluster, image, workspace};

/// The cluster of this layer: not the one somebody works with.
pub(in crate::test) const CLUSTER: &str = "e2e";

/// Longest wait for Sluice and CoreDNS, for kubectl.
const TIMEOUT: &str = "--timeout=300s";

/// Builds the image, brings the cluster up, installs Sluice from its manifest, and waits for nodes and CoreDNS.
///
/// # Errors
/// The first step that fails.
pub(super) fn bring_up(nodes: u8) -> Result<cluster::Access> {
    let archive = image::for_tests()?;
    let options = cluster::Options { nodes, ..cluster::Options::default() };
    let access = cluster::Access::bring_up(CLUSTER, &options)?;
    access.load(&archive)?;
    let manifest = workspace::root().join("manifests/sluice.yaml");
    let manifest =
        fs::read_to_string(&manifest).with_context(|| format!("reading {}", manifest.display()))?;
    let manifest = with_api_server(&manifest, &access.api_server().to_string())?;
    access.apply(&within_bounds(
        &manifest,
        &fs::read_to_string("/proc/self/status").context("reading /proc/self/status")?,
    )?)?;
    access.kubectl(&["rollout", "status", "--namespace=kube-system", "daemonset/sluice", TIMEOUT])?;
    access.kubectl(&["wait", "--for=condition=Ready", "nodes", "--all", TIMEOUT])?;
    access.kubectl(&["rollout", "status", "--namespace=kube-system", "deployment/coredns", TIMEOUT])?;
    Ok(access)
}

/// What the manifest asks its reader to write: nothing else makes the API server reachable without kube-proxy.
fn with_api_server(manifest: &str, address: &str) -> Result<String> {
    const UNSET: &str = "SLUICE_API_SERVER: \"\"";
    ensure!(manifest.matches(UNSET).count() == 1, "the manifest has not one line {UNSET}");
    Ok(manifest.replace(UNSET, &format!("SLUICE_API_SERVER: \"{address}\"")))
}

/// Without the capability that only Linux before 5.11 needs, on a machine that cannot give it: runc would refuse the pod.
fn within_bounds(manifest: &str, status: &str) -> Result<String> {
    /// Its bit in `CapBnd` (`linux/capability.h`, proc_pid_status(5)).
    const SYS_RESOURCE: u64 = 1 << 24;
    let bounds =
        status.lines().find_map(|line| line.strip_prefix("CapBnd:")).context("no CapBnd in the status")?;
    let bounds =
        u64::from_str_radix(bounds.trim(), 16).with_context(|| format!("reading the bounds {bounds}"))?;
    if bounds & SYS_RESOURCE != 0 {
        return Ok(manifest.to_owned());
    }
    let is_it = |line: &&str| line.trim_start().starts_with("- SYS_RESOURCE");
    ensure!(manifest.lines().filter(is_it).count() == 1, "the manifest has not one line - SYS_RESOURCE");
    Ok(manifest.lines().filter(|line| !is_it(line)).map(|line| format!("{line}\n")).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_capability_that_the_machine_cannot_give_is_not_asked_for() {
        let manifest = "- NET_ADMIN\n- SYS_RESOURCE # Linux before 5.11\n";
        let of = |bounds: &str| within_bounds(manifest, &format!("Name:\tx\nCapBnd:\t{bounds}\n"));
        assert_eq!(of("000001ffffffffff").expect("all"), manifest);
        assert_eq!(of("000001fffeffffff").expect("all but one"), "- NET_ADMIN\n");
        of("none").expect_err("no number");
    }

    #[test]
    fn the_manifest_has_the_line_that_names_the_api_server() {
        let manifest =
            fs::read_to_string(workspace::root().join("manifests/sluice.yaml")).expect("a manifest");
        let filled = with_api_server(&manifest, "10.0.0.1:6443").expect("the line");
        assert!(filled.contains("  SLUICE_API_SERVER: \"10.0.0.1:6443\"\n"));
    }
}
