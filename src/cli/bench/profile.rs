//! The op profile of `understudy bench`: where the time of a step goes, and how far each op is from what the machine could do.
//! Pure: recorded steps and measured limits in, lines out.

use kernels::profile::{Cost, Limits, Steps};
use serde::Serialize;

/// One kind of step, op by op.
#[derive(Debug, Clone, Serialize)]
pub struct StepProfile {
    /// `prefill, 512 tokens`, `decode, 8 streams`.
    pub what: String,
    /// Tokens of context before the step.
    pub depth: usize,
    /// Rows of a step.
    pub rows: usize,
    /// Steps it is the mean of.
    pub steps: u64,
    /// Of a whole step, from schedule to send.
    pub step_ms: f64,
    /// Of all its ops together; the rest nobody timed.
    pub ops_ms: f64,
    /// The shortest time this machine could need for the ops; their operations that nobody counts are taken to cost nothing.
    pub roof_ms: f64,
    /// What a step cannot do without: weights, keys and values, and arithmetic.
    pub bytes: u64,
    pub int8_operations: u64,
    pub float_operations: u64,
    /// The slowest first.
    pub ops: Vec<OpProfile>,
}

/// One op in a step, all its calls together.
#[derive(Debug, Clone, Serialize)]
pub struct OpProfile {
    pub op: String,
    /// Type and shape of the weights, where there are any.
    pub detail: String,
    pub calls: f64,
    pub ms: f64,
    /// Of the step's time, 0 to 1.
    pub share: f64,
    /// Weights, keys and values, in 1e9 bytes a second.
    pub gb_per_s: f64,
    /// Additions and multiplications, in 1e9 a second.
    pub gop_per_s: f64,
    /// The roofline's time over the measured one, 0 to 1; `None` where neither bytes nor operations are counted. More than 1 where
    /// the bytes come from a cache.
    pub of_roof: Option<f64>,
}

impl StepProfile {
    /// `steps` must hold at least one step.
    pub fn new(what: String, depth: usize, rows: usize, steps: &Steps, limits: &Limits) -> Self {
        assert!(steps.steps > 0, "a profile of no step");
        let per_step = |seconds: f64| seconds * 1e3 / steps.steps as f64;
        let mut ops: Vec<OpProfile> = steps
            .ops
            .iter()
            .map(|(key, totals)| {
                let roof = totals.cost.seconds_at_least(limits);
                OpProfile {
                    op: key.op.to_string(),
                    detail: key.detail.clone(),
                    calls: totals.calls as f64 / steps.steps as f64,
                    ms: per_step(totals.seconds),
                    share: totals.seconds / steps.seconds,
                    gb_per_s: totals.cost.bytes as f64 / totals.seconds / 1e9,
                    gop_per_s: totals.cost.operations() as f64 / totals.seconds / 1e9,
                    of_roof: (totals.cost != Cost::default()).then_some(roof / totals.seconds),
                }
            })
            .collect();
        ops.sort_by(|a, b| b.ms.total_cmp(&a.ms));
        let mut cost = Cost::default();
        steps.ops.values().for_each(|totals| cost += totals.cost);
        let roof: f64 = steps.ops.values().map(|totals| totals.cost.seconds_at_least(limits)).sum();
        Self {
            what,
            depth,
            rows,
            steps: steps.steps,
            step_ms: per_step(steps.seconds),
            ops_ms: per_step(steps.seconds_in_ops()),
            roof_ms: per_step(roof),
            bytes: cost.bytes / steps.steps,
            int8_operations: cost.int8_operations / steps.steps,
            float_operations: cost.float_operations / steps.steps,
            ops,
        }
    }

