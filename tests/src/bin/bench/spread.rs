//! A median and how far figures lie around it.

use serde::Serialize;

/// Median, and the tenth below and above.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) p10: f64,
    pub(crate) p90: f64,
}

impl Spread {
    /// Of one figure per round.
    pub(crate) fn of(mut figures: Vec<f64>) -> Self {
        Self {
            median: quantile(&mut figures, 0.5),
            p10: quantile(&mut figures, 0.1),
            p90: quantile(&mut figures, 0.9),
        }
    }
}

/// The figure below which the given part of all figures lies; sorts them. None at all is not a number.
pub(crate) fn quantile(figures: &mut [f64], part: f64) -> f64 {
    figures.sort_unstable_by(f64::total_cmp);
    let last = figures.len().saturating_sub(1);
    figures.get((last as f64 * part).round() as usize).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spread_is_of_the_figures_in_their_order() {
        let spread = Spread::of((0..=100).rev().map(f64::from).collect());
        assert_eq!((spread.p10, spread.median, spread.p90), (10.0, 50.0, 90.0));
        assert!(Spread::of(Vec::new()).median.is_nan());
    }
}
