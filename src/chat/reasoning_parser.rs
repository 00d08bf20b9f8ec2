//! Parts what a model thinks from what it says. Which marks stand around its thoughts is read off the chat template, and whether the prompt
//! has opened or closed them already off the prompt's end. The result is the same however the text is cut, and nothing is lost.
//!
//! Thoughts come first: marks further on in an answer are words about marks. Knows no tokens and no tool calls, but for where a harmony
//! reply holds one.

use super::tool_formats::call_reader::{Begins, begins, begun_at_end};
use super::tool_formats::harmony;

/// How a family of models marks its thoughts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReasoningFormat {
    Tags {
        open: &'static str,
        close: &'static str,
        /// Of these, what vocabularies may hold as control tokens.
        markers: [&'static str; 2],
    },
    /// gpt-oss: messages on channels, of which `analysis` holds the thoughts.
    Harmony,
}

/// What a reply begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ReasoningStart {
    /// The model decides whether it thinks.
    #[default]
    Open,
    /// The prompt has opened the thoughts.
    Thinking,
    /// The prompt has closed them, or the answer is begun.
    Content,
}

const fn tags(open: &'static str, close: &'static str) -> ReasoningFormat {
    ReasoningFormat::Tags { open, close, markers: [open, close] }
}

const FORMATS: [ReasoningFormat; 5] = [
    tags("<think>", "</think>"),
    // Mistral (Magistral).
    tags("[THINK]", "[/THINK]"),
    // Gemma 4.
    ReasoningFormat::Tags { open: "<|channel>thought\n", close: "<channel|>", markers: ["<|channel>", "<channel|>"] },
    // Seed-OSS.
    tags("<seed:think>", "</seed:think>"),
    // Command A.
    tags("<|START_THINKING|>", "<|END_THINKING|>"),
];

impl ReasoningFormat {
    /// `None`: the model does not think, or not in a way we know.
    pub fn of_template(source: &str) -> Option<Self> {
        if source.contains(harmony::CHANNEL) && source.contains(harmony::MESSAGE) {
            return Some(Self::Harmony);
        }
        // The closing mark: older templates cut the thoughts out of the history and leave it to the model to open them.
        FORMATS.into_iter().find(|format| matches!(format, Self::Tags { close, .. } if source.contains(close)))
    }

    /// Marks that must reach the parser as text, though they may be control tokens.
    pub fn markers(&self) -> &[&'static str] {
        match self {
            Self::Tags { markers, .. } => markers,
            Self::Harmony => &[harmony::START, harmony::CHANNEL, harmony::MESSAGE, harmony::CONSTRAIN, harmony::END],
        }
    }

    /// What the reply to a prompt that ends so begins with.
    pub fn start_after(&self, prompt: &str) -> ReasoningStart {
        let end = prompt.trim_end();
        match self {
            Self::Tags { open, .. } if end.ends_with(open.trim_end()) => ReasoningStart::Thinking,
            Self::Tags { close, .. } if end.ends_with(close) => ReasoningStart::Content,
            Self::Harmony if end.ends_with("<|channel|>analysis<|message|>") => ReasoningStart::Thinking,
            _ => ReasoningStart::Open,
        }
    }

    /// What the reply to an answer that is begun with `prefill` goes on with.
    pub fn start_within(&self, prefill: &str) -> ReasoningStart {
        match self {
            Self::Tags { open, close, .. } if prefill.trim_start().starts_with(open) && !prefill.contains(close) => {
                ReasoningStart::Thinking
            }
            _ if prefill.is_empty() => ReasoningStart::Open,
            _ => ReasoningStart::Content,
        }
    }

    /// What ends thoughts that a prompt which ends so has opened, so that the answer follows; in the manner of the templates that do it.
    pub fn closing_after(&self, prompt: &str) -> Option<String> {
        if self.start_after(prompt) != ReasoningStart::Thinking {
            return None;
        }
        let line = match self {
            Self::Harmony => "",
            Self::Tags { .. } if prompt.ends_with('\n') => "\n",
            Self::Tags { .. } => "\n\n",
        };
        Some(format!("{line}{}", self.forced_end()))
    }

