//! Values as people type them: durations, sizes, "true or a list", "a word or a table".
//!
//! Reading is done in visitors under `deserialize_any`, because the parser puts its place on an error that
//! leaves a visitor; an error made later would have none inside an array.

use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Unexpected, Visitor};
use toml::Spanned;

/// A string with its place.
pub(crate) type Text = Spanned<String>;

/// What a duration may look like.
pub(crate) const DURATION_FORM: &str = "a duration in quotes with its unit, such as \"250ms\", \"90s\", \"1h 30m\", \"5 minutes\", \"1.5h\", \"1d\"";
/// What a size may look like.
pub(crate) const SIZE_FORM: &str =
    "bytes as a number, or a size such as \"64KiB\", \"8MiB\", \"1GiB\", \"512KB\"";

/// `"1m 30s"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Span;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(DURATION_FORM)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Span, E> {
                duration(text).map(Span).map_err(|e| E::custom(format!("{e}, expected {DURATION_FORM}")))
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Span, E> {
                Err(E::custom(format!("`{n}` has no unit, expected {DURATION_FORM}")))
            }
            fn visit_f64<E: de::Error>(self, n: f64) -> Result<Span, E> {
                Err(E::custom(format!("`{n}` has no unit, expected {DURATION_FORM}")))
            }
        }
        deserializer.deserialize_any(V)
    }
}

/// Reads a duration. Days are 24 hours, which the underlying parser leaves to the caller.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Err("an empty duration".to_owned());
    }
    if trimmed.parse::<f64>().is_ok() && trimmed != "0" {
        return Err(format!("`{text}` has no unit"));
    }
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    let refuse = || format!("`{text}` is not a duration");
    let (days, rest) = split_days(trimmed);
    let mut total = days
        .map_or(Some(0), |d| d.checked_mul(86_400))
        .map(Duration::from_secs)
        .ok_or_else(|| format!("`{text}` is too long"))?;
    if !rest.is_empty() {
        let signed: jiff::SignedDuration = rest.parse().map_err(|_| refuse())?;
        let part = Duration::try_from(signed).map_err(|_| format!("`{text}` is negative"))?;
        total = total.checked_add(part).ok_or_else(|| format!("`{text}` is too long"))?;
    }
    Ok(total)
}

/// Takes `1d`, `2 days` off the front.
fn split_days(text: &str) -> (Option<u64>, &str) {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let Ok(number) = text[..digits].parse::<u64>() else { return (None, text) };
    let rest = text[digits..].trim_start();
    for unit in ["days", "day", "d"] {
        if let Some(after) = rest.strip_prefix(unit)
            && !after.starts_with(|c: char| c.is_ascii_alphabetic())
        {
            return (Some(number), after.trim_start_matches([' ', ',']));
        }
    }
    (None, text)
}

/// Writes a duration the way it would be typed.
pub(crate) fn show_duration(d: Duration) -> String {
    let (secs, millis) = (d.as_secs(), d.subsec_millis());
    let parts = [
        (secs / 86_400, "d"),
        (secs / 3600 % 24, "h"),
        (secs / 60 % 60, "m"),
        (secs % 60, "s"),
        (u64::from(millis), "ms"),
    ];
    let shown: Vec<String> =
        parts.iter().filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if shown.is_empty() { "0s".to_owned() } else { shown.join(" ") }
}

/// Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Size(pub(crate) u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(SIZE_FORM)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                size(text).map(Size).map_err(|e| E::custom(format!("{e}, expected {SIZE_FORM}")))
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Size, E> {
                u64::try_from(n)
                    .map(Size)
                    .map_err(|_| E::custom(format!("`{n}` is negative, expected {SIZE_FORM}")))
            }
        }
        deserializer.deserialize_any(V)
    }
}

const SIZE_UNITS: [(&str, u64); 9] = [
    ("", 1),
    ("b", 1),
    ("kib", 1 << 10),
    ("mib", 1 << 20),
    ("gib", 1 << 30),
    ("tib", 1 << 40),
    ("kb", 1000),
    ("mb", 1_000_000),
    ("gb", 1_000_000_000),
];

