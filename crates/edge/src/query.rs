//! Query strings: decoded strictly, so that a mistake is told rather than guessed at.

use std::{borrow::Cow, ops::RangeInclusive, str::FromStr};

use crate::problem::{Refusal, shown};

/// The parameter that a token may stand in, where that is allowed.
pub(crate) const TOKEN: &str = "access_token";
/// Parameters that any call takes and ignores: browsers and libraries add them against caches.
const IGNORED: &[&str] = &["_"];

/// The parameters of a call.
#[derive(Debug)]
pub(crate) struct Query<'a> {
    pairs: Vec<(Cow<'a, str>, Cow<'a, str>)>,
}

/// One `name=value`, as it came.
#[derive(Clone, Copy)]
pub(crate) struct Pair<'a> {
    name: &'a str,
    value: &'a str,
}

/// The pairs of a query string, undecoded.
pub(crate) fn pairs(query: &str) -> impl Iterator<Item = Pair<'_>> {
    query
        .split('&')
        .filter(|part| !part.is_empty())
        .map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            Pair { name, value }
        })
}

impl<'a> Pair<'a> {
    /// Whether the decoded name is this.
    pub(crate) fn is_named(&self, name: &str) -> bool {
        decode(self.name, true).is_ok_and(|decoded| decoded == name)
    }

    /// The decoded value.
    pub(crate) fn value(&self) -> Result<Cow<'a, str>, Refusal> {
        decode(self.value, true).map_err(|why| Refusal::invalid(shown(self.name), why))
    }
}

impl<'a> Query<'a> {
    /// Parses the query string of a call that has these parameters and no others: one who
    /// mistypes a name is told, not served something else.
    pub(crate) fn parse(
        query: Option<&'a str>,
        allowed: &[&str],
        token_allowed: bool,
    ) -> Result<Self, Refusal> {
        let mut found = Vec::new();
        for pair in pairs(query.unwrap_or_default()) {
            let name =
                decode(pair.name, true).map_err(|why| Refusal::invalid(shown(pair.name), why))?;
            if allowed.contains(&&*name) {
                found.push((name, pair.value()?));
            } else if name == TOKEN && !token_allowed {
                let told = "is not taken in a URL, which proxies log; send the token in the \
                            Authorization header or cookie, or allow it with auth.jwt.query";
                return Err(Refusal::invalid(TOKEN, told));
            } else if name != TOKEN && !IGNORED.contains(&&*name) {
                let allowed = match allowed {
                    [] => "none".to_owned(),
                    names => names.join(", "),
                };
                return Err(Refusal::UnknownParameter {
                    name: shown(&name),
                    allowed,
                });
            }
        }
        Ok(Self { pairs: found })
    }

    /// Every value of a parameter.
    pub(crate) fn all(&self, name: &str) -> impl Iterator<Item = &str> {
        self.pairs
            .iter()
            .filter(move |(key, _)| key == name)
            .map(|(_, value)| &**value)
    }

    /// The value of a parameter that may be given once.
    pub(crate) fn one(&self, name: &'static str) -> Result<Option<&str>, Refusal> {
        let mut all = self.all(name);
        let first = all.next();
        if all.next().is_some() {
            return Err(Refusal::invalid(name, "is given more than once"));
        }
        Ok(first)
    }

    /// A parameter that is `1` or `0`.
    pub(crate) fn flag(&self, name: &'static str) -> Result<Option<bool>, Refusal> {
        match self.one(name)? {
            None => Ok(None),
            Some("1" | "true") => Ok(Some(true)),
            Some("0" | "false") => Ok(Some(false)),
            Some(other) => {
                let told = format!("is {:?}; 1 and 0 are allowed", shown(other));
                Err(Refusal::invalid(name, told))
            }
        }
    }

