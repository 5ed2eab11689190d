//! Clients' JSON, as lenient as Docker's daemon reads it: a key of a type means the same in
//! any case (`container` is `Container`), the exact one before all others.

use serde::de::value::{MapDeserializer, SeqDeserializer};
use serde::de::{DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use serde::forward_to_deserialize_any;
use serde_json::{Error, Value, json};

/// A value as a type of the API.
///
/// # Errors
/// It is none.
pub fn from_value<T: DeserializeOwned>(mut value: Value) -> Result<T, Error> {
    T::deserialize(Loose(&mut value))
}

/// Gives the keys of a value the names that a type has for them: for those who look at it
/// before, or beside, what is read of it.
pub fn rename<T: DeserializeOwned>(value: &mut Value) {
    // That it may be no such type is said by who reads it.
    let _ = T::deserialize(Loose(value));
    let Value::Object(map) = value else { return };
    // What is wrong below one key must not keep the others as they are.
    for (key, inner) in map {
        let mut alone = json!({ key: inner.take() });
        let _ = T::deserialize(Loose(&mut alone));
        *inner = alone[key].take();
    }
}

/// A value that is given the type's names where it is read.
struct Loose<'a>(&'a mut Value);

impl<'de> IntoDeserializer<'de, Error> for Loose<'de> {
    type Deserializer = Loose<'de>;

    fn into_deserializer(self) -> Loose<'de> {
        self
    }
}

/// The name that a type has for a key.
fn named(key: String, fields: &[&str]) -> String {
    if fields.contains(&key.as_str()) {
        return key;
    }
    let meant = fields.iter().find(|field| field.eq_ignore_ascii_case(&key));
    meant.map_or(key, |field| (*field).to_owned())
}

impl<'de> Deserializer<'de> for Loose<'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0 {
            Value::Array(list) => {
                visitor.visit_seq(SeqDeserializer::new(list.iter_mut().map(Loose)))
            }
            Value::Object(map) => {
                let entries = map.iter_mut().map(|(key, value)| (key.as_str(), Loose(value)));
                visitor.visit_map(MapDeserializer::new(entries))
            }
            other => (&*other).deserialize_any(visitor),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        if let Value::Object(map) = &mut *self.0 {
            // The exact names come last: of two for one key they are what is left.
            let (exact, others): (Vec<_>, Vec<_>) = std::mem::take(map)
                .into_iter()
                .partition(|(key, _)| fields.contains(&key.as_str()));
            let others = others.into_iter().map(|(key, value)| (named(key, fields), value));
            *map = others.chain(exact).collect();
        }
        self.deserialize_any(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &*self.0 {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        (&*self.0).deserialize_enum(name, variants, visitor)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map identifier ignored_any
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bollard_stubs::models::{ContainerCreateBody, NetworkConnectRequest};

    #[test]
    fn names_are_given_beside_what_is_wrong() {
        let mut asked = json!({
            "cmd": "x", "healthcheck": 5, "Unknown": {"cmd": 1}, "labels": {"cmd": "y"},
            "hostconfig": {"binds": [], "Binds": ["a:/a"], "mounts": [{"target": "/t"}],
                           "restartpolicy": {"name": "never"}},
        });
        rename::<ContainerCreateBody>(&mut asked);
        assert_eq!(
            asked,
            json!({
                "Cmd": "x", "Healthcheck": 5, "Unknown": {"cmd": 1}, "Labels": {"cmd": "y"},
                "HostConfig": {"RestartPolicy": {"Name": "never"}, "Binds": ["a:/a"],
                               "Mounts": [{"Target": "/t"}]},
            })
        );
    }

    #[test]
    fn keys_mean_the_same_in_any_case_and_names_stay_as_they_are() {
        let asked: NetworkConnectRequest =
            from_value(json!({"container": "web", "endpointconfig": {"aliases": ["a"]}})).unwrap();
        assert_eq!(asked.container, "web");
        assert_eq!(asked.endpoint_config.unwrap().aliases.unwrap(), ["a"]);
        let body: ContainerCreateBody = from_value(json!({
            "image": "x", "Image": "y", "labels": {"Team": "a", "team": "b"},
            "hostConfig": {"portBindings": {"80/tcp": [{"hostport": "1"}]}, "Memory": null,
                           "restartPolicy": {"name": "always"}},
        }))
        .unwrap();
        assert_eq!((body.image.as_deref(), body.labels.unwrap().len()), (Some("y"), 2));
        let host = body.host_config.unwrap();
        let ports = host.port_bindings.unwrap();
        assert_eq!(ports["80/tcp"].as_ref().unwrap()[0].host_port.as_deref(), Some("1"));
        let policy = host.restart_policy.unwrap().name.unwrap();
        assert_eq!(policy.to_string(), "always");
        assert_eq!(from_value::<Value>(json!({"a": [1, null]})).unwrap(), json!({"a": [1, null]}));
        assert!(from_value::<NetworkConnectRequest>(json!({"container": 1})).is_err());
    }
}