/// Reads a size: `8MiB` is 8·2²⁰ bytes, `8MB` is 8·10⁶.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let trimmed = text.trim();
    let digits = trimmed.len() - trimmed.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let refuse = || format!("`{text}` is not a size");
    if digits == 0 {
        return Err(refuse());
    }
    let number: u64 = trimmed[..digits].parse().map_err(|_| format!("`{text}` is too large"))?;
    let unit = trimmed[digits..].trim().to_ascii_lowercase();
    let (_, factor) = SIZE_UNITS.iter().find(|(name, _)| *name == unit).ok_or_else(refuse)?;
    number.checked_mul(*factor).ok_or_else(|| format!("`{text}` is too large"))
}

/// Writes a size the way it would be typed.
pub(crate) fn show_size(bytes: u64) -> String {
    for (unit, factor) in [("GiB", 1_u64 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)] {
        if bytes >= factor && bytes.is_multiple_of(factor) {
            return format!("{}{unit}", bytes / factor);
        }
    }
    format!("{bytes}B")
}

/// A secret. Neither its `Debug` nor an error made while reading it shows it.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Secret(pub(crate) String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        const FORM: &str = "expected a string in quotes; the value is not shown because it is a secret";
        struct V;
        impl<'v> Visitor<'v> for V {
            type Value = Secret;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Secret, E> {
                Ok(Secret(text.to_owned()))
            }
            fn visit_i64<E: de::Error>(self, _: i64) -> Result<Secret, E> {
                Err(E::custom(format!("read a number, {FORM}")))
            }
            fn visit_i128<E: de::Error>(self, _: i128) -> Result<Secret, E> {
                Err(E::custom(format!("read a number, {FORM}")))
            }
            fn visit_u64<E: de::Error>(self, _: u64) -> Result<Secret, E> {
                Err(E::custom(format!("read a number, {FORM}")))
            }
            fn visit_u128<E: de::Error>(self, _: u128) -> Result<Secret, E> {
                Err(E::custom(format!("read a number, {FORM}")))
            }
            fn visit_f64<E: de::Error>(self, _: f64) -> Result<Secret, E> {
                Err(E::custom(format!("read a number, {FORM}")))
            }
            fn visit_map<A: MapAccess<'v>>(self, _: A) -> Result<Secret, A::Error> {
                Err(de::Error::custom(format!("read a table or date, {FORM}")))
            }
        }
        deserializer.deserialize_any(V)
    }
}

/// `true`, `false`, or something more telling.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Switch<T> {
    /// A boolean.
    Plain(bool),
    /// The rest.
    Given(T),
}

/// What may stand in for a boolean, for error messages.
pub(crate) trait Form {
    /// `true, false or …`
    const FORM: &'static str;
}

/// A list of networks.
pub(crate) type Networks = Vec<Text>;

impl Form for Networks {
    const FORM: &'static str = "false, true, or a list of networks such as [\"10.0.0.0/8\"]";
}

/// A file name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FileName(pub(crate) String);

impl Form for FileName {
    const FORM: &'static str = "true (standard output), false, or a file name";
}

impl<'de> Deserialize<'de> for FileName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(FileName)
    }
}

impl Form for Size {
    const FORM: &'static str = "true, false, or a size such as \"8MiB\"";
}

/// `"shared"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shared;

impl Form for Shared {
    const FORM: &'static str =
        "true (within one instance), false, or \"shared\" (by all instances on one Redis)";
}

impl<'de> Deserialize<'de> for Shared {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "shared" { Ok(Shared) } else { Err(de::Error::custom("another word")) }
    }
}

/// A value that must be equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted(pub(crate) String);

impl Form for Wanted {
    const FORM: &'static str = "true (present) or the text it must equal";
}

impl<'de> Deserialize<'de> for Wanted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(Wanted)
    }
}

impl<'de, T: Deserialize<'de> + Form> Deserialize<'de> for Switch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Form> Visitor<'de> for V<T> {
            type Value = Switch<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::FORM)
            }
            fn visit_bool<E: de::Error>(self, on: bool) -> Result<Self::Value, E> {
                Ok(Switch::Plain(on))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                T::deserialize(de::value::StrDeserializer::<E>::new(text))
                    .map(Switch::Given)
                    .map_err(|_| E::invalid_type(Unexpected::Str(text), &self))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<Self::Value, A::Error> {
                T::deserialize(SeqAccessDeserializer::new(seq)).map(Switch::Given)
            }
        }
        deserializer.deserialize_any(V(PhantomData))
    }
}

