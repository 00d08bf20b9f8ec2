//! A client's JSON schema becomes one that can be held: what cannot is refused by its name and place, or left out where a wider schema
//! will do. The result allows nothing that the client's schema forbids, as long as nothing was left out; it forbids some things that
//! the client's schema allows, so that a weak model comes to an end: properties that nobody named, numbers beyond 10^18, overlong names
//! in a `format`.
//!
//! Pure: schema in, schema out.

use serde_json::{Map, Value, json};

use super::formats::{FORMATS, narrower};
use super::limits::{ITEMS_MAX, SCHEMA_DEPTH_MAX, SCHEMA_NODES_MAX};

/// What to do with a keyword that no grammar can hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fidelity {
    /// Refuse the schema.
    Exact,
    /// Leave the keyword out: the schema then allows more.
    Wider,
}

/// Why a schema cannot be held.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem} (at {pointer:?} of the schema)")]
pub struct SchemaError {
    /// JSON pointer (RFC 6901) to the keyword.
    pub pointer: String,
    pub problem: String,
}

/// Of the JSON-Schema drafts, and beyond what a grammar can say.
const UNSUPPORTED: [&str; 18] = [
    "not",
    "if",
    "then",
    "else",
    "uniqueItems",
    "contains",
    "minContains",
    "maxContains",
    "propertyNames",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "unevaluatedItems",
    "unevaluatedProperties",
    "$dynamicRef",
    "$dynamicAnchor",
    "$recursiveRef",
    "$recursiveAnchor",
];

/// Kept: the grammar holds them. All other keywords say nothing about what is valid and are left out.
const HELD: [&str; 24] = [
    "type",
    "const",
    "enum",
    "anyOf",
    "oneOf",
    "allOf",
    "$ref",
    "$anchor",
    "items",
    "additionalItems",
    "prefixItems",
    "minItems",
    "maxItems",
    "properties",
    "additionalProperties",
    "patternProperties",
    "required",
    "minProperties",
    "maxProperties",
    "minLength",
    "maxLength",
    "pattern",
    "$defs",
    "definitions",
];
const BOUNDS: [&str; 5] = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"];

/// Numbers stay below it: every reader takes them, and a model that writes digits without end is stopped.
const NUMBER_MAX: f64 = 1e18;

/// What the value of a keyword is.
enum Holds {
    Schema,
    Schemas,
    Named,
    Value,
}

/// The schema to compile.
pub fn normalised(schema: &Value, fidelity: Fidelity) -> Result<Value, SchemaError> {
    let closes = !any_subschema(schema, SCHEMA_DEPTH_MAX, &is_composed);
    let mut walk = Walk { fidelity, closes, nodes: 0, pointer: String::new() };
    let normalised = walk.schema(schema, 0, false)?;
    check_references(&normalised)?;
    Ok(normalised)
}

/// References chain schemas that stand side by side, and each is compiled within the one before.
fn check_references(root: &Value) -> Result<(), SchemaError> {
    let mut seen = Vec::new();
    let mut open = vec![(root, 0)];
    while let Some((value, depth)) = open.pop() {
        if depth > SCHEMA_DEPTH_MAX {
            let problem = format!("references nest it deeper than {SCHEMA_DEPTH_MAX} schemas");
            return Err(SchemaError { pointer: String::new(), problem });
        }
        let Value::Object(map) = value else { continue };
        for (keyword, value) in map {
            match holds(keyword, value) {
                // Those are reached through references.
                _ if matches!(keyword.as_str(), "$defs" | "definitions") => {}
                Holds::Schema => open.push((value, depth + 1)),
                Holds::Schemas => open.extend(value.as_array().into_iter().flatten().map(|schema| (schema, depth + 1))),
                Holds::Named => open.extend(value.as_object().into_iter().flatten().map(|(_, schema)| (schema, depth + 1))),
                Holds::Value if keyword == "$ref" => {
                    let target = value.as_str().and_then(|target| target.strip_prefix('#'));
                    if let Some(target) = target.filter(|target| !seen.contains(target)) {
                        seen.push(target);
                        open.extend(root.pointer(target).map(|schema| (schema, depth + 1)));
                    }
                }
                Holds::Value => {}
            }
        }
    }
    Ok(())
}

