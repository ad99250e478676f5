//! JSON as it was meant: members by their names and never by their place, each name once, no null where a value is wanted.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor, value::MapAccessDeserializer},
};

/// A value that is written as an object; a list in the order of its members isn't one.
#[derive(Clone, Debug, Default)]
pub struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        object(from).map(Self)
    }
}

/// Reads a value that is written as an object.
///
/// # Errors
/// When it is written otherwise, or isn't one.
pub fn object<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<T, D::Error> {
    struct Named<T>(PhantomData<T>);

    impl<'de, T: Deserialize<'de>> Visitor<'de> for Named<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an object")
        }

        fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<T, A::Error> {
            T::deserialize(MapAccessDeserializer::new(map))
        }
    }

    from.deserialize_map(Named(PhantomData))
}

/// Reads a member that may be absent, and has a value where it isn't.
///
/// # Errors
/// When it is null, or isn't such a value.
pub fn stated<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// The members of an object whose names aren't known before; each is there once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Members<T>(pub BTreeMap<String, T>);

impl<T> Default for Members<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Members<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Once<T>(PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Once<T> {
            type Value = Members<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members<T>, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((name, value)) = map.next_entry::<String, T>()? {
                    if members.contains_key(&name) {
                        return Err(A::Error::custom(format_args!("{name:?} is there twice")));
                    }
                    members.insert(name, value);
                }
                Ok(Members(members))
            }
        }

        from.deserialize_map(Once(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Debug, PartialEq)]
    struct Pair {
        a: u8,
        #[serde(default, deserialize_with = "stated")]
        b: Option<u8>,
    }

    fn read(json: &str) -> Option<Pair> {
        serde_json::from_str::<Object<Pair>>(json).ok().map(|Object(pair)| pair)
    }

    #[test]
    fn an_object_is_read_by_names_and_a_list_or_null_is_none() {
        assert_eq!(read(r#"{"b": 2, "a": 1}"#), Some(Pair { a: 1, b: Some(2) }));
        assert_eq!(read(r#"{"a": 1}"#), Some(Pair { a: 1, b: None }));
        for wrong in ["[1, 2]", "[1]", "[]", "null", "1", r#"{"a": 1, "b": null}"#, r#"{"a": 1, "a": 1}"#] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_name_that_is_there_twice_is_refused() {
        let read = |json| serde_json::from_str::<Members<u8>>(json).map(|Members(all)| all.len()).ok();
        assert_eq!(read(r#"{"a": 1, "b": 1}"#), Some(2));
        assert_eq!(read(r#"{"a": 1, "a": 1}"#), None);
        assert_eq!(read("[]"), None);
    }
}
