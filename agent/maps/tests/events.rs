//! The event ring, written by a real program and read by [`sluice_maps::Events`]. Needs root.

use std::{
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};

use aya_obj::generated::{bpf_attr, bpf_cmd, bpf_prog_type};
use sluice_abi::{Event, maps::EVENTS};
use sluice_maps::{Maps, pins, testing::PrivateBpffs};

#[test]
fn what_a_program_reports_is_read_in_order_and_the_descriptor_tells() {
    let bpffs = PrivateBpffs::mount();
    let maps = Maps::create(bpffs.path()).expect("maps");
    let mut events = maps.events().expect("listen");
    assert!(!is_readable(&events), "nothing was written yet");
    let (whole, cut) = (reporter(&bpffs, 0x51, 80), reporter(&bpffs, 0x61, 72));
    run(&whole);
    run(&cut);
    run(&whole);
    assert!(is_readable(&events));
    let expected = Event { at_ns: 0x51, ..Event::default() };
    assert_eq!(events.next(), Some(expected));
    assert_eq!(events.next(), Some(expected), "a record of another length is passed over");
    assert_eq!(events.next(), None);
    assert!(!is_readable(&events));
    run(&whole);
    assert_eq!(events.next(), Some(expected), "the ring goes on after it was empty");
}

fn is_readable(events: &impl AsRawFd) -> bool {
    let mut poll = libc::pollfd { fd: events.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one descriptor, as said; it does not wait.
    (unsafe { libc::poll(&raw mut poll, 1, 0) }) == 1
}

/// A socket filter that writes one record of `len` bytes to the ring: `at_ns`, then zeros.
fn reporter(bpffs: &PrivateBpffs, at_ns: i32, len: i32) -> OwnedFd {
    const RINGBUF_OUTPUT: i32 = 130; // BPF_FUNC_ringbuf_output
    let ring = pins::open(bpffs.path(), &EVENTS).expect("the ring");
    let fd = std::os::fd::AsFd::as_fd(ring.fd()).as_raw_fd();
    let zeros = (1..10).map(|word| instruction(0x7a, 10, 0, -80 + 8 * word, 0)); // *(u64 *)(r10 + off) = 0
    let mut program = vec![instruction(0x7a, 10, 0, -80, at_ns)];
    program.extend(zeros);
    program.extend([
        instruction(0x18, 1, 1, 0, fd), // r1 = the map
        0,
        instruction(0xbf, 2, 10, 0, 0), // r2 = r10 - 80
        instruction(0x07, 2, 0, 0, -80),
        instruction(0xb7, 3, 0, 0, len), // r3 = len
        instruction(0xb7, 4, 0, 0, 0),   // r4 = no flags
        instruction(0x85, 0, 0, 0, RINGBUF_OUTPUT),
        instruction(0xb7, 0, 0, 0, 0), // return 0
        instruction(0x95, 0, 0, 0, 0),
    ]);
    // SAFETY: zero is a value of every field.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.__bindgen_anon_3.prog_type = bpf_prog_type::BPF_PROG_TYPE_SOCKET_FILTER as u32;
    attr.__bindgen_anon_3.insn_cnt = program.len() as u32;
    attr.__bindgen_anon_3.insns = program.as_ptr() as u64;
    attr.__bindgen_anon_3.license = c"GPL".as_ptr() as u64;
    let fd = bpf(bpf_cmd::BPF_PROG_LOAD, &mut attr);
    // SAFETY: the kernel has just given it to us.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

fn run(program: &OwnedFd) {
    let packet = [0u8; 64];
    // SAFETY: zero is a value of every field.
    let mut attr: bpf_attr = unsafe { std::mem::zeroed() };
    attr.test.prog_fd = program.as_raw_fd() as u32;
    attr.test.data_in = packet.as_ptr() as u64;
    attr.test.data_size_in = packet.len() as u32;
    bpf(bpf_cmd::BPF_PROG_TEST_RUN, &mut attr);
}

fn instruction(code: u8, dst: u8, src: u8, off: i16, imm: i32) -> u64 {
    let [off_low, off_high] = off.to_le_bytes();
    let [a, b, c, d] = imm.to_le_bytes();
    u64::from_le_bytes([code, src << 4 | dst, off_low, off_high, a, b, c, d])
}

fn bpf(cmd: bpf_cmd, attr: &mut bpf_attr) -> i64 {
    // SAFETY: what the attributes point to lives until the call returns.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, cmd, std::ptr::from_mut(attr), size_of::<bpf_attr>()) };
    assert!(result >= 0, "{cmd:?}: {}", io::Error::last_os_error());
    result
}
