//! An attachment (one interface of one container) and every name that follows from it. Pure.
//!
//! **Invariant: names never change.** Leases and veths of running pods carry them; a new release must find them.

use std::fmt;

use sha2::{Digest, Sha256};

/// The pod an attachment is for, as far as the runtime says.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Pod {
    /// `K8S_POD_NAMESPACE`.
    pub namespace: Option<String>,
    /// `K8S_POD_NAME`.
    pub name: Option<String>,
    /// `K8S_POD_UID`.
    pub uid: Option<String>,
}

/// One interface of one container (the specification's "attachment").
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Attachment {
    /// `CNI_CONTAINERID`.
    pub container: String,
    /// `CNI_IFNAME`.
    pub ifname: String,
    /// Of `CNI_ARGS`; decides nothing here.
    pub pod: Pod,
}

impl Attachment {
    /// An attachment of which only the names are known, if they are good ones.
    pub fn new(container: &str, ifname: &str) -> Option<Self> {
        let good = is_name(container) && is_ifname(ifname);
        good.then(|| Self { container: container.to_owned(), ifname: ifname.to_owned(), pod: Pod::default() })
    }

    /// Name of the host-side veth: `sl` and 44 bits of the attachment's hash. Leases carry it as their owner.
    pub fn host_ifname(&self) -> String {
        let digest = self.digest();
        let hex: String = digest[..6].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("sl{}", &hex[..11])
    }

    /// MAC address of the host's end.
    ///
    /// Both are chosen, not left to the kernel: udev gives a veth with a random address another one
    /// (`MACAddressPolicy=persistent`) behind our back, and known addresses save a question to the kernel.
    pub fn host_mac(&self) -> [u8; 6] {
        local_mac(&self.digest()[8..14])
    }

    /// MAC address of the pod's end.
    pub fn pod_mac(&self) -> [u8; 6] {
        local_mac(&self.digest()[16..22])
    }

    fn digest(&self) -> [u8; 32] {
        // Neither name can hold a slash.
        Sha256::digest(format!("{}/{}", self.container, self.ifname)).into()
    }
}

impl fmt::Display for Attachment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.container, self.ifname)
    }
}

/// Whether `text` may be a container id or network name: a letter or digit, then letters, digits, `_`, `.`, `-`.
pub(crate) fn is_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
}

/// Whether the kernel takes `text` as an interface name (`dev_valid_name`, `IFNAMSIZ`), and HTTP as a path segment.
fn is_ifname(text: &str) -> bool {
    (1..16).contains(&text.len())
        && !matches!(text, "." | "..")
        && text.bytes().all(|b| {
            b.is_ascii_graphic()
                && !matches!(
                    b,
                    b'/' | b':'
                        | b'%'
                        | b'?'
                        | b'#'
                        | b'"'
                        | b'<'
                        | b'>'
                        | b'\\'
                        | b'^'
                        | b'`'
                        | b'{'
                        | b'|'
                        | b'}'
                )
        })
}

fn local_mac(bytes: &[u8]) -> [u8; 6] {
    let mut mac = [0; 6];
    mac.copy_from_slice(&bytes[..6]);
    // Locally administered (bit 1), unicast (bit 0 clear): IEEE 802, section 8.2.
    mac[0] = (mac[0] & 0xfc) | 0x02;
    mac
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_an_attachment_never_change() {
        let attachment = Attachment::new("c1", "eth0").expect("good names");
        assert_eq!(attachment.host_ifname(), "sld72e032fedd");
        assert_eq!(attachment.host_ifname().len(), 13);
        assert_eq!(attachment.pod_mac()[0] & 3, 2);
        assert_ne!(attachment.pod_mac(), attachment.host_mac());
    }
}