    /// What a model is made to say where its thinking must end.
    pub fn forced_end(&self) -> String {
        match self {
            Self::Tags { close, .. } => format!("{close}\n\n"),
            // Which channel follows is the model's choice: its answer's or a call's.
            Self::Harmony => format!("{}{}assistant", harmony::END, harmony::START),
        }
    }
}

/// A piece of a reply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Section {
    Thinking(String),
    Content(String),
}

/// Reads one reply.
#[derive(Debug)]
pub struct ReasoningParser {
    format: ReasoningFormat,
    state: State,
    /// Not taken yet.
    pending: String,
    /// White space at the end of a thought, dropped if the thought ends there.
    blank: String,
    /// Something was thought or said, so that another message needs a line of its own.
    has_thought: bool,
    has_spoken: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Before the first word.
    Start,
    Thinking,
    /// Before the answer's first word.
    BeforeContent,
    /// An answer without thoughts before it: a lone closing mark may still come.
    Unopened,
    Content,
    /// Harmony: between messages, and in a header.
    Between,
    /// Harmony: in a message to a tool, handed on with its header and its end.
    Call,
}

impl ReasoningParser {
    pub fn new(format: ReasoningFormat, start: ReasoningStart) -> Self {
        let state = match start {
            ReasoningStart::Open => State::Start,
            ReasoningStart::Thinking => State::Thinking,
            ReasoningStart::Content => State::Content,
        };
        Self { format, state, pending: String::new(), blank: String::new(), has_thought: false, has_spoken: false }
    }

    /// Whether what comes next is a thought, as far as that is known.
    pub fn is_thinking(&self) -> bool {
        self.state == State::Thinking
    }

    /// Bytes whose meaning is not known yet.
    pub fn held_bytes(&self) -> usize {
        self.pending.len() + self.blank.len()
    }

    pub fn push(&mut self, text: &str, sections: &mut Vec<Section>) {
        self.pending.push_str(text);
        self.read(false, sections);
    }

    /// The end of the reply.
    pub fn finish(&mut self, sections: &mut Vec<Section>) {
        self.read(true, sections);
    }

    fn read(&mut self, is_end: bool, sections: &mut Vec<Section>) {
        loop {
            let state = self.state;
            match self.format {
                ReasoningFormat::Tags { open, close, .. } => self.step_in_tags(open, close, is_end, sections),
                ReasoningFormat::Harmony => self.step_in_harmony(is_end, sections),
            }
            if self.state == state {
                return;
            }
        }
    }

    /// Reads on as far as the state lasts.
    fn step_in_tags(&mut self, open: &str, close: &str, is_end: bool, sections: &mut Vec<Section>) {
        match self.state {
            State::Start => {
                let text = self.pending.trim_start();
                match begins(text, open) {
                    Begins::Yes => {
                        self.pending.drain(..self.pending.len() - text.len() + open.len());
                        self.state = State::Thinking;
                    }
                    Begins::NotKnown if !is_end => {}
                    _ => self.state = State::Unopened,
                }
            }
            State::Thinking => {
                if self.think_up_to(&[close], is_end, sections) {
                    self.pending.drain(..close.len());
                    self.state = State::BeforeContent;
                }
            }
            State::BeforeContent => {
                let blank = self.pending.len() - self.pending.trim_start().len();
                self.pending.drain(..blank);
                if !self.pending.is_empty() {
                    self.state = State::Content;
                }
            }
            State::Unopened => self.look_for_lone_close(close, is_end, sections),
            State::Content => self.say(self.pending.len(), sections),
            State::Between | State::Call => unreachable!("harmony's own states"),
        }
    }

