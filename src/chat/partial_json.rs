//! JSON that is not finished, as another model wrote it: brought closer to how ours is held to write it, without changing what it says.

use serde_json::{Map, Value};

/// The same text with one space for each stretch of white space outside of strings: a grammar that allows fewer kinds of white space comes
/// to the same place by it.
pub fn collapsed(json: &str) -> String {
    let mut out = String::with_capacity(json.len());
    let mut strings = Strings::default();
    for character in json.chars() {
        let was_inside = strings.inside;
        strings.push(character);
        match character {
            ' ' | '\t' | '\n' | '\r' if !was_inside => {
                if !out.ends_with(' ') {
                    out.push(' ');
                }
            }
            _ => out.push(character),
        }
    }
    out
}

/// The schema with the properties of its objects in the order in which `json` names them, and the others after them: grammars want them in
/// the schema's order, which says nothing about what is valid.
pub fn in_order_of(schema: &Value, json: &str) -> Value {
    let mut schema = schema.clone();
    for named in names(json) {
        let mut place = Some(&mut schema);
        for step in &named.path {
            place = place.and_then(|schema| match step {
                Step::Field(name) => schema.get_mut("properties")?.get_mut(name),
                Step::Item => schema.get_mut("items"),
            });
        }
        let properties = place.and_then(|schema| schema.get_mut("properties")).and_then(Value::as_object_mut);
        if let Some(properties) = properties {
            let (first, others): (Map<_, _>, Map<_, _>) =
                std::mem::take(properties).into_iter().partition(|(name, _)| named.position(name).is_some());
            let mut first: Vec<(String, Value)> = first.into_iter().collect();
            first.sort_by_key(|(name, _)| named.position(name));
            properties.extend(first.into_iter().chain(others));
        }
    }
    schema
}

/// Whether a character is in a string.
#[derive(Debug, Default)]
struct Strings {
    inside: bool,
    is_escaped: bool,
}

impl Strings {
    fn push(&mut self, character: char) {
        match character {
            _ if self.is_escaped => self.is_escaped = false,
            '\\' if self.inside => self.is_escaped = true,
            '"' => self.inside = !self.inside,
            _ => {}
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    Item,
}

/// The names of an object's fields, or of all objects of a list.
#[derive(Debug, PartialEq, Eq)]
struct Named {
    path: Vec<Step>,
    names: Vec<String>,
    /// The beginning of one that is not whole.
    unfinished: Option<String>,
}

impl Named {
    fn position(&self, name: &str) -> Option<usize> {
        let is_begun = || self.unfinished.as_ref().is_some_and(|begun| name.starts_with(begun.as_str()));
        self.names.iter().position(|named| named == name).or_else(|| is_begun().then_some(self.names.len()))
    }
}

/// The names of all objects, by place, in the order of their first.
fn names(json: &str) -> Vec<Named> {
    let mut found: Vec<Named> = Vec::new();
    // The way to the innermost object or list, each with whether a name comes next.
    let mut open: Vec<(Step, bool)> = Vec::new();
    let mut strings = Strings::default();
    let mut string_start = 0;
    for (at, character) in json.char_indices() {
        let was_inside = strings.inside;
        strings.push(character);
        match character {
            '"' if !was_inside => string_start = at,
            '"' if !strings.inside => {
                if let Some((Step::Field(field), is_name @ true)) = open.last_mut() {
                    *field = serde_json::from_str(&json[string_start..=at]).unwrap_or_default();
                    *is_name = false;
                    let name = field.clone();
                    let named = of_path(&mut found, &open);
                    if !named.names.contains(&name) {
                        named.names.push(name);
                    }
                }
            }
            _ if was_inside => {}
            '{' => open.push((Step::Field(String::new()), true)),
            '[' => open.push((Step::Item, false)),
            '}' | ']' => drop(open.pop()),
            ',' => {
                if let Some((Step::Field(_), is_name)) = open.last_mut() {
                    *is_name = true;
                }
            }
            _ => {}
        }
    }
    if let (true, Some((Step::Field(_), true))) = (strings.inside, open.last()) {
        let begun = json[string_start + 1..].to_owned();
        of_path(&mut found, &open).unfinished = Some(begun);
    }
    found
}

/// The entry of the innermost object, which is not a step of its own path.
fn of_path<'a>(found: &'a mut Vec<Named>, open: &[(Step, bool)]) -> &'a mut Named {
    let (_, outer) = open.split_last().expect("names stand in objects");
    let path: Vec<Step> = outer.iter().map(|(step, _)| step.clone()).collect();
    let index = found.iter().position(|named| named.path == path).unwrap_or_else(|| {
        found.push(Named { path, names: Vec::new(), unfinished: None });
        found.len() - 1
    });
    &mut found[index]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn white_space_is_one_space_outside_of_strings() {
        for (json, expected) in [
            ("{ \"a\" :\n\t1 ,\r\n  \"b  \\\" c\":[  ]", "{ \"a\" : 1 , \"b  \\\" c\":[ ]"),
            ("{\"a\":1  ", "{\"a\":1 "),
            ("{\"a  \\", "{\"a  \\"),
            ("", ""),
        ] {
            assert_eq!(collapsed(json), expected);
        }
    }

    #[test]
    fn properties_come_in_the_order_of_the_text() {
        let object = |names: &[&str]| {
            let properties: Map<String, Value> = names.iter().map(|name| ((*name).to_owned(), json!({"type": "string"}))).collect();
            json!({"type": "object", "properties": properties})
        };
        let order = |schema: &Value, place: &str| -> String {
            schema.pointer(place).unwrap()["properties"].as_object().unwrap().keys().cloned().collect::<Vec<_>>().concat()
        };
        let mut schema = object(&["a", "b", "c", "d"]);
        schema["properties"]["b"] = json!({"type": "array", "items": object(&["x", "y", "z"])});
        for (json, outer, inner) in [
            ("", "abcd", "xyz"),
            ("{\"c\": 1, \"a", "cabd", "xyz"),
            ("{\"c\": \"{\\\"d\\\": 1\", \"d\": {\"b\": 2}", "cdab", "xyz"),
            ("{\"b\": [{\"z\": \"a\"}, {\"z\": 1, \"x\": 2, \"", "bacd", "zxy"),
            ("{\"d\":[],\"", "dabc", "xyz"),
        ] {
            let ordered = in_order_of(&schema, json);
            assert_eq!((order(&ordered, ""), order(&ordered, "/properties/b/items")), (outer.to_owned(), inner.to_owned()), "{json}");
            assert_eq!(ordered, schema, "the same schema, in another order");
        }
    }
}
