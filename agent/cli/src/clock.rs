//! The datapath's clock.

use std::time::Duration;

/// Time on `CLOCK_MONOTONIC`, which the programs stamp with (`bpf_ktime_get_ns`).
pub(crate) fn now() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: room for the answer; the clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// Whole seconds from a stamp to `now`.
pub(crate) fn seconds_since(now: Duration, stamp_ns: u64) -> u64 {
    now.saturating_sub(Duration::from_nanos(stamp_ns)).as_secs()
}

/// A number of seconds for people: `45s`, `12m`, `3h`, `8d`.
pub(crate) fn words(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds}s"),
        120..7200 => format!("{}m", seconds / 60),
        7200..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_of_the_future_have_no_age() {
        let now = Duration::from_millis(90_900);
        assert_eq!(seconds_since(now, 60_000_000_000), 30);
        assert_eq!(seconds_since(now, u64::MAX), 0);
    }

    #[test]
    fn ages_have_two_digits_or_so() {
        let cases = [(0, "0s"), (119, "119s"), (120, "2m"), (7199, "119m"), (7200, "2h"), (172_800, "2d")];
        for (seconds, text) in cases {
            assert_eq!(words(seconds), text);
        }
    }
}
