//! Attaching a program by a pinned link, and replacing it there in one step.
//!
//! `aya` attaches and pins; it can replace the program of other links, but not of a cgroup's, nor tell which cgroup a link
//! is at: such calls of bpf(2) are made here.

use std::{
    ffi::CString,
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::ffi::OsStrExt,
    },
    path::Path,
};

use aya::programs::ProgramError;
use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_link_info, bpf_link_type};

use super::{Call, SocketError, program::Program};
use crate::datapath::cgroup::Cgroup;

/// Puts the program in force for the cgroup. A link that is there keeps its place among other programs of the cgroup; one
/// at another cgroup goes when its successor stands.
pub(super) fn attach(
    call: &Call,
    program: &mut Program,
    cgroup: &Cgroup,
    links: &Path,
) -> Result<(), SocketError> {
    let path = links.join(call.name);
    let replaced = replace(&path, program, cgroup.id);
    if replaced.map_err(|source| SocketError::Replace { path: path.clone(), source })? {
        return Ok(());
    }
    let refused = |source: ProgramError| SocketError::Attach {
        name: call.name,
        path: cgroup.path.clone(),
        source: Box::new(source),
    };
    let link = program.attach(&cgroup.folder).map_err(refused)?;
    let fresh = links.join(format!("{}-new", call.name));
    let pinned = |source| SocketError::Pin { path: path.clone(), source };
    match fs::remove_file(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(pinned(error)),
        _ => {}
    }
    link.pin(&fresh).map_err(|error| pinned(io::Error::other(error)))?;
    fs::rename(&fresh, &path).map_err(pinned)
}

/// Takes the pinned link's program out of force, at once: without its pin alone the kernel would do so a little later. What
/// is not there is out of force.
pub(super) fn detach(path: &Path) -> Result<(), SocketError> {
    let failed = |source| SocketError::Unpin { path: path.to_owned(), source };
    let link = match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        link => link.map_err(failed)?,
    };
    let mut attr = zeroed();
    attr.link_detach.link_fd = descriptor(link.as_fd());
    // SAFETY: no pointer in it.
    unsafe { bpf(bpf_cmd::BPF_LINK_DETACH, &mut attr) }.map_err(failed)?;
    fs::remove_file(path).map_err(failed)
}

/// Replaces the program of the pinned link; false when there is no link at this cgroup.
fn replace(path: &Path, program: &Program, cgroup_id: u64) -> io::Result<bool> {
    let link = match open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        link => link?,
    };
    // A link whose cgroup is gone has the number 0.
    if cgroup_of(link.as_fd())? != Some(cgroup_id) {
        return Ok(false);
    }
    let program = program.fd().map_err(io::Error::other)?;
    let mut attr = zeroed();
    attr.link_update.link_fd = descriptor(link.as_fd());
    attr.link_update.__bindgen_anon_1.new_prog_fd = descriptor(program.as_fd());
    // SAFETY: no pointer in it.
    match unsafe { bpf(bpf_cmd::BPF_LINK_UPDATE, &mut attr) } {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => Ok(false),
        Err(error) => Err(error),
    }
}

fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    // SAFETY: the path ends in zero and outlives the call.
    let fd = unsafe { bpf(bpf_cmd::BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: the kernel has just given us this descriptor, and descriptors fit their type.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// The cgroup a link is at; none for another kind of link.
fn cgroup_of(link: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    // SAFETY: integers: zero is a value.
    let mut info: bpf_link_info = unsafe { std::mem::zeroed() };
    let mut attr = zeroed();
    attr.info.bpf_fd = descriptor(link);
    attr.info.info_len = size_of::<bpf_link_info>() as u32;
    attr.info.info = &raw mut info as u64;
    // SAFETY: room for as many bytes as it says.
    unsafe { bpf(bpf_cmd::BPF_OBJ_GET_INFO_BY_FD, &mut attr) }?;
    let is_cgroup = info.type_ == bpf_link_type::BPF_LINK_TYPE_CGROUP as u32;
    // SAFETY: an integer whatever the type; the kernel has filled it in for a cgroup's link.
    let cgroup_id = unsafe { info.__bindgen_anon_1.cgroup.cgroup_id };
    Ok(is_cgroup.then_some(cgroup_id))
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of structs of integers: zero is a value, and the kernel wants unused fields zero.
    unsafe { std::mem::zeroed() }
}

fn descriptor(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

/// # Safety
/// Every pointer in `attr` must be good for what `cmd` does with it.
unsafe fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: `attr` is a whole `bpf_attr`; what it points to is the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, cmd, std::ptr::from_mut(attr), size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
