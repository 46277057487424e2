//! The calls of bpf(2) that `aya` does not offer, on bytes: batches above all, and what belongs with them.
//!
//! `aya` opens, creates and pins the maps. It has no batch operations, which read a full table ten times faster than
//! one call per entry, and its single calls hide which error number the kernel gave, so entries go through here.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_map_type};

/// Kernel-internal "operation not supported" that leaks out of bpf(2) (`include/linux/errno.h`).
const ENOTSUPP: i32 = 524;

/// Reads the value of `key` into `value`; false when there is none.
pub(crate) fn lookup(map: BorrowedFd<'_>, key: &[u8], value: &mut [u8]) -> io::Result<bool> {
    let mut attr = element(map, key);
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_mut_ptr() as u64;
    // SAFETY: the caller sized both buffers by the map's shape, which was compared when it was opened.
    found(unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_ELEM, &mut attr) })
}

/// Writes an entry, new or in place of the old one.
pub(crate) fn update(map: BorrowedFd<'_>, key: &[u8], value: &[u8]) -> io::Result<()> {
    let mut attr = element(map, key);
    attr.__bindgen_anon_2.__bindgen_anon_1.value = value.as_ptr() as u64;
    // SAFETY: as in `lookup`; the kernel only reads.
    unsafe { bpf(bpf_cmd::BPF_MAP_UPDATE_ELEM, &mut attr) }.map(drop)
}

/// Removes an entry; false when there is none.
pub(crate) fn delete(map: BorrowedFd<'_>, key: &[u8]) -> io::Result<bool> {
    // SAFETY: as in `lookup`; the kernel only reads.
    found(unsafe { bpf(bpf_cmd::BPF_MAP_DELETE_ELEM, &mut element(map, key)) })
}

/// Writes the key after `key` (the first one without) into `next`; false at the end.
pub(crate) fn next_key(map: BorrowedFd<'_>, key: Option<&[u8]>, next: &mut [u8]) -> io::Result<bool> {
    let mut attr = element(map, key.unwrap_or_default());
    if key.is_none() {
        attr.__bindgen_anon_2.key = 0;
    }
    attr.__bindgen_anon_2.__bindgen_anon_1.next_key = next.as_mut_ptr() as u64;
    // SAFETY: as in `lookup`.
    found(unsafe { bpf(bpf_cmd::BPF_MAP_GET_NEXT_KEY, &mut attr) })
}

/// What one batch brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Batch {
    /// So many entries, and there are more.
    More(usize),
    /// So many entries, the last ones.
    Last(usize),
    /// The buffers do not hold what must come together (a hash bucket).
    TooSmall,
    /// The kernel has no batches for this kind of map (LPM tries before 5.13).
    Unsupported,
}

/// Where a walk in batches stands: opaque to user space, at least as long as a key.
#[derive(Clone, Debug)]
pub(crate) struct Cursor {
    place: Vec<u8>,
    started: bool,
}

impl Cursor {
    /// At the start of a map with keys of `key_len` bytes (the kernel writes four bytes for hashes).
    pub(crate) fn new(key_len: usize) -> Self {
        Self { place: vec![0; key_len.max(4)], started: false }
    }
}

/// Reads the next entries: as many as `count`, for which `keys` and `values` have room.
pub(crate) fn lookup_batch(
    map: BorrowedFd<'_>,
    cursor: &mut Cursor,
    count: u32,
    keys: &mut [u8],
    values: &mut [u8],
) -> io::Result<Batch> {
    let mut attr = zeroed();
    let place = cursor.place.as_mut_ptr() as u64;
    attr.batch.in_batch = if cursor.started { place } else { 0 };
    attr.batch.out_batch = place;
    attr.batch.keys = keys.as_mut_ptr() as u64;
    attr.batch.values = values.as_mut_ptr() as u64;
    attr.batch.count = count;
    attr.batch.map_fd = descriptor(map);
    // SAFETY: the buffers hold `count` entries of the map's shape, the cursor a key or a bucket number.
    let result = unsafe { bpf(bpf_cmd::BPF_MAP_LOOKUP_BATCH, &mut attr) };
    // SAFETY: plain integers; the kernel has written the count.
    let read = unsafe { attr.batch.count } as usize;
    match result {
        Ok(_) => {
            cursor.started = true;
            Ok(Batch::More(read))
        }
        Err(error) => match error.raw_os_error() {
            Some(libc::ENOENT) => Ok(Batch::Last(read)),
            Some(libc::ENOSPC) => Ok(Batch::TooSmall),
            Some(libc::EINVAL | ENOTSUPP | libc::EOPNOTSUPP) if !cursor.started => Ok(Batch::Unsupported),
            _ => Err(error),
        },
    }
}

/// Makes an array of one map, or, without `inner`, an array of one word.
pub(crate) fn create_single(inner: Option<BorrowedFd<'_>>) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    let word = size_of::<u32>() as u32;
    let map_type = if inner.is_some() {
        bpf_map_type::BPF_MAP_TYPE_ARRAY_OF_MAPS
    } else {
        bpf_map_type::BPF_MAP_TYPE_ARRAY
    };
    attr.__bindgen_anon_1.map_type = map_type as u32;
    attr.__bindgen_anon_1.key_size = word;
    attr.__bindgen_anon_1.value_size = word;
    attr.__bindgen_anon_1.max_entries = 1;
    attr.__bindgen_anon_1.inner_map_fd = inner.map_or(0, descriptor);
    // SAFETY: no pointer in it.
    let fd = unsafe { bpf(bpf_cmd::BPF_MAP_CREATE, &mut attr) }?;
    // SAFETY: the kernel has just given us this descriptor, and descriptors fit their type.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Opens what is pinned at `path`.
pub(crate) fn open_pin(path: &CStr) -> io::Result<OwnedFd> {
    let mut attr = zeroed();
    attr.__bindgen_anon_4.pathname = path.as_ptr() as u64;
    // SAFETY: the path ends in zero.
    let fd = unsafe { bpf(bpf_cmd::BPF_OBJ_GET, &mut attr) }?;
    // SAFETY: as in `create_single`.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

fn element(map: BorrowedFd<'_>, key: &[u8]) -> bpf_attr {
    let mut attr = zeroed();
    attr.__bindgen_anon_2.map_fd = descriptor(map);
    attr.__bindgen_anon_2.key = key.as_ptr() as u64;
    attr
}

fn zeroed() -> bpf_attr {
    // SAFETY: a union of structs of integers: zero is a value, and the kernel wants unused fields zero.
    unsafe { std::mem::zeroed() }
}

fn descriptor(fd: BorrowedFd<'_>) -> u32 {
    fd.as_raw_fd() as u32
}

fn found(result: io::Result<i64>) -> io::Result<bool> {
    match result {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(false),
        Err(error) => Err(error),
    }
}

/// # Safety
/// Every pointer in `attr` must be good for what `cmd` does with it.
unsafe fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> io::Result<i64> {
    // SAFETY: `attr` is a whole `bpf_attr`; what it points to is the caller's promise.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, cmd, std::ptr::from_mut(attr), size_of::<bpf_attr>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
