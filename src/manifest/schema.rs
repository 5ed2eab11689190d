//! The JSON Schema of a manifest file, generated from the model.

use schemars::{Schema, SchemaGenerator};
use serde_json::json;

use super::model::{Container, NetworkFile};

/// The schema of a file: a container's keys, `instances` of a template, or several
/// containers below `container`.
pub fn schema() -> Schema {
    let mut generator = SchemaGenerator::default();
    let container = generator.subschema_for::<Container>();
    let network = generator.subschema_for::<NetworkFile>();
    let mut schema = generator.into_root_schema_for::<Container>();
    schema.insert("title".to_owned(), json!("Berth manifest"));
    let definitions = schema.get("$defs").cloned().unwrap_or_default();
    let mut root = schema.clone();
    if let Some(properties) = root.get_mut("properties").and_then(|p| p.as_object_mut()) {
        properties.insert(
            "instances".to_owned(),
            json!({
                "description": "In a template `name@.toml`: makes `name@INSTANCE` of each.",
                "type": "array",
                "items": {"type": "string"},
            }),
        );
        properties.insert(
            "container".to_owned(),
            json!({
                "description": "Several containers in one file, by name.",
                "type": "object",
                "additionalProperties": container,
            }),
        );
        if let Some(own) = properties.get("network").cloned() {
            properties.insert(
                "network".to_owned(),
                json!({
                    "description": "A container's network; beside `container`, or alone, \
                                    networks by name.",
                    "anyOf": [own, {"type": "object", "additionalProperties": network}],
                }),
            );
        }
    }
    let mut definitions = definitions;
    if let Some(all) = definitions.as_object_mut() {
        let mut alone = schema.clone();
        for key in ["$schema", "$defs", "title"] {
            alone.remove(key);
        }
        all.insert("Container".to_owned(), alone.to_value());
    }
    root.insert("$defs".to_owned(), definitions);
    root
}

/// The schema of a file `NAME.network.toml`.
pub fn network_schema() -> Schema {
    let mut schema = SchemaGenerator::default().into_root_schema_for::<NetworkFile>();
    schema.insert("title".to_owned(), json!("Berth network manifest"));
    schema
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `BERTH_WRITE_SCHEMA=1 cargo test --lib manifest::schema` writes it anew.
    #[test]
    fn the_copy_is_current() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/schema");
        for (file, schema) in
            [("berth.schema.json", schema()), ("network.schema.json", network_schema())]
        {
            let path = format!("{dir}/{file}");
            let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
            if std::env::var_os("BERTH_WRITE_SCHEMA").is_some() {
                std::fs::write(&path, &text).unwrap();
            }
            let copy = std::fs::read_to_string(&path).unwrap_or_default();
            assert!(
                copy == text,
                "{file} is old: BERTH_WRITE_SCHEMA=1 cargo test --lib manifest::schema"
            );
        }
    }
}