    /// A closing mark without an opening one, on a line of its own or at the very beginning: what came before may have been thoughts, but
    /// it is said. The mark itself is dropped.
    fn look_for_lone_close(&mut self, close: &str, is_end: bool, sections: &mut Vec<Section>) {
        let starts_line = |at: usize| match self.pending[..at].trim_start_matches(' ').chars().next_back() {
            None => !self.has_spoken,
            Some(before) => before == '\n',
        };
        let found = self.pending.match_indices(close).map(|(at, _)| at).find(|&at| starts_line(at));
        if let Some(at) = found {
            let shown = self.pending[..at].trim_end().len();
            self.say(shown, sections);
            self.pending.drain(..at - shown + close.len());
            self.state = State::BeforeContent;
            return;
        }
        // Kept back: white space, and what may become the mark.
        let certain = self.pending.len() - begun_at_end(&self.pending, close);
        let certain = if is_end { self.pending.len() } else { self.pending[..certain].trim_end().len() };
        self.say(certain, sections);
    }

    fn step_in_harmony(&mut self, is_end: bool, sections: &mut Vec<Section>) {
        const ENDS: [&str; 5] = [harmony::END, harmony::RETURN, harmony::CALL, harmony::START, harmony::CHANNEL];
        match self.state {
            State::Start | State::Between => {
                let blank = self.pending.len() - self.pending.trim_start().len();
                let text = &self.pending[blank..];
                let heads = [harmony::START, harmony::CHANNEL].map(|head| begins(text, head));
                if heads.contains(&Begins::Yes) {
                    match text.find(harmony::MESSAGE) {
                        Some(at) => self.header(blank, blank + at + harmony::MESSAGE.len(), sections),
                        // A header that breaks off says nothing.
                        None if is_end => self.pending.clear(),
                        None => {}
                    }
                } else if is_end || !heads.contains(&Begins::NotKnown) {
                    // Words without a header.
                    self.state = State::Content;
                }
            }
            State::Thinking => {
                if self.think_up_to(&ENDS, is_end, sections) {
                    self.end_message();
                    self.state = State::Between;
                }
            }
            State::Content | State::Call => match earliest(&self.pending, &ENDS) {
                Some(at) => {
                    self.say(at, sections);
                    if self.state == State::Call {
                        let end = ENDS[..3].iter().find(|end| self.pending.starts_with(**end));
                        self.say(end.map_or(0, |end| end.len()), sections);
                    } else {
                        self.end_message();
                    }
                    self.state = State::Between;
                }
                None => {
                    let held = if is_end { 0 } else { ENDS.iter().map(|end| begun_at_end(&self.pending, end)).max().unwrap_or(0) };
                    self.say(self.pending.len() - held, sections);
                }
            },
            State::BeforeContent | State::Unopened => unreachable!("states of tags"),
        }
    }

    /// A message's header, which decides what the message is.
    fn header(&mut self, blank: usize, end: usize, sections: &mut Vec<Section>) {
        let header = self.pending[blank..end].to_owned();
        if harmony::recipient(&header).is_some() {
            self.pending.drain(..blank);
            self.say(header.len(), sections);
            self.state = State::Call;
            return;
        }
        self.pending.drain(..end);
        let is_thought = header.split_once(harmony::CHANNEL).is_some_and(|(_, channel)| channel.trim_start().starts_with("analysis"));
        let (said, section): (_, fn(String) -> Section) = match is_thought {
            true => (self.has_thought, Section::Thinking),
            false => (self.has_spoken, Section::Content),
        };
        if said {
            push_section(section("\n\n".to_owned()), sections);
        }
        self.state = if is_thought { State::Thinking } else { State::Content };
    }

    fn end_message(&mut self) {
        let end = [harmony::END, harmony::RETURN, harmony::CALL].into_iter().find(|end| self.pending.starts_with(end));
        self.pending.drain(..end.map_or(0, str::len));
    }

