//! JSON Schema's string formats (2020-12, section 7.3 of the validation vocabulary) as regular expressions, where the grammar library's
//! own let through what a validator refuses: a 60th second at any hour, a 29th of February every year, hyphens where RFC 5891 keeps them
//! for other alphabets. Each is bounded in length, so that a weak model comes to an end.

/// Formats that a grammar can hold. Others are annotations, as JSON Schema has it by default.
pub const FORMATS: [&str; 10] = ["date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"];

macro_rules! time {
    // RFC 3339, section 5.6. A leap second is left out: at which hours it is one depends on the offset.
    () => {
        r"([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
    };
}

macro_rules! date {
    () => {
        concat!(
            r"([0-9]{4}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|1[0-9]|2[0-8]))",
            // Leap years: divisible by four, and full centuries by four hundred.
            r"|([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)-02-29)",
        )
    };
}

macro_rules! duration_time {
    () => {
        "T([0-9]{1,9}H([0-9]{1,9}M([0-9]{1,9}S)?)?|[0-9]{1,9}M([0-9]{1,9}S)?|[0-9]{1,9}S)"
    };
}

macro_rules! host {
    // RFC 1123: labels of at most 63 characters, 253 in all.
    () => {
        r"[A-Za-z0-9](-?[A-Za-z0-9]){0,30}(\.[A-Za-z0-9](-?[A-Za-z0-9]){0,30}){0,3}"
    };
}

/// Narrower than what the grammar library has under the same name. `None`: the library's is a validator's.
pub fn narrower(format: &str) -> Option<&'static str> {
    Some(match format {
        "date-time" => concat!("^", date!(), "[Tt]", time!(), "$"),
        "time" => concat!("^", time!(), "$"),
        "date" => concat!("^", date!(), "$"),
        // RFC 3339, appendix A.
        "duration" => concat!(
            "^P(([0-9]{1,9}Y([0-9]{1,9}M([0-9]{1,9}D)?)?|[0-9]{1,9}M([0-9]{1,9}D)?|[0-9]{1,9}D)(",
            duration_time!(),
            ")?|",
            duration_time!(),
            "|[0-9]{1,9}W)$"
        ),
        // RFC 5321, section 4.1.2, without quoted names and literal addresses.
        "email" => concat!(r"^[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}(\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]{1,20}){0,2}@", host!(), "$"),
        "hostname" => concat!("^", host!(), "$"),
        _ => return None,
    })
}
