//! Keys, certificates and kubeconfigs: one authority for the cluster, one for the API server's front proxy.
//!
//! Who is who follows the Kubernetes documentation, "PKI certificates and requirements". Keys are ECDSA P-256; they are
//! made once and kept until the cluster is wiped.

use std::{fs, net::IpAddr, path::PathBuf};

use anyhow::{Context as _, Result};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

use super::{
    place::{self, Place},
    plan::{self, DOMAIN, Families, Machine, SERVICES},
};

/// Makes what is missing for `nodes` nodes. True when something was.
///
/// # Errors
/// When a file cannot be read or written, or holds something else than what was written.
pub(super) fn ensure(place: &Place, nodes: u8) -> Result<bool> {
    let store = Store { folder: place.pki() };
    place::make(&store.folder)?;
    let cluster = store.authority("ca", "kubernetes-ca")?;
    let front = store.authority("front-proxy-ca", "kubernetes-front-proxy-ca")?;
    let mut is_new = store.service_accounts()?;
    for leaf in leaves(nodes) {
        let issuer = if leaf.file == "front-proxy-client" { &front } else { &cluster };
        is_new |= store.leaf(&leaf, issuer)?;
    }
    Ok(is_new)
}

/// Writes the kubeconfigs of the control plane, of the nodes and of the administrator.
///
/// # Errors
/// When one cannot be written.
pub(super) fn write_kubeconfigs(place: &Place, nodes: u8, families: Families) -> Result<()> {
    let pki = place.pki();
    let server = plan::api_server(families);
    for leaf in leaves(nodes).iter().filter(|leaf| leaf.has_kubeconfig) {
        let path = match leaf.file.as_str() {
            "admin" => place.kubeconfig(),
            file => pki.join(format!("{file}.conf")),
        };
        place::write(&path, &kubeconfig(place, &leaf.file, &server.to_string()))?;
    }
    Ok(())
}

/// Paths of certificate and key of a server that nobody checks: what agnhost's `porter` serves TLS with. Made when missing.
///
/// # Errors
/// When one cannot be made or written.
pub(super) fn localhost() -> Result<[PathBuf; 2]> {
    let store = Store { folder: place::components() };
    let [certificate, key_file] = ["crt", "key"].map(|extension| store.path("localhost", extension));
    if !(certificate.exists() && key_file.exists()) {
        let signed = rcgen::generate_simple_self_signed(["localhost".to_owned()]);
        let signed = signed.context("making a certificate for localhost")?;
        place::write(&key_file, &signed.signing_key.serialize_pem())?;
        place::write(&certificate, &signed.cert.pem())?;
    }
    Ok([certificate, key_file])
}