    /// A parameter that is a number in a range.
    pub(crate) fn number<T>(
        &self,
        name: &'static str,
        range: RangeInclusive<T>,
    ) -> Result<Option<T>, Refusal>
    where
        T: FromStr + PartialOrd + std::fmt::Display,
    {
        let Some(text) = self.one(name)? else {
            return Ok(None);
        };
        // `parse` takes a sign; a number here has none.
        let digits = text.bytes().all(|b| b.is_ascii_digit() || b == b'.');
        match text.parse::<T>() {
            Ok(number) if digits && range.contains(&number) => Ok(Some(number)),
            _ => {
                let (least, most) = (range.start(), range.end());
                let told = format!("is {:?}; {least} to {most} is allowed", shown(text));
                Err(Refusal::invalid(name, told))
            }
        }
    }
}

/// Decodes percent-escapes, and `+` as a space where `plus` says so. The error says what is wrong.
pub(crate) fn decode(text: &str, plus: bool) -> Result<Cow<'_, str>, &'static str> {
    if !text.contains(if plus { &['%', '+'][..] } else { &['%'][..] }) {
        return Ok(Cow::Borrowed(text));
    }
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' if plus => b' ',
            b'%' => {
                let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
                let (high, low) = (digit(bytes.next()), digit(bytes.next()));
                let (Some(high), Some(low)) = (high, low) else {
                    return Err(
                        "has a `%` without two hexadecimal digits after it; write %25 for `%`",
                    );
                };
                // Two digits of four bits each.
                u8::try_from(high * 16 + low).unwrap_or_default()
            }
            other => other,
        });
    }
    String::from_utf8(decoded)
        .map(Cow::Owned)
        .map_err(|_| "is not UTF-8")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<Query<'_>, Refusal> {
        Query::parse(Some(query), &["channel", "last", "hello"], false)
    }

    fn told(result: Result<impl std::fmt::Debug, Refusal>) -> String {
        serde_json::to_string(&result.unwrap_err().problem()).unwrap()
    }

    #[test]
    fn values_are_decoded_strictly() {
        let query =
            parse("channel=a.b&channel=%67r%C3%B6%C3%9Fe&&channel=a%2Bb&ch%61nnel=x").unwrap();
        assert_eq!(
            query.all("channel").collect::<Vec<_>>(),
            ["a.b", "größe", "a+b", "x"]
        );
        assert_eq!(
            parse("channel=a+b").unwrap().all("channel").next(),
            Some("a b")
        );
        for bad in [
            "channel=%",
            "channel=%4",
            "channel=%zz",
            "channel=%+1",
            "channel=%ff",
            "%ff=1",
        ] {
            assert!(told(parse(bad)).contains("\"status\":400"), "{bad}");
        }
    }

    #[test]
    fn a_mistyped_name_is_told_with_the_right_ones() {
        let told_unknown = told(parse("chanel=a"));
        assert!(
            told_unknown.contains("chanel") && told_unknown.contains("channel, last"),
            "{told_unknown}"
        );
        assert!(told(parse("access_token=s3cret")).contains("auth.jwt.query"));
        assert!(!told(parse("access_token=s3cret")).contains("s3cret"));
        assert!(Query::parse(Some("access_token=x&_=17"), &[], true).is_ok());
        assert!(Query::parse(None, &[], false).is_ok());
    }

    #[test]
    fn numbers_and_flags_are_bounded() {
        let number = |text: &str| {
            let text = format!("last={text}");
            parse(&text).and_then(|query| query.number("last", 1..=1000_usize))
        };
        assert_eq!(number("1000").unwrap(), Some(1000));
        for bad in [
            "0",
            "1001",
            "-1",
            "+1",
            "",
            "a",
            "1e2",
            "99999999999999999999999",
        ] {
            assert!(told(number(bad)).contains("1 to 1000"), "{bad}");
        }
        assert!(
            told(parse("last=1&last=2").and_then(|q| q.number("last", 1..=9_u8))).contains("once")
        );
        assert_eq!(
            parse("hello=0").unwrap().flag("hello").unwrap(),
            Some(false)
        );
        assert!(parse("hello=no").unwrap().flag("hello").is_err());
    }
}