/// The same schema without its regular expressions, which may be of a kind that no grammar holds.
pub fn without_patterns(schema: &Value) -> Value {
    match schema {
        Value::Object(map) => {
            let kept = map.iter().filter(|(key, value)| !(*key == "pattern" && value.is_string()));
            let kept = kept.filter(|(key, value)| !(*key == "patternProperties" && value.is_object()));
            Value::Object(kept.map(|(key, value)| (key.clone(), without_patterns(value))).collect())
        }
        Value::Array(items) => items.iter().map(without_patterns).collect(),
        other => other.clone(),
    }
}

/// Allows any object.
pub fn any_object() -> Value {
    json!({"type": "object"})
}

struct Walk {
    fidelity: Fidelity,
    /// Whether objects that name properties may be closed to others.
    closes: bool,
    nodes: usize,
    pointer: String,
}

impl Walk {
    /// `composed`: other schemas speak of the same value, so that this one must not be closed.
    fn schema(&mut self, schema: &Value, depth: usize, composed: bool) -> Result<Value, SchemaError> {
        self.count(1)?;
        if depth > SCHEMA_DEPTH_MAX {
            return Err(self.error(format!("is nested deeper than {SCHEMA_DEPTH_MAX} schemas")));
        }
        let map = match schema {
            Value::Bool(_) => return Ok(schema.clone()),
            Value::Object(map) => map,
            _ => return Err(self.error("must be a schema: an object or a boolean")),
        };
        if let Some(only) = only_wrapped(map) {
            return self.at("allOf/0", |walk| walk.schema(only, depth + 1, composed));
        }
        let composes = speaks_of_objects(map);
        let mut out = Map::new();
        for (keyword, value) in map {
            let composed = composed || composes;
            if let Some(value) = self.at(keyword, |walk| walk.keyword(map, keyword, value, depth, composed))? {
                out.insert(keyword.clone(), value);
            }
        }
        bound_numbers(&mut out);
        narrow_format(&mut out);
        if self.closes && !composed && may_be_closed(&out) {
            out.insert("additionalProperties".to_owned(), Value::Bool(false));
        }
        Ok(Value::Object(out))
    }

    /// `None`: it is left out.
    fn keyword(
        &mut self,
        schema: &Map<String, Value>,
        keyword: &str,
        value: &Value,
        depth: usize,
        composed: bool,
    ) -> Result<Option<Value>, SchemaError> {
        if UNSUPPORTED.contains(&keyword) && !says_nothing(schema, keyword, value) {
            return match self.fidelity {
                Fidelity::Exact => Err(self.error(format!("the keyword `{keyword}` is not supported"))),
                Fidelity::Wider => Ok(None),
            };
        }
        match keyword {
            "$ref" => return self.reference(value),
            "format" => return Ok(value.as_str().is_some_and(|format| FORMATS.contains(&format)).then(|| value.clone())),
            "minItems" | "maxItems" | "minProperties" | "maxProperties" => return self.repetitions(keyword, value),
            _ if BOUNDS.contains(&keyword) => return Ok(Some(value.clone())),
            _ if !HELD.contains(&keyword) => return Ok(None),
            _ => {}
        }
        match holds(keyword, value) {
            Holds::Schema => Ok(Some(self.schema(value, depth + 1, false)?)),
            Holds::Schemas => {
                let items = value.as_array().map(Vec::as_slice).unwrap_or_default();
                let composed = composed && matches!(keyword, "anyOf" | "oneOf" | "allOf");
                let schemas = items.iter().enumerate();
                let schemas = schemas.map(|(index, item)| self.at(&index.to_string(), |walk| walk.schema(item, depth + 1, composed)));
                Ok(Some(schemas.collect::<Result<_, _>>()?))
            }
            Holds::Named => {
                let named = value.as_object().into_iter().flatten();
                let named = named.map(|(name, schema)| {
                    let schema = self.at(&escaped(name), |walk| walk.schema(schema, depth + 1, false))?;
                    Ok((name.clone(), schema))
                });
                Ok(Some(Value::Object(named.collect::<Result<_, _>>()?)))
            }
            Holds::Value => {
                self.count(values_in(value))?;
                Ok(Some(value.clone()))
            }
        }
    }

