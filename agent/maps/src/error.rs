//! Why a map could not be opened, read or written.

use std::{io, path::PathBuf};

use aya::{maps::MapError, pin::PinError};

/// Why a map could not be opened, read or written. Keys are given in words; big causes are boxed, since errors travel
/// by value.
#[derive(Debug, thiserror::Error)]
pub enum MapsError {
    /// The path cannot be looked at.
    #[error("looking for a bpf file system at {path}", path = path.display())]
    Bpffs {
        /// Where it was expected.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Something else is mounted there: pins would not be pins.
    #[error("no bpf file system is mounted at {path}", path = path.display())]
    NotBpffs {
        /// Where it was expected.
        path: PathBuf,
    },
    /// The folder of the pins cannot be made.
    #[error("making pin folder {path}", path = path.display())]
    PinDir {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// The map is not there: no agent has run on this bpf file system, or one of another ABI version.
    #[error("no map {map} is pinned at {path}", path = path.display())]
    Missing {
        /// Name of the map.
        map: &'static str,
        /// Where its pin was expected.
        path: PathBuf,
    },
    /// The pin is there but cannot be opened.
    #[error("opening map {map} at {path}", path = path.display())]
    Open {
        /// Name of the map.
        map: &'static str,
        /// Its pin.
        path: PathBuf,
        /// Why not.
        source: Box<MapError>,
    },
    /// The kernel does not make the map.
    #[error("creating map {map}")]
    Create {
        /// Name of the map.
        map: &'static str,
        /// Why not.
        source: Box<MapError>,
    },
    /// The map cannot be pinned.
    #[error("pinning map {map} at {path}", path = path.display())]
    Pin {
        /// Name of the map.
        map: &'static str,
        /// Where it should go.
        path: PathBuf,
        /// Why not.
        source: Box<PinError>,
    },
    /// The pinned map is not the one that this version means.
    #[error("map {map} at {path} has {field} {found}, wanted {wanted}", path = path.display())]
    Shape {
        /// Name of the map.
        map: &'static str,
        /// Its pin.
        path: PathBuf,
        /// What differs.
        field: &'static str,
        /// What the pinned map has.
        found: u32,
        /// What [`sluice_abi::maps`] says.
        wanted: u32,
    },
    /// The pins cannot be listed.
    #[error("listing the pins under {path}", path = path.display())]
    List {
        /// The folder.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Reading one entry.
    #[error("getting {key} from map {map}")]
    Get {
        /// Name of the map.
        map: &'static str,
        /// Which entry.
        key: String,
        /// Why not.
        source: io::Error,
    },
    /// Writing one entry.
    #[error("putting {key} into map {map}")]
    Put {
        /// Name of the map.
        map: &'static str,
        /// Which entry.
        key: String,
        /// Why not.
        source: io::Error,
    },
    /// Writing one entry more than fits; the map is as it was.
    #[error("putting {key} into map {map}: map full (capacity {capacity})")]
    Full {
        /// Name of the map.
        map: &'static str,
        /// Which entry.
        key: String,
        /// Entries that fit.
        capacity: u32,
    },
    /// Removing one entry.
    #[error("deleting {key} from map {map}")]
    Delete {
        /// Name of the map.
        map: &'static str,
        /// Which entry.
        key: String,
        /// Why not.
        source: io::Error,
    },
    /// Reading all entries.
    #[error("reading all of map {map}")]
    Read {
        /// Name of the map.
        map: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The ring buffer cannot be mapped.
    #[error("listening to map {map}")]
    Listen {
        /// Name of the map.
        map: &'static str,
        /// Why not.
        source: io::Error,
    },
    /// The ring buffer has another reader, and what one takes no other sees.
    #[error("listening to map {map}: another process does already")]
    Listening {
        /// Name of the map.
        map: &'static str,
    },
    /// Waiting for the programs that may still use what was removed.
    #[error("waiting for a grace period")]
    Grace {
        /// Why not.
        source: io::Error,
    },
}
