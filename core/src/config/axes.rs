//! The axes as data: each independent choice with its key, its words on screen and what it is when not given.
//!
//! A section of the configuration is declared by [`section!`], one line an axis; the field, its default, the walk over all
//! choices and the card on screen follow from that line.

use serde::{Serialize, Serializer};

pub use super::sections::axes::*;
pub use super::train::axes::*;
use super::{Choice, PerKv};

/// One independent choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Axis {
    /// Its key in TOML.
    pub key: &'static str,
    /// The heading that its card stands under.
    pub section: &'static str,
    /// The card's title.
    pub title: &'static str,
    /// What is chosen, in one sentence.
    pub sentence: &'static str,
    /// Shown only under Advanced.
    pub advanced: bool,
    /// The variant when nothing is chosen; empty for an axis of which any number may be on.
    pub default: &'static str,
    /// Keys under which it is chosen apart, such as `k` and `v`; none for one choice.
    pub parts: &'static [&'static str],
}

/// What a run is measured by: any number of tasks, each with a table of knobs.
pub static EVAL: Axis = Axis {
    key: "eval",
    section: "Accuracy",
    title: "Measured by",
    sentence: "What a run is measured by after it has generated.",
    advanced: false,
    default: "",
    parts: &[],
};

/// All axes, in the order of their cards.
pub fn all() -> impl Iterator<Item = &'static Axis> {
    let sections = [super::Weights::AXES, super::Kv::AXES, super::Place::AXES, super::train::Train::AXES];
    sections.into_iter().flatten().copied().chain([&EVAL])
}

impl Axis {
    /// Its title, with its section before it where another axis is called the same: `KV cache precision`.
    pub fn name(&self) -> String {
        let alone = all().filter(|other| other.title == self.title).count() == 1;
        if alone { self.title.to_owned() } else { format!("{} {}", self.section, self.title.to_lowercase()) }
    }
}

impl Serialize for Axis {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.key)
    }
}

/// What a section holds for an axis: one choice, or one for each part.
pub(super) trait Chosen {
    /// Keys of its parts.
    const PARTS: &'static [&'static str];
    /// The same variant throughout.
    fn of(id: &str) -> Self;
    /// Every choice with its key.
    fn each<'a>(&'a self, axis: &'static Axis, out: &mut Vec<(&'static Axis, String, &'a Choice)>);
}

impl Chosen for Choice {
    const PARTS: &'static [&'static str] = &[];

    fn of(id: &str) -> Self {
        id.into()
    }

    fn each<'a>(&'a self, axis: &'static Axis, out: &mut Vec<(&'static Axis, String, &'a Choice)>) {
        out.push((axis, axis.key.to_owned(), self));
    }
}

impl Chosen for PerKv {
    const PARTS: &'static [&'static str] = &["k", "v"];

    fn of(id: &str) -> Self {
        Self::both(id)
    }

    fn each<'a>(&'a self, axis: &'static Axis, out: &mut Vec<(&'static Axis, String, &'a Choice)>) {
        out.push((axis, format!("{}.k", axis.key), &self.k));
        out.push((axis, format!("{}.v", axis.key), &self.v));
    }
}

/// Declares sections of the configuration, one line an axis:
/// `field: AXIS = Choice "default", heading "KV cache", card "Tokens to keep", advanced false, "Which tokens stay.";`
/// before them the section's other keys with their defaults. Of each axis it makes the field, its default and the static
/// that the catalogue's entries name.
macro_rules! section {
    ($(
        $(#[$meta:meta])*
        struct $name:ident at $at:literal {
            keys {$(
                $(#[$kmeta:meta])*
                $knob:ident: $kty:ty = $kdefault:expr;
            )*}
            axes {$(
                $axis:ident: $konst:ident = $ty:ident $default:literal, heading $heading:literal, card $title:literal,
                advanced $advanced:literal, $sentence:literal;
            )+}
        }
    )+) => {
        $(
            $(#[$meta])*
            #[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
            #[serde(deny_unknown_fields, default)]
            pub struct $name {
                $($(#[$kmeta])* pub $knob: $kty,)*
                $(#[doc = $sentence] pub $axis: $ty,)+
            }

            impl Default for $name {
                fn default() -> Self {
                    Self {
                        $($knob: $kdefault,)*
                        $($axis: <$ty as $crate::config::axes::Chosen>::of($default),)+
                    }
                }
            }

            impl $name {
                /// Its axes.
                pub const AXES: &[&$crate::config::axes::Axis] = &[$(&axes::$konst),+];

                /// Adds each of its choices, with its axis and its key, to `out`.
                pub(crate) fn each<'a>(
                    &'a self,
                    out: &mut Vec<(&'static $crate::config::axes::Axis, String, &'a $crate::config::Choice)>,
                ) {
                    $($crate::config::axes::Chosen::each(&self.$axis, &axes::$konst, out);)+
                }
            }
        )+

        /// The axes of these sections.
        pub mod axes {
            use super::*;
            use $crate::config::axes::{Axis, Chosen};
            $($(
                #[doc = $sentence]
                pub static $konst: Axis = Axis {
                    key: concat!($at, ".", stringify!($axis)),
                    section: $heading,
                    title: $title,
                    sentence: $sentence,
                    advanced: $advanced,
                    default: $default,
                    parts: <$ty as Chosen>::PARTS,
                };
            )+)+
        }
    };
}
pub(super) use section;
