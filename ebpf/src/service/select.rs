//! Choosing among backends: pure, tested on the host.

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

#[cfg(test)]
mod tests {
    use super::*;

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
