//! Attaching the programs to devices: by tcx links where the kernel has them (Linux 6.6), else by clsact filters.
//!
//! tc's own "ingress" and "egress" are the host interface's view, the opposite of policy's; they appear only here.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    programs::{
        LinkOrder, ProgramError, SchedClassifier, TcAttachType, TcError,
        links::{FdLink, LinkError, PinnedLink},
        tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact},
    },
    util::KernelVersion,
};
use sluice_abi::Hook;

use super::Datapath;

/// How programs are attached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Mechanism {
    /// A pinned `BPF_LINK_TYPE_TCX` link.
    Tcx,
    /// A filter of the clsact qdisc, which needs no pin to outlive the agent.
    Clsact,
}

impl Mechanism {
    /// The best that this kernel has.
    pub fn best() -> Self {
        let has_tcx = KernelVersion::current().is_ok_and(|version| version >= KernelVersion::new(6, 6, 0));
        if has_tcx { Self::Tcx } else { Self::Clsact }
    }
}

/// Priority and handle of our clsact filters: fixed, so that a restarted agent replaces its own and no other.
pub(super) const PRIORITY: u16 = 1;
pub(super) const HANDLE: TcHandle = TcHandle::new(0, 0x51ce);

/// Every program that is attached to a device.
pub(super) const HOOKS: [Hook; 4] = [Hook::FromPod, Hook::ToPod, Hook::FromNetdev, Hook::ToNetdev];

/// A program that could not be attached to, or replaced on, a device.
#[derive(Debug, thiserror::Error)]
#[error("attaching {} to {device}", hook.name())]
pub struct AttachError {
    /// The program.
    pub hook: Hook,
    /// The device: its name, or its index where only that is known.
    pub device: String,
    /// Why.
    pub source: AttachCause,
}

