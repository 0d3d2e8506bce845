//! YAML files of several objects, and whether a type keeps all that an object says.

use serde::Deserialize;
use serde_json::Value;

use crate::failure::Outcome;

/// The objects of a YAML text.
///
/// # Errors
/// Where the text is not YAML.
pub fn documents(text: &str) -> Outcome<Vec<Value>> {
    let mut objects = Vec::new();
    for document in serde_yaml::Deserializer::from_str(text) {
        let object = Value::deserialize(document)?;
        if !object.is_null() {
            objects.push(object);
        }
    }
    Ok(objects)
}

/// The paths of what `object` says and `known`, the same read as a type and written again, does not: fields that the type
/// does not have, or values that it reads as something else. Empty values may be left out.
#[must_use]
pub fn missing_in(known: &Value, object: &Value, path: &str) -> Vec<String> {
    match (known, object) {
        (Value::Object(known), Value::Object(object)) => object
            .iter()
            .flat_map(|(key, value)| {
                missing_in(known.get(key).unwrap_or(&Value::Null), value, &format!("{path}/{key}"))
            })
            .collect(),
        (Value::Array(known), Value::Array(object)) if known.len() == object.len() => {
            let pairs = known.iter().zip(object).enumerate();
            pairs.flat_map(|(index, (known, value))| missing_in(known, value, &format!("{path}/{index}"))).collect()
        }
        (Value::Null, empty) if is_empty(empty) => Vec::new(),
        (known, object) if known == object => Vec::new(),
        _ => vec![path.to_owned()],
    }
}

fn is_empty(value: &Value) -> bool {
    value.is_null()
        || value.as_object().is_some_and(serde_json::Map::is_empty)
        || value.as_array().is_some_and(Vec::is_empty)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::{documents, missing_in};

    #[test]
    fn empty_documents_are_none() {
        let objects = documents("# nothing\n---\na: 1\n---\n---\nb: [2]\n").unwrap();
        assert_eq!(objects, [json!({"a": 1}), json!({"b": [2]})]);
    }

    #[test]
    fn what_a_type_does_not_keep_is_named() {
        let known = json!({"a": {"b": 1}, "list": [{"c": 2}], "more": true});
        let object = json!({"a": {"b": 1, "typo": 2}, "list": [{"c": 3}], "empty": {}});
        assert_eq!(missing_in(&known, &object, ""), ["/a/typo", "/list/0/c"]);
    }
}
