//! Removing the filters that kernels without tcx (before Linux 6.6) have instead of links.
//!
//! **Invariant.** A filter is ours when priority, handle and the program's name say so; no other is touched. A clsact
//! qdisc goes only when one of ours was in it and nothing else is.

use aya::programs::tc::TcHandle as FilterHandle;
use futures::{StreamExt, TryStreamExt};
use netlink_packet_route::{
    RouteNetlinkMessage,
    tc::{TcAttribute, TcFilterBpfOption, TcHeader, TcMessage, TcOption},
};
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_ACK, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
};

use super::attach::{HANDLE, HOOKS, PRIORITY};

/// A filter or qdisc that stays, and why.
#[derive(Debug, thiserror::Error)]
pub enum ClsactError {
    /// The kernel did not list its qdiscs.
    #[error("listing qdiscs")]
    Qdiscs(#[source] rtnetlink::Error),
    /// The kernel did not list a device's filters.
    #[error("listing the filters of interface {ifindex}")]
    Filters {
        /// The device.
        ifindex: i32,
        /// Why not.
        source: rtnetlink::Error,
    },
    /// A filter of ours stays.
    #[error("removing our filter from interface {ifindex}")]
    Filter {
        /// The device.
        ifindex: i32,
        /// Why.
        source: rtnetlink::Error,
    },
    /// The empty qdisc stays.
    #[error("removing the clsact qdisc of interface {ifindex}")]
    Qdisc {
        /// The device.
        ifindex: i32,
        /// Why.
        source: rtnetlink::Error,
    },
}

/// Removes our filters from every device of the namespace that `handle`'s socket is in; the number of them, and what
/// could not be removed.
pub async fn remove_filters(handle: &Handle) -> (usize, Vec<ClsactError>) {
    let qdiscs: Vec<TcMessage> = match handle.qdisc().get().execute().try_collect().await {
        Ok(qdiscs) => qdiscs,
        Err(error) => return (0, vec![ClsactError::Qdiscs(error)]),
    };
    let (mut removed, mut errors) = (0, Vec::new());
    for qdisc in qdiscs.iter().filter(|qdisc| qdisc.attributes.iter().any(is_clsact)) {
        if let Err(error) = clean(handle, &qdisc.header, &mut removed).await {
            errors.push(error);
        }
    }
    (removed, errors)
}

fn is_clsact(attribute: &TcAttribute) -> bool {
    matches!(attribute, TcAttribute::Kind(kind) if kind == "clsact")
}

async fn clean(handle: &Handle, qdisc: &TcHeader, removed: &mut usize) -> Result<(), ClsactError> {
    let ifindex = qdisc.index;
    let ours: Vec<_> = filters(handle, ifindex).await?.into_iter().filter(is_ours).collect();
    if ours.is_empty() {
        return Ok(());
    }
    for filter in ours {
        delete(handle, filter.header).await.map_err(|source| ClsactError::Filter { ifindex, source })?;
        *removed += 1;
    }
    if !filters(handle, ifindex).await?.is_empty() {
        return Ok(());
    }
    let mut request = handle.qdisc().del(ifindex);
    request.message_mut().header = TcHeader { info: 0, ..qdisc.clone() };
    request.execute().await.map_err(|source| ClsactError::Qdisc { ifindex, source })
}

/// The filters in both directions.
async fn filters(handle: &Handle, ifindex: i32) -> Result<Vec<TcMessage>, ClsactError> {
    let listed = |source| ClsactError::Filters { ifindex, source };
    let ingress = handle.traffic_filter(ifindex).get().ingress().execute().try_collect::<Vec<_>>();
    let mut found = ingress.await.map_err(listed)?;
    let egress = handle.traffic_filter(ifindex).get().egress().execute().try_collect::<Vec<_>>();
    found.extend(egress.await.map_err(listed)?);
    Ok(found)
}

fn is_ours(filter: &TcMessage) -> bool {
    let names_hook = |option: &TcOption| {
        matches!(option, TcOption::Bpf(TcFilterBpfOption::ProgName(name))
            if HOOKS.iter().any(|hook| hook.name() == name))
    };
    let is_named = |attribute: &TcAttribute| matches!(attribute, TcAttribute::Options(options) if options.iter().any(names_hook));
    let header = &filter.header;
    // `tcm_info` is the priority, and below it the protocol.
    header.info >> 16 == u32::from(PRIORITY)
        && FilterHandle::from(u32::from(header.handle)) == HANDLE
        && filter.attributes.iter().any(is_named)
}

/// Deletes exactly this filter; the library's own request names no priority, and would delete all of them.
async fn delete(handle: &Handle, header: TcHeader) -> Result<(), rtnetlink::Error> {
    let mut message = TcMessage::default();
    message.header = header;
    let mut request = NetlinkMessage::from(RouteNetlinkMessage::DelTrafficFilter(message));
    request.header.flags = NLM_F_REQUEST | NLM_F_ACK;
    let mut answers = handle.clone().request(request)?;
    while let Some(answer) = answers.next().await {
        if let NetlinkPayload::Error(error) = answer.payload
            && error.code.is_some()
        {
            return Err(rtnetlink::Error::NetlinkError(error));
        }
    }
    Ok(())
}
