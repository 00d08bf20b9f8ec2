//! Text of an event, borrowed from it where it has no escapes.

use std::borrow::Cow;

use serde::Deserialize;

/// A newtype, because behind `Option` a bare `Cow` would be copied.
#[derive(Debug, Default, Deserialize)]
#[serde(transparent)]
pub struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl Text<'_> {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The text that may be there, or none.
pub fn str_of<'t>(text: &'t Option<Text<'_>>) -> &'t str {
    text.as_ref().map_or("", Text::as_str)
}
