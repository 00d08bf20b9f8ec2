//! A conversation becomes the text the model was trained on: the GGUF's own Jinja template, rendered as transformers renders it
//! (jinja2 with `trim_blocks`, `lstrip_blocks`, loop controls, and the helpers templates expect).

use minijinja::syntax::SyntaxConfig;
use minijinja::value::Serde;
use minijinja::{Environment, Error, ErrorKind, Output, State, UndefinedBehavior, Value};
use models::Tokenizer;
use serde::Serialize;
use serde_json::Value as Json;

use super::control_text::{ControlText, END_OF_PREFILL};
use super::python_values::{python_str, tojson};
use super::reasoning_parser::ReasoningFormat;
use super::template_helpers::{strftime, without_generation_tags};
use super::template_messages::{Peculiarities, bracketed, folded, message_value, tool_value, without_system_messages};
use super::tool_formats::{self, ToolFormat};
use super::{Conversation, Effort, Message, Role, ToolChoice};

/// For models that bring none: ChatML, the format most models without a template of their own were trained on.
const CHATML: &str = include_str!("chatml.jinja");
/// Names of the templates.
const CHAT: &str = "chat";
const TOOL_USE: &str = "tool_use";
/// A template that spins is stopped: 1,000 messages, each looking back over all others in 10 instructions, may pass.
const INSTRUCTIONS_MAX: u64 = 10_000_000;
const SPINS: &str = "it runs without end";

/// The template of one model.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    tool_use_source: Option<String>,
    peculiarities: Peculiarities,
    /// Found out once: each is a search of the whole source.
    tool_format: Option<&'static dyn ToolFormat>,
    reasoning: Option<ReasoningFormat>,
    reasoning_with_tools: Option<ReasoningFormat>,
    is_fallback: bool,
    bos: Option<String>,
    eos: Option<String>,
}

/// A prompt's text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rendered {
    pub text: String,
    /// The beginning of the reply that it ends with, where there is one.
    pub prefill: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    #[error("the model's chat template is broken: {0}")]
    Syntax(String),
    /// The template's own words (`raise_exception`), or what went wrong in it.
    #[error("the model's chat template refused the conversation: {0}")]
    Refused(String),
    #[error("the model's chat template does not show the last message, so it cannot be continued")]
    NoPrefill,
}

impl ChatTemplate {
    /// The template in the model's metadata, or ChatML where there is none ([`Self::is_fallback`]). Errors: a template that does
    /// not parse.
    pub fn of(tokenizer: &Tokenizer) -> Result<Self, TemplateError> {
        let name = |id: Option<u32>| id.and_then(|id| tokenizer.token_name(id)).map(str::to_owned);
        let (bos, eos) = (name(tokenizer.bos()), name(tokenizer.eos()));
        Self::new(tokenizer.chat_template(None), tokenizer.chat_template(Some("tool_use")), bos, eos)
    }

    /// `tool_use`: the template some models bring for conversations with tools.
    pub fn new(default: Option<&str>, tool_use: Option<&str>, bos: Option<String>, eos: Option<String>) -> Result<Self, TemplateError> {
        let is_fallback = default.is_none();
        let source = without_generation_tags(default.unwrap_or(CHATML));
        let tool_use_source = tool_use.map(without_generation_tags);
        let mut environment = environment();
        let syntax_error = |error: Error| TemplateError::Syntax(error.to_string());
        environment.add_template_owned(CHAT, source.clone()).map_err(syntax_error)?;
        if let Some(source) = &tool_use_source {
            environment.add_template_owned(TOOL_USE, source.clone()).map_err(syntax_error)?;
        }
        let with_tools = tool_use_source.as_ref().unwrap_or(&source);
        Ok(Self {
            peculiarities: Peculiarities::of(&source),
            tool_format: tool_formats::of_template(with_tools),
            reasoning: ReasoningFormat::of_template(&source),
            reasoning_with_tools: ReasoningFormat::of_template(with_tools),
            environment,
            source,
            tool_use_source,
            is_fallback,
            bos,
            eos,
        })
    }

    /// The model brought no template and ChatML is used.
    pub fn is_fallback(&self) -> bool {
        self.is_fallback
    }

    /// As it is written, for conversations without tools.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether tools reach the model at all.
    pub fn knows_tools(&self) -> bool {
        self.tool_use_source.is_some() || self.source.contains("tools")
    }

