//! Learns how long a step takes on this machine with this model, and predicts it: from its rows, and from how much they look back at.
//!
//! Three decisions need it: how many rows of a prompt may ride along before the streams beside it wait too long, whether checking
//! drafted tokens costs less than it saves, and when a request would have its first token. None changes a token; a prediction that is off
//! costs time only.
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

/// A load that was too slow when it was tried once is tried again after so many steps, one that was so twice after twice as many, up to
/// [`FORGOTTEN_AFTER_STEPS`]: the machine may have been busy with something else.
const RETRIED_AFTER_STEPS: u64 = 16;
/// Of what such another try says in the moving mean.
const RETRIED: f64 = 0.5;

/// Younger measurements are of now.
const RECENT_STEPS: u64 = 32;

/// Steps over which the cost of depth is learned: a prompt gets deep slowly, and a machine's moods should not be taken for it.
const DEPTH_STEPS: f64 = 256.0;
/// Before it is learned depth costs nothing. It is believed where a measured step, 5 % of it being noise, could tell whether 40,960 positions cost
/// as much as a row alone.
const DEPTH_POSITIONS: f64 = 0.05 * 40_960.0;
/// Whatever depth is said to have cost, so much of a step was not it.
const NOT_DEPTH_MIN: f64 = 0.1;

/// What a step computes, as far as its time depends on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    pub rows: usize,
    /// Positions that the rows look at, themselves included, of all rows together.
    pub attended: usize,
}

impl Load {
    /// Rows of one sequence, the first of them at the position `start`.
    pub fn of(start: usize, rows: usize) -> Self {
        Self { rows, attended: rows * start + rows * (rows + 1) / 2 }
    }

    pub fn and(self, other: Self) -> Self {
        Self { rows: self.rows + other.rows, attended: self.attended + other.attended }
    }
}

/// Seconds by rows, in classes (each number of rows to 8, then four classes an octave), and by what the rows look at.
#[derive(Debug, Clone, Default)]
pub struct StepTimes {
    /// In order of rows.
    points: Vec<Point>,
    depth: DepthCost,
    steps: u64,
}

/// The steps of one class.
#[derive(Debug, Clone, Copy)]
struct Point {
    class: usize,
    /// Moving means, so that a line through two points is one through what was measured.
    rows: f64,
    attended: f64,
    seconds: f64,
    /// Measurements, as far as they are counted.
    seen: u32,
    /// Over many more steps.
    usual: Usual,
    /// The step that measured it last.
    step: u64,
}

/// Means over [`DEPTH_STEPS`].
#[derive(Debug, Clone, Copy)]
struct Usual {
    attended: f64,
    seconds: f64,
    steps: f64,
}

/// How much longer a step takes for each position more that its rows look at: the slope of a line through the steps of a class, of all
/// classes together, so that what is learned in one holds in the others. Each step counts by how well it can tell: in shares of its time.
#[derive(Debug, Clone, Copy, Default)]
struct DepthCost {
    covariance: f64,
    variance: f64,
}

/// Which measurements a prediction trusts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trust {
    /// All there are.
    Old,
    /// Those of the last [`FORGOTTEN_AFTER_STEPS`] steps, and of the fewest rows.
    Recent,
    /// As `Recent`, but only as long as there is patience with them, which grows with their number.
    Confirmed,
}

impl StepTimes {
    /// A step of this load took `seconds`.
    pub fn record(&mut self, load: Load, seconds: f64) {
        assert!(load.rows > 0 && seconds >= 0.0, "a step of {load:?} took {seconds} s");
        self.steps += 1;
        let (step, class) = (self.steps, class_of(load.rows));
        let (rows, attended) = (load.rows as f64, load.attended as f64);
        match self.points.binary_search_by_key(&class, |point| point.class) {
            Ok(index) => {
                let slope = self.slope();
                let point = &mut self.points[index];
                let age = step - point.step;
                let is_old = age > FORGOTTEN_AFTER_STEPS;
                let expected = point.seconds + slope * (attended - point.attended);
                let seconds = if is_old { seconds } else { seconds.min(expected.max(point.seconds) * SURPRISE_MAX) };
                let newest = match point.seen {
                    _ if is_old => 1.0,
                    // What is new is slower than what was done before: of two the faster.
                    1 if seconds < point.seconds => 1.0,
                    1 => 0.0,
                    _ if age > point.patience() => RETRIED,
                    _ => NEWEST,
                };
                point.seen = point.seen.saturating_add(1);
                point.rows += newest * (rows - point.rows);
                point.attended += newest * (attended - point.attended);
                point.seconds += newest * (seconds - point.seconds);
                point.step = step;
                self.depth.learn(&mut point.usual, attended, seconds);
            }
            Err(index) => {
                let usual = Usual { attended, seconds, steps: 1.0 };
                self.points.insert(index, Point { class, rows, attended, seconds, seen: 1, usual, step });
            }
        }
    }

