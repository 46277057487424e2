//! One packet's working memory: what would not fit the 512 bytes of stack.

use core::ops::{Deref, DerefMut};

use aya_ebpf::{macros::map, maps::PerCpuArray};
use sluice_abi::{BackendId, CtEntry, Judgement, Tuple};

use crate::{
    drops::Trace,
    endpoint::End,
    packet::{Packet, Quoted},
    policy::Audits,
};

/// Programs of one CPU run one after the other, each to its end, so each has the value to itself.
#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// Written before it is read: nothing here outlives a packet.
pub(crate) struct Scratch {
    pub(crate) packet: Packet,
    pub(crate) trace: Trace,
    /// Who of this node has the source address of the packet as it came.
    pub(crate) src: End,
    /// Who of this node has its destination address.
    pub(crate) dst: End,
    /// Who of this node is the other side of a flow that is opened.
    pub(crate) responder: End,
    /// The tuple as the packet came.
    pub(crate) sent: Tuple,
    /// The flow's tuple behind the translation, in the opener's direction.
    pub(crate) opened: Tuple,
    /// What `nat::rewrite` makes of the packet.
    pub(crate) target: Tuple,
    /// Judgements on a flow that has no entry yet.
    pub(crate) judged: [Judgement; 2],
    /// Whose shadow rule sets are to be asked.
    pub(crate) audits: Audits,
    /// The backend that was chosen for a new flow.
    pub(crate) backend: BackendId,
    /// The conntrack entry under construction.
    pub(crate) entry: CtEntry,
    /// What an ICMP error quotes.
    pub(crate) quoted: Quoted,
}

/// The way to this CPU's working memory.
///
/// Global functions have a handle of their own, so no reference made through one may live across a call of such a
/// function: every use goes through the pointer again.
#[derive(Clone, Copy)]
pub(crate) struct Handle(*mut Scratch);

/// This CPU's working memory.
#[inline(always)]
pub(crate) fn get() -> Option<Handle> {
    SCRATCH.get_ptr_mut(0).map(Handle)
}

impl Deref for Handle {
    type Target = Scratch;

    #[inline(always)]
    fn deref(&self) -> &Scratch {
        // SAFETY: the CPU's own map value, which lives as long as the program; every type in it takes the zeros the map
        // starts with and whatever the programs wrote.
        unsafe { &*self.0 }
    }
}

impl DerefMut for Handle {
    #[inline(always)]
    fn deref_mut(&mut self) -> &mut Scratch {
        // SAFETY: as in `deref`; programs of one CPU do not interrupt each other.
        unsafe { &mut *self.0 }
    }
}
