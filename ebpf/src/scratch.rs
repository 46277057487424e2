//! One packet's working memory: what would not fit the 512 bytes of stack.

use aya_ebpf::{macros::map, maps::PerCpuArray};
use sluice_abi::{BackendId, CtEntry, Judgement, Tuple};

use crate::{
    drops::Trace,
    packet::{Packet, Quoted},
};

/// Programs of one CPU run one after the other, each to its end, so each has the value to itself.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Written before it is read: nothing here outlives a packet.
pub(crate) struct Scratch {
    pub(crate) packet: Packet,
    pub(crate) trace: Trace,
    /// The tuple as the packet came.
    pub(crate) sent: Tuple,
    /// The flow's tuple behind the translation, in the opener's direction.
    pub(crate) opened: Tuple,
    /// What `nat::rewrite` makes of the packet.
    pub(crate) target: Tuple,
    /// Judgements on a flow that has no entry yet.
    pub(crate) judged: [Judgement; 2],
    /// The backend that was chosen for a new flow.
    pub(crate) backend: BackendId,
    /// The conntrack entry under construction.
    pub(crate) entry: CtEntry,
    /// What an ICMP error quotes.
    pub(crate) quoted: Quoted,
}

/// This CPU's working memory.
#[inline(always)]
pub(crate) fn get() -> Option<&'static mut Scratch> {
    // SAFETY: the CPU's own value, asked for once a run; every type in it takes any bit pattern that the programs
    // wrote, and the map starts as zeros, which each of its enums has as a variant.
    SCRATCH.get_ptr_mut(0).map(|scratch| unsafe { &mut *scratch })
}
