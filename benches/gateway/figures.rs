//! Samples and the lines that are printed of them, the bar beside each.

use std::time::Duration;

/// What was measured of one thing, in any order.
#[derive(Debug, Default)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    pub fn push_us(&mut self, time: Duration) {
        self.push(1e6 * time.as_secs_f64());
    }

    pub fn push_ms(&mut self, time: Duration) {
        self.push(1e3 * time.as_secs_f64());
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// The nearest rank; `NaN` of nothing.
    pub fn quantile(&self, share: f64) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let rank = (share * sorted.len() as f64).ceil() as usize;
        sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
    }

    /// How much more each is than the other's of the same round.
    pub fn above(&self, other: &Self) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(one, other)| one - other).collect())
    }

    pub fn median(&self) -> f64 {
        self.quantile(0.5)
    }
}

/// A time with its sign: of two that are compared, either may be the longer.
pub fn difference_us(one: Duration, other: Duration) -> f64 {
    1e6 * (one.as_secs_f64() - other.as_secs_f64())
}

/// The most that is wanted of a figure.
#[derive(Debug, Clone, Copy)]
pub struct Bar {
    pub most: f64,
    pub unit: &'static str,
}

/// One row: the figure, its bar, and how it came about.
pub fn line(name: &str, figure: f64, bar: Bar, how: &str) {
    let Bar { most, unit } = bar;
    let verdict = if figure <= most { "yes" } else { "NO" };
    println!("{name:44} {figure:9.2} {unit:4} <= {most:<5}{verdict:4}  {how}");
}

/// A row that has no bar.
pub fn remark(name: &str, figure: f64, unit: &str, how: &str) {
    println!("{name:44} {figure:9.2} {unit:17}  {how}");
}
