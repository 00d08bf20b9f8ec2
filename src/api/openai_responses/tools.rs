//! Tools of the Responses API: functions, functions in namespaces, custom tools with plain text. The model is shown functions with one
//! name each; what it calls is told to the client in the client's own terms. Tools that OpenAI hosts are nobody's here and left out.

use serde_json::{Value, json};

use super::custom_input;
use super::wire::ToolName;
use crate::api::errors::ApiError;
use crate::api::fields::{Fields, quoted};
use crate::chat::{ToolChoice, ToolDefinition};

/// The tools of one request.
#[derive(Debug, Clone, Default)]
pub struct Tools {
    tools: Vec<Tool>,
    /// Tools of types that are not known here were among them.
    others: bool,
}

#[derive(Debug, Clone)]
struct Tool {
    identity: Identity,
    /// As the model sees it.
    definition: ToolDefinition,
}

/// What the client calls a tool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub name: String,
    pub namespace: Option<String>,
    pub kind: Kind,
}

impl Identity {
    /// As a reply says it.
    pub fn told(&self) -> ToolName<'_> {
        ToolName { name: &self.name, namespace: self.namespace.as_deref() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Function,
    Custom,
}

impl Tools {
    /// Adds an array of tools that stands at `place`.
    pub fn read(&mut self, values: &[Value], place: &str) -> Result<(), ApiError> {
        for (index, value) in values.iter().enumerate() {
            let tool = Fields::of(value, format!("{place}[{index}]"))?;
            if tool.string("type")? == Some("namespace") {
                self.read_namespace(&tool)?;
            } else {
                self.read_tool(&tool, None)?;
            }
        }
        Ok(())
    }

    fn read_namespace(&mut self, fields: &Fields<'_>) -> Result<(), ApiError> {
        fields.require("name")?;
        let name = fields.string("name")?.unwrap_or_default();
        let place = fields.place("tools");
        for (index, value) in fields.array("tools")?.unwrap_or_default().iter().enumerate() {
            self.read_tool(&Fields::of(value, format!("{place}[{index}]"))?, Some(name))?;
        }
        Ok(())
    }

    fn read_tool(&mut self, tool: &Fields<'_>, namespace: Option<&str>) -> Result<(), ApiError> {
        let kind = match tool.string("type")? {
            None | Some("function") => Kind::Function,
            Some("custom") => Kind::Custom,
            Some(_) => {
                self.others = true;
                return Ok(());
            }
        };
        // Chat completions keep the fields of a tool one level deeper; some clients send that here too.
        let inner = if kind == Kind::Function { tool.object("function")? } else { tool.object("custom")? };
        let tool = inner.as_ref().unwrap_or(tool);
        tool.require("name")?;
        let name = tool.string("name")?.unwrap_or_default();
        if name.is_empty() {
            return Err(tool.error("name", "is empty"));
        }
        let identity = Identity { name: name.to_owned(), namespace: namespace.map(str::to_owned), kind };
        let definition = match kind {
            Kind::Function => ToolDefinition {
                name: String::new(),
                description: tool.string("description")?.map(str::to_owned),
                parameters: tool.object("parameters")?.map(|parameters| Value::Object(parameters.map().clone())),
                strict: tool.boolean("strict")?.unwrap_or(false),
            },
            Kind::Custom => custom_definition(tool)?,
        };
        self.add(identity, definition);
        Ok(())
    }

    /// A tool defined twice is the one defined last, in the place of the first.
    fn add(&mut self, identity: Identity, definition: ToolDefinition) {
        let same = |tool: &&mut Tool| tool.identity.name == identity.name && tool.identity.namespace == identity.namespace;
        if let Some(tool) = self.tools.iter_mut().find(same) {
            let name = std::mem::take(&mut tool.definition.name);
            *tool = Tool { identity, definition: ToolDefinition { name, ..definition } };
            return;
        }
        let plain = plain_name(identity.namespace.as_deref(), &identity.name);
        let mut name = plain.clone();
        let mut number = 2;
        while self.tools.iter().any(|tool| tool.definition.name == name) {
            name = format!("{plain}_{number}");
            number += 1;
        }
        self.tools.push(Tool { identity, definition: ToolDefinition { name, ..definition } });
    }

    pub fn definitions(&self) -> Vec<ToolDefinition> {
        self.tools.iter().map(|tool| tool.definition.clone()).collect()
    }

    /// The name the model knows a tool by; of one that is not there any more, the name it would have.
    pub fn shown_name(&self, namespace: Option<&str>, name: &str) -> String {
        match self.find(namespace, name) {
            Some(tool) => tool.definition.name.clone(),
            None => plain_name(namespace, name),
        }
    }

    /// What the client calls the tool that the model called. A name that no tool has is passed on as it is.
    pub fn identity(&self, shown: &str) -> Identity {
        match self.tools.iter().find(|tool| tool.definition.name == shown) {
            Some(tool) => tool.identity.clone(),
            None => Identity { name: shown.to_owned(), namespace: None, kind: Kind::Function },
        }
    }

    fn find(&self, namespace: Option<&str>, name: &str) -> Option<&Tool> {
        self.tools.iter().find(|tool| tool.identity.name == name && tool.identity.namespace.as_deref() == namespace)
    }