    /// How the model calls tools. `None`: not at all, or in a way we do not know.
    pub fn tool_format(&self) -> Option<&'static dyn ToolFormat> {
        self.tool_format
    }

    /// How the model marks what it thinks in this conversation.
    pub fn reasoning(&self, conversation: &Conversation) -> Option<ReasoningFormat> {
        if self.template_for(conversation) == TOOL_USE { self.reasoning_with_tools } else { self.reasoning }
    }

    /// The prompt's text. `control` brackets what in the messages looks like control tokens (see [`ControlText::stretches`]).
    ///
    /// A template that refuses system messages where they stand is given them as the user's, rather than nothing.
    pub fn render(&self, conversation: &Conversation, control: &ControlText, now_unix_s: i64) -> Result<Rendered, TemplateError> {
        let messages = folded(&conversation.messages, self.peculiarities.knows_developer);
        let rendered = self.render_messages(&messages, conversation, control, now_unix_s);
        let is_system = |message: &Message| matches!(message.role, Role::System | Role::Developer);
        let Err(TemplateError::Refused(_)) = rendered else { return rendered };
        for kept in [1, 0] {
            if messages.iter().skip(kept).any(is_system) {
                let again = self.render_messages(&without_system_messages(&messages, kept), conversation, control, now_unix_s);
                if again.is_ok() {
                    return again;
                }
            }
        }
        rendered
    }

    /// Tools have a template of their own in some files.
    fn template_for(&self, conversation: &Conversation) -> &'static str {
        let with_tools = !conversation.tools.is_empty() && conversation.tool_choice != ToolChoice::None;
        if self.tool_use_source.is_some() && with_tools { TOOL_USE } else { CHAT }
    }

    fn render_messages(
        &self,
        messages: &[Message],
        conversation: &Conversation,
        control: &ControlText,
        now_unix_s: i64,
    ) -> Result<Rendered, TemplateError> {
        let refused = |error: Error| TemplateError::Refused(innermost_message(&error));
        let tools = match conversation.tool_choice {
            ToolChoice::None => &[][..],
            _ => &conversation.tools,
        };
        let prefill = messages.last().filter(|last| conversation.continues_last && last.role == Role::Assistant).map(Message::joined_text);
        let mut values: Vec<Json> = messages.iter().map(|message| message_value(message, &self.peculiarities, control)).collect();
        if let (Some(_), Some(Json::String(content))) = (&prefill, values.last_mut().and_then(|last| last.get_mut("content"))) {
            // White space at the end of the message is not at an end this way, and no template cuts it off.
            content.push(END_OF_PREFILL);
        }
        let tools: Vec<Json> = tools.iter().map(|tool| tool_value(tool, control)).collect();

        let mut variables: Vec<(String, Value)> = vec![
            ("messages".into(), from_json(values)),
            // HF passes None when there are none: templates ask `if tools` and `tools is not none`.
            ("tools".into(), if tools.is_empty() { Value::from(()) } else { from_json(tools) }),
            ("documents".into(), Value::from(())),
            ("add_generation_prompt".into(), Value::from(prefill.is_none())),
            ("strftime_now".into(), Value::from_function(move |format: String| strftime(&format, now_unix_s))),
        ];
        let specials = [("bos_token", &self.bos), ("eos_token", &self.eos)];
        variables.extend(specials.iter().filter_map(|(name, token)| Some(((*name).to_owned(), Value::from(token.as_ref()?.clone())))));
        // The two names that templates know it by.
        let wanted = conversation.thinking.wanted;
        variables
            .extend(wanted.into_iter().flat_map(|wanted| ["enable_thinking", "thinking"].map(|name| (name.into(), Value::from(wanted)))));
        let effort = conversation.thinking.effort.map(|effort| match effort {
            Effort::Low => "low",
            Effort::Medium => "medium",
            Effort::High => "high",
        });
        variables.extend(effort.map(|effort| ("reasoning_effort".into(), Value::from(effort))));
        let own = conversation.template_variables.iter();
        variables.extend(own.map(|(name, value)| (name.clone(), from_json(bracketed(value, control)))));

        let template = self.environment.get_template(self.template_for(conversation)).map_err(refused)?;
        let mut text = template.render(Value::from_pairs(variables)).map_err(refused)?;
        if prefill.is_some() {
            text.truncate(text.rfind(END_OF_PREFILL).ok_or(TemplateError::NoPrefill)?);
        }
        Ok(Rendered { text, prefill })
    }
}

fn from_json(value: impl Serialize) -> Value {
    Value::from(Serde(value))
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().expect("jinja2's own delimiters are valid");
    environment.set_syntax(syntax);
    environment.set_undefined_behavior(UndefinedBehavior::Lenient);
    environment.set_fuel(Some(INSTRUCTIONS_MAX));
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(|out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value| {
        out.write_str(&python_str(value)?).map_err(Error::from)
    });
    environment.add_filter("tojson", tojson);
    environment.add_filter("string", |value: Value| python_str(&value));
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment
}

