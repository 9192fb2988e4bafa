//! A JSON schema of config.json, made from the types that read it.

use crate::values;
use conex::oci::config::Spec;
use conex::oci::shape::{Node, Shape};
use serde_json::{json, Map, Value};

/// Draft 07, which editors know best.
pub fn document() -> Value {
    let mut schema = of(&Spec::node(), "");
    schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
    schema["title"] = json!("config.json of the OCI runtime specification, as conex reads it");
    schema["required"] = json!(["ociVersion", "root"]);
    schema
}

fn of(node: &Node, path: &str) -> Value {
    match node {
        Node::Leaf { expected, default, .. } => leaf(expected, default, path),
        Node::List(inner) => json!({"type": ["array", "null"], "items": of(&inner(), path)}),
        Node::Map(inner) => {
            json!({"type": ["object", "null"], "additionalProperties": of(&inner(), &join(path, "*"))})
        }
        Node::Object { names, types } => {
            let properties: Map<String, Value> = names()
                .iter()
                .zip(*types)
                .map(|(name, node)| ((*name).to_string(), of(&node(), &join(path, name))))
                .collect();
            json!({"type": ["object", "null"], "properties": properties, "additionalProperties": false})
        }
    }
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() {
        return name.into();
    }
    format!("{path}.{name}")
}

fn leaf(expected: &str, default: &str, path: &str) -> Value {
    let words = values::of(path);
    match default {
        "false" => json!({"type": ["boolean", "null"]}),
        // Mount options, system calls and the like are lists that grow: known words complete, others are allowed.
        "\"\"" if words.is_empty() => json!({"type": ["string", "null"]}),
        "\"\"" => json!({"type": ["string", "null"], "anyOf": [{"enum": words}, {}]}),
        _ => {
            let mut bounds = expected.rsplit(' ').filter_map(|w| w.parse::<i128>().ok());
            let (most, least) =
                (bounds.next().unwrap_or(i128::MAX), bounds.next().unwrap_or(i128::MIN));
            json!({"type": ["integer", "null"], "minimum": least as f64, "maximum": most as f64})
        }
    }
}
