//! Loading the object, or finding it loaded.

use std::{fs, io, path::Path, thread, time::Duration};

use aya::{
    Ebpf, EbpfLoader,
    programs::{ProgramError, ProgramType, SchedClassifier},
    sys::{BpfHelper, is_helper_supported},
};
use sha2::{Digest as _, Sha256};
use sluice_abi::{Hook, maps};
use sluice_maps::Maps;

use super::{DatapathConfig, LoadError, make_folder};

/// The kernel side, built by `build.rs`.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice-ebpf"));

/// The programs, in the order of [`HOOKS`].
pub(super) struct Loaded {
    pub(super) programs: [SchedClassifier; 4],
    /// Names the object with its globals.
    pub(super) digest: String,
}

/// Every program of the object.
const HOOKS: [Hook; 4] = [Hook::FromPod, Hook::ToPod, Hook::FromNetdev, Hook::ToNetdev];

/// The read-only globals of `ebpf/src/config.rs`.
pub(super) struct Globals {
    has_coarse_time: u8,
    has_check_mtu: u8,
    related_icmp: u8,
    snat_first_port: u16,
    snat_last_port: u16,
}

impl Globals {
    pub(super) fn new(config: &DatapathConfig) -> Self {
        // A kernel that cannot be asked counts as one without.
        let has =
            |helper| u8::from(is_helper_supported(ProgramType::SchedClassifier, helper).unwrap_or(false));
        Self {
            has_coarse_time: has(BpfHelper::BPF_FUNC_ktime_get_coarse_ns),
            has_check_mtu: has(BpfHelper::BPF_FUNC_check_mtu),
            related_icmp: u8::from(config.related_icmp),
            snat_first_port: *config.snat_ports.start(),
            snat_last_port: *config.snat_ports.end(),
        }
    }

    /// What makes two loads the same: the object's bytes and the globals.
    pub(super) fn digest(&self) -> String {
        let hash = Sha256::new()
            .chain_update(OBJECT)
            .chain_update([self.has_coarse_time, self.has_check_mtu, self.related_icmp])
            .chain_update(self.snat_first_port.to_ne_bytes())
            .chain_update(self.snat_last_port.to_ne_bytes())
            .finalize();
        hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Gives the programs pinned under `folder`, after loading them there if they are not.
pub(super) fn load(config: &DatapathConfig, maps: &Maps, folder: &Path) -> Result<Loaded, LoadError> {
    let globals = Globals::new(config);
    let digest = globals.digest();
    let pins = folder.join(&digest);
    if let Ok(programs) = open_pinned(&pins) {
        return Ok(Loaded { programs, digest });
    }
    make_folder(&pins)?;
    load_object(&globals, maps, &pins)?;
    let programs = open_pinned(&pins)?;
    Ok(Loaded { programs, digest })
}

/// All of the programs or none: a start that was cut short left some.
fn open_pinned(pins: &Path) -> Result<[SchedClassifier; 4], LoadError> {
    let [from_pod, to_pod, from_netdev, to_netdev] = HOOKS;
    Ok([open(pins, from_pod)?, open(pins, to_pod)?, open(pins, from_netdev)?, open(pins, to_netdev)?])
}

fn open(pins: &Path, hook: Hook) -> Result<SchedClassifier, LoadError> {
    SchedClassifier::from_pin(pins.join(hook.name()))
        .map_err(|source| LoadError::Program { hook, source: Box::new(source) })
}

/// Opens the object with its globals, none of its programs loaded yet.
pub(super) fn object(globals: &Globals, maps: &Maps) -> Result<Ebpf, LoadError> {
    let mut loader = EbpfLoader::new();
    // The programs have no CO-RE relocations: the kernel's own BTF, some megabytes, need not be parsed.
    loader.btf(None);
    loader.override_global("HAS_COARSE_TIME", &globals.has_coarse_time, true);
    loader.override_global("HAS_CHECK_MTU", &globals.has_check_mtu, true);
    loader.override_global("RELATED_ICMP", &globals.related_icmp, true);
    loader.override_global("SNAT_FIRST_PORT", &globals.snat_first_port, true);
    loader.override_global("SNAT_LAST_PORT", &globals.snat_last_port, true);
    for spec in maps::ALL {
        loader.map_pin_path(spec.name, maps.pin_path(spec));
    }
    loader.load(OBJECT).map_err(|source| LoadError::Object(Box::new(source)))
}

fn load_object(globals: &Globals, maps: &Maps, pins: &Path) -> Result<(), LoadError> {
    let mut object = object(globals, maps)?;
    for hook in HOOKS {
        let program: &mut SchedClassifier = object
            .program_mut(hook.name())
            .and_then(|program| program.try_into().ok())
            .ok_or(LoadError::Missing { hook })?;
        undisturbed(|| program.load())
            .map_err(|source| LoadError::Program { hook, source: Box::new(source) })?;
        let path = pins.join(hook.name());
        remove_if_there(&path)?;
        program.pin(&path).map_err(|source| LoadError::Pin { path, source: Box::new(source) })?;
    }
    Ok(())
}

/// Loads a program, and again when the verifier gave up for a signal to this process (`EAGAIN`, `kernel/bpf/verifier.c`), which
/// has nothing to do with the program. Later and later: on a busy machine signals come in bursts that outlast a load.
pub(super) fn undisturbed(mut load: impl FnMut() -> Result<(), ProgramError>) -> Result<(), ProgramError> {
    const PAUSES_MS: [u64; 9] = [0, 1, 5, 20, 50, 100, 200, 400, 800];
    let was_disturbed = |loaded: &Result<(), ProgramError>| {
        matches!(loaded, Err(ProgramError::LoadError { io_error, .. })
            if io_error.raw_os_error() == Some(libc::EAGAIN))
    };
    let mut loaded = load();
    for pause_ms in PAUSES_MS {
        if !was_disturbed(&loaded) {
            break;
        }
        thread::sleep(Duration::from_millis(pause_ms));
        loaded = load();
    }
    loaded
}

/// Removes the pins of every other object than `digest`; call it when nothing runs their programs any more.
pub(super) fn remove_others(folder: &Path, digest: &str) -> Result<(), LoadError> {
    let error = |source| LoadError::Folder { path: folder.to_owned(), source };
    for entry in fs::read_dir(folder).map_err(error)? {
        let entry = entry.map_err(error)?;
        if entry.file_name() != digest {
            fs::remove_dir_all(entry.path()).map_err(error)?;
        }
    }
    Ok(())
}

pub(super) fn remove_if_there(path: &Path) -> Result<(), LoadError> {
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(LoadError::Folder { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}