/// `"x"` or `["x", "y"]`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct OneOrMore(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = OneOrMore;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or a list of strings")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<OneOrMore, E> {
                Ok(OneOrMore(vec![text.to_owned()]))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, seq: A) -> Result<OneOrMore, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(seq)).map(OneOrMore)
            }
        }
        deserializer.deserialize_any(V)
    }
}

/// A word from a fixed list, or a table `T`.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum WordOr<T> {
    /// The word.
    Word(&'static str),
    /// The table.
    Table(Box<T>),
}

/// Which words may stand in for a table.
pub(crate) trait Words {
    /// The words.
    const WORDS: &'static [&'static str];
    /// What is allowed, in words.
    const FORM: &'static str;
}

impl<'de, T: Deserialize<'de> + Words> Deserialize<'de> for WordOr<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct V<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de> + Words> Visitor<'de> for V<T> {
            type Value = WordOr<T>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(T::FORM)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
                let word = T::WORDS.iter().find(|w| **w == text);
                word.map(|w| WordOr::Word(w))
                    .ok_or_else(|| E::custom(format!("read `{text}`, expected {}", T::FORM)))
            }
            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(|t| WordOr::Table(Box::new(t)))
            }
        }
        deserializer.deserialize_any(V(PhantomData))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_as_people_type_them() {
        let ms = Duration::from_millis;
        for (text, want) in [
            ("250ms", ms(250)),
            ("5s", ms(5000)),
            ("1m 30s", ms(90_000)),
            ("1m30s", ms(90_000)),
            ("12h", ms(43_200_000)),
            ("1d", ms(86_400_000)),
            ("2 days", ms(172_800_000)),
            ("1d 12h", ms(129_600_000)),
            ("1d12h", ms(129_600_000)),
            ("0s", ms(0)),
            ("0", ms(0)),
            (" 5s ", ms(5000)),
            ("1.5s", ms(1500)),
            ("90s", ms(90_000)),
            ("5m", ms(300_000)),
            ("1h 30m", ms(5_400_000)),
            ("1.5h", ms(5_400_000)),
            ("5 minutes", ms(300_000)),
        ] {
            assert_eq!(duration(text), Ok(want), "{text}");
        }
    }

    #[test]
    fn refused_durations_say_why() {
        for (text, want) in [
            ("5", "has no unit"),
            ("1.5", "has no unit"),
            ("", "an empty duration"),
            ("soon", "is not a duration"),
            ("-5s", "is negative"),
            ("5 parsecs", "is not a duration"),
            ("1dd", "is not a duration"),
            ("999999999999999999d", "is too long"),
        ] {
            let error = duration(text).unwrap_err();
            assert!(error.contains(want), "{text}: {error}");
        }
    }

    #[test]
    fn sizes() {
        for (text, want) in [("8MiB", 8 << 20), ("512KB", 512_000), ("0", 0), ("10 b", 10), ("1GiB", 1 << 30)]
        {
            assert_eq!(size(text), Ok(want), "{text}");
        }
        for text in ["", "MiB", "-1", "8 cows", "99999999999999999999", "99999999999TiB", "1.5MiB"] {
            assert!(size(text).is_err(), "{text}");
        }
        assert_eq!((show_size(8 << 20), show_size(1500)), ("8MiB".to_owned(), "1500B".to_owned()));
    }

    proptest! {
        #[test]
        fn durations_round_trip(ms in 0_u64..10_000_000_000) {
            let d = Duration::from_millis(ms);
            prop_assert_eq!(duration(&show_duration(d)), Ok(d));
        }

        #[test]
        fn sizes_round_trip(n in 0_u64..u64::MAX) {
            prop_assert_eq!(size(&show_size(n)), Ok(n));
        }

        #[test]
        fn never_panics(text in "\\PC{0,24}") {
            let _ = duration(&text);
            let _ = size(&text);
        }
    }
}
