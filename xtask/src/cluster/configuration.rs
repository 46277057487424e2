//! Configuration files of a node's components.

use anyhow::Result;

use super::{
    images,
    place::{self, Place},
    plan::{self, DOMAIN, Machine, Options, PODS},
};

/// containerd's file in the node's folder.
pub(super) const CONTAINERD: &str = "containerd.toml";
/// kubelet's.
pub(super) const KUBELET: &str = "kubelet.yaml";
/// kube-proxy's.
pub(super) const KUBE_PROXY: &str = "kube-proxy.yaml";

/// Writes all of them.
///
/// # Errors
/// When one cannot be written.
pub(super) fn write(place: &Place, node: Machine, options: &Options) -> Result<()> {
    let folder = place.machine(node);
    place::write(&folder.join(CONTAINERD), &containerd())?;
    place::write(&folder.join(KUBELET), &kubelet(place, node, options))?;
    if let Some(mode) = options.kube_proxy.mode() {
        place::write(&folder.join(KUBE_PROXY), &kube_proxy(place, node, options, mode))?;
    }
    Ok(())
}

fn containerd() -> String {
    let pause = images::PAUSE;
    format!(
        r#"version = 3
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.tracing",
  "io.containerd.nri.v1.nri",
  "io.containerd.snapshotter.v1.blockfile",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.erofs",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.images"]
snapshotter = "overlayfs"
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "{pause}"
[plugins."io.containerd.cri.v1.runtime"]
restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
bin_dirs = ["/opt/cni/bin"]
conf_dir = "/etc/cni/net.d"
[plugins."io.containerd.cri.v1.runtime".containerd]
default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
BinaryName = "runc"
SystemdCgroup = false
"#
    )
}

fn kubelet(place: &Place, node: Machine, options: &Options) -> String {
    let pki = place.pki();
    let pki = pki.display();
    let dns = plan::dns(options.families)[0];
    let taints: String = options
        .taints
        .iter()
        .map(|taint| {
            format!("- {{key: '{}', value: '{}', effect: {}}}\n", taint.key, taint.value, taint.effect)
        })
        .collect();
    let taints = if taints.is_empty() { taints } else { format!("registerWithTaints:\n{taints}") };
    format!(
        "apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: '::'
authentication:
  anonymous: {{enabled: false}}
  webhook: {{enabled: true}}
  x509: {{clientCAFile: {pki}/ca.crt}}
authorization: {{mode: Webhook}}
cgroupDriver: cgroupfs
clusterDNS: ['{dns}']
clusterDomain: {DOMAIN}
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
evictionHard: {{memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}}
failCgroupV1: false
failSwapOn: false
# Images come from archives only: what is collected is not pulled again.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
maxPods: 200
nodeStatusUpdateFrequency: 5s
registryPullQPS: 0
resolvConf: /etc/resolv.conf
syncFrequency: 10s
tlsCertFile: {pki}/{node}.crt
tlsPrivateKeyFile: {pki}/{node}.key
volumePluginDir: /var/lib/kubelet/volumeplugins
{taints}"
    )
}

fn kube_proxy(place: &Place, node: Machine, options: &Options, mode: &str) -> String {
    let pki = place.pki();
    let (pki, pods) = (pki.display(), PODS.list(options.families));
    format!(
        "apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {{kubeconfig: {pki}/kube-proxy.conf}}
clusterCIDR: '{pods}'
# Limits of the whole machine stay as they are.
conntrack: {{maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}}
hostnameOverride: {node}
mode: {mode}
"
    )
}
