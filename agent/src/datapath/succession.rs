//! Taking over from an agent of another ABI version, whose programs are at work on maps of their own.
//!
//! Maps that mean the same in both versions are the same maps ([`sluice_maps::pins`]): flows and names live on. The others
//! start empty, so the programs stay until a plan has filled them. Then each link gets its new program in one step.
//!
//! **Invariant: cut short anywhere, it is finished by the next start.** The other version's folder goes last.

use std::{fs, io, path::Path};

use sluice_abi::Hook;
use sluice_maps::{Maps, MapsError, pins};

use super::{AttachError, Datapath, LoadError};

/// What waits until the maps hold what the programs need.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// Devices that may have programs of the other version.
    devices: Vec<(Hook, String, u32)>,
}

/// Why another version's programs are still at work.
#[derive(Debug, thiserror::Error)]
pub enum SuccessionError {
    /// A program stays.
    #[error("replacing another version's program")]
    Replace(#[from] AttachError),
    /// A folder of pins stays.
    #[error(transparent)]
    Folder(#[from] LoadError),
    /// The folders cannot be listed.
    #[error(transparent)]
    Maps(#[from] MapsError),
}

/// Moves the pins of other versions' links into this version's folder, where they are replaced and removed like its own.
/// Says whether there is another version.
pub(super) fn move_links(maps: &Maps) -> Result<Option<Waiting>, LoadError> {
    let versions = pins::other_versions(maps.bpffs())?;
    let ours = sluice_maps::pin_dir(maps.bpffs());
    for (_, folder) in &versions {
        for links in ["links", "sockets/links"] {
            super::make_folder(&ours.join(links))?;
            let error = |source| LoadError::Folder { path: folder.join(links), source };
            move_all(&folder.join(links), &ours.join(links)).map_err(error)?;
        }
    }
    Ok((!versions.is_empty()).then(Waiting::default))
}

/// What is at the new place already stays: it is newer.
fn move_all(from: &Path, to: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(from) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let to = to.join(entry.file_name());
        if !to.exists() {
            fs::rename(entry.path(), to)?;
        }
    }
    Ok(())
}

impl Datapath {
    /// Whether programs of another version stay at work until [`Datapath::succeed`].
    pub fn is_waiting(&self) -> bool {
        self.waiting.is_some()
    }

    /// Notes a device for [`Datapath::succeed`], when there is anything to wait for.
    pub(super) fn wait(&mut self, hook: Hook, ifname: &str, ifindex: u32) -> bool {
        let Some(waiting) = &mut self.waiting else { return false };
        waiting.devices.push((hook, ifname.to_owned(), ifindex));
        true
    }

    /// Forgets a device that is gone: there is nothing to put in place any more.
    pub(super) fn wait_no_more(&mut self, ifindex: u32) {
        if let Some(waiting) = &mut self.waiting {
            waiting.devices.retain(|(_, _, other)| *other != ifindex);
        }
    }

    /// Puts the programs in place of another version's, once the maps hold what they need, and removes that version's
    /// pins. Without another version nothing happens.
    ///
    /// # Errors
    /// [`SuccessionError`]; what was replaced stays so, and it can be tried again.
    pub fn succeed(&mut self) -> Result<(), SuccessionError> {
        let Some(waiting) = &self.waiting else { return Ok(()) };
        let devices = waiting.devices.clone();
        self.take_over()?;
        for (hook, ifname, ifindex) in devices {
            self.attach(hook, &ifname, ifindex)?;
        }
        for (_, folder) in pins::other_versions(self.maps.bpffs())? {
            fs::remove_dir_all(&folder).map_err(|source| LoadError::Folder { path: folder, source })?;
        }
        self.waiting = None;
        Ok(())
    }
}
