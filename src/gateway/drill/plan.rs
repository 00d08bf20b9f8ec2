//! Which request gets which answer: by its number, its model, the time, or a seeded chance. Pure.

use std::time::Duration;

use serde::Deserialize;

use super::answer::{Answer, Misbehaviour};

/// Rules in order; the first that fits a request answers it, and what none fits is answered well.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Plan {
    /// The same seed gives the same chances and the same ids.
    pub seed: u64,
    #[serde(rename = "rule")]
    pub rules: Vec<Rule>,
    pub expect: Expect,
}

/// What a request must be like, whatever its answer.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Expect {
    /// The key, as `x-api-key` or `authorization: Bearer`; any other is answered 401.
    pub credential: Option<String>,
    /// Headers that must not come; answered 400.
    pub forbidden_headers: Vec<String>,
    /// Refuses history that Anthropic's API refuses: foreign signatures, empty texts, results of no call.
    pub strict_history: bool,
    /// Refuses a conversation that ends with the assistant's own words.
    pub no_prefill: bool,
}

/// An answer and who gets it.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    /// How attempts that it answered are marked.
    pub name: String,
    /// The model asked for; `*` at the end stands for any rest.
    pub model: Option<String>,
    /// The path begins so. `None`: every path that generates, and no other.
    pub path: Option<String>,
    /// Of the requests that fit otherwise, the first so many are let past.
    pub skip: u64,
    /// And then so many are answered; `None`: all.
    pub times: Option<u64>,
    pub time: TimeWindow,
    /// Out of a hundred, by the seed; `None`: all.
    pub percent: Option<u8>,
    pub answer: Answer,
}

/// Since the upstream started.
#[derive(Debug, Clone, Copy, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TimeWindow {
    pub from_ms: u64,
    pub until_ms: Option<u64>,
    /// Within that: again and again.
    pub flapping: Option<Flapping>,
}

/// The first `for_ms` of every `every_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flapping {
    pub every_ms: u64,
    pub for_ms: u64,
}

impl TimeWindow {
    pub fn contains(&self, elapsed: Duration) -> bool {
        let elapsed_ms = elapsed.as_millis() as u64;
        let Some(since_ms) = elapsed_ms.checked_sub(self.from_ms) else { return false };
        let flapped = self.flapping.is_none_or(|flapping| since_ms % flapping.every_ms.max(1) < flapping.for_ms);
        flapped && self.until_ms.is_none_or(|until_ms| elapsed_ms < until_ms)
    }
}

/// What a plan may know of a request.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    pub path: &'a str,
    /// Empty before the body was read.
    pub model: &'a str,
    /// The how many-th request of this upstream, from 1.
    pub number: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    #[error("the plan is not what a plan looks like: {0}")]
    Form(#[from] toml::de::Error),
    #[error("rule {0:?}: `refuse` can only be chosen by time, for who is refused has sent nothing")]
    RefuseByRequest(String),
    #[error("rule {0:?}: {1} percent")]
    Percent(String, u8),
}

impl Plan {
    /// Every request gets this answer.
    pub fn always(answer: Answer) -> Self {
        Self::default().then(Rule { answer, ..Rule::default() })
    }

    pub fn healthy() -> Self {
        Self::default()
    }

    /// The first `times` requests get this answer, the others a good one.
    pub fn first(times: u64, answer: Answer) -> Self {
        Self::default().then(Rule { times: Some(times), answer, ..Rule::default() })
    }

    /// One rule more, after those that stand.
    pub fn then(mut self, rule: Rule) -> Self {
        self.rules.push(rule);
        self
    }

    pub fn with_expect(self, expect: Expect) -> Self {
        Self { expect, ..self }
    }

    pub fn with_seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    pub fn from_toml(text: &str) -> Result<Self, PlanError> {
        let plan: Self = toml::from_str(text)?;
        for rule in &plan.rules {
            let by_request = rule.model.is_some() || rule.path.is_some() || rule.skip > 0 || rule.times.is_some() || rule.percent.is_some();
            if by_request && rule.refuses() {
                return Err(PlanError::RefuseByRequest(rule.name.clone()));
            }
            if let Some(percent) = rule.percent.filter(|percent| *percent > 100) {
                return Err(PlanError::Percent(rule.name.clone(), percent));
            }
        }
        Ok(plan)
    }

