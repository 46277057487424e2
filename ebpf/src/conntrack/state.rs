//! How a packet moves a flow's state: pure, tested on the host.

use sluice_abi::{CtState, flow_flags, protocol};

/// TCP header flags (RFC 9293, section 3.1).
pub(crate) mod tcp {
    pub(crate) const FIN: u8 = 1;
    pub(crate) const SYN: u8 = 2;
    pub(crate) const RST: u8 = 4;
    pub(crate) const ACK: u8 = 16;
}

/// Whether the packet opens a TCP connection.
#[inline(always)]
pub(crate) fn opens(protocol: u8, tcp_flags: u8) -> bool {
    protocol == protocol::TCP && tcp_flags & (tcp::SYN | tcp::ACK | tcp::RST | tcp::FIN) == tcp::SYN
}

/// State and flags after a packet.
///
/// There is no window tracking (RFC 5961 makes the ends robust against blind resets): an RST only shortens the
/// timeout, and later data restores it.
#[inline(always)]
pub(crate) fn advance(
    state: CtState,
    flags: u8,
    protocol: u8,
    tcp_flags: u8,
    from_opener: bool,
) -> (CtState, u8) {
    if protocol == protocol::TCP {
        if tcp_flags & tcp::RST != 0 {
            return (CtState::Closed, flags);
        }
        if tcp_flags & tcp::FIN != 0 {
            let flags = flags | if from_opener { flow_flags::FIN_OPENER } else { flow_flags::FIN_RESPONDER };
            let closed = both_finished(flags);
            return (if closed { CtState::Closed } else { CtState::Closing }, flags);
        }
        match state {
            // Only a flow that was real can come back: an RST must not be a way to skip the answer.
            CtState::Closed
                if !both_finished(flags)
                    && flags & flow_flags::CONFIRMED != 0
                    && tcp_flags & tcp::SYN == 0 =>
            {
                return (CtState::Established, flags);
            }
            CtState::Closed | CtState::Closing => return (state, flags),
            // A SYN again is a retransmission: only an acknowledgement confirms.
            CtState::Replied if tcp_flags & tcp::SYN != 0 => return (state, flags),
            CtState::New | CtState::Replied | CtState::Established => {}
        }
    }
    let next = match state {
        CtState::New if !from_opener => CtState::Replied,
        CtState::Replied if from_opener => CtState::Established,
        CtState::New | CtState::Replied | CtState::Established | CtState::Closing | CtState::Closed => state,
    };
    (next, flags)
}

#[inline(always)]
fn both_finished(flags: u8) -> bool {
    let both = flow_flags::FIN_OPENER | flow_flags::FIN_RESPONDER;
    flags & both == both
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Name, packets, and the state after each.
    type Case<'a> = (&'a str, &'a [(char, u8)], &'a [CtState]);

    /// Plays packets (`>` from the opener, `<` from the responder) and gives the state after each.
    fn play(protocol: u8, packets: &[(char, u8)]) -> Vec<CtState> {
        let (mut state, mut flags) = (CtState::New, 0);
        packets
            .iter()
            .map(|(side, tcp_flags)| {
                (state, flags) = advance(state, flags, protocol, *tcp_flags, *side == '>');
                flags |= if state == CtState::Established { flow_flags::CONFIRMED } else { 0 };
                state
            })
            .collect()
    }

    #[test]
    fn tcp_is_confirmed_by_the_openers_acknowledgement_and_not_before() {
        use CtState::{Closed, Closing, Established, New, Replied};
        let (syn, ack, fin, rst) = (tcp::SYN, tcp::ACK, tcp::FIN, tcp::RST);
        let cases: &[Case<'_>] = &[
            ("handshake", &[('>', syn), ('<', syn | ack), ('>', ack)], &[New, Replied, Established]),
            (
                "a retransmitted SYN confirms nothing",
                &[('>', syn), ('<', syn | ack), ('>', syn)],
                &[New, Replied, Replied],
            ),
            (
                "an answering flood stays half open",
                &[('>', syn), ('<', syn | ack), ('<', syn | ack)],
                &[New, Replied, Replied],
            ),
            (
                "a reset before the answer confirms nothing",
                &[('>', syn), ('>', rst), ('>', ack)],
                &[New, Closed, Closed],
            ),
            ("refused", &[('>', syn), ('<', rst | ack)], &[New, Closed]),
            (
                "closed by both",
                &[
                    ('>', syn),
                    ('<', syn | ack),
                    ('>', ack),
                    ('>', fin | ack),
                    ('<', ack),
                    ('<', fin | ack),
                    ('>', ack),
                ],
                &[New, Replied, Established, Closing, Closing, Closed, Closed],
            ),
            (
                "data after a blind reset restores the flow",
                &[('>', syn), ('<', syn | ack), ('>', ack), ('<', rst), ('>', ack)],
                &[New, Replied, Established, Closed, Established],
            ),
            ("picked up in mid-stream", &[('>', ack), ('<', ack), ('>', ack)], &[New, Replied, Established]),
        ];
        for (name, packets, states) in cases {
            assert_eq!(play(protocol::TCP, packets), *states, "{name}");
        }
    }

    #[test]
    fn udp_and_icmp_are_confirmed_by_the_openers_packet_after_a_reply() {
        use CtState::{Established, New, Replied};
        for protocol in [protocol::UDP, protocol::ICMP, protocol::ICMPV6] {
            assert_eq!(
                play(protocol, &[('>', 0), ('>', 0), ('<', 0), ('<', 0), ('>', 0)]),
                [New, New, Replied, Replied, Established]
            );
        }
    }
}