    /// What a step of this load will take; `None` before the first measurement. Between two measurements on the line through
    /// them; beyond the largest and below the smallest as if each row cost [`ROW_UNTRIED`] of the first.
    pub fn seconds(&self, load: Load, trust: Trust) -> Option<f64> {
        let slope = self.slope();
        Some(self.seconds_without_depth(load.rows, slope, trust)? + slope * load.attended as f64)
    }

    /// The most rows, `streams.rows + 1` to `rows_max`, that a step can have and take no longer than `seconds`, as far as is known:
    /// those beside the streams are of a sequence at the position `depth`. Eight rows may be faster than six: a product's tiles have sizes.
    pub fn rows_within(&self, seconds: f64, streams: Load, depth: usize, rows_max: usize) -> usize {
        let load = |rows: usize| streams.and(Load::of(depth, rows - streams.rows));
        let fits = |rows: &usize| self.seconds(load(*rows), Trust::Confirmed).is_none_or(|predicted| predicted <= seconds);
        let rows_min = streams.rows + 1;
        let classes = std::iter::successors(Some(rows_min), |rows| Some(next_class(*rows))).take_while(|rows| *rows < rows_max);
        let most = classes.chain([rows_max]).filter(fits).last().unwrap_or(rows_min);
        // Within the class the line is straight.
        (most..next_class(most).min(rows_max)).rev().find(fits).unwrap_or(most)
    }

    /// Nobody has measured a step of so many rows, or about as many, for a while.
    pub fn is_stale(&self, rows: usize) -> bool {
        let point = self.points.iter().find(|point| point.class == class_of(rows));
        point.is_none_or(|point| self.steps - point.step > RECENT_STEPS)
    }

    fn seconds_without_depth(&self, rows: usize, slope: f64, trust: Trust) -> Option<f64> {
        let rows = rows as f64;
        let age_max = |point: &Point| match trust {
            Trust::Old => u64::MAX,
            Trust::Recent => FORGOTTEN_AFTER_STEPS,
            Trust::Confirmed => point.patience(),
        };
        let recent = |point: &&Point| self.steps - point.step <= age_max(point);
        let (first, others) = self.points.split_first()?;
        let mut below = None;
        let mut above = None;
        for point in std::iter::once(first).chain(others.iter().filter(recent)) {
            let measured = (point.rows, point.without_depth(slope));
            if point.rows <= rows {
                below = Some(measured);
            } else {
                above = above.or(Some(measured));
            }
        }
        let as_if_untried = |(measured_rows, seconds): (f64, f64)| {
            seconds * (1.0 + ROW_UNTRIED * (rows - 1.0)) / (1.0 + ROW_UNTRIED * (measured_rows - 1.0))
        };
        Some(match (below, above) {
            (Some(below), Some(above)) => below.1 + (rows - below.0) / (above.0 - below.0) * (above.1 - below.1),
            (Some(measured), None) | (None, Some(measured)) => as_if_untried(measured),
            (None, None) => return None,
        })
    }

    fn slope(&self) -> f64 {
        self.points.first().map_or(0.0, |fewest| self.depth.slope(fewest.seconds))
    }
}

impl Point {
    /// Steps after which it is no reason not to try again.
    fn patience(&self) -> u64 {
        let doublings = (self.seen - 1).min((FORGOTTEN_AFTER_STEPS / RETRIED_AFTER_STEPS).ilog2());
        RETRIED_AFTER_STEPS << doublings
    }

    fn without_depth(&self, slope: f64) -> f64 {
        (self.seconds - slope * self.attended).max(self.seconds * NOT_DEPTH_MIN)
    }
}