/// What the template itself said, without the interpreter's wrapping.
fn innermost_message(error: &Error) -> String {
    let mut message = error.detail().map_or_else(|| error.to_string(), str::to_owned);
    let mut source = std::error::Error::source(error);
    while let Some(inner) = source {
        if let Some(detail) = inner.downcast_ref::<Error>().and_then(Error::detail) {
            message = detail.to_owned();
        }
        source = inner.source();
    }
    if error.kind() == ErrorKind::OutOfFuel {
        message = SPINS.to_owned();
    }
    message
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::ToolDefinition;
    use super::*;

    fn template(source: &str) -> ChatTemplate {
        ChatTemplate::new(Some(source), None, Some("<s>".into()), Some("</s>".into())).expect("the template parses")
    }

    fn conversation(messages: Vec<Message>) -> Conversation {
        Conversation { messages, ..Conversation::default() }
    }

    fn render(source: &str, conversation: &Conversation) -> Result<String, TemplateError> {
        let control = ControlText::new(vec!["<|im_end|>".into()]);
        template(source).render(conversation, &control, 1_772_448_545).map(|rendered| rendered.text)
    }

    fn weather_tool() -> ToolDefinition {
        let parameters = json!({"type": "object", "properties": {"city": {"type": "string", "description": "Où?"}}});
        ToolDefinition { name: "weather".into(), description: Some("The weather".into()), parameters: Some(parameters), strict: false }
    }

    #[test]
    fn blocks_are_trimmed_as_transformers_does() {
        let source = "{% for message in messages %}\n    {% if message['role'] == 'user' %}\n{{ message.content }}\n    {% endif %}\n{% endfor %}\nend\n";
        let messages = vec![Message::text(Role::User, "a"), Message::text(Role::User, "b")];
        assert_eq!(render(source, &conversation(messages)).unwrap(), "a\nb\nend");
    }

    #[test]
    fn json_is_python_json() {
        let source = "{{ tools[0].function.parameters | tojson }}|{{ tools[0].function.parameters | tojson(indent=2) }}";
        let conversation = Conversation { tools: vec![weather_tool()], ..Conversation::default() };
        assert_eq!(
            render(source, &conversation).unwrap(),
            "{\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\", \"description\": \"Où?\"}}}|{\n  \"type\": \"object\",\n  \"properties\": {\n    \"city\": {\n      \"type\": \"string\",\n      \"description\": \"Où?\"\n    }\n  }\n}"
        );
    }

    #[test]
    fn helpers_templates_expect() {
        for (source, expected) in [
            ("{{ bos_token }}x{{ eos_token }}{{ pad_token }}", "<s>x</s>"),
            ("{{ strftime_now('%d %b %Y') }}", "02 Mar 2026"),
            (
                "{% set ns = namespace(n=0) %}{% for i in range(9) %}{% if i == 3 %}{% break %}{% endif %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
                "3",
            ),
            ("{{ 'a,b'.split(',')[-1] }}{{ ' x '.strip() }}{{ 'abc'[::-1] }}{{ messages[::-1][0].content }}", "bxcbalast"),
            ("{{ true }} {{ none }} {{ 1.0 }} {{ [1, 'a'] }} {{ true | string }}", "True None 1.0 [1, 'a'] True"),
            ("{% macro hello(name) %}hello {{ name }}{% endmacro %}{{ hello('x') }}", "hello x"),
            ("{{ messages[0].get('missing', 'no') }}{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% endfor %}", "noa1"),
            ("{% generation %}g{% endgeneration %}", "g"),
            ("{{ add_generation_prompt }}{{ tools is none }}{{ documents is none }}", "TrueTrueTrue"),
            ("{{ enable_thinking }}", "False"),
        ] {
            let mut conversation = conversation(vec![Message::text(Role::User, "first"), Message::text(Role::User, "last")]);
            conversation.template_variables.insert("enable_thinking".into(), json!(false));
            assert_eq!(render(source, &conversation).as_deref(), Ok(expected), "{source}");
        }
    }

    #[test]
    fn a_template_that_throws_says_its_own_words() {
        let source =
            "{% macro check(x) %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endmacro %}{{ check(1) }}";
        let error = render(source, &Conversation::default()).unwrap_err();
        assert_eq!(error, TemplateError::Refused("Only user and assistant roles are supported!".into()));
    }

    #[test]
    fn a_template_that_spins_is_stopped() {
        let source = "{% for a in range(9999) %}{% for b in range(9999) %}{% endfor %}{% endfor %}";
        let mut template = template(source);
        // The limit itself takes some seconds to reach without optimisation.
        template.environment.set_fuel(Some(10_000));
        let error = template.render(&Conversation::default(), &ControlText::new(vec![]), 0).unwrap_err();
        assert_eq!(error, TemplateError::Refused(SPINS.into()));
    }

    #[test]
    fn a_template_that_does_not_parse_is_named() {
        let error = ChatTemplate::new(Some("{% if %}"), None, None, None).unwrap_err();
        assert!(matches!(error, TemplateError::Syntax(_)), "{error}");
    }

    #[test]
    fn messages_cannot_write_control_tokens() {
        let conversation = conversation(vec![Message::text(Role::User, "x <|im_end|> y")]);
        let rendered = render("{{ messages[0].content }}<|im_end|>", &conversation).unwrap();
        assert_eq!(rendered, "x \u{FDD0}<|im_end|>\u{FDD1} y<|im_end|>");
    }

    #[test]
    fn leading_system_messages_are_one() {
        let messages = vec![
            Message::text(Role::System, "a"),
            Message::text(Role::Developer, "b"),
            Message::text(Role::User, "c"),
            Message::text(Role::Developer, "d"),
        ];
        let source = "{% for m in messages %}[{{ m.role }}:{{ m.content }}]{% endfor %}";
        assert_eq!(render(source, &conversation(messages.clone())).unwrap(), "[system:a\n\nb][user:c][system:d]");
        let knows = source.to_owned() + "{# developer #}";
        assert_eq!(render(&knows, &conversation(messages)).unwrap(), "[system:a][developer:b][user:c][developer:d]");
    }

    #[test]
    fn tools_have_a_template_of_their_own() {
        let of_tools = "<think>{{ tools[0].function.name }}</think>";
        let template = ChatTemplate::new(Some("plain"), Some(of_tools), None, None).expect("both parse");
        let control = ControlText::new(vec![]);
        let render = |conversation: &Conversation| template.render(conversation, &control, 0).expect("it renders").text;
        let mut conversation = conversation(vec![Message::text(Role::User, "Hi")]);
        assert_eq!((render(&conversation).as_str(), template.reasoning(&conversation)), ("plain", None));
        conversation.tools.push(weather_tool());
        assert_eq!((render(&conversation).as_str(), template.reasoning(&conversation).is_some()), ("<think>weather</think>", true));
        conversation.tool_choice = ToolChoice::None;
        assert_eq!((render(&conversation).as_str(), template.reasoning(&conversation)), ("plain", None));
    }

    #[test]
    fn chatml_stands_in() {
        let chatml = ChatTemplate::new(None, None, None, None).unwrap();
        assert!(chatml.is_fallback() && chatml.knows_tools() && chatml.tool_format().is_some_and(|format| format.name() == "hermes"));
        let control = ControlText::new(vec![]);
        let render_chatml = |conversation: &Conversation| chatml.render(conversation, &control, 0).unwrap().text;
        let mut conversation = conversation(vec![Message::text(Role::System, "Be brief."), Message::text(Role::User, "Hi")]);
        assert_eq!(
            render_chatml(&conversation),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        );
        conversation.tools.push(weather_tool());
        let call = super::super::ToolCall { id: "1".into(), name: "weather".into(), arguments: "{\"city\":\"Oslo\"}".into() };
        conversation.messages.push(Message { tool_calls: vec![call], ..Message::text(Role::Assistant, "I look.") });
        conversation.messages.push(Message::text(Role::Tool, "3 C"));
        let rendered = render_chatml(&conversation);
        // What stays from session to session comes first: it is found in the cache.
        assert!(rendered.starts_with("<|im_start|>system\nYou can call"), "{rendered}");
        assert!(rendered.contains("</tool_call>\n\nBe brief.<|im_end|>\n<|im_start|>user\nHi"), "{rendered}");
        assert!(rendered.contains("<tools>\n{\"type\": \"function\", \"function\": {\"name\": \"weather\""), "{rendered}");
        assert!(
            rendered.ends_with(
                "<|im_start|>assistant\nI look.\n<tool_call>\n{\"name\": \"weather\", \"arguments\": {\"city\": \"Oslo\"}}\n</tool_call><|im_end|>\n<|im_start|>user\n<tool_response>\n3 C\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
            ),
            "{rendered}"
        );
        conversation.tool_choice = ToolChoice::None;
        assert!(!render_chatml(&conversation).contains("<tools>"));
    }
}
