//! A figure over rounds: its median, which one bad round cannot move, and how far it varied.

use serde::Serialize;

/// Median, least and greatest of a figure over the rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    /// Of all finite values; `None` if there are none.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().filter(|value| value.is_finite()).collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median =
            if values.len() % 2 == 1 { values[middle] } else { f64::midpoint(values[middle - 1], values[middle]) };
        Some(Self { median, min, max })
    }

    /// The same figure in another unit.
    pub(crate) fn scaled(self, factor: f64) -> Self {
        Self { median: self.median * factor, min: self.min * factor, max: self.max * factor }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_odd_even_and_no_values() {
        let spread = |median, min, max| Some(Spread { median, min, max });
        for (values, expected) in [
            (vec![3.0, 1.0, 2.0], spread(2.0, 1.0, 3.0)),
            (vec![4.0, 1.0, 2.0, 3.0], spread(2.5, 1.0, 4.0)),
            (vec![7.0], spread(7.0, 7.0, 7.0)),
            (vec![f64::NAN, 7.0, f64::INFINITY], spread(7.0, 7.0, 7.0)),
            (vec![], None),
        ] {
            assert_eq!(Spread::of(values.clone()), expected, "{values:?}");
        }
    }
}
