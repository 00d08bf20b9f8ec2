//! What the journal says of a span of time: each upstream's measured availability, its outages, and what was saved. Pure: lines in, a
//! report out.

use std::fmt;

use serde::Serialize;

use super::journal::line::{Counts, Event, Evidence, Line};

/// What an upstream is held against.
pub const AVAILABILITY_BAR: f64 = 0.999;

/// From, and until: milliseconds of the Unix clock.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Window {
    pub from_unix_ms: u64,
    pub until_unix_ms: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub window: Window,
    /// In the order in which the journal names them.
    pub upstreams: Vec<UpstreamReport>,
    /// Between two replies: from the fault to the first word of who answers instead.
    pub switch_ms: Option<Quantiles>,
    /// Within a reply: from the fault to the next word.
    pub takeover_ms: Option<Quantiles>,
    pub probes: u64,
    /// Lines that are no lines of a journal, a torn last one among them.
    pub unread_lines: u64,
    /// Lines that the journal says it could not write.
    pub dropped_lines: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct UpstreamReport {
    pub upstream: String,
    #[serde(flatten)]
    pub counts: Counts,
    /// Of 1; `None`: nobody asked.
    pub availability: Option<f64>,
    pub outages: Vec<Outage>,
    /// Within the window.
    pub outage_ms: u64,
    /// The mean length of outages that ended.
    pub mean_time_to_recovery_ms: Option<u64>,
    pub switches: u64,
    /// Replies that somebody else brought to their end.
    pub mid_stream_saves: u64,
    /// Replies that broke off, and nobody could go on.
    pub mid_stream_losses: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Outage {
    pub begin_unix_ms: u64,
    pub end: OutageEnd,
    pub reason: String,
    #[serde(flatten)]
    pub evidence: Evidence,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum OutageEnd {
    At {
        unix_ms: u64,
    },
    /// The server stopped before; it was still so at this time.
    Unknown {
        last_seen_unix_ms: u64,
    },
    /// It goes on.
    Open,
}

/// Nearest rank.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Quantiles {
    pub count: usize,
    pub p50: u64,
    pub p95: u64,
}

impl Report {
    /// The lines in the order in which they were written. An outage that began before the window counts from the window's beginning.
    pub fn of<'a>(lines: impl Iterator<Item = &'a str>, window: Window) -> Self {
        let mut upstreams: Vec<UpstreamReport> = Vec::new();
        let (mut switches, mut takeovers) = (Vec::new(), Vec::new());
        let (mut probes, mut unread_lines, mut dropped_lines, mut last_at) = (0, 0, 0, 0);
        for text in lines.filter(|text| !text.trim().is_empty()) {
            let Ok(line) = serde_json::from_str::<Line>(text) else {
                unread_lines += 1;
                continue;
            };
            let at = line.at_unix_ms;
            let inside = (window.from_unix_ms..window.until_unix_ms).contains(&at);
            match line.event {
                // Whether it ended while nobody watched is not known.
                Event::Started { .. } => {
                    upstreams.iter_mut().for_each(|upstream| upstream.close(OutageEnd::Unknown { last_seen_unix_ms: last_at }))
                }
                Event::OutageBegin { upstream, reason, evidence } if at < window.until_unix_ms => {
                    let upstream = named(&mut upstreams, &upstream);
                    if upstream.outages.last().is_none_or(|outage| outage.end != OutageEnd::Open) {
                        upstream.outages.push(Outage { begin_unix_ms: at, end: OutageEnd::Open, reason, evidence });
                    }
                }
                Event::OutageEnd { upstream } if at < window.until_unix_ms => {
                    named(&mut upstreams, &upstream).close(OutageEnd::At { unix_ms: at });
                }
                _ if !inside => {}
                Event::Minute { upstream, counts } => named(&mut upstreams, &upstream).counts.add(counts),
                Event::Switch { from, after_ms, .. } => {
                    named(&mut upstreams, &from).switches += 1;
                    switches.extend(after_ms);
                }
                Event::Takeover { upstream, saved, after_ms, .. } => {
                    let upstream = named(&mut upstreams, &upstream);
                    *(if saved { &mut upstream.mid_stream_saves } else { &mut upstream.mid_stream_losses }) += 1;
                    takeovers.extend(after_ms);
                }
                Event::Probe { .. } => probes += 1,
                Event::Dropped { lines } => dropped_lines += lines,
                Event::Return { .. } | Event::OutageBegin { .. } | Event::OutageEnd { .. } => {}
            }
            last_at = at;
        }
        upstreams.iter_mut().for_each(|upstream| upstream.sum(window));
        upstreams.retain(|upstream| *upstream != UpstreamReport::new(&upstream.upstream));
        let (switch_ms, takeover_ms) = (quantiles(switches), quantiles(takeovers));
        Self { window, upstreams, switch_ms, takeover_ms, probes, unread_lines, dropped_lines }
    }
}

