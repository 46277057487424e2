//! Where the maps are pinned, and whether they are the ones that this version means.

use std::{
    ffi::CString,
    fs, io,
    mem::MaybeUninit,
    os::{fd::AsRawFd, unix::ffi::OsStrExt},
    path::{Path, PathBuf},
};

use aya::{
    maps::{MapData, MapError},
    pin::PinError,
    sys::SyscallError,
};
use sluice_abi::{ABI_VERSION, maps::MapSpec};

use crate::{MapsError, syscall};

/// Magic number of a bpf file system (`linux/magic.h`).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// The folder of this version's pins under a bpf file system: `<bpffs>/sluice/v<ABI>`.
pub fn pin_dir(bpffs: &Path) -> PathBuf {
    bpffs.join("sluice").join(format!("v{ABI_VERSION}"))
}

/// Where the map is pinned.
pub fn pin_path(bpffs: &Path, spec: &MapSpec) -> PathBuf {
    pin_dir(bpffs).join(spec.name)
}

/// Says whether a bpf file system is mounted at `bpffs`.
///
/// # Errors
/// [`MapsError::Bpffs`] when the path cannot be looked at, [`MapsError::NotBpffs`] when something else is there.
pub fn check_bpffs(bpffs: &Path) -> Result<(), MapsError> {
    let failed = |source| MapsError::Bpffs { path: bpffs.to_owned(), source };
    let path = CString::new(bpffs.as_os_str().as_bytes()).map_err(|error| failed(error.into()))?;
    let mut status = MaybeUninit::<libc::statfs>::uninit();
    // SAFETY: a path that ends in zero, and room for the answer.
    if unsafe { libc::statfs(path.as_ptr(), status.as_mut_ptr()) } != 0 {
        return Err(failed(io::Error::last_os_error()));
    }
    // SAFETY: the call has written it.
    let found = unsafe { status.assume_init() }.f_type;
    if found as u64 == BPF_FS_MAGIC { Ok(()) } else { Err(MapsError::NotBpffs { path: bpffs.to_owned() }) }
}

/// Opens a pinned map and compares it with `spec`.
///
/// # Errors
/// [`MapsError::Missing`], [`MapsError::Open`], or [`MapsError::Shape`] with the first difference.
pub fn open(bpffs: &Path, spec: &'static MapSpec) -> Result<MapData, MapsError> {
    let path = pin_path(bpffs, spec);
    let map = spec.name;
    let data = match MapData::from_pin(&path) {
        Ok(data) => data,
        Err(MapError::SyscallError(SyscallError { io_error, .. }))
            if io_error.kind() == io::ErrorKind::NotFound =>
        {
            return Err(MapsError::Missing { map, path });
        }
        Err(source) => return Err(MapsError::Open { map, path, source: source.into() }),
    };
    compare(&data, spec, &path)?;
    Ok(data)
}

/// Opens a pinned map, or pins what an earlier version left, or makes and pins it. A set that was left half made is
/// completed.
///
/// # Errors
/// As [`open`], and [`MapsError::List`], [`MapsError::Create`] or [`MapsError::Pin`].
pub fn open_or_create(bpffs: &Path, spec: &'static MapSpec) -> Result<MapData, MapsError> {
    match open(bpffs, spec) {
        Err(MapsError::Missing { map, path }) => {
            let data = match inherited(bpffs, spec)? {
                Some(data) => data,
                None => create(spec)?,
            };
            match data.pin(&path) {
                Ok(()) => Ok(data),
                // Somebody was faster; theirs is as good, if it is what `abi` says.
                Err(PinError::SyscallError(error))
                    if error.io_error.kind() == io::ErrorKind::AlreadyExists =>
                {
                    open(bpffs, spec)
                }
                Err(source) => Err(MapsError::Pin { map, path, source: source.into() }),
            }
        }
        result => result,
    }
}

fn create(spec: &'static MapSpec) -> Result<MapData, MapsError> {
    let MapSpec { name: map, map_type, key_size, value_size, max_entries, flags, .. } = *spec;
    let wanted = aya_obj::Map::new_from_params(map_type as u32, key_size, value_size, max_entries, flags);
    MapData::create(wanted, map, None).map_err(|source| MapsError::Create { map, source: source.into() })
}

