//! Choosing among backends: pure, tested on the host.

use sluice_abi::Tuple;

/// Which of `count` backends to try first.
///
/// A multiply instead of a remainder: no division in the kernel, and for the counts in use the bias is below 2⁻¹⁵.
#[inline(always)]
pub(crate) fn first(random: u32, count: u32) -> u32 {
    ((u64::from(random) * u64::from(count)) >> 32) as u32
}

/// The backend to try after `index`.
#[inline(always)]
pub(crate) fn next(index: u32, count: u32) -> u32 {
    let next = index + 1;
    if next >= count { 0 } else { next }
}

/// What is left of a sorted range (first place, length) when its middle is not what is looked for.
#[inline(always)]
pub(crate) fn half((first, length): (u32, u32), is_above: bool) -> (u32, u32) {
    let below = length / 2;
    if is_above { (first + below + 1, length - below - 1) } else { (first, below) }
}

/// A hash of the five-tuple that is the same on every node, whatever its byte order: MurmurHash3 (x86, 32 bits, seed 0)
/// over the tuple's bytes.
#[inline(always)]
pub(crate) fn flow_hash(tuple: &Tuple) -> u32 {
    let (src, dst) = (tuple.src.words(), tuple.dst.words());
    let ([a, b], [c, d]) = (tuple.src_port, tuple.dst_port);
    let ports = u32::from_le_bytes([a, b, c, d]);
    let mut hash = 0;
    for word in [src.0, src.1, dst.0, dst.1] {
        let word = word.to_le();
        hash = mixed(mixed(hash, word as u32), (word >> 32) as u32);
    }
    hash = mixed(mixed(hash, ports), u32::from(tuple.protocol));
    hash ^= size_of::<Tuple>() as u32;
    hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
    hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
    hash ^ (hash >> 16)
}

#[inline(always)]
fn mixed(hash: u32, word: u32) -> u32 {
    let word = word.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593);
    (hash ^ word).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64)
}

#[cfg(test)]
mod tests {
    use sluice_abi::Addr;

    use super::*;

    #[test]
    fn the_hash_of_a_flow_is_murmur3_of_its_bytes() {
        let flow = Tuple {
            src: Addr::v4([203, 0, 113, 5]),
            dst: Addr::v4([192, 168, 7, 1]),
            src_port: 4000u16.to_be_bytes(),
            dst_port: 30_080u16.to_be_bytes(),
            protocol: 6,
            ..Tuple::default()
        };
        // By another implementation, which agrees with the published "test" → 0xba6bd213.
        assert_eq!(flow_hash(&flow), 0xd5ba_0393);
    }

    #[test]
    fn every_backend_gets_its_share_and_none_beyond_the_slice_is_chosen() {
        for count in [1u32, 3, 10, 100] {
            let mut hits = vec![0u32; count as usize];
            for step in 0..100_000u32 {
                // A full-period walk over the 32-bit values stands for randomness.
                hits[first(step.wrapping_mul(2_654_435_761), count) as usize] += 1;
            }
            let share = 100_000 / count;
            assert!(hits.iter().all(|hit| hit.abs_diff(share) <= share / 10), "{count}: {hits:?}");
        }
        assert_eq!(first(u32::MAX, 3), 2);
    }

    #[test]
    fn trying_on_visits_every_backend_once() {
        for count in 1..6 {
            let mut seen: Vec<u32> = (0..count)
                .scan(count - 1, |at, _| {
                    *at = next(*at, count);
                    Some(*at)
                })
                .collect();
            seen.sort_unstable();
            assert_eq!(seen, (0..count).collect::<Vec<_>>());
        }
    }
}
