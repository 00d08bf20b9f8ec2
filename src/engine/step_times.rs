//! Learns how long a step of so many rows takes on this machine with this model, and predicts it.
//!
//! Two decisions need it: how many rows of a prompt may ride along before the streams beside it wait too long, and whether checking
//! drafted tokens costs less than it saves. Neither changes a token; a prediction that is off costs time only.
//!
//! Pure: measured seconds come in as numbers.
#![deny(clippy::disallowed_methods)]

/// Of a new measurement in the moving mean. Ten steps forget nine tenths of what was.
const NEWEST: f64 = 0.2;
/// A step twice as slow as predicted is as likely a hiccup of the machine as news; it counts as this many times the prediction.
const SURPRISE_MAX: f64 = 2.0;
/// Where nothing was measured each further row is taken to cost so much of the first: optimistic, so that it is tried.
const ROW_UNTRIED: f64 = 0.2;
/// Measurements older than so many steps do not keep anybody from trying again.
const FORGOTTEN_AFTER_STEPS: u64 = 512;

/// Younger measurements are of now.
const RECENT_STEPS: u64 = 32;

/// Seconds by rows, in classes: each number of rows to 8, then four classes an octave.
#[derive(Debug, Clone, Default)]
pub struct StepTimes {
    /// In order of rows.
    points: Vec<Point>,
    steps: u64,
}

#[derive(Debug, Clone, Copy)]
struct Point {
    class: usize,
    /// Moving means, so that a line through two points is one through what was measured.
    rows: f64,
    seconds: f64,
    /// The step that measured it last.
    step: u64,
}

/// Which measurements a prediction trusts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// All there are.
    Old,
    /// Those of the last [`FORGOTTEN_AFTER_STEPS`] steps, and of the fewest rows.
    Recent,
}

impl StepTimes {
    /// A step of `rows` rows took `seconds`.
    pub fn record(&mut self, rows: usize, seconds: f64) {
        assert!(rows > 0 && seconds >= 0.0, "a step of {rows} rows took {seconds} s");
        self.steps += 1;
        let (step, class) = (self.steps, class_of(rows));
        match self.points.binary_search_by_key(&class, |point| point.class) {
            Ok(index) => {
                let point = &mut self.points[index];
                let is_old = step - point.step > FORGOTTEN_AFTER_STEPS;
                let seconds = if is_old { seconds } else { seconds.min(point.seconds * SURPRISE_MAX) };
                let newest = if is_old { 1.0 } else { NEWEST };
                point.rows += newest * (rows as f64 - point.rows);
                point.seconds += newest * (seconds - point.seconds);
                point.step = step;
            }
            Err(index) => self.points.insert(index, Point { class, rows: rows as f64, seconds, step }),
        }
    }

    /// What a step of `rows` rows will take; `None` before the first measurement. Between two measurements on the line through
    /// them; beyond the largest and below the smallest as if each row cost [`ROW_UNTRIED`] of the first.
    pub fn seconds(&self, rows: usize, trust: Trust) -> Option<f64> {
        let rows = rows as f64;
        let recent = |point: &&Point| trust == Trust::Old || self.steps - point.step <= FORGOTTEN_AFTER_STEPS;
        let (first, others) = self.points.split_first()?;
        let mut below = None;
        let mut above = None;
        for point in std::iter::once(first).chain(others.iter().filter(recent)) {
            if point.rows <= rows {
                below = Some(point);
            } else {
                above = above.or(Some(point));
            }
        }
        Some(match (below, above) {
            (Some(below), Some(above)) => {
                let part = (rows - below.rows) / (above.rows - below.rows);
                below.seconds + part * (above.seconds - below.seconds)
            }
            (Some(below), None) => below.seconds * (1.0 + ROW_UNTRIED * (rows - 1.0)) / (1.0 + ROW_UNTRIED * (below.rows - 1.0)),
            (None, Some(above)) => above.seconds * (1.0 + ROW_UNTRIED * (rows - 1.0)) / (1.0 + ROW_UNTRIED * (above.rows - 1.0)),
            (None, None) => return None,
        })
    }

    /// What a step of `rows` rows takes now. While prompts ride along nobody measures the streams alone, and they grow longer: where
    /// the last measurement of so few rows is old, the nearest recent one of more says that it is not less than a share of that.
    pub fn seconds_now(&self, rows: usize) -> Option<f64> {
        let known = self.seconds(rows, Trust::Old)?;
        let is_recent = |point: &&Point| self.steps - point.step <= RECENT_STEPS;
        let Some(above) = self.points.iter().filter(is_recent).find(|point| point.class >= class_of(rows)) else { return Some(known) };
        let share = (1.0 + ROW_UNTRIED * (rows as f64 - 1.0)) / (1.0 + ROW_UNTRIED * (above.rows - 1.0));
        Some(if above.class == class_of(rows) { known } else { known.max(above.seconds * share) })
    }

