//! What is configured about XDP.

use clap::{Args, ValueEnum};

use crate::datapath::{XdpConfig, XdpMode};

/// Options as typed.
#[derive(Debug, Args)]
pub struct XdpOptions {
    /// Whether uplinks turn packets for backends of other nodes round before the kernel sees them: `native` by the driver,
    /// `generic` by the kernel, which is for trials. Where a device refuses, its packets go through tc, as with `off`.
    #[arg(long, global = true, value_enum, default_value_t = Xdp::Off, env = "SLUICE_XDP", value_name = "MODE")]
    pub xdp: Xdp,
    /// Run XDP also on an uplink that is a veth: its peer must run XDP too, as a program that passes everything, and leave no
    /// checksum open (`ethtool -K PEER tx off`).
    #[arg(long, global = true, env = "SLUICE_XDP_ON_VETH")]
    pub xdp_on_veth: bool,
}

/// The mode as typed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Xdp {
    /// Packets go through tc.
    Off,
    /// By the driver.
    Native,
    /// By the kernel.
    Generic,
}

impl XdpOptions {
    /// What uplinks run before tc; `None` is nothing. Beside a kube-proxy clients outside are not ours.
    pub(super) fn config(&self, replaces_kube_proxy: bool) -> Option<XdpConfig> {
        let mode = match self.xdp {
            Xdp::Off => return None,
            Xdp::Native => XdpMode::Native,
            Xdp::Generic => XdpMode::Generic,
        };
        replaces_kube_proxy.then_some(XdpConfig { mode, on_veth: self.xdp_on_veth })
    }
}