/// What stood in the way of attaching.
#[derive(Debug, thiserror::Error)]
pub enum AttachCause {
    /// The kernel refused.
    #[error(transparent)]
    Program(#[from] Box<ProgramError>),
    /// The link is not what its pin's name says.
    #[error(transparent)]
    Link(#[from] Box<LinkError>),
    /// The link could not be pinned.
    #[error("pinning the link")]
    Pin(#[source] Box<aya::pin::PinError>),
    /// A dead link's pin could not be removed.
    #[error("removing a dead link's pin")]
    Unpin(#[source] io::Error),
    /// The clsact qdisc could not be added.
    #[error("adding the clsact qdisc")]
    Qdisc(#[source] Box<TcError>),
    /// There is no such device.
    #[error("finding the device")]
    Device(#[source] io::Error),
    /// The folder of links could not be read.
    #[error("reading the pinned links")]
    Folder(#[source] io::Error),
}

impl From<ProgramError> for AttachCause {
    fn from(error: ProgramError) -> Self {
        Self::Program(Box::new(error))
    }
}

impl From<LinkError> for AttachCause {
    fn from(error: LinkError) -> Self {
        Self::Link(Box::new(error))
    }
}

impl Datapath {
    /// Attaches the default-drop programs to a pod's host-side veth; what is attached already stays.
    ///
    /// # Errors
    /// [`AttachError`]; a program that was attached before the failing one stays, and drops everything.
    pub fn attach_pod(&mut self, host_ifname: &str, ifindex: u32) -> Result<(), AttachError> {
        self.attached.insert(ifindex);
        self.attach(Hook::FromPod, host_ifname, ifindex)?;
        self.attach(Hook::ToPod, host_ifname, ifindex)
    }

    /// Sees to it that a pod that an earlier agent attached has its programs; those of another version stay until
    /// [`Datapath::succeed`].
    ///
    /// # Errors
    /// As [`Datapath::attach_pod`].
    pub fn keep_pod(&mut self, host_ifname: &str, ifindex: u32) -> Result<(), AttachError> {
        self.keep([Hook::FromPod, Hook::ToPod], host_ifname, ifindex)
    }

    /// Attaches the programs for packets from and to the network to an uplink; what is attached already stays, that of
    /// another version until [`Datapath::succeed`].
    ///
    /// # Errors
    /// [`AttachError`]; a program that was attached before the failing one stays.
    pub fn attach_uplink(&mut self, ifname: &str, ifindex: u32) -> Result<(), AttachError> {
        self.keep([Hook::FromNetdev, Hook::ToNetdev], ifname, ifindex)
    }

    fn keep(&mut self, hooks: [Hook; 2], ifname: &str, ifindex: u32) -> Result<(), AttachError> {
        self.attached.insert(ifindex);
        for hook in hooks {
            if !self.wait(hook, ifname, ifindex) {
                self.attach(hook, ifname, ifindex)?;
            }
        }
        Ok(())
    }

    /// Removes what keeps a gone device's links alive.
    pub fn detach(&mut self, ifindex: u32) {
        self.attached.remove(&ifindex);
        self.wait_no_more(ifindex);
        for hook in HOOKS {
            // Absent for the other kind of device, and with clsact.
            let _ = fs::remove_file(self.link_pin(hook, ifindex));
        }
        self.detach_xdp(ifindex);
    }

    pub(super) fn attach(&mut self, hook: Hook, ifname: &str, ifindex: u32) -> Result<(), AttachError> {
        let pin = self.link_pin(hook, ifindex);
        let attached = match self.mechanism {
            Mechanism::Tcx => self.attach_or_keep_tcx(hook, ifname, &pin),
            Mechanism::Clsact => attach_clsact(self.program(hook), hook, ifname),
        };
        attached.map_err(|source| AttachError { hook, device: ifname.to_owned(), source })
    }

    /// A pin alone says little: the link behind it may be of a dead device whose index is used again.
    fn attach_or_keep_tcx(&mut self, hook: Hook, ifname: &str, pin: &Path) -> Result<(), AttachCause> {
        if pin.exists() {
            match replace(self.program(hook), pin) {
                Err(AttachCause::Program(error)) if is_defunct(&error) => {
                    fs::remove_file(pin).map_err(AttachCause::Unpin)?;
                }
                kept => return kept,
            }
        }
        attach_tcx(self.program(hook), hook, ifname, pin)
    }

    fn link_pin(&self, hook: Hook, ifindex: u32) -> PathBuf {
        self.links.join(format!("{ifindex}-{}", hook.name()))
    }

    /// Learns from the pins what is attached.
    pub(super) fn learn_attached(&mut self) -> Result<(), AttachError> {
        let pins = self.link_pins()?;
        self.attached.extend(pins.into_iter().map(|(ifindex, ..)| ifindex));
        Ok(())
    }

    /// Puts the programs in place of their predecessors, also where an earlier agent was interrupted in it; nothing changes
    /// where they are attached already.
    pub(super) fn take_over(&mut self) -> Result<(), AttachError> {
        for (ifindex, hook, path) in self.link_pins()? {
            let failed = |source| AttachError { hook, device: format!("interface {ifindex}"), source };
            match replace(self.program(hook), &path) {
                Ok(()) => {}
                // The device is gone, and its other link has a pin of its own; the reconciler finds out too.
                Err(AttachCause::Program(error)) if is_defunct(&error) => {
                    self.attached.remove(&ifindex);
                    fs::remove_file(&path).map_err(AttachCause::Unpin).map_err(failed)?;
                }
                Err(source) => return Err(failed(source)),
            }
        }
        Ok(())
    }

    fn link_pins(&self) -> Result<Vec<(u32, Hook, PathBuf)>, AttachError> {
        let unread = |source| AttachError {
            hook: Hook::FromPod,
            device: "every device".to_owned(),
            source: AttachCause::Folder(source),
        };
        let mut pins = Vec::new();
        for entry in fs::read_dir(&self.links).map_err(unread)? {
            let path = entry.map_err(unread)?.path();
            let named = path.file_name().and_then(|name| parse_pin(name.to_str()?));
            pins.extend(named.map(|(ifindex, hook)| (ifindex, hook, path)));
        }
        Ok(pins)
    }
}

/// The interface index and hook in a link pin's name.
fn parse_pin(name: &str) -> Option<(u32, Hook)> {
    let (ifindex, hook) = name.split_once('-')?;
    let hook = HOOKS.into_iter().find(|known| known.name() == hook)?;
    Some((ifindex.parse().ok()?, hook))
}

const fn side(hook: Hook) -> TcAttachType {
    match hook {
        Hook::FromPod | Hook::FromNetdev => TcAttachType::Ingress,
        Hook::ToPod | Hook::ToNetdev => TcAttachType::Egress,
    }
}

/// First in order: nothing may see or answer a pod's packet before it is judged.
fn attach_tcx(
    program: &mut SchedClassifier,
    hook: Hook,
    ifname: &str,
    pin: &Path,
) -> Result<(), AttachCause> {
    let options = TcAttachOptions::TcxOrder(LinkOrder::first());
    let id = program.attach_with_options(ifname, side(hook), options)?;
    let link: FdLink = program.take_link(id)?.try_into()?;
    link.pin(pin).map_err(|source| AttachCause::Pin(Box::new(source)))?;
    Ok(())
}

/// Puts the program in place of the link's; nothing changes when it is the same.
fn replace(program: &mut SchedClassifier, pin: &Path) -> Result<(), AttachCause> {
    let link: SchedClassifierLink = FdLink::from(PinnedLink::from_pin(pin)?).try_into()?;
    let id = program.attach_to_link(link)?;
    // The pin keeps the link; this process need not.
    drop(program.take_link(id)?);
    Ok(())
}

pub(super) fn is_defunct(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(error) if error.io_error.raw_os_error() == Some(libc::ENOLINK))
}

/// Whether what was to be added is there.
fn exists(error: &TcError) -> bool {
    matches!(error, TcError::AlreadyAttached)
        || matches!(error, TcError::NetlinkError(error) if error.raw_os_error() == Some(libc::EEXIST))
}

fn attach_clsact(program: &mut SchedClassifier, hook: Hook, ifname: &str) -> Result<(), AttachCause> {
    match qdisc_add_clsact(ifname) {
        Err(source) if !exists(&source) => return Err(AttachCause::Qdisc(Box::new(source))),
        _ => {}
    }
    let options = TcAttachOptions::Netlink(NlOptions { priority: PRIORITY, handle: HANDLE, classid: None });
    let id = match program.attach_with_options(ifname, side(hook), options) {
        // One of ours is there, from before: it is replaced in place.
        Err(ProgramError::TcError(error)) if exists(&error) => {
            let old = SchedClassifierLink::attached(ifname, side(hook), PRIORITY, HANDLE, None)
                .map_err(AttachCause::Device)?;
            program.attach_to_link(old)
        }
        attached => attached,
    }?;
    // Dropped, the link would take the filter with it.
    std::mem::forget(program.take_link(id)?);
    Ok(())
}