    /// Nothing is to listen now.
    pub fn refuses(&self, elapsed: Duration) -> bool {
        self.rules.iter().any(|rule| rule.refuses() && rule.time.contains(elapsed))
    }

    /// Whether it ever refuses.
    pub fn may_refuse(&self) -> bool {
        self.rules.iter().any(Rule::refuses)
    }
}

impl Rule {
    pub fn named(name: &str, answer: Answer) -> Self {
        Self { name: name.to_owned(), answer, ..Self::default() }
    }

    pub fn for_model(self, model: &str) -> Self {
        Self { model: Some(model.to_owned()), ..self }
    }

    pub fn for_path(self, path: &str) -> Self {
        Self { path: Some(path.to_owned()), ..self }
    }

    pub fn times(self, times: u64) -> Self {
        Self { times: Some(times), ..self }
    }

    pub fn until_ms(mut self, until_ms: u64) -> Self {
        self.time.until_ms = Some(until_ms);
        self
    }

    fn refuses(&self) -> bool {
        self.answer.misbehaviour == Some(Misbehaviour::Refuse)
    }

    /// Everything but how many were before.
    fn fits(&self, asked: &Asked<'_>, elapsed: Duration) -> bool {
        let path = match &self.path {
            Some(path) => asked.path.starts_with(path.as_str()),
            None => super::http::generates(asked.path),
        };
        let model = self.model.as_deref().is_none_or(|model| match model.strip_suffix('*') {
            Some(beginning) => asked.model.starts_with(beginning),
            None => asked.model == model,
        });
        path && model && self.time.contains(elapsed) && !self.refuses()
    }

    fn counts(&self, before: u64) -> bool {
        before >= self.skip && self.times.is_none_or(|times| before - self.skip < times)
    }
}

/// A plan and what it has answered so far.
#[derive(Debug)]
pub struct Decider {
    plan: Plan,
    /// Of each rule: the requests that fitted it.
    fitted: Vec<u64>,
}

impl Decider {
    pub fn new(plan: Plan) -> Self {
        let fitted = vec![0; plan.rules.len()];
        Self { plan, fitted }
    }

    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The rule's name and the answer. A rule counts the requests that it could have answered, so that "once" means once.
    pub fn decide(&mut self, asked: &Asked<'_>, elapsed: Duration) -> (String, Answer) {
        let chosen = self.choose(asked, elapsed);
        let asked_rules = chosen.map_or(self.plan.rules.len(), |index| index + 1);
        for (at, rule) in self.plan.rules[..asked_rules].iter().enumerate() {
            self.fitted[at] += u64::from(rule.fits(asked, elapsed) && self.lucky(at, asked.number));
        }
        let rule = chosen.map(|index| &self.plan.rules[index]);
        rule.map(|rule| (rule.name.clone(), rule.answer.clone())).unwrap_or_default()
    }

    /// What would be answered, without counting it: for what must be known before the body, and so before the model.
    pub fn peek(&self, asked: &Asked<'_>, elapsed: Duration) -> Option<&Answer> {
        self.choose(asked, elapsed).map(|index| &self.plan.rules[index].answer)
    }

    fn choose(&self, asked: &Asked<'_>, elapsed: Duration) -> Option<usize> {
        let mut rules = self.plan.rules.iter().enumerate();
        let found = rules.find(|(at, rule)| rule.fits(asked, elapsed) && self.lucky(*at, asked.number) && rule.counts(self.fitted[*at]));
        found.map(|(at, _)| at)
    }

    /// By seed, rule and request number alone, so that a plan can be played again.
    fn lucky(&self, rule: usize, number: u64) -> bool {
        let Some(percent) = self.plan.rules[rule].percent else { return true };
        random(self.plan.seed, rule as u64, number) % 100 < u64::from(percent)
    }
}

/// A number that follows from others: SplitMix64 (Steele, Lea, Flood 2014), once for each.
pub fn random(seed: u64, stream: u64, number: u64) -> u64 {
    [stream, number].iter().fold(mix(seed), |state, value| mix(state ^ mix(*value)))
}

fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9E37_79B9_7F4A_7C15);
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}