impl DepthCost {
    fn learn(&mut self, usual: &mut Usual, attended: f64, seconds: f64) {
        let (deeper, longer) = (attended - usual.attended, seconds - usual.seconds);
        usual.steps = (usual.steps + 1.0).min(DEPTH_STEPS);
        usual.attended += deeper / usual.steps;
        usual.seconds += longer / usual.steps;
        if usual.seconds > 0.0 {
            let (deeper, longer) = (deeper / usual.seconds, longer / usual.seconds);
            self.covariance += deeper * longer - self.covariance / DEPTH_STEPS;
            self.variance += deeper * deeper - self.variance / DEPTH_STEPS;
        }
    }

    /// Seconds a position. `row_seconds`: what a step of the fewest rows takes.
    fn slope(&self, row_seconds: f64) -> f64 {
        let doubt = (DEPTH_POSITIONS / row_seconds.max(1e-9)).powi(2);
        (self.covariance / (self.variance + doubt)).max(0.0)
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

    /// At hardly any depth.
    fn shallow(rows: usize) -> Load {
        Load { rows, attended: 0 }
    }

    fn record(times: &mut StepTimes, rows: usize, seconds: f64) {
        times.record(shallow(rows), seconds);
    }

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
        assert_eq!(times.seconds(shallow(1), Trust::Old), None);
        record(&mut times, 1, 0.05);
        record(&mut times, 4, 0.08);
        record(&mut times, 16, 0.20);
        let seconds = |rows| (times.seconds(shallow(rows), Trust::Recent).unwrap() * 1e4).round() / 1e4;
        assert_eq!([seconds(1), seconds(3), seconds(4), seconds(10), seconds(16)], [0.05, 0.07, 0.08, 0.14, 0.20]);
        assert_eq!(seconds(32), 0.36, "16 rows are taken for 4 times the first, 32 for 7.2 times");
        let mut large = StepTimes::default();
        record(&mut large, 11, 3.0);
        assert!((large.seconds(shallow(1), Trust::Old).unwrap() - 1.0).abs() < 1e-9);
    }

    #[test]
    fn as_many_rows_as_the_time_allows() {
        let mut times = StepTimes::default();
        let within = |times: &StepTimes, seconds, streams, rows_max| times.rows_within(seconds, shallow(streams), 0, rows_max);
        assert_eq!(within(&times, 1.0, 0, 512), 512, "nothing is known");
        record(&mut times, 1, 0.05);
        assert_eq!(within(&times, 0.05 * 2.5, 0, 512), 8, "1 + 0.2 * 7 = 2.4 times");
        record(&mut times, 8, 0.06);
        record(&mut times, 64, 0.48);
        assert_eq!(within(&times, 0.1201, 0, 512), 16);
        assert_eq!(within(&times, 0.01, 2, 512), 3, "no fewer than are there anyway");
        assert_eq!(within(&times, 9.0, 2, 100), 100);
    }

    #[test]
    fn old_measurements_are_known_as_such() {
        let mut times = StepTimes::default();
        assert!(times.is_stale(1));
        record(&mut times, 1, 0.05);
        for _ in 0..RECENT_STEPS {
            assert!(!times.is_stale(1));
            record(&mut times, 2, 0.12);
        }
        record(&mut times, 2, 0.12);
        assert!(times.is_stale(1) && !times.is_stale(2));
    }

    #[test]
    fn a_hiccup_is_not_believed_at_once_and_old_news_not_for_ever() {
        let mut times = StepTimes::default();
        record(&mut times, 1, 0.05);
        record(&mut times, 8, 0.08);
        record(&mut times, 8, 3.0);
        let seconds = |times: &StepTimes, rows, trust| times.seconds(shallow(rows), trust).unwrap();
        assert!(seconds(&times, 8, Trust::Old) < 0.1);
        record(&mut times, 16, 9.0);
        for _ in 0..=FORGOTTEN_AFTER_STEPS {
            record(&mut times, 2, 0.06);
        }
        assert!(seconds(&times, 16, Trust::Old) > 8.0);
        assert!((seconds(&times, 16, Trust::Recent) - 0.06 * 4.0 / 1.2).abs() < 1e-9);
        assert_eq!(seconds(&times, 1, Trust::Recent), 0.05, "the fewest rows are remembered");
    }