fn kubeconfig(place: &Place, user: &str, server: &str) -> String {
    let (name, pki) = (place.name(), place.pki());
    let pki = pki.display();
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: {name}
  cluster: {{server: \"https://{server}\", certificate-authority: {pki}/ca.crt}}
users:
- name: {user}
  user: {{client-certificate: {pki}/{user}.crt, client-key: {pki}/{user}.key}}
contexts:
- name: {name}
  context: {{cluster: {name}, user: {user}}}
current-context: {name}
"
    )
}

/// A certificate that authenticates somebody.
struct Leaf {
    file: String,
    organization: Option<&'static str>,
    common_name: String,
    names: Vec<String>,
    addresses: Vec<IpAddr>,
    has_kubeconfig: bool,
}

impl Leaf {
    fn client(file: &str, organization: Option<&'static str>, common_name: &str) -> Self {
        Self {
            file: file.to_owned(),
            organization,
            common_name: common_name.to_owned(),
            names: Vec::new(),
            addresses: Vec::new(),
            has_kubeconfig: true,
        }
    }
}

fn leaves(nodes: u8) -> Vec<Leaf> {
    const MASTERS: &str = "system:masters";
    let mut leaves = vec![
        Leaf::client("admin", Some(MASTERS), "admin"),
        Leaf::client("kube-controller-manager", None, "system:kube-controller-manager"),
        Leaf::client("kube-scheduler", None, "system:kube-scheduler"),
        Leaf::client("kube-proxy", None, "system:kube-proxy"),
        Leaf {
            has_kubeconfig: false,
            ..Leaf::client("kubelet-client", Some(MASTERS), "kube-apiserver-kubelet-client")
        },
        Leaf { has_kubeconfig: false, ..Leaf::client("front-proxy-client", None, "front-proxy-client") },
        api_server(),
    ];
    leaves.extend((1..=nodes).map(node));
    leaves
}

fn api_server() -> Leaf {
    let mut names = vec!["localhost".to_owned(), "kubernetes".to_owned()];
    let services = ["default", "default.svc"].map(str::to_owned);
    names.extend(
        services
            .into_iter()
            .chain([format!("default.svc.{DOMAIN}")])
            .map(|name| format!("kubernetes.{name}")),
    );
    let mut addresses = Machine::ControlPlane.addresses(Families::Dual);
    addresses.extend(SERVICES.hosts(Families::Dual, 1));
    addresses.push(IpAddr::from([127, 0, 0, 1]));
    Leaf { names, addresses, has_kubeconfig: false, ..Leaf::client("kube-apiserver", None, "kube-apiserver") }
}

/// Kubelet is client and server under one certificate.
fn node(number: u8) -> Leaf {
    let node = Machine::Node(number);
    Leaf {
        names: vec![node.to_string()],
        addresses: node.addresses(Families::Dual),
        ..Leaf::client(&node.to_string(), Some("system:nodes"), &format!("system:node:{node}"))
    }
}

/// A folder of `NAME.key` and `NAME.crt`.
struct Store {
    folder: PathBuf,
}

impl Store {
    fn path(&self, file: &str, extension: &str) -> PathBuf {
        self.folder.join(format!("{file}.{extension}"))
    }

    fn authority(&self, file: &str, common_name: &str) -> Result<Issuer<'static, KeyPair>> {
        let (key_file, certificate) = (self.path(file, "key"), self.path(file, "crt"));
        let mut params = CertificateParams::default();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, common_name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let key = if key_file.exists() && certificate.exists() {
            let text =
                fs::read_to_string(&key_file).with_context(|| format!("reading {}", key_file.display()))?;
            KeyPair::from_pem(&text).with_context(|| format!("reading {}", key_file.display()))?
        } else {
            let key = KeyPair::generate().context("making a key")?;
            let signed = params.self_signed(&key).with_context(|| format!("signing {common_name}"))?;
            place::write_secret(&key_file, &key.serialize_pem())?;
            place::write(&certificate, &signed.pem())?;
            key
        };
        Ok(Issuer::new(params, key))
    }

    /// The key that signs tokens of service accounts.
    fn service_accounts(&self) -> Result<bool> {
        let (private, public) = (self.path("sa", "key"), self.path("sa", "pub"));
        if private.exists() && public.exists() {
            return Ok(false);
        }
        let key = KeyPair::generate().context("making a key")?;
        place::write_secret(&private, &key.serialize_pem())?;
        place::write(&public, &key.public_key_pem())
    }

    fn leaf(&self, leaf: &Leaf, issuer: &Issuer<'static, KeyPair>) -> Result<bool> {
        let (key_file, certificate) = (self.path(&leaf.file, "key"), self.path(&leaf.file, "crt"));
        if key_file.exists() && certificate.exists() {
            return Ok(false);
        }
        let mut params = CertificateParams::new(leaf.names.clone()).context("naming a certificate")?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, &leaf.common_name);
        if let Some(organization) = leaf.organization {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.subject_alt_names.extend(leaf.addresses.iter().copied().map(SanType::IpAddress));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let key = KeyPair::generate().context("making a key")?;
        let signed =
            params.signed_by(&key, issuer).with_context(|| format!("signing {}", leaf.common_name))?;
        place::write_secret(&key_file, &key.serialize_pem())?;
        place::write(&certificate, &signed.pem())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn what_is_there_is_kept_and_a_new_node_gets_its_own() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store { folder: folder.path().to_owned() };
        let authority = store.authority("ca", "authority").unwrap();
        assert!(store.leaf(&node(1), &authority).unwrap());
        let first = fs::read(store.path("n1", "crt")).unwrap();
        let again = store.authority("ca", "authority").unwrap();
        assert_eq!(authority.key().public_key_pem(), again.key().public_key_pem());
        assert!(!store.leaf(&node(1), &again).unwrap());
        assert!(store.leaf(&node(2), &again).unwrap());
        assert_eq!(fs::read(store.path("n1", "crt")).unwrap(), first);
    }

    #[test]
    fn keys_are_for_their_owner_alone() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store { folder: folder.path().to_owned() };
        store.authority("ca", "authority").unwrap();
        store.service_accounts().unwrap();
        for file in ["ca", "sa"] {
            let mode = fs::metadata(store.path(file, "key")).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{file}");
        }
    }
}
