//! Tools and the choice among them, as OpenAI's APIs write them.

use serde_json::Value;

use super::errors::ApiError;
use super::fields::{Fields, kind_of, quoted};
use crate::chat::{ToolChoice, ToolDefinition};

/// Function tools; tools of other types are for other servers and left out.
pub fn read_tools(fields: &Fields<'_>) -> Result<Vec<ToolDefinition>, ApiError> {
    let tools = fields.array("tools")?.unwrap_or_default();
    let mut definitions = Vec::with_capacity(tools.len());
    for (index, value) in tools.iter().enumerate() {
        let tool = Fields::of(value, format!("tools[{index}]"))?;
        if tool.string("type")?.is_some_and(|kind| kind != "function") {
            continue;
        }
        // The Responses API writes the function's fields beside `type`.
        let function = tool.object("function")?.unwrap_or(tool);
        function.require("name")?;
        definitions.push(ToolDefinition {
            name: function.string("name")?.unwrap_or_default().to_owned(),
            description: function.string("description")?.map(str::to_owned),
            parameters: function.object("parameters")?.map(|parameters| Value::Object(parameters.map().clone())),
            strict: function.boolean("strict")?.unwrap_or(false),
        });
    }
    Ok(definitions)
}

/// A word, a function, or the functions that may be called (`allowed_tools`).
pub fn read_tool_choice(fields: &Fields<'_>, tools: &[ToolDefinition]) -> Result<ToolChoice, ApiError> {
    let choice = match fields.get("tool_choice") {
        None => ToolChoice::Auto,
        Some(Value::String(word)) => match word.as_str() {
            "auto" => ToolChoice::Auto,
            "none" => ToolChoice::None,
            "required" | "any" => ToolChoice::Required,
            other => {
                return Err(fields.error("tool_choice", format_args!("must be auto, none, required or a function, not {}", quoted(other))));
            }
        },
        Some(value @ Value::Object(_)) => read_choice_object(&Fields::of(value, fields.place("tool_choice"))?)?,
        Some(other) => {
            let problem = format_args!("must be a string or an object, not {}", kind_of(other));
            return Err(fields.error("tool_choice", problem));
        }
    };
    let unknown = |name: &String| !tools.iter().any(|tool| tool.name == *name);
    match &choice {
        ToolChoice::Required if tools.is_empty() => Err(fields.error("tool_choice", "is `required`, but there are no `tools`")),
        ToolChoice::Named(name) if unknown(name) => {
            Err(fields.error("tool_choice", format_args!("names the function {}, which is not among the `tools`", quoted(name))))
        }
        ToolChoice::Allowed { names, .. } => match names.iter().find(|name| unknown(name)) {
            Some(name) => {
                Err(fields.error("tool_choice", format_args!("allows the function {}, which is not among the `tools`", quoted(name))))
            }
            None => Ok(choice),
        },
        _ => Ok(choice),
    }
}

fn read_choice_object(choice: &Fields<'_>) -> Result<ToolChoice, ApiError> {
    if choice.string("type")? == Some("allowed_tools") {
        // Chat completions nest the two fields, the Responses API does not.
        let nested = choice.object("allowed_tools")?;
        return read_allowed(nested.as_ref().unwrap_or(choice));
    }
    Ok(ToolChoice::Named(name_of(choice)?))
}

fn read_allowed(allowed: &Fields<'_>) -> Result<ToolChoice, ApiError> {
    allowed.require("tools")?;
    let tools = allowed.array("tools")?.unwrap_or_default();
    let place = allowed.place("tools");
    let name = |(index, tool): (usize, &Value)| name_of(&Fields::of(tool, format!("{place}[{index}]"))?);
    let names = tools.iter().enumerate().map(name).collect::<Result<Vec<_>, _>>()?;
    if names.is_empty() {
        return Err(allowed.error("tools", "is empty; with no tool allowed, `tool_choice` is `none`"));
    }
    let required = match allowed.string("mode")?.unwrap_or("auto") {
        "auto" => false,
        "required" => true,
        other => return Err(allowed.error("mode", format_args!("must be auto or required, not {}", quoted(other)))),
    };
    Ok(ToolChoice::Allowed { names, required })
}

/// `{"function": {"name": ...}}`, or the name without the nesting.
fn name_of(tool: &Fields<'_>) -> Result<String, ApiError> {
    let function = tool.object("function")?;
    let fields = function.as_ref().unwrap_or(tool);
    fields.require("name")?;
    Ok(fields.string("name")?.unwrap_or_default().to_owned())
}
