//! What chat templates written for Python's jinja2 lean on besides values: `strftime` and the `{% generation %}` tag.

/// `datetime.now().strftime(format)` for a time in UTC. Directives it does not know stay as they are.
pub fn strftime(format: &str, unix_s: i64) -> String {
    const MONTHS: [&str; 12] =
        ["January", "February", "March", "April", "May", "June", "July", "August", "September", "October", "November", "December"];
    const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];
    let date = Date::from_unix(unix_s);
    let (month, weekday) = (MONTHS[date.month - 1], DAYS[date.weekday]);
    let hour_12 = if date.hour.is_multiple_of(12) { 12 } else { date.hour % 12 };
    let mut out = String::new();
    let mut rest = format.chars().peekable();
    while let Some(character) = rest.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        // `%-d`: without padding (glibc).
        let unpadded = rest.next_if_eq(&'-').is_some();
        let two = |number: usize| if unpadded { number.to_string() } else { format!("{number:02}") };
        match rest.next() {
            Some('Y') => out.push_str(&date.year.to_string()),
            Some('y') => out.push_str(&two(date.year.rem_euclid(100) as usize)),
            Some('m') => out.push_str(&two(date.month)),
            Some('d') => out.push_str(&two(date.day)),
            Some('e') => out.push_str(&format!("{:>2}", date.day)),
            Some('B') => out.push_str(month),
            Some('b' | 'h') => out.push_str(&month[..3]),
            Some('A') => out.push_str(DAYS[date.weekday]),
            Some('a') => out.push_str(&weekday[..3]),
            Some('j') => out.push_str(&if unpadded { date.day_of_year.to_string() } else { format!("{:03}", date.day_of_year) }),
            Some('u') => out.push_str(&(if date.weekday == 0 { 7 } else { date.weekday }).to_string()),
            Some('w') => out.push_str(&date.weekday.to_string()),
            Some('H') => out.push_str(&two(date.hour)),
            Some('I') => out.push_str(&two(hour_12)),
            Some('M') => out.push_str(&two(date.minute)),
            Some('S') => out.push_str(&two(date.second)),
            Some('p') => out.push_str(if date.hour < 12 { "AM" } else { "PM" }),
            Some('F') => out.push_str(&format!("{}-{:02}-{:02}", date.year, date.month, date.day)),
            Some('T') => out.push_str(&format!("{:02}:{:02}:{:02}", date.hour, date.minute, date.second)),
            Some('Z') => out.push_str("UTC"),
            Some('%') => out.push('%'),
            Some(other) => {
                out.push('%');
                if unpadded {
                    out.push('-');
                }
                out.push(other);
            }
            None => out.push('%'),
        }
    }
    out
}

struct Date {
    year: i64,
    month: usize,
    day: usize,
    /// 0 is Sunday.
    weekday: usize,
    day_of_year: usize,
    hour: usize,
    minute: usize,
    second: usize,
}

impl Date {
    /// Days to a date of the proleptic Gregorian calendar: years are counted from March, so that the leap day comes last, in
    /// eras of 400 years (146,097 days).
    fn from_unix(unix_s: i64) -> Self {
        let (days, seconds) = (unix_s.div_euclid(86_400), unix_s.rem_euclid(86_400) as usize);
        let from_march_of_0 = days + 719_468;
        let (era, day_of_era) = (from_march_of_0.div_euclid(146_097), from_march_of_0.rem_euclid(146_097));
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_from_march = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_from_march + 2) / 153;
        let day = (day_from_march - (153 * month_from_march + 2) / 5 + 1) as usize;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as usize;
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
        let days_before = [0, 31, 59, 90, 120, 151, 181, 212, 243, 273, 304, 334][month - 1];
        Self {
            year,
            month,
            day,
            weekday: (days + 4).rem_euclid(7) as usize,
            day_of_year: days_before + day + usize::from(leap && month > 2),
            hour: seconds / 3_600,
            minute: seconds / 60 % 60,
            second: seconds % 60,
        }
    }
}

/// Takes out `{% generation %}` and `{% endgeneration %}`: transformers uses them to mark the assistant's tokens in training; in
/// rendering they stand for nothing, but their whitespace control counts.
pub fn without_generation_tags(template: &str) -> String {
    let mut out = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}").map(|end| end + 2) else { break };
        let tag = &rest[start..start + length];
        let inner = tag[2..tag.len() - 2].trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        out.push_str(&rest[..start]);
        if inner == "generation" || inner == "endgeneration" {
            // An `if` that is always true keeps exactly the tag's whitespace behaviour.
            let replaced = if inner == "generation" { tag.replacen(inner, "if true", 1) } else { tag.replacen(inner, "endif", 1) };
            out.push_str(&replaced);
        } else {
            out.push_str(tag);
        }
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates() {
        // 2026-03-02 10:49:05 UTC, a Monday.
        let at = 1_772_448_545;
        assert_eq!(strftime("%d %b %Y", at), "02 Mar 2026");
        assert_eq!(strftime("%A, %B %-d, %Y %H:%M:%S %p %I %j %y %%", at), "Monday, March 2, 2026 10:49:05 AM 10 061 26 %");
        assert_eq!(strftime("%F %T", 951_782_400), "2000-02-29 00:00:00");
        assert_eq!(strftime("%F", 951_868_800), "2000-03-01");
        assert_eq!(strftime("%F %a", -1), "1969-12-31 Wed");
        assert_eq!(strftime("%F %j", 1_735_603_200), "2024-12-31 366");
    }

    #[test]
    fn generation_tags_go() {
        assert_eq!(
            without_generation_tags("a{%- generation -%} b {% endgeneration %}{% if x %}"),
            "a{%- if true -%} b {% endif %}{% if x %}"
        );
        assert_eq!(without_generation_tags("{% broken"), "{% broken");
    }
}