    /// A heading, a line an op, what no op accounts for, and the sum.
    pub fn table(&self) -> String {
        let Self { what, depth, rows, steps, step_ms, ops_ms, roof_ms, ops, .. } = self;
        let mut lines = vec![format!("{what}, at depth {depth}: mean of {steps} steps of {rows} rows")];
        let head = ["ms", "share", "calls", "GB/s", "Gop/s", "of roof"];
        lines.push(format!("  {:<44}{:>9}{:>9}{:>7}{:>8}{:>8}{:>9}", "op", head[0], head[1], head[2], head[3], head[4], head[5]));
        for op in ops {
            let name = format!("{:<16}{}", op.op, op.detail);
            let (gb, gop) = (rate(op.gb_per_s), rate(op.gop_per_s));
            let of_roof = op.of_roof.map_or_else(|| "-".to_owned(), percent);
            let (share, calls) = (percent(op.share), op.calls);
            lines.push(format!("  {name:<44}{:>9.3}{share:>9}{calls:>7.0}{gb:>8}{gop:>8}{of_roof:>9}", op.ms));
        }
        let rest = step_ms - ops_ms;
        lines.push(format!("  {:<44}{rest:>9.3}{:>9}", "in no op", percent(rest / step_ms)));
        let of_roof = percent(roof_ms / step_ms);
        lines.push(format!("  {:<44}{step_ms:>9.3}{:>9}{:>32}", "the step (ops and the rest)", percent(1.0), of_roof));
        lines.join("\n")
    }
}

fn percent(share: f64) -> String {
    format!("{:.1} %", share * 100.0)
}

/// A rate, or nothing where nothing was counted.
fn rate(per_second: f64) -> String {
    match per_second {
        0.0 => "-".to_owned(),
        some if some < 100.0 => format!("{some:.1}"),
        many => format!("{many:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use kernels::profile::{Key, Op, Totals};

    use super::*;

    fn profile() -> StepProfile {
        let totals =
            |calls, seconds, bytes, int8_operations| Totals { calls, seconds, cost: Cost { bytes, int8_operations, float_operations: 0 } };
        let steps = Steps {
            steps: 2,
            seconds: 0.2,
            ops: [
                (Key::of(Op::Sampling), totals(2, 0.02, 0, 0)),
                (Key { op: Op::Linear, detail: "Q4_K 256 -> 512".to_owned() }, totals(8, 0.1, 500_000_000, 20_000_000_000)),
                (Key::of(Op::KvWrite), totals(4, 0.05, 2_000_000, 0)),
            ]
            .into(),
        };
        let limits = Limits { read_gb: 10.0, int8_gops: 1000.0, float_gops: 100.0 };
        StepProfile::new("decode, 1 stream".to_owned(), 0, 1, &steps, &limits)
    }

    #[test]
    fn the_ops_and_the_rest_are_the_step() {
        let profile = profile();
        let sum: f64 = profile.ops.iter().map(|op| op.ms).sum();
        assert!((sum - profile.ops_ms).abs() < 1e-9 && (sum - 85.0).abs() < 1e-9, "{sum}");
        assert_eq!((profile.bytes, profile.int8_operations), (251_000_000, 10_000_000_000));
        assert!((profile.step_ms - 100.0).abs() < 1e-9);
        let shares: f64 = profile.ops.iter().map(|op| op.share).sum();
        assert!((shares - 0.85).abs() < 1e-9);
        let names: Vec<&str> = profile.ops.iter().map(|op| op.op.as_str()).collect();
        assert_eq!(names, ["linear", "kv_write", "sampling"]);
        // 500 MB at 10 GB/s are 50 ms, 20 Gop at 1000 are 20: the roof of two steps, of which 100 ms were needed.
        assert!((profile.ops[0].of_roof.unwrap() - 0.5).abs() < 1e-9);
        assert!((profile.ops[0].gb_per_s - 5.0).abs() < 1e-9 && (profile.ops[0].gop_per_s - 200.0).abs() < 1e-9);
        assert_eq!(profile.ops[2].of_roof, None, "nobody knows what sampling must cost");
    }

    #[test]
    fn what_is_missing_is_a_line() {
        let table = profile().table();
        let lines: Vec<String> = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
        assert_eq!(lines[0], "decode, 1 stream, at depth 0: mean of 2 steps of 1 rows");
        assert_eq!(lines[2], "linear Q4_K 256 -> 512 50.000 50.0 % 4 5.0 200 50.0 %");
        assert_eq!(lines[4], "sampling 10.000 10.0 % 1 - - -");
        assert_eq!(lines[5], "in no op 15.000 15.0 %");
        assert_eq!(lines[6], "the step (ops and the rest) 100.000 100.0 % 25.1 %");
        assert_eq!(lines.len(), 7);
    }
}