    /// Thoughts up to the first of these marks. Whether it is there; it then stands first.
    fn think_up_to(&mut self, marks: &[&str], is_end: bool, sections: &mut Vec<Section>) -> bool {
        let found = earliest(&self.pending, marks);
        let held = if is_end { 0 } else { marks.iter().map(|mark| begun_at_end(&self.pending, mark)).max().unwrap_or(0) };
        let certain = found.unwrap_or(self.pending.len() - held);
        let text: String = self.blank.drain(..).chain(self.pending.drain(..certain)).collect();
        let text = if self.has_thought { text.as_str() } else { text.trim_start() };
        let shown = text.trim_end();
        if !shown.is_empty() {
            self.has_thought = true;
            push_section(Section::Thinking(shown.to_owned()), sections);
        }
        if found.is_none() && !is_end {
            self.blank = text[shown.len()..].to_owned();
        }
        found.is_some()
    }

    fn say(&mut self, bytes: usize, sections: &mut Vec<Section>) {
        if bytes > 0 {
            self.has_spoken = true;
            push_section(Section::Content(self.pending.drain(..bytes).collect()), sections);
        }
    }
}

fn earliest(text: &str, marks: &[&str]) -> Option<usize> {
    marks.iter().filter_map(|mark| text.find(mark)).min()
}

