//! What a model takes, told from its name. Both providers have withdrawn parameters from newer models, which answer 400 to what the
//! older ones need; nothing in their APIs says which, so this follows their documentation (as of November 2026).

/// A generation: 4.6 is `(4, 6)`.
type Version = (u32, u32);

/// What a model behind Anthropic's API takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claude {
    /// `None`: another provider's model behind the same API; these imitate the API of Claude 4.
    version: Option<Version>,
}

impl Claude {
    /// A Claude whose version cannot be told is taken for the newest.
    pub fn named(model: &str) -> Self {
        let lower = model.to_ascii_lowercase();
        let version = lower.find("claude").map(|at| version_in(&lower[at..]).unwrap_or((u32::MAX, 0)));
        Self { version }
    }

    fn since(self, version: Version) -> bool {
        self.version.is_some_and(|own| own >= version)
    }

    fn until(self, version: Version) -> bool {
        self.version.is_none_or(|own| own < version)
    }

    /// A last message of the assistant's is gone on with.
    pub fn continues_messages(self) -> bool {
        self.until((4, 6))
    }

    /// The same, and nobody has to guess: a name alone says nothing of another provider's model.
    pub fn is_known_to_continue(self) -> bool {
        self.version.is_some() && self.continues_messages()
    }

    /// Temperature and its kin.
    pub fn samples(self) -> bool {
        self.until((4, 7))
    }

    /// `thinking` with a budget.
    pub fn thinks_by_budget(self) -> bool {
        self.until((4, 6)) && self.version.is_none_or(|own| own >= (3, 7))
    }

    /// `thinking` of type `adaptive`, and `output_config.effort`.
    pub fn thinks_adaptively(self) -> bool {
        self.since((4, 6))
    }

    /// Schemas for replies and strict tools.
    pub fn holds_schemas(self) -> bool {
        self.version.is_none_or(|own| own >= (4, 5))
    }

    /// The API demands a `max_tokens`; this is one that the model takes.
    pub fn tokens_max_default(self) -> usize {
        match self.version {
            Some(version) if version < (3, 5) => 4_096,
            Some(version) if version < (4, 0) => 8_192,
            None => 8_192,
            Some(_) => 32_000,
        }
    }
}

/// What a model behind OpenAI's API takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenAi {
    /// o1 and its successors, GPT-5 and later: no samplers, no stop strings, no log-probabilities.
    Reasoning,
    /// GPT-4 and the like.
    Chat,
    /// Another provider's model behind the same API.
    Other,
}

impl OpenAi {
    pub fn named(model: &str) -> Self {
        let lower = model.to_ascii_lowercase();
        // Behind a proxy: `openai/gpt-5`.
        let name = lower.rsplit('/').next().unwrap_or_default();
        if name.starts_with("gpt-oss") {
            return Self::Other;
        }
        let generation = name.strip_prefix("gpt-").and_then(version_in);
        let is_o = name.strip_prefix('o').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()));
        match generation {
            // `gpt-5-chat-latest` is one of the last that does not reason.
            Some(version) if version >= (5, 0) && !name.contains("-chat") => Self::Reasoning,
            _ if is_o || name.starts_with("codex-") => Self::Reasoning,
            _ if name.starts_with("gpt-") || name.starts_with("chatgpt-") => Self::Chat,
            _ => Self::Other,
        }
    }
}

/// The first number of at most two digits, and the one after it: dates and sizes are longer, `4o` is 4.
fn version_in(name: &str) -> Option<Version> {
    let short = |word: &str| {
        let digits = word.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        digits.parse::<u32>().ok().filter(|_| digits.len() <= 2)
    };
    let mut words = name.split(|c: char| !c.is_ascii_alphanumeric()).skip_while(|word| short(word).is_none());
    let major = words.next().and_then(short)?;
    Some((major, words.next().and_then(short).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_claude() {
        for (name, version) in [
            ("claude-2.1", Some((2, 1))),
            ("claude-3-opus-20240229", Some((3, 0))),
            ("claude-3-5-sonnet-20241022", Some((3, 5))),
            ("claude-opus-4-20250514", Some((4, 0))),
            ("us.anthropic.claude-opus-4-1-20250805-v1:0", Some((4, 1))),
            ("claude-haiku-4-5@20251001", Some((4, 5))),
            ("anthropic/claude-opus-4.6", Some((4, 6))),
            ("claude-opus-4-8", Some((4, 8))),
            ("claude-sonnet-5", Some((5, 0))),
            ("claude-of-tomorrow", Some((u32::MAX, 0))),
            ("glm-4.7", None),
        ] {
            assert_eq!(Claude::named(name).version, version, "{name}");
        }
    }

    #[test]
    fn what_newer_models_refuse() {
        let takes = |name: &str| {
            let claude = Claude::named(name);
            let (budget, adaptive) = (claude.thinks_by_budget(), claude.thinks_adaptively());
            [claude.continues_messages(), claude.samples(), budget, adaptive, claude.holds_schemas()]
        };
        assert_eq!(takes("claude-3-5-haiku-20241022"), [true, true, false, false, false]);
        assert_eq!(takes("claude-opus-4-1"), [true, true, true, false, false]);
        assert_eq!(takes("claude-sonnet-4-5"), [true, true, true, false, true]);
        assert_eq!(takes("claude-opus-4-6"), [false, true, false, true, true]);
        assert_eq!(takes("claude-sonnet-5"), [false, false, false, true, true]);
        assert_eq!(takes("kimi-k2"), [true, true, true, false, true]);
    }

    #[test]
    fn only_older_claudes_are_known_to_go_on() {
        for (name, known) in [
            ("claude-sonnet-4-5", true),
            ("claude-3-5-haiku-20241022", true),
            ("claude-opus-4-6", false),
            ("claude-of-tomorrow", false),
            ("kimi-k2", false),
            ("gpt-4o", false),
        ] {
            assert_eq!(Claude::named(name).is_known_to_continue(), known, "{name}");
        }
    }

    #[test]
    fn kinds_of_openai_models() {
        for (name, kind) in [
            ("gpt-4o-mini", OpenAi::Chat),
            ("gpt-4.1", OpenAi::Chat),
            ("gpt-3.5-turbo", OpenAi::Chat),
            ("chatgpt-4o-latest", OpenAi::Chat),
            ("gpt-5-chat-latest", OpenAi::Chat),
            ("gpt-5", OpenAi::Reasoning),
            ("openai/gpt-5.5-codex", OpenAi::Reasoning),
            ("gpt-6-sol", OpenAi::Reasoning),
            ("o3-mini", OpenAi::Reasoning),
            ("gpt-oss-120b", OpenAi::Other),
            ("olmo-3", OpenAi::Other),
            ("Qwen/Qwen3-32B", OpenAi::Other),
        ] {
            assert_eq!(OpenAi::named(name), kind, "{name}");
        }
    }
}