fn named<'a>(upstreams: &'a mut Vec<UpstreamReport>, name: &str) -> &'a mut UpstreamReport {
    let index = upstreams.iter().position(|upstream| upstream.upstream == name).unwrap_or_else(|| {
        upstreams.push(UpstreamReport::new(name));
        upstreams.len() - 1
    });
    &mut upstreams[index]
}

impl UpstreamReport {
    fn new(name: &str) -> Self {
        Self {
            upstream: name.to_owned(),
            counts: Counts::default(),
            availability: None,
            outages: Vec::new(),
            outage_ms: 0,
            mean_time_to_recovery_ms: None,
            switches: 0,
            mid_stream_saves: 0,
            mid_stream_losses: 0,
        }
    }

    /// Ends the outage that is open, if one is.
    fn close(&mut self, end: OutageEnd) {
        if let Some(outage) = self.outages.last_mut().filter(|outage| outage.end == OutageEnd::Open) {
            outage.end = end;
        }
    }

    /// Drops what ended before the window, and makes the sums.
    fn sum(&mut self, window: Window) {
        self.outages.retain(|outage| outage.until(window) > window.from_unix_ms);
        self.outage_ms = self.outages.iter().map(|outage| outage.length_within(window)).sum();
        let recovered: Vec<u64> = self.outages.iter().filter_map(Outage::recovered_after_ms).collect();
        self.mean_time_to_recovery_ms = (!recovered.is_empty()).then(|| recovered.iter().sum::<u64>() / recovered.len() as u64);
        self.availability = self.counts.availability();
    }
}

impl Outage {
    fn until(&self, window: Window) -> u64 {
        match self.end {
            OutageEnd::At { unix_ms } => unix_ms,
            OutageEnd::Unknown { last_seen_unix_ms } => last_seen_unix_ms,
            OutageEnd::Open => window.until_unix_ms,
        }
    }

    fn length_within(&self, window: Window) -> u64 {
        self.until(window).min(window.until_unix_ms).saturating_sub(self.begin_unix_ms.max(window.from_unix_ms))
    }

    fn recovered_after_ms(&self) -> Option<u64> {
        match self.end {
            OutageEnd::At { unix_ms } => Some(unix_ms.saturating_sub(self.begin_unix_ms)),
            OutageEnd::Unknown { .. } | OutageEnd::Open => None,
        }
    }
}

fn quantiles(mut values: Vec<u64>) -> Option<Quantiles> {
    values.sort_unstable();
    let rank = |percent: usize| (values.len() * percent).div_ceil(100).max(1) - 1;
    let last = values.len().checked_sub(1)?;
    Some(Quantiles { count: values.len(), p50: values[rank(50).min(last)], p95: values[rank(95).min(last)] })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} to {} (UTC)", Utc(self.window.from_unix_ms), Utc(self.window.until_unix_ms))?;
        if self.upstreams.is_empty() {
            writeln!(f, "nothing was noted of any upstream")?;
        }
        for upstream in &self.upstreams {
            writeln!(f, "\n{upstream}")?;
        }
        let times = [("switch, to the first word", self.switch_ms), ("takeover, to the next word", self.takeover_ms)];
        if times.iter().any(|(_, quantiles)| quantiles.is_some()) {
            writeln!(f)?;
        }
        for (what, quantiles) in times {
            if let Some(Quantiles { count, p50, p95 }) = quantiles {
                writeln!(f, "{what:<27} p50 {p50} ms, p95 {p95} ms, of {count}")?;
            }
        }
        if self.unread_lines > 0 {
            writeln!(f, "{} lines of the journal could not be read", self.unread_lines)?;
        }
        if self.dropped_lines > 0 {
            writeln!(f, "{} lines could not be written at their time", self.dropped_lines)?;
        }
        Ok(())
    }
}

