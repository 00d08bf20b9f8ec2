//! Dates of HTTP headers (RFC 9110, section 5.6.7, in its three forms) and timestamps (RFC 3339) as seconds since 1970.

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT`, `Sun Nov  6 08:49:37 1994`. Before 1970 is 1970.
pub fn unix_seconds(text: &str) -> Option<u64> {
    let words: Vec<&str> = text.split([' ', '-', ',']).filter(|word| !word.is_empty()).collect();
    let (day, month, year, time) = match words[..] {
        [_, day, month, year, time, "GMT"] => (day, month, year, time),
        [_, month, day, time, year] => (day, month, year, time),
        _ => return None,
    };
    let month = MONTHS.iter().position(|name| *name == month)? as u64 + 1;
    let year = match (year.len(), digits(year)?) {
        (2, short @ 0..70) => 2000 + short,
        (2, short) => 1900 + short,
        (4, year) => year,
        _ => return None,
    };
    Some(days_since_1970(year, month, digits(day)?)? * 86_400 + seconds_of_day(time)?)
}

/// `2026-11-27T16:30:00Z`, with a fraction that is dropped, or with an offset.
pub fn unix_seconds_of_timestamp(text: &str) -> Option<u64> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let mut parts = date.split('-');
    let (year, month, day) = (digits(parts.next()?)?, digits(parts.next()?)?, digits(parts.next()?)?);
    let zone = time.find(['Z', 'z', '+', '-'])?;
    let clock = time[..zone].split('.').next()?;
    let seconds = days_since_1970(year, month, day)? * 86_400 + seconds_of_day(clock)?;
    let offset = |text: &str| {
        let (hours, minutes) = text.split_once(':')?;
        Some(digits(hours)?.min(23) * 3600 + digits(minutes)?.min(59) * 60)
    };
    match time.split_at(zone).1 {
        "Z" | "z" => Some(seconds),
        east if east.starts_with('+') => Some(seconds.saturating_sub(offset(&east[1..])?)),
        west => Some(seconds + offset(&west[1..])?),
    }
}

fn seconds_of_day(text: &str) -> Option<u64> {
    let mut parts = text.split(':').map(digits);
    let (hours, minutes, seconds) = (parts.next()??, parts.next()??, parts.next()??);
    // 60: the second that is inserted now and then.
    (parts.next().is_none() && hours < 24 && minutes < 60 && seconds <= 60).then_some(hours * 3600 + minutes * 60 + seconds)
}

/// At most four digits.
fn digits(text: &str) -> Option<u64> {
    let right = (1..=4).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
    text.parse().ok().filter(|_| right)
}

/// Counts in eras of 400 years that begin in March, so that the leap day is the last of its year.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year == 0 {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let (era, of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + day_of_year;
    // From 1 March of the year 0 to 1970: 719,468 days.
    Some(days.saturating_sub(719_468))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_forms_of_one_date() {
        for text in ["Sun, 06 Nov 1994 08:49:37 GMT", "Sunday, 06-Nov-94 08:49:37 GMT", "Sun Nov  6 08:49:37 1994"] {
            assert_eq!(unix_seconds(text), Some(784_111_777), "{text}");
        }
        assert_eq!(unix_seconds("Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(unix_seconds("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(unix_seconds("Mon, 01 Jan 1601 00:00:00 GMT"), Some(0));
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in ["", "soon", "Sun, 06 Foo 1994 08:49:37 GMT", "Sun, 06 Nov 1994 25:49:37 GMT", "Sun, 00 Nov 1994 08:49:37 GMT"] {
            assert_eq!(unix_seconds(text), None, "{text}");
        }
        assert_eq!(unix_seconds("Sun, 06 Nov 99999999999999999999 08:49:37 GMT"), None);
        assert_eq!(unix_seconds("Sun, 06 Nov 0000 08:49:37 GMT"), None);
    }

    #[test]
    fn timestamps() {
        for text in ["1994-11-06T08:49:37Z", "1994-11-06T08:49:37.123Z", "1994-11-06T09:49:37+01:00", "1994-11-06T00:19:37-08:30"] {
            assert_eq!(unix_seconds_of_timestamp(text), Some(784_111_777), "{text}");
        }
        for text in ["", "1994-11-06", "1994-11-06T08:49:37", "1994-13-06T08:49:37Z", "T", "1994-11-06T+", "1994-11-06T08:49:37+é"] {
            assert_eq!(unix_seconds_of_timestamp(text), None, "{text}");
        }
    }
}
