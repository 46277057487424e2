//! etcd, API server, controller manager and scheduler.

use std::{net::TcpStream, process::Command, sync::Arc, thread, time::Duration};

use anyhow::Result;

use super::{component, supervisor::Supervisor};
use crate::cluster::{
    place::{self, Place},
    plan::{self, API_PORT, DOMAIN, Families, Machine, Options, PODS, SERVICES},
};

const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(100);

/// Starts all components, in order.
///
/// # Errors
/// When a folder cannot be made.
pub(super) fn start(supervisor: &Arc<Supervisor>, place: &Place, options: &Options) -> Result<()> {
    let data = place.machine(Machine::ControlPlane).join("etcd");
    place::make(&data)?;
    let mut etcd = component("etcd");
    etcd.arg(format!("--data-dir={}", data.display()))
        .arg(format!("--listen-client-urls={ETCD}"))
        .arg(format!("--advertise-client-urls={ETCD}"))
        .arg(format!("--listen-peer-urls={ETCD_PEER}"))
        .arg(format!("--initial-advertise-peer-urls={ETCD_PEER}"))
        .arg(format!("--initial-cluster=default={ETCD_PEER}"))
        // What a test cluster keeps is not worth a disk's time.
        .args(["--unsafe-no-fsync", "--log-level=warn"]);
    supervisor.run("etcd", etcd);
    supervisor.run("kube-apiserver", api_server(place, options));
    // The others end when the API server is not ready.
    let mut is_ready = component("kubectl");
    is_ready.arg(format!("--kubeconfig={}", place.kubeconfig().display())).args(["get", "--raw", "/readyz"]);
    wait_for_api_server(options.families);
    while !supervisor.succeeds(&mut is_ready) {
        thread::sleep(LOOK);
    }
    supervisor.run("kube-controller-manager", controller_manager(place, options.families));
    supervisor.run("kube-scheduler", scheduler(place));
    Ok(())
}

/// Waits until the API server takes connections; it is supervised, and may take its time.
pub(super) fn wait_for_api_server(families: Families) {
    let address = plan::api_server(families);
    while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
        thread::sleep(LOOK);
    }
}

fn api_server(place: &Place, options: &Options) -> Command {
    let pki = place.pki();
    let file = |name: &str| pki.join(name).display().to_string();
    let families = options.families;
    let address = Machine::ControlPlane.addresses(families)[0];
    let issuer = format!("https://kubernetes.default.svc.{DOMAIN}");
    let mut command = component("kube-apiserver");
    for (name, value) in [
        ("advertise-address", address.to_string()),
        ("allow-privileged", "true".to_owned()),
        ("authorization-mode", "Node,RBAC".to_owned()),
        ("bind-address", "::".to_owned()),
        ("client-ca-file", file("ca.crt")),
        ("enable-admission-plugins", "NodeRestriction".to_owned()),
        ("etcd-servers", ETCD.to_owned()),
        ("kubelet-certificate-authority", file("ca.crt")),
        ("kubelet-client-certificate", file("kubelet-client.crt")),
        ("kubelet-client-key", file("kubelet-client.key")),
        ("kubelet-preferred-address-types", "InternalIP".to_owned()),
        ("proxy-client-cert-file", file("front-proxy-client.crt")),
        ("proxy-client-key-file", file("front-proxy-client.key")),
        ("requestheader-allowed-names", "front-proxy-client".to_owned()),
        ("requestheader-client-ca-file", file("front-proxy-ca.crt")),
        ("requestheader-extra-headers-prefix", "X-Remote-Extra-".to_owned()),
        ("requestheader-group-headers", "X-Remote-Group".to_owned()),
        ("requestheader-username-headers", "X-Remote-User".to_owned()),
        ("secure-port", API_PORT.to_string()),
        ("service-account-issuer", issuer),
        ("service-account-key-file", file("sa.pub")),
        ("service-account-signing-key-file", file("sa.key")),
        ("service-cluster-ip-range", SERVICES.list(families)),
        ("tls-cert-file", file("kube-apiserver.crt")),
        ("tls-private-key-file", file("kube-apiserver.key")),
    ] {
        command.arg(format!("--{name}={value}"));
    }
    // Last: an argument that stands twice counts as it was given last.
    command.args(&options.apiserver_args);
    command
}

fn controller_manager(place: &Place, families: Families) -> Command {
    let pki = place.pki();
    let file = |name: &str| pki.join(name).display().to_string();
    let mut command = component("kube-controller-manager");
    let masks = match families {
        Families::Ipv4 => vec!["--node-cidr-mask-size=24"],
        Families::Ipv6 => vec!["--node-cidr-mask-size=64"],
        Families::Dual => vec!["--node-cidr-mask-size-ipv4=24", "--node-cidr-mask-size-ipv6=64"],
    };
    command
        .args(access(place, "kube-controller-manager"))
        .args(masks)
        .args(["--allocate-node-cidrs=true", "--use-service-account-credentials=true"])
        .arg(format!("--cluster-cidr={}", PODS.list(families)))
        .arg(format!("--cluster-signing-cert-file={}", file("ca.crt")))
        .arg(format!("--cluster-signing-key-file={}", file("ca.key")))
        .arg(format!("--root-ca-file={}", file("ca.crt")))
        .arg(format!("--service-account-private-key-file={}", file("sa.key")))
        .arg(format!("--service-cluster-ip-range={}", SERVICES.list(families)));
    command
}

fn scheduler(place: &Place) -> Command {
    let mut command = component("kube-scheduler");
    command.args(access(place, "kube-scheduler"));
    command
}

/// How a controller reaches the API server: alone, so it need not be elected.
fn access(place: &Place, name: &str) -> Vec<String> {
    let kubeconfig = place.pki().join(format!("{name}.conf")).display().to_string();
    let mut arguments: Vec<String> = ["kubeconfig", "authentication-kubeconfig", "authorization-kubeconfig"]
        .map(|option| format!("--{option}={kubeconfig}"))
        .into();
    arguments.extend(["--leader-elect=false", "--bind-address=127.0.0.1"].map(str::to_owned));
    arguments
}