impl fmt::Display for UpstreamReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Counts { good, bad, clients, saved } = self.counts;
        write!(f, "{:<12} ", self.upstream)?;
        match self.availability {
            Some(availability) => {
                let verdict = if availability >= AVAILABILITY_BAR { "at or above" } else { "below" };
                // Cut, not rounded: 99.9996 % is not all of it.
                let percent = (availability * 100_000.0).floor() / 1_000.0;
                write!(f, "{percent:.3} % of {} requests, {verdict} {} %", good + bad, AVAILABILITY_BAR * 100.0)?;
            }
            None => write!(f, "no requests")?,
        }
        let sums = [
            (bad, "failed"),
            (clients, "by their clients' own doing"),
            (saved, "turns saved"),
            (self.mid_stream_saves, "saved in mid-sentence"),
            (self.mid_stream_losses, "lost in mid-sentence"),
        ];
        for (count, what) in sums.into_iter().filter(|(count, _)| *count > 0) {
            write!(f, "; {count} {what}")?;
        }
        if !self.outages.is_empty() {
            let plural = if self.outages.len() == 1 { "" } else { "s" };
            write!(f, "\n  {} outage{plural}, {} together", self.outages.len(), Length(self.outage_ms))?;
        }
        if let Some(mean) = self.mean_time_to_recovery_ms {
            write!(f, "; recovered after {} on average", Length(mean))?;
        }
        self.outages.iter().try_for_each(|outage| write!(f, "\n  {outage}"))
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} to ", Utc(self.begin_unix_ms))?;
        match self.end {
            OutageEnd::At { unix_ms } => {
                write!(f, "{} ({})", Utc(unix_ms), Length(unix_ms.saturating_sub(self.begin_unix_ms)))?;
            }
            OutageEnd::Unknown { last_seen_unix_ms } => write!(f, "{} or later", Utc(last_seen_unix_ms))?,
            OutageEnd::Open => f.write_str("now")?,
        }
        write!(f, "  {}", self.reason.replace('_', " "))?;
        if let Some(status) = self.evidence.status {
            write!(f, ", status {status}")?;
        }
        match &self.evidence.request_id {
            Some(id) => write!(f, ", request {id}"),
            None => Ok(()),
        }
    }
}

/// `2026-11-23 09:05:07`. Days to date after Howard Hinnant's "chrono-compatible low-level date algorithms" (civil_from_days).
struct Utc(u64);

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0 / 1000;
        let days = seconds / 86_400 + 719_468;
        let (era, day_of_era) = (days / 146_097, days % 146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + u64::from(month <= 2);
        let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "{year:04}-{month:02}-{day:02} {hour:02}:{minute:02}:{second:02}")
    }
}

/// A length of time, coarse.
struct Length(u64);

impl fmt::Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms @ ..10_000 => write!(f, "{}.{} s", ms / 1000, ms % 1000 / 100),
            ms @ ..120_000 => write!(f, "{} s", ms / 1000),
            ms @ ..7_200_000 => write!(f, "{} min", ms / 60_000),
            ms => write!(f, "{} h {} min", ms / 3_600_000, ms / 60_000 % 60),
        }
    }
}

/// A length of time as it is typed: `90s`, `15m`, `24h`, `30d`.
pub fn length_ms(text: &str) -> Option<u64> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let unit_ms = match unit {
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    digits.parse::<u64>().ok()?.checked_mul(unit_ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        assert_eq!(Utc(1_795_770_305_999).to_string(), "2026-11-27 09:05:05");
        assert_eq!((Utc(0).to_string(), Utc(951_782_400_000).to_string()), ("1970-01-01 00:00:00".into(), "2000-02-29 00:00:00".into()));
        let shown = |ms| Length(ms).to_string();
        assert_eq!([shown(950), shown(61_000), shown(600_000), shown(9_900_000)], ["0.9 s", "61 s", "10 min", "2 h 45 min"]);
        assert_eq!([length_ms("24h"), length_ms("30d"), length_ms("90s")], [Some(86_400_000), Some(2_592_000_000), Some(90_000)]);
        for wrong in ["", "h", "24", "-1h", "1.5h", "99999999999999999d", "24ü"] {
            assert_eq!(length_ms(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn nearest_ranks() {
        assert_eq!(quantiles(Vec::new()), None);
        assert_eq!(quantiles(vec![7]), Some(Quantiles { count: 1, p50: 7, p95: 7 }));
        assert_eq!(quantiles((1..=100).rev().collect()), Some(Quantiles { count: 100, p50: 50, p95: 95 }));
        assert_eq!(quantiles(vec![1, 2]), Some(Quantiles { count: 2, p50: 1, p95: 2 }));
    }
}
