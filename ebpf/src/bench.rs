//! Measuring the hooks: programs that make the packet as it was and then tail-call the one under test.
//!
//! `BPF_PROG_TEST_RUN` repeats a program on one packet, which a hook changes: from the second run on it would see
//! another packet. Only `cargo xtask bench` loads these programs (`tests/src/bin/bench/datapath.rs`); what they cost
//! by themselves is measured with [`nothing`](programs::nothing) behind them, and subtracted.

#![cfg_attr(target_arch = "bpf", no_std, no_main)]

#[cfg(target_arch = "bpf")]
mod programs {
    use aya_ebpf::{
        bindings::{TC_ACT_UNSPEC, xdp_action::XDP_PASS},
        macros::{classifier, map, xdp},
        maps::{Array, ProgramArray},
        programs::{TcContext, XdpContext},
    };

    /// The first bytes of the packet: up to and with the TCP checksum of an IPv6 packet, the last that a hook changes.
    ///
    /// Aligned to words so that they are copied by words; a packet's start is not, which BPF does not ask for where
    /// the machine does not.
    #[repr(C, align(8))]
    #[derive(Clone, Copy)]
    struct Headers([u64; 9]);

    #[map]
    static HEADERS: Array<Headers> = Array::with_max_entries(1, 0);

    /// The program under test, in its only place.
    #[map]
    static TARGET: ProgramArray = ProgramArray::with_max_entries(1, 0);

    /// The same for programs of XDP.
    #[map]
    static TARGET_XDP: ProgramArray = ProgramArray::with_max_entries(1, 0);

    /// Source port of the next packet of [`fresh`].
    #[map]
    static NEXT_PORT: Array<u32> = Array::with_max_entries(1, 0);

    /// No action: says that there was no program to call, or a packet shorter than [`Headers`].
    const NOT_RUN: i32 = 99;
    /// Offset of the source port in a packet without options: Ethernet and IPv4, Ethernet and IPv6.
    const PORT_V4: usize = 34;
    const PORT_V6: usize = 54;
    /// EtherType of IPv4 in the byte order of `__sk_buff::protocol`.
    const IPV4: u32 = u16::to_be(0x0800) as u32;

    /// The same packet every time.
    #[classifier]
    pub(crate) fn same(ctx: TcContext) -> i32 {
        if restore(&ctx).is_none() {
            return NOT_RUN;
        }
        call(&ctx)
    }

    /// A packet of another flow every time: its source port moves on. Checksums are left wrong, since no hook reads
    /// them.
    #[classifier]
    pub(crate) fn fresh(ctx: TcContext) -> i32 {
        if restore(&ctx).is_none() || move_port(&ctx).is_none() {
            return NOT_RUN;
        }
        call(&ctx)
    }

    /// The yardstick.
    #[classifier]
    pub(crate) fn nothing(_: TcContext) -> i32 {
        TC_ACT_UNSPEC
    }

    /// As [`same`], in XDP.
    #[xdp(frags)]
    pub(crate) fn same_xdp(ctx: XdpContext) -> u32 {
        let Some(headers) = HEADERS.get(0) else { return NOT_RUN as u32 };
        let start = ctx.data();
        if start + size_of::<Headers>() > ctx.data_end() {
            return NOT_RUN as u32;
        }
        // SAFETY: as in `put`.
        unsafe { *(start as *mut Headers) = *headers };
        // SAFETY: nothing here waits to be dropped.
        unsafe { TARGET_XDP.tail_call(&ctx, 0) };
        NOT_RUN as u32
    }

    /// The yardstick in XDP. A veth's peer may run it too, to take what XDP sends it.
    #[xdp(frags)]
    pub(crate) fn nothing_xdp(_: XdpContext) -> u32 {
        XDP_PASS
    }

    #[inline(always)]
    fn restore(ctx: &TcContext) -> Option<()> {
        put(ctx, 0, *HEADERS.get(0)?)?;
        // SAFETY: the context of a running program.
        unsafe { (*ctx.skb.skb).mark = 0 };
        Some(())
    }

    #[inline(always)]
    fn move_port(ctx: &TcContext) -> Option<()> {
        let next = NEXT_PORT.get_ptr_mut(0)?;
        // SAFETY: a map value that only this program writes, on one CPU.
        let port = unsafe {
            *next = (*next).wrapping_add(1);
            *next as u16
        };
        // SAFETY: the context of a running program.
        let is_v4 = unsafe { (*ctx.skb.skb).protocol } == IPV4;
        put(ctx, if is_v4 { PORT_V4 } else { PORT_V6 }, port.to_be())
    }

    #[inline(always)]
    fn call(ctx: &TcContext) -> i32 {
        // SAFETY: nothing here waits to be dropped.
        unsafe { TARGET.tail_call(ctx, 0) };
        NOT_RUN
    }

    /// Writes into the packet, at a constant offset.
    #[inline(always)]
    fn put<T>(ctx: &TcContext, offset: usize, value: T) -> Option<()> {
        let start = ctx.data() + offset;
        if start + size_of::<T>() > ctx.data_end() {
            return None;
        }
        // SAFETY: the bounds were checked; the program is the packet's only user; see `Headers` for the alignment.
        unsafe { *(start as *mut T) = value };
        Some(())
    }
}

/// As for the hooks (`main.rs`): of the two licences offered this one.
#[cfg(target_arch = "bpf")]
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 4] = *b"GPL\0";

#[cfg(target_arch = "bpf")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // Never reached: no panic path is in these programs.
    loop {}
}

#[cfg(not(target_arch = "bpf"))]
fn main() {}