/// Adds a piece; what continues the last one is put to it.
fn push_section(section: Section, sections: &mut Vec<Section>) {
    match (sections.last_mut(), section) {
        (Some(Section::Thinking(before)), Section::Thinking(text)) => before.push_str(&text),
        (Some(Section::Content(before)), Section::Content(text)) => before.push_str(&text),
        (_, section) => sections.push(section),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const THINK: ReasoningFormat = FORMATS[0];

    /// Thoughts and answer, the same however the text is cut.
    #[track_caller]
    fn check(format: ReasoningFormat, start: ReasoningStart, text: &str) -> (String, String) {
        let read = |size: usize| {
            let mut parser = ReasoningParser::new(format, start);
            let mut sections = Vec::new();
            for chunk in text.chars().collect::<Vec<_>>().chunks(size) {
                parser.push(&chunk.iter().collect::<String>(), &mut sections);
            }
            parser.finish(&mut sections);
            let (mut thinking, mut content) = (String::new(), String::new());
            for section in sections {
                match section {
                    Section::Thinking(text) => thinking.push_str(&text),
                    Section::Content(text) => content.push_str(&text),
                }
            }
            (thinking, content)
        };
        let whole = read(text.len().max(1));
        for size in [1, 2, 3, 5, 7] {
            assert_eq!(read(size), whole, "{text:?} cut into pieces of {size}");
        }
        whole
    }

    #[test]
    fn thoughts_in_tags() {
        for (start, text, thinking, content) in [
            (ReasoningStart::Open, "<think>\nI see.\n</think>\n\nHello <b>", "I see.", "Hello <b>"),
            (ReasoningStart::Open, " \n<think>a < b</think>c", "a < b", "c"),
            (ReasoningStart::Open, "<think>\n\n</think>\n\nHello", "", "Hello"),
            (ReasoningStart::Open, "<think>cut </thi", "cut </thi", ""),
            (ReasoningStart::Open, "  Hello \n", "", "  Hello \n"),
            (ReasoningStart::Open, "<thin", "", "<thin"),
            (ReasoningStart::Open, "The tag <think> opens and </think> closes.", "", "The tag <think> opens and </think> closes."),
            (ReasoningStart::Open, "<think>a</think>b <think>c</think>", "a", "b <think>c</think>"),
            (ReasoningStart::Open, "<think>a <tool_call> b</think><tool_call>", "a <tool_call> b", "<tool_call>"),
            (ReasoningStart::Thinking, "Hm.\n\nWell.\n</think>\n\nYes.", "Hm.\n\nWell.", "Yes."),
            (ReasoningStart::Thinking, "</think>Yes.", "", "Yes."),
            (ReasoningStart::Thinking, "never ends ", "never ends", ""),
            (ReasoningStart::Content, " Yes. <think>", "", " Yes. <think>"),
            // A closing tag that nothing opened.
            (ReasoningStart::Open, "Hm.\n</think>\n\nYes.", "", "Hm.Yes."),
            (ReasoningStart::Open, "</think>Yes.", "", "Yes."),
        ] {
            assert_eq!(check(THINK, start, text), (thinking.to_owned(), content.to_owned()), "{start:?} {text:?}");
        }
        assert_eq!(check(FORMATS[1], ReasoningStart::Open, "[THINK]a[/THINK]b"), ("a".into(), "b".into()));
        assert_eq!(check(FORMATS[2], ReasoningStart::Open, "<|channel>thought\na<channel|>b"), ("a".into(), "b".into()));
    }

    #[test]
    fn thoughts_on_channels() {
        let call = "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>";
        for (start, text, thinking, content) in [
            (
                ReasoningStart::Open,
                "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>",
                "Hm.",
                "Yes.",
            ),
            (ReasoningStart::Open, "<|channel|>final<|message|>Yes. ", "", "Yes. "),
            (ReasoningStart::Open, "Words.", "", "Words."),
            (ReasoningStart::Open, "<|channel|>anal", "", ""),
            (ReasoningStart::Thinking, "Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.", "Hm.", "Yes."),
            (
                ReasoningStart::Open,
                "<|channel|>analysis<|message|>a<|end|><|start|>assistant<|channel|>analysis<|message|>b<|end|>\
                 <|start|>assistant<|channel|>commentary<|message|>I look.<|end|><|start|>assistant<|channel|>final<|message|>c",
                "a\n\nb",
                "I look.\n\nc",
            ),
        ] {
            assert_eq!(check(ReasoningFormat::Harmony, start, text), (thinking.to_owned(), content.to_owned()), "{start:?} {text:?}");
        }
        let reply = format!("<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{call}");
        let header = "<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"a\": 1}<|call|>";
        assert_eq!(check(ReasoningFormat::Harmony, ReasoningStart::Open, &reply), ("Hm.".into(), header.into()));
        assert_eq!(check(ReasoningFormat::Harmony, ReasoningStart::Open, call), (String::new(), call.into()));
    }

    #[test]
    fn the_prompts_end_says_where_the_reply_begins() {
        for (prompt, start, closing) in [
            ("<|im_start|>assistant\n", ReasoningStart::Open, None),
            ("<|im_start|>assistant\n<think>\n", ReasoningStart::Thinking, Some("\n</think>\n\n")),
            ("<｜Assistant｜><think>", ReasoningStart::Thinking, Some("\n\n</think>\n\n")),
            ("<|im_start|>assistant\n<think>\n\n</think>\n\n", ReasoningStart::Content, None),
            ("<｜Assistant｜></think>", ReasoningStart::Content, None),
        ] {
            assert_eq!((THINK.start_after(prompt), THINK.closing_after(prompt).as_deref()), (start, closing), "{prompt:?}");
        }
        assert_eq!(THINK.start_within("<think>\nSo far"), ReasoningStart::Thinking);
        assert_eq!(THINK.start_within("<think>a</think>b"), ReasoningStart::Content);
        assert_eq!(THINK.start_within("The answer"), ReasoningStart::Content);
    }

    #[test]
    fn the_template_says_how_a_model_thinks() {
        for (source, format) in [
            ("{{ content.split('</think>')[-1] }}", Some(THINK)),
            ("[THINK]{{ x }}[/THINK]", Some(FORMATS[1])),
            ("<|start|>{{ role }}<|channel|>final<|message|>", Some(ReasoningFormat::Harmony)),
            ("{{ content }}", None),
        ] {
            assert_eq!(ReasoningFormat::of_template(source), format, "{source}");
        }
    }
}
