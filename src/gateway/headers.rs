//! What the pure parts want of headers: the first value of a name. Whoever holds them says how they are found.

pub trait Headers {
    /// `name` is in lower case.
    fn value(&self, name: &str) -> Option<&[u8]>;

    /// Without the blanks around it; `None` also where it is no text.
    fn text(&self, name: &str) -> Option<&str> {
        self.value(name).and_then(|value| std::str::from_utf8(value).ok()).map(str::trim)
    }
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> Headers for [(N, V)] {
    fn value(&self, name: &str) -> Option<&[u8]> {
        self.iter().find(|(own, _)| own.as_ref().eq_ignore_ascii_case(name.as_bytes())).map(|(_, value)| value.as_ref())
    }
}
