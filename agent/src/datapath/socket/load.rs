//! Loading the programs, or finding them loaded.
//!
//! They come from the object that holds the packets' programs, and are loaded apart from those: where the kernel refuses
//! them, packets still pass.

use std::path::Path;

use aya::{
    Ebpf, EbpfLoader,
    programs::{self, CgroupSockAddr, ProgramType},
    sys::{BpfHelper, is_helper_supported},
};
use sha2::{Digest as _, Sha256};
use sluice_abi::maps;
use sluice_maps::Maps;

use super::{CALLS, Call, Served, SocketError, program::Program};
use crate::datapath::{LoadError, loader, make_folder};

/// Programs in the order of [`CALLS`].
pub(super) type Programs = [Program; CALLS.len()];

/// The read-only globals that these programs read.
struct Globals {
    /// 0 while it is to be learned.
    netns_cookie: u64,
    has_coarse_time: u8,
    serves_pods: u8,
}

impl Globals {
    fn new(netns_cookie: u64, served: Served) -> Self {
        let coarse = BpfHelper::BPF_FUNC_ktime_get_coarse_ns;
        // A kernel that cannot be asked counts as one without.
        let has_coarse_time = is_helper_supported(ProgramType::CgroupSockAddr, coarse).unwrap_or(false);
        let serves_pods = u8::from(served == Served::NodeAndPods);
        Self { netns_cookie, has_coarse_time: u8::from(has_coarse_time), serves_pods }
    }

    /// What makes two loads the same: the object's bytes and the globals.
    fn digest(&self) -> String {
        let hash = Sha256::new()
            .chain_update(loader::OBJECT)
            .chain_update(self.netns_cookie.to_ne_bytes())
            .chain_update([self.has_coarse_time, self.serves_pods])
            .finalize();
        hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }
}

/// Gives the programs pinned under `folder`, after loading them there if they are not; and the name of their folder.
pub(super) fn load(
    netns_cookie: u64,
    served: Served,
    maps: &Maps,
    folder: &Path,
) -> Result<(Programs, String), SocketError> {
    let globals = Globals::new(netns_cookie, served);
    let digest = globals.digest();
    let pins = folder.join(&digest);
    if let Ok(programs) = open_pinned(&pins) {
        return Ok((programs, digest));
    }
    make_folder(&pins)?;
    let mut object = object(&globals, maps)?;
    for call in CALLS {
        let program = loaded(&mut object, call)?;
        let path = pins.join(call.name);
        loader::remove_if_there(&path)?;
        program.pin(&path).map_err(|source| LoadError::Pin { path, source: Box::new(source) })?;
    }
    Ok((open_pinned(&pins)?, digest))
}

/// The program of `connect`, told no namespace: it tells which it is in.
pub(super) fn teller(maps: &Maps) -> Result<Ebpf, SocketError> {
    object(&Globals::new(0, Served::Node), maps)
}

/// Loads one program of the object.
pub(super) fn loaded(object: &mut Ebpf, call: Call) -> Result<&mut programs::Program, SocketError> {
    let refused = |source| SocketError::Program { name: call.name, source: Box::new(source) };
    let program = object.program_mut(call.name).ok_or(SocketError::Missing { name: call.name })?;
    let load = || {
        if let programs::Program::CgroupSock(program) = &mut *program {
            return program.load();
        }
        <&mut CgroupSockAddr>::try_from(&mut *program)?.load()
    };
    loader::undisturbed(load).map_err(refused)?;
    Ok(program)
}

fn object(globals: &Globals, maps: &Maps) -> Result<Ebpf, SocketError> {
    let mut loader = EbpfLoader::new();
    loader.btf(None); // as in `datapath::loader`
    loader.override_global("NETNS_COOKIE", &globals.netns_cookie, true);
    loader.override_global("HAS_COARSE_TIME", &globals.has_coarse_time, true);
    loader.override_global("SERVES_PODS", &globals.serves_pods, true);
    for spec in maps::ALL {
        loader.map_pin_path(spec.name, maps.pin_path(spec));
    }
    Ok(loader.load(loader::OBJECT).map_err(|source| LoadError::Object(Box::new(source)))?)
}

/// All of the programs or none: a start that was cut short left some.
fn open_pinned(pins: &Path) -> Result<Programs, SocketError> {
    let mut programs = Vec::with_capacity(CALLS.len());
    for Call { name, kind } in CALLS {
        let program = Program::from_pin(&pins.join(name), kind);
        programs.push(program.map_err(|source| SocketError::Program { name, source: Box::new(source) })?);
    }
    Ok(programs.try_into().expect("one program for each call"))
}
