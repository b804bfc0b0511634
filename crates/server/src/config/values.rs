//! Typed values: each says in its error what is allowed, and never prints a secret.

use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    str::FromStr,
    time::Duration,
};

use fanfare_core::Pattern;
use fanfare_edge::config::{InvalidOrigin, Origin, RefusalMode, UnknownMode};
use ipnet::IpNet;
use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{Error, SeqAccess, Visitor, value::SeqAccessDeserializer},
};

/// A span of time, written `"15s"`, `"1m 30s"`, `"250ms"`, `"1h"`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(crate) struct Span(pub(crate) Duration);

impl Span {
    pub(crate) const fn secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }
}

impl FromStr for Span {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let allowed = r#"expected a time with its unit, such as "250ms", "15s", "5m" or "1h""#;
        match humantime::parse_duration(text) {
            Ok(span) if !text.trim().is_empty() => Ok(Self(span)),
            _ => Err(allowed.into()),
        }
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without the blanks of humantime: "1m30s" is easier to quote in a shell.
        let text = humantime::format_duration(self.0).to_string();
        f.write_str(&text.replace(' ', ""))
    }
}

/// A number of bytes, written `"16MiB"`, `"64KiB"`, `"1MB"`, `1024`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Debug)]
pub(crate) struct Bytes(pub(crate) usize);

const UNITS: [(&str, usize); 9] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("kB", 1_000),
    ("B", 1),
    ("", 1),
];

impl FromStr for Bytes {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let read = || {
            let text = text.trim();
            let (unit, factor) = UNITS.iter().find(|(unit, _)| text.ends_with(unit))?;
            let number: usize = text.strip_suffix(unit)?.trim_end().parse().ok()?;
            number.checked_mul(*factor).map(Self)
        };
        read().ok_or_else(|| {
            r#"expected a size such as "64KiB", "16MiB", "1GiB", "5MB" or a number of bytes"#.into()
        })
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole =
            |(_, factor): &&(&str, usize)| self.0 >= *factor && self.0.is_multiple_of(*factor);
        match UNITS[..3].iter().find(whole) {
            Some((unit, factor)) => write!(f, "{}{unit}", self.0 / factor),
            None => write!(f, "{}B", self.0),
        }
    }
}

/// Selects channels.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Selector(pub(crate) Pattern);

impl FromStr for Selector {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Pattern::parse(text).map(Self).map_err(|why| {
            format!(
                "the pattern {why}; expected a channel such as \"orders.eu\", or a pattern such as \
                 \"orders.*\" (one segment) or \"orders.>\" (the rest)"
            )
        })
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An address and a port.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Address(pub(crate) SocketAddr);

impl FromStr for Address {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Self).map_err(|_| {
            r#"expected an address and a port, such as "127.0.0.1:8080", "0.0.0.0:8080" or "[::]:8080""#
                .into()
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A network of addresses.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Network(pub(crate) IpNet);

impl FromStr for Network {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let network = text
            .parse()
            .or_else(|_| text.parse::<IpAddr>().map(IpNet::from));
        network.map(Self).map_err(|_| {
            r#"expected a network such as "10.0.0.0/8", or an address such as "10.1.2.3""#.into()
        })
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An origin of pages.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct WebOrigin(pub(crate) Origin);

impl FromStr for WebOrigin {
    type Err = InvalidOrigin;
    fn from_str(text: &str) -> Result<Self, InvalidOrigin> {
        text.parse().map(Self)
    }
}

impl fmt::Display for WebOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.0 {
            Origin::Any => "*",
            Origin::Exact(origin) => origin,
        })
    }
}

/// How a stream that is refused for now is told.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Refusal(pub(crate) RefusalMode);

impl FromStr for Refusal {
    type Err = UnknownMode;
    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        text.parse().map(Self)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A setting that `"none"` switches off.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Maybe<T>(pub(crate) Option<T>);

impl<T: FromStr<Err = String>> FromStr for Maybe<T> {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "none" => Ok(Self(None)),
            text => text
                .parse()
                .map(|value| Self(Some(value)))
                .map_err(|why| format!("{why}, or \"none\"")),
        }
    }
}

impl<T: fmt::Display> fmt::Display for Maybe<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("none"),
        }
    }
}

/// Deserialises with [`FromStr`] from text or a number, serialises with `Display`.
macro_rules! as_text {
    ($($name:ty: $expected:literal)*) => {$(
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $name;
                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expected)
                    }
                    fn visit_str<E: Error>(self, text: &str) -> Result<$name, E> {
                        text.parse().map_err(E::custom)
                    }
                    fn visit_i64<E: Error>(self, number: i64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }
                    fn visit_u64<E: Error>(self, number: u64) -> Result<$name, E> {
                        self.visit_str(&number.to_string())
                    }
                }
                deserializer.deserialize_any(Text)
            }
        }
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
as_text! {
    Span: "a time with its unit, such as \"15s\""
    Bytes: "a size such as \"16MiB\""
    Selector: "a channel or a pattern"
    Address: "an address and a port, such as \"127.0.0.1:8080\""
    Network: "a network, such as \"10.0.0.0/8\""
    WebOrigin: "an origin, such as \"https://app.example\""
    Refusal: "`status`, `retry-stream` or `auto`"
    Maybe<Span>: "a time with its unit, such as \"15s\", or \"none\""
    Maybe<Bytes>: "a size such as \"16MiB\", or \"none\""
}

/// A list; in an environment variable, its items are separated by commas. One item alone is a
/// list too.
pub(crate) fn list<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Vec<T>, D::Error> {
    struct List<T>(std::marker::PhantomData<T>);
    impl<'de, T: Deserialize<'de>> Visitor<'de> for List<T> {
        type Value = Vec<T>;
        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list")
        }
        fn visit_str<E: Error>(self, text: &str) -> Result<Vec<T>, E> {
            let items = text
                .split(',')
                .map(str::trim)
                .filter(|item| !item.is_empty());
            items
                .map(|item| T::deserialize(serde::de::value::StrDeserializer::<E>::new(item)))
                .collect()
        }
        fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Vec<T>, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(items))
        }
    }
    deserializer.deserialize_any(List(std::marker::PhantomData))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in [
            ("16MiB", 16 << 20),
            ("64 KiB", 64 << 10),
            ("5MB", 5_000_000),
            ("1GiB", 1 << 30),
            ("12", 12),
            ("12B", 12),
        ] {
            assert_eq!(text.parse::<Bytes>().unwrap().0, bytes, "{text}");
            let shown = Bytes(bytes).to_string();
            assert_eq!(shown.parse::<Bytes>().unwrap().0, bytes, "{shown}");
        }
        for bad in [
            "",
            "MiB",
            "-1",
            "1.5MiB",
            "16 apples",
            "99999999999999999999GiB",
        ] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad:?}");
        }
        assert_eq!(Bytes(16 << 20).to_string(), "16MiB");
    }

    #[test]
    fn spans_have_units() {
        assert_eq!("1m 30s".parse::<Span>().unwrap(), Span::secs(90));
        assert_eq!(Span::secs(90).to_string(), "1m30s");
        assert_eq!("1m30s".parse::<Span>().unwrap(), Span::secs(90));
        for bad in ["", "15", "fast", "-1s"] {
            assert!(bad.parse::<Span>().is_err(), "{bad:?}");
        }
    }
}