    #[test]
    fn a_load_that_was_slow_once_is_tried_again_soon_and_then_ever_more_rarely() {
        const LIMIT: f64 = 0.094;
        let within = |times: &StepTimes| times.rows_within(LIMIT, shallow(1), 0, 512);
        let mut times = StepTimes::default();
        record(&mut times, 1, 0.038);
        record(&mut times, 3, 0.065);
        // Something else had the machine.
        record(&mut times, 5, 0.125);
        for _ in 0..RETRIED_AFTER_STEPS {
            assert_eq!(within(&times), 3, "four rows are between 65 and 125 ms");
            record(&mut times, 3, 0.065);
        }
        record(&mut times, 3, 0.065);
        let retried = within(&times);
        assert!(retried >= 5, "{retried}");
        record(&mut times, 5, 0.08);
        assert!(within(&times) >= 5, "it was a hiccup");
        // And this is none.
        let mut tries = Vec::new();
        for step in 0..4 * FORGOTTEN_AFTER_STEPS {
            let rows = within(&times);
            if rows > 5 {
                tries.push(step);
            }
            record(&mut times, rows, if rows > 5 { 0.2 } else { 0.08 });
        }
        assert!((6..=20).contains(&tries.len()), "{tries:?}");
        let last = tries.windows(2).last().map(|pair| pair[1] - pair[0]);
        assert!(last >= Some(FORGOTTEN_AFTER_STEPS / 4), "{tries:?}");
    }

    #[test]
    fn more_rows_may_be_faster_than_fewer() {
        let mut times = StepTimes::default();
        for (rows, seconds) in [(1, 0.038), (4, 0.068), (6, 0.097), (8, 0.092), (10, 0.133)] {
            record(&mut times, rows, seconds);
            record(&mut times, rows, seconds);
        }
        assert_eq!(times.rows_within(0.094, shallow(1), 0, 512), 8);
        assert_eq!(times.rows_within(0.094, shallow(1), 0, 7), 5, "between 68 and 97 ms");
    }

    /// A machine whose step takes 45 ms, a row 15 ms and a position that a row looks at 2 us: at a depth of 7,500 a row costs twice what it
    /// does at the beginning.
    fn truth(load: Load) -> f64 {
        0.045 + 0.015 * load.rows as f64 + 2e-6 * load.attended as f64
    }

    /// Learns from a prompt of `tokens`, in steps of `rows`, on a machine whose steps vary by a tenth.
    fn learn_prompt(times: &mut StepTimes, tokens: usize, rows: usize, noise: &mut u64) {
        for start in (0..tokens).step_by(rows) {
            *noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let varies = 0.95 + (*noise >> 40) as f64 / (1u64 << 24) as f64 * 0.1;
            times.record(Load::of(start, rows), truth(Load::of(start, rows)) * varies);
        }
    }

    #[test]
    fn the_cost_of_depth_is_learned_in_one_prompt_and_holds_for_another() {
        for (tokens, rows) in [(8192, 512), (4096, 8)] {
            for seed in 0..20 {
                let (mut times, mut noise) = (StepTimes::default(), seed);
                // Some tokens alone first, at hardly any depth.
                learn_prompt(&mut times, 128, 1, &mut noise);
                let (deep, shallow) = (Load::of(8000, rows), Load::of(0, rows));
                learn_prompt(&mut times, tokens, rows, &mut noise);
                for load in [deep, shallow, Load::of(100, 1), Load::of(8000, 1)] {
                    let (predicted, truth) = (times.seconds(load, Trust::Old).unwrap(), truth(load));
                    assert!(
                        (predicted / truth - 1.0).abs() < 0.3,
                        "{load:?} after steps of {rows}: {predicted} instead of {truth}, seed {seed}"
                    );
                }
            }
        }
    }

    #[test]
    fn noise_is_not_taken_for_depth() {
        for seed in 0..20 {
            let (mut times, mut noise) = (StepTimes::default(), seed);
            learn_prompt(&mut times, 200, 1, &mut noise);
            let deep = times.seconds(Load::of(4000, 6), Trust::Old).unwrap();
            assert!(deep < 2.0 * times.seconds(Load::of(0, 6), Trust::Old).unwrap(), "{deep}, seed {seed}");
        }
    }
}
