//! containerd, kubelet and, when asked for, kube-proxy.

use std::{
    fs,
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use super::{component, control_plane::wait_for_api_server, mounts, supervisor::Supervisor};
use crate::cluster::{
    cgroups::Hierarchies,
    components, configuration, images,
    place::{self, Place},
    plan::{self, Machine, Options},
};

const CONTAINERD: &str = "/run/containerd/containerd.sock";

/// Makes the node's view, and starts all components in order.
///
/// # Errors
/// When something cannot be mounted or written, or an image not be imported.
pub(super) fn start(
    supervisor: &Arc<Supervisor>,
    place: &Place,
    node: Machine,
    options: &Options,
    hierarchies: &Hierarchies,
) -> Result<()> {
    let folder = place.machine(node);
    install_plugins(&folder.join("cni-bin"))?;
    mounts::node(place, node, options.families, hierarchies)?;
    configuration::write(place, node, options)?;
    let mut containerd = component("containerd");
    containerd.arg("--config").arg(folder.join(configuration::CONTAINERD));
    supervisor.run("containerd", containerd);
    while UnixStream::connect(CONTAINERD).is_err() {
        thread::sleep(Duration::from_millis(20));
    }
    import(supervisor, &images::archive()?, &folder)?;
    wait_for_api_server(options.families);
    supervisor.run("kubelet", kubelet(place, node, options));
    if options.kube_proxy.mode().is_some() {
        let mut kube_proxy = component("kube-proxy");
        kube_proxy.arg(format!("--config={}", folder.join(configuration::KUBE_PROXY).display()));
        supervisor.run("kube-proxy", kube_proxy);
    }
    Ok(())
}

/// The reference plugins are on every node, as distributions install them; networks put theirs beside them.
fn install_plugins(folder: &Path) -> Result<()> {
    place::make(folder)?;
    for plugin in components::PLUGINS {
        let (from, to) = (place::components().join(plugin), folder.join(plugin));
        if !to.exists() {
            fs::copy(&from, &to)
                .with_context(|| format!("copying {} to {}", from.display(), to.display()))?;
        }
    }
    Ok(())
}

/// Imports an archive that this node does not have yet.
fn import(supervisor: &Supervisor, archive: &Path, folder: &Path) -> Result<()> {
    let mark = folder.join(images::IMPORTED);
    let name = archive.display().to_string();
    if fs::read_to_string(&mark).is_ok_and(|known| known == name) {
        return Ok(());
    }
    supervisor.run_to_end("import", ctr_import(&mut component("ctr"), archive))?;
    place::write(&mark, &name).map(drop)
}

/// Arguments of `ctr` that import an archive where Kubernetes finds it.
pub(in crate::cluster) fn ctr_import<'a>(ctr: &'a mut Command, archive: &Path) -> &'a mut Command {
    ctr.args(["--namespace", "k8s.io", "images", "import", "--local"]).arg(archive)
}

/// Three zones, which more nodes share.
const fn zone(node: u8) -> u8 {
    (node - 1) % 3 + 1
}

fn kubelet(place: &Place, node: Machine, options: &Options) -> Command {
    let folder: PathBuf = place.machine(node);
    let Machine::Node(number) = node else { unreachable!("only nodes have a kubelet") };
    let mut command = component("kubelet");
    command
        .arg(format!("--config={}", folder.join(configuration::KUBELET).display()))
        .arg(format!("--kubeconfig={}", place.pki().join(format!("{node}.conf")).display()))
        .arg(format!("--hostname-override={node}"))
        .arg(format!("--node-ip={}", plan::comma_separated(&node.addresses(options.families))))
        .arg(format!("--node-labels=topology.kubernetes.io/zone=zone-{}", zone(number)))
        .args(["--root-dir=/var/lib/kubelet", "--v=2"]);
    command
}