/// The map as the newest earlier version left it, if it has the same shape and meaning. One that cannot be opened is not
/// taken over: the new one is made and filled anew.
fn inherited(bpffs: &Path, spec: &'static MapSpec) -> Result<Option<MapData>, MapsError> {
    let mut earlier = other_versions(bpffs)?;
    earlier.retain(|(version, _)| (spec.since..ABI_VERSION).contains(version));
    Ok(earlier.into_iter().rev().find_map(|(_, folder)| {
        let path = folder.join(spec.name);
        let data = MapData::from_pin(&path).ok()?;
        compare(&data, spec, &path).ok().map(|()| data)
    }))
}

/// The folders of other versions' pins, by version.
///
/// # Errors
/// [`MapsError::List`] when the folder above cannot be read.
pub fn other_versions(bpffs: &Path) -> Result<Vec<(u32, PathBuf)>, MapsError> {
    let root = bpffs.join("sluice");
    let unread = |source| MapsError::List { path: root.clone(), source };
    let mut versions = Vec::new();
    for entry in fs::read_dir(&root).map_err(unread)? {
        let entry = entry.map_err(unread)?;
        let name = entry.file_name();
        let version = name.to_str().and_then(|name| name.strip_prefix('v')?.parse().ok());
        versions
            .extend(version.filter(|version| *version != ABI_VERSION).map(|version| (version, entry.path())));
    }
    versions.sort_unstable();
    Ok(versions)
}

/// What is pinned somewhere.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum PinKind {
    /// A map.
    Map,
    /// A program.
    Program,
    /// A link: a program attached somewhere.
    Link,
}

/// A pin of this version.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Pin {
    /// What it is.
    pub kind: PinKind,
    /// Its path under [`pin_dir`].
    pub path: PathBuf,
}

/// Lists this version's pins, sorted; what is pinned or unpinned meanwhile may be missed.
///
/// # Errors
/// [`MapsError::List`] when a folder or a pin cannot be read.
pub fn list(bpffs: &Path) -> Result<Vec<Pin>, MapsError> {
    let root = pin_dir(bpffs);
    let mut pins = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        list_folder(&root, &folder, &mut folders, &mut pins)
            .map_err(|source| MapsError::List { path: folder, source })?;
    }
    pins.sort_unstable();
    Ok(pins)
}

fn list_folder(
    root: &Path,
    folder: &Path,
    folders: &mut Vec<PathBuf>,
    pins: &mut Vec<Pin>,
) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            folders.push(path);
        } else if let Some(kind) = kind(&path)? {
            pins.push(Pin { kind, path: path.strip_prefix(root).unwrap_or(&path).to_owned() });
        }
    }
    Ok(())
}

/// What is pinned at `path`; `None` when it is gone or something else. The kernel tells by the name it gives to open
/// descriptors.
fn kind(path: &Path) -> io::Result<Option<PinKind>> {
    let fd = match syscall::open_pin(&CString::new(path.as_os_str().as_bytes())?) {
        Ok(fd) => fd,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let name = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))?;
    Ok(match name.to_string_lossy().trim_start_matches("anon_inode:") {
        "bpf-map" => Some(PinKind::Map),
        "bpf-prog" => Some(PinKind::Program),
        "bpf_link" | "bpf-link" => Some(PinKind::Link),
        _ => None,
    })
}

/// Makes the folder of the pins.
pub(crate) fn make_dir(bpffs: &Path) -> Result<(), MapsError> {
    let path = pin_dir(bpffs);
    fs::create_dir_all(&path).map_err(|source| MapsError::PinDir { path, source })
}

fn compare(data: &MapData, spec: &'static MapSpec, path: &Path) -> Result<(), MapsError> {
    let map = spec.name;
    let refused = |source: MapError| MapsError::Open { map, path: path.to_owned(), source: source.into() };
    let info = data.info().map_err(refused)?;
    let map_type = info.map_type().map_err(refused)?;
    let fields = [
        ("type", map_type as u32, spec.map_type as u32),
        ("key size", info.key_size(), spec.key_size),
        ("value size", info.value_size(), spec.value_size),
        ("capacity", info.max_entries(), spec.max_entries),
        ("flags", info.map_flags(), spec.flags),
    ];
    match fields.into_iter().find(|(_, found, wanted)| found != wanted) {
        None => Ok(()),
        Some((field, found, wanted)) => {
            Err(MapsError::Shape { map, path: path.to_owned(), field, found, wanted })
        }
    }
}