    /// Into this very schema: nothing is fetched.
    fn reference(&mut self, value: &Value) -> Result<Option<Value>, SchemaError> {
        match (value.as_str(), self.fidelity) {
            (Some(target), _) if target.starts_with('#') => Ok(Some(value.clone())),
            (_, Fidelity::Wider) => Ok(None),
            (_, Fidelity::Exact) => Err(self.error("`$ref` must point into the schema itself (`#/$defs/...`)")),
        }
    }

    fn repetitions(&mut self, keyword: &str, value: &Value) -> Result<Option<Value>, SchemaError> {
        // Draft 4 and later write 3.0 for 3 at times.
        let number = value.as_u64().or_else(|| value.as_f64().filter(|number| number.fract() == 0.0 && *number >= 0.0).map(|n| n as u64));
        match number {
            Some(number) if number <= ITEMS_MAX => Ok(Some(number.into())),
            // An upper bound that high is hardly meant; without it the schema is wider.
            _ if self.fidelity == Fidelity::Wider => Ok(None),
            Some(_) => Err(self.error(format!("`{keyword}` must be at most {ITEMS_MAX}"))),
            None => Err(self.error(format!("`{keyword}` must be a whole number"))),
        }
    }

    fn count(&mut self, nodes: usize) -> Result<(), SchemaError> {
        self.nodes += nodes;
        match self.nodes > SCHEMA_NODES_MAX {
            true => Err(self.error(format!("the schema has more than {SCHEMA_NODES_MAX} parts"))),
            false => Ok(()),
        }
    }

    fn at<T>(&mut self, part: &str, inner: impl FnOnce(&mut Self) -> T) -> T {
        let length = self.pointer.len();
        self.pointer.push('/');
        self.pointer.push_str(part);
        let result = inner(self);
        self.pointer.truncate(length);
        result
    }

    fn error(&self, problem: impl Into<String>) -> SchemaError {
        SchemaError { pointer: self.pointer.clone(), problem: problem.into() }
    }
}

fn holds(keyword: &str, value: &Value) -> Holds {
    match (keyword, value) {
        ("anyOf" | "oneOf" | "allOf" | "prefixItems" | "items", Value::Array(_)) => Holds::Schemas,
        ("items" | "additionalItems" | "additionalProperties", _) => Holds::Schema,
        ("properties" | "patternProperties" | "$defs" | "definitions", Value::Object(_)) => Holds::Named,
        _ => Holds::Value,
    }
}

/// Keywords that are there and forbid nothing.
fn says_nothing(schema: &Map<String, Value>, keyword: &str, value: &Value) -> bool {
    match keyword {
        "uniqueItems" => value == &Value::Bool(false),
        "unevaluatedItems" | "unevaluatedProperties" | "propertyNames" => value == &Value::Bool(true) || value == &json!({}),
        "if" => !schema.contains_key("then") && !schema.contains_key("else"),
        "then" | "else" => !schema.contains_key("if"),
        "minContains" | "maxContains" => !schema.contains_key("contains"),
        "$dynamicAnchor" | "$recursiveAnchor" => true,
        "dependencies" | "dependentRequired" | "dependentSchemas" => value.as_object().is_some_and(Map::is_empty),
        _ => false,
    }
}

/// `{"allOf": [schema]}`, as generators write a reference that has a description beside it.
fn only_wrapped(schema: &Map<String, Value>) -> Option<&Value> {
    let alone = schema.keys().all(|key| key == "allOf" || !is_structural(key));
    match schema.get("allOf") {
        Some(Value::Array(items)) if alone && items.len() == 1 => items.first(),
        _ => None,
    }
}