    /// The most rows, `rows_min` to `rows_max`, that a step can have and take no longer than `seconds`, as far as is known.
    pub fn rows_within(&self, seconds: f64, rows_min: usize, rows_max: usize) -> usize {
        let fits = |rows: &usize| self.seconds(*rows, Trust::Old).is_none_or(|predicted| predicted <= seconds);
        let mut most = rows_min;
        let mut tried = rows_min;
        while tried < rows_max {
            tried = next_class(tried).min(rows_max);
            if !fits(&tried) {
                // Within the class the line is straight.
                return (most..tried).rev().find(fits).unwrap_or(rows_min);
            }
            most = tried;
        }
        most
    }
}

/// 1 to 8, then 10, 12, 14, 16, 20, 24 ..: the number of the class whose rows are at least the one's and less than the next one's.
fn class_of(rows: usize) -> usize {
    if rows < 8 {
        return rows;
    }
    let octave = rows.ilog2() as usize;
    8 + 4 * (octave - 3) + ((rows >> (octave - 2)) & 3)
}

/// The fewest rows of the class after that of `rows`.
fn next_class(rows: usize) -> usize {
    if rows < 8 {
        return rows + 1;
    }
    let step = 1usize << (rows.ilog2() - 2);
    (rows / step + 1) * step
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_exact_to_eight_and_four_an_octave() {
        let firsts: Vec<usize> = std::iter::successors(Some(1), |rows| Some(next_class(*rows))).take(18).collect();
        assert_eq!(firsts, [1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48]);
        for (class, window) in (1..).zip(firsts.windows(2)) {
            assert_eq!((class_of(window[0]), class_of(window[1] - 1)), (class, class));
        }
    }

    #[test]
    fn predictions_lie_on_the_line_between_measurements() {
        let mut times = StepTimes::default();
        assert_eq!(times.seconds(1, Trust::Old), None);
        times.record(1, 0.05);
        times.record(4, 0.08);
        times.record(16, 0.20);
        let seconds = |rows| (times.seconds(rows, Trust::Recent).unwrap() * 1e4).round() / 1e4;
        assert_eq!([seconds(1), seconds(3), seconds(4), seconds(10), seconds(16)], [0.05, 0.07, 0.08, 0.14, 0.20]);
        assert_eq!(seconds(32), 0.36, "16 rows are taken for 4 times the first, 32 for 7.2 times");
        let mut large = StepTimes::default();
        large.record(11, 3.0);
        assert!((large.seconds(1, Trust::Old).unwrap() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn as_many_rows_as_the_time_allows() {
        let mut times = StepTimes::default();
        assert_eq!(times.rows_within(1.0, 1, 512), 512, "nothing is known");
        times.record(1, 0.05);
        assert_eq!(times.rows_within(0.05 * 2.5, 1, 512), 8, "1 + 0.2 * 7 = 2.4 times");
        times.record(8, 0.06);
        times.record(64, 0.48);
        assert_eq!(times.rows_within(0.1201, 1, 512), 16);
        assert_eq!(times.rows_within(0.01, 3, 512), 3, "no fewer than are there anyway");
        assert_eq!(times.rows_within(9.0, 3, 100), 100);
    }

    #[test]
    fn streams_that_are_never_alone_are_taken_to_grow_with_the_rest() {
        let mut times = StepTimes::default();
        times.record(1, 0.05);
        times.record(2, 0.06);
        assert_eq!(times.seconds_now(1), Some(0.05), "measured a moment ago");
        for _ in 0..60 {
            times.record(2, 0.12);
        }
        assert!((times.seconds_now(1).unwrap() - 0.1).abs() < 1e-3);
        times.record(1, 0.07);
        assert!(times.seconds_now(1).unwrap() < 0.06);
    }

    #[test]
    fn a_hiccup_is_not_believed_at_once_and_old_news_not_for_ever() {
        let mut times = StepTimes::default();
        times.record(1, 0.05);
        times.record(8, 0.08);
        times.record(8, 3.0);
        assert!(times.seconds(8, Trust::Old).unwrap() < 0.1);
        times.record(16, 9.0);
        for _ in 0..=FORGOTTEN_AFTER_STEPS {
            times.record(2, 0.06);
        }
        assert!(times.seconds(16, Trust::Old).unwrap() > 8.0);
        assert!((times.seconds(16, Trust::Recent).unwrap() - 0.06 * 4.0 / 1.2).abs() < 1e-9);
        assert_eq!(times.seconds(1, Trust::Recent), Some(0.05), "the fewest rows are remembered");
    }
}
