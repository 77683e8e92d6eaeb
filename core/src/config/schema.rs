//! What keys there are: names, documentation, shapes and defaults, taken from the same declaration as
//! the structs, so that they cannot disagree.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// One key of a section.
#[derive(Clone, Copy)]
pub struct Key {
    /// As written in a layer.
    pub name: &'static str,
    /// Sentences; may be empty.
    pub doc: &'static str,
    /// What may stand behind it.
    pub shape: Shape,
    /// Known for compatibility, without effect in this version.
    pub inert: bool,
}

/// What a key holds.
#[derive(Clone, Copy)]
pub enum Shape {
    /// One value. `expected` completes "must be ..."; `check` returns the rest of the sentence.
    Leaf { expected: &'static str, check: fn(&toml::Value) -> Result<(), String> },
    /// A table with these keys.
    Section(fn() -> Vec<Key>),
    /// A list of tables with these keys.
    Sections(fn() -> Vec<Key>),
}

/// A struct declared by [`section!`].
pub trait Section {
    /// Its keys in the order of the declaration.
    fn keys() -> Vec<Key>;
}

/// A type that a key may have.
pub trait Described {
    /// What a layer may say.
    fn shape() -> Shape;
}

/// The rest of the sentence when a value is not what the key takes.
pub fn mismatch(expected: &str, found: &toml::Value) -> String {
    format!("must be {expected}, not {}", describe(found))
}

fn describe(found: &toml::Value) -> String {
    match found {
        toml::Value::String(text) => format!("the text {text:?}"),
        toml::Value::Array(_) => "a list".to_owned(),
        toml::Value::Table(_) => "a table".to_owned(),
        other => other.to_string(),
    }
}

/// Checks by parsing; the words of the parser are for programmers and are left out.
fn check_as<T: DeserializeOwned + Leaf>(value: &toml::Value) -> Result<(), String> {
    match T::deserialize(value.clone()) {
        Ok(_) => Ok(()),
        Err(_) => Err(mismatch(T::EXPECTED, value)),
    }
}

/// A type that is one value and whose parser says all there is to check.
pub trait Leaf: Serialize {
    /// Completes "must be ...".
    const EXPECTED: &'static str;
}

impl<T: Leaf + DeserializeOwned> Described for T {
    fn shape() -> Shape {
        Shape::Leaf { expected: T::EXPECTED, check: check_as::<T> }
    }
}

impl Leaf for bool {
    const EXPECTED: &'static str = "true or false";
}

impl Leaf for u32 {
    const EXPECTED: &'static str = "a whole number of at least 0";
}

impl Leaf for String {
    const EXPECTED: &'static str = "a text in quotes";
}

impl Leaf for Vec<String> {
    const EXPECTED: &'static str = "a list of texts";
}

/// Declares a section: the struct with serde names and defaults, and its keys.
macro_rules! section {
    (
        $(#[doc = $section_doc:literal])*
        pub struct $name:ident {
            $(
                $(#[doc = $doc:literal])*
                $key:literal => $field:ident: $type:ty = $default:expr $(, $inert:ident)?;
            )*
        }
    ) => {
        $(#[doc = $section_doc])*
        #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct $name {
            $(
                $(#[doc = $doc])*
                #[serde(rename = $key)]
                pub $field: $type,
            )*
        }

        impl Default for $name {
            fn default() -> $name {
                $name { $($field: $default,)* }
            }
        }

        impl $crate::config::schema::Section for $name {
            fn keys() -> Vec<$crate::config::schema::Key> {
                use $crate::config::schema::{Described, Key};
                vec![$(Key {
                    name: $key,
                    doc: concat!($($doc, "\n"),*),
                    shape: <$type as Described>::shape(),
                    inert: !<[&str]>::is_empty(&[$(stringify!($inert))?]),
                },)*]
            }
        }

        impl $crate::config::schema::Described for $name {
            fn shape() -> $crate::config::schema::Shape {
                $crate::config::schema::Shape::Section(<$name as $crate::config::schema::Section>::keys)
            }
        }
    };
}
pub(crate) use section;

impl Described for Vec<crate::config::AddressSet> {
    fn shape() -> Shape {
        Shape::Sections(<crate::config::AddressSet as Section>::keys)
    }
}
