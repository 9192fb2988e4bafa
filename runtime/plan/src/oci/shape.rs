//! What the documents may hold, as data: made from the same types that read them.

use super::lists::{Dict, List};
use serde::de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor};
use std::cell::Cell;
use std::collections::BTreeMap;

/// The shape of one value.
pub enum Node {
    /// `expected`: for people. `check` says whether a JSON text is such a value.
    Leaf {
        expected: &'static str,
        default: &'static str,
        check: fn(&[u8]) -> bool,
    },
    List(fn() -> Node),
    /// An object with any keys.
    Map(fn() -> Node),
    /// An object with these fields; names and types are in the same order.
    Object {
        names: fn() -> &'static [&'static str],
        types: &'static [fn() -> Node],
    },
}

pub trait Shape {
    fn node() -> Node;
}

macro_rules! leaf {
    ($($ty:ty, $expected:literal, $default:literal);* $(;)?) => {
        $(impl Shape for $ty {
            fn node() -> Node {
                let check = |text: &[u8]| serde_json::from_slice::<$ty>(text).is_ok();
                Node::Leaf { expected: $expected, default: $default, check }
            }
        })*
    };
}

leaf!(
    bool, "true or false", "false";
    String, "a string", "\"\"";
    u16, "a whole number from 0 to 65535", "0";
    u32, "a whole number from 0 to 4294967295", "0";
    u64, "a whole number from 0 to 18446744073709551615", "0";
    i32, "a whole number from -2147483648 to 2147483647", "0";
    i64, "a whole number from -9223372036854775808 to 9223372036854775807", "0";
);

impl<T: Shape> Shape for Option<T> {
    fn node() -> Node {
        T::node()
    }
}

impl<T: Shape> Shape for List<T> {
    fn node() -> Node {
        Node::List(T::node)
    }
}

impl<T: Shape> Shape for BTreeMap<String, T> {
    fn node() -> Node {
        Node::Map(T::node)
    }
}

impl Shape for Dict {
    fn node() -> Node {
        Node::Map(String::node)
    }
}

/// Asks a type that serde has derived for the names of its fields, and nothing else.
pub struct Probe;

/// The answer, which comes as the error of [`Probe`].
#[derive(Debug)]
pub struct Names(&'static [&'static str]);

pub fn names<T>(answer: Result<T, Names>) -> &'static [&'static str] {
    answer.map_or_else(|names| names.0, |_| &[])
}

impl std::fmt::Display for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.write_str("names of fields")
    }
}

impl std::error::Error for Names {}

impl serde::de::Error for Names {
    fn custom<T: std::fmt::Display>(_: T) -> Self {
        Names(&[])
    }
}

impl<'de> serde::Deserializer<'de> for Probe {
    type Error = Names;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Names> {
        Err(Names(&[]))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Names> {
        Err(Names(fields))
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct seq tuple tuple_struct map enum identifier ignored_any
    }
}

thread_local! {
    static UNKNOWN: Cell<bool> = const { Cell::new(false) };
}

pub fn forget_unknown() {
    UNKNOWN.set(false);
}

/// True if a field was skipped since [`forget_unknown`].
pub fn saw_unknown() -> bool {
    UNKNOWN.get()
}

/// The fields of an object on their way into a structure; notices when the structure has no use for one.
pub struct Watched<A>(pub A);

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Watched<A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        self.0.next_key_seed(seed)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        // What serde derives reads the value of a field that it does not know as this type.
        if std::any::type_name::<V::Value>() == std::any::type_name::<IgnoredAny>() {
            UNKNOWN.set(true);
        }
        self.0.next_value_seed(seed)
    }
}
