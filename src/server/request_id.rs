//! Names for requests and replies. A client's own id is kept when it is harmless to print.

use std::hash::{BuildHasher, RandomState};

/// Carried by every request from the edge inwards, and by every reply as `x-request-id`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestId(pub String);

impl RequestId {
    pub fn of(own: Option<&str>) -> Self {
        let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.:".contains(&byte);
        match own {
            Some(id) if (1..=128).contains(&id.len()) && id.bytes().all(harmless) => Self(id.to_owned()),
            _ => Self(format!("req_{}", random_name())),
        }
    }
}

/// 32 hexadecimal digits.
pub fn random_name() -> String {
    format!("{:016x}{:016x}", random(), random())
}

/// A number nobody can foresee: the standard library keys its hash maps from the system's randomness.
pub fn random() -> u64 {
    RandomState::new().hash_one(0u8)
}