fn is_structural(keyword: &str) -> bool {
    HELD.contains(&keyword) || BOUNDS.contains(&keyword) || UNSUPPORTED.contains(&keyword) || keyword == "format"
}

/// Whether what it says of objects goes beyond its `anyOf`.
fn speaks_of_objects(schema: &Map<String, Value>) -> bool {
    let speaking = ["properties", "required", "additionalProperties", "patternProperties", "minProperties", "maxProperties"];
    let alternatives = ["anyOf", "oneOf"].iter().filter(|keyword| schema.contains_key(**keyword)).count();
    speaking.iter().any(|keyword| schema.contains_key(*keyword)) || alternatives > 1
}

/// Several schemas speak of one object, here or where it is referred to.
fn is_composed(schema: &Map<String, Value>) -> bool {
    let all_of = schema.contains_key("allOf") && only_wrapped(schema).is_none();
    let beside = schema.keys().any(|key| !matches!(key.as_str(), "$ref" | "$defs" | "definitions") && is_structural(key));
    all_of || schema.contains_key("$ref") && beside
}

fn may_be_closed(schema: &Map<String, Value>) -> bool {
    let Some(Value::Object(properties)) = schema.get("properties") else { return false };
    let open = ["additionalProperties", "patternProperties", "$ref", "anyOf", "oneOf", "allOf", "minProperties"];
    let required = schema.get("required").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let named = required.iter().all(|name| name.as_str().is_some_and(|name| properties.contains_key(name)));
    named && !open.iter().any(|keyword| schema.contains_key(*keyword))
}

/// Gives numbers the bounds they lack.
fn bound_numbers(schema: &mut Map<String, Value>) {
    let is_number = |name: &Value| matches!(name.as_str(), Some("number" | "integer"));
    let numbers = match schema.get("type") {
        Some(Value::Array(types)) => types.iter().any(is_number),
        Some(name) => is_number(name),
        None => false,
    };
    if !numbers || schema.contains_key("enum") || schema.contains_key("const") {
        return;
    }
    let number = |key: &str| schema.get(key).and_then(Value::as_f64);
    let low = number("minimum").or(number("exclusiveMinimum"));
    let high = number("maximum").or(number("exclusiveMaximum"));
    if low.is_none() && high.is_none_or(|high| high > -NUMBER_MAX) {
        schema.insert("minimum".to_owned(), json!(-NUMBER_MAX));
    }
    if high.is_none() && low.is_none_or(|low| low < NUMBER_MAX) {
        schema.insert("maximum".to_owned(), json!(NUMBER_MAX));
    }
}

/// Adds the regular expression of its format, beside one that it has already.
fn narrow_format(schema: &mut Map<String, Value>) {
    let Some(pattern) = schema.get("format").and_then(Value::as_str).and_then(narrower) else { return };
    if !schema.contains_key("pattern") {
        schema.insert("pattern".to_owned(), json!(pattern));
    } else if let Value::Array(all) = schema.entry("allOf").or_insert_with(|| json!([])) {
        all.push(json!({"pattern": pattern}));
    }
}

/// Whether any schema within is so.
fn any_subschema(schema: &Value, depth: usize, is: &dyn Fn(&Map<String, Value>) -> bool) -> bool {
    let Value::Object(map) = schema else { return false };
    let within = |value: &Value| any_subschema(value, depth - 1, is);
    depth > 0
        && (is(map)
            || map.iter().any(|(keyword, value)| match holds(keyword, value) {
                Holds::Schema => within(value),
                Holds::Schemas => value.as_array().is_some_and(|items| items.iter().any(within)),
                Holds::Named => value.as_object().is_some_and(|named| named.values().any(within)),
                Holds::Value => false,
            }))
}

fn values_in(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(values_in).sum::<usize>(),
        Value::Object(map) => 1 + map.values().map(values_in).sum::<usize>(),
        _ => 1,
    }
}

/// A name as a part of a JSON pointer.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}