    /// `tool_choice` in all its forms. A choice of a tool that OpenAI hosts leaves the choice to the model.
    pub fn read_choice(&self, fields: &Fields<'_>) -> Result<ToolChoice, ApiError> {
        let Some(value) = fields.get("tool_choice") else { return Ok(ToolChoice::Auto) };
        if let Value::String(word) = value {
            return match word.as_str() {
                "auto" => Ok(ToolChoice::Auto),
                "none" => Ok(ToolChoice::None),
                "required" | "any" if !self.tools.is_empty() => Ok(ToolChoice::Required),
                "required" | "any" if self.others => Ok(ToolChoice::Auto),
                "required" | "any" => Err(fields.error("tool_choice", format_args!("is `{word}`, but there are no `tools`"))),
                other => Err(fields.error("tool_choice", format_args!("must be auto, none, required or an object, not {}", quoted(other)))),
            };
        }
        if !value.is_object() {
            return Err(fields.wrong_kind("tool_choice", "a string or an object", value));
        }
        let choice = Fields::of(value, fields.place("tool_choice"))?;
        choice.require("type")?;
        match choice.string("type")?.unwrap_or_default() {
            "function" | "custom" => self.named(&choice).map(ToolChoice::Named),
            "allowed_tools" => self.read_allowed(&choice),
            "none" => Ok(ToolChoice::None),
            _ => Ok(ToolChoice::Auto),
        }
    }

    fn read_allowed(&self, choice: &Fields<'_>) -> Result<ToolChoice, ApiError> {
        // Chat completions keep both one level deeper.
        let inner = choice.object("allowed_tools")?;
        let choice = inner.as_ref().unwrap_or(choice);
        let required = match choice.string("mode")? {
            None | Some("auto") => false,
            Some("required") => true,
            Some(other) => return Err(choice.error("mode", format_args!("must be auto or required, not {}", quoted(other)))),
        };
        choice.require("tools")?;
        let place = choice.place("tools");
        let mut names = Vec::new();
        for (index, value) in choice.array("tools")?.unwrap_or_default().iter().enumerate() {
            let tool = Fields::of(value, format!("{place}[{index}]"))?;
            if matches!(tool.string("type")?, None | Some("function" | "custom")) {
                names.push(self.named(&tool)?);
            }
        }
        match (names.is_empty(), required) {
            (false, _) => Ok(ToolChoice::Allowed { names, required }),
            (true, false) => Ok(ToolChoice::None),
            (true, true) => Err(choice.error("tools", "holds no tool that could be called here")),
        }
    }

    /// The shown name of the tool that `reference` names.
    fn named(&self, reference: &Fields<'_>) -> Result<String, ApiError> {
        let inner = reference.object("function")?;
        let reference = inner.as_ref().unwrap_or(reference);
        reference.require("name")?;
        let (name, namespace) = (reference.string("name")?.unwrap_or_default(), reference.string("namespace")?);
        // A name that only one namespace has needs no namespace.
        let mut alike = self.tools.iter().filter(|tool| tool.identity.name == name);
        let only = alike.next().filter(|_| namespace.is_none() && alike.next().is_none());
        match self.find(namespace, name).or(only) {
            Some(tool) => Ok(tool.definition.name.clone()),
            None => Err(reference.error("name", format_args!("is {}, which is not among the `tools`", quoted(name)))),
        }
    }
}

/// `namespace__name`, as tools of MCP servers are written everywhere.
fn plain_name(namespace: Option<&str>, name: &str) -> String {
    match namespace {
        None => name.to_owned(),
        Some(namespace) if namespace.ends_with("__") => format!("{namespace}{name}"),
        Some(namespace) => format!("{namespace}__{name}"),
    }
}

/// A function with one string. The grammar its text must follow is told in words.
fn custom_definition(tool: &Fields<'_>) -> Result<ToolDefinition, ApiError> {
    let mut description = tool.string("description")?.unwrap_or_default().to_owned();
    let format = tool.object("format")?;
    if let Some(format) = &format
        && format.string("type")? == Some("grammar")
    {
        // Chat completions keep the two one level deeper.
        let inner = format.object("grammar")?;
        let grammar = inner.as_ref().unwrap_or(format);
        grammar.require("definition")?;
        let definition = grammar.string("definition")?.unwrap_or_default();
        let syntax = match grammar.string("syntax")? {
            None | Some("lark") => "Lark grammar",
            Some("regex") => "regular expression",
            Some(other) => return Err(grammar.error("syntax", format_args!("must be lark or regex, not {}", quoted(other)))),
        };
        if !description.is_empty() {
            description.push_str("\n\n");
        }
        description.push_str(&format!("`{}` must match this {syntax}:\n{definition}", custom_input::ARGUMENT));
    }
    let parameters = json!({
        "type": "object",
        "properties": {custom_input::ARGUMENT: {"type": "string"}},
        "required": [custom_input::ARGUMENT],
        "additionalProperties": false,
    });
    Ok(ToolDefinition {
        name: String::new(),
        description: (!description.is_empty()).then_some(description),
        parameters: Some(parameters),
        strict: true,
    })
}
