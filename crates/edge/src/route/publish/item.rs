//! One publication of a JSON body, and its result.

use std::borrow::Cow;

use fanfare_core::{Channel, Data, IdempotencyKey, Publication};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{
    parse_event_type,
    publisher::{Publisher, Receipt},
};
use crate::problem::Refusal;

/// `{"channel","event","data","key"}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Item<'a> {
    #[serde(borrow)]
    channel: Cow<'a, str>,
    #[serde(borrow, default)]
    event: Option<Cow<'a, str>>,
    /// A string is the data; any other value is data as its JSON text stands.
    #[serde(borrow)]
    data: &'a RawValue,
    #[serde(borrow, default)]
    key: Option<Cow<'a, str>>,
}

/// Publishes one item of JSON.
pub(super) async fn publish(publisher: &Publisher, text: &str) -> Result<Receipt, Refusal> {
    match parse(text) {
        Ok((channel, publication)) => publisher.publish(channel, publication).await,
        Err(refusal) => Err(publisher.rejected(refusal)),
    }
}

/// A result in a list of results: each has a status of its own.
pub(super) fn result(published: Result<Receipt, Refusal>) -> String {
    #[derive(Serialize)]
    struct Listed<'r> {
        #[serde(flatten)]
        receipt: &'r Receipt,
        status: u16,
    }
    let text = match &published {
        Ok(receipt) => serde_json::to_string(&Listed {
            receipt,
            status: receipt.status().as_u16(),
        }),
        Err(refusal) => serde_json::to_string(&refusal.problem()),
    };
    // Structs of strings and numbers: serialising them does not fail.
    text.unwrap_or_default()
}

pub(super) fn parse(text: &str) -> Result<(Channel, Publication), Refusal> {
    let item: Item<'_> = serde_json::from_str(text).map_err(|error| {
        Refusal::bad_body(format!("a publication is not as it should be: {error}"))
    })?;
    let channel = Channel::parse(&item.channel)
        .map_err(|why| Refusal::channel("channel", &item.channel, why))?;
    let event_type = item
        .event
        .map(|text| parse_event_type("event", &text))
        .transpose()?;
    let key = item.key.map(|text| {
        IdempotencyKey::parse(&text)
            .map_err(|error| Refusal::invalid("key", format!("is not good: {error}")))
    });
    let raw = item.data.get();
    let data = if raw.starts_with('"') {
        let text: String = serde_json::from_str(raw)
            .map_err(|error| Refusal::invalid("data", format!("is no good string: {error}")))?;
        Data::from(text)
    } else {
        Data::from(raw)
    };
    Ok((
        channel,
        Publication {
            event_type,
            data,
            key: key.transpose()?,
            ..Publication::default()
        },
    ))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_string_is_the_data_and_other_json_is_data_as_it_stands() {
        let data =
            |text: &str| parse(text).map(|(_, publication)| publication.data.as_str().to_owned());
        assert_eq!(data(r#"{"channel":"a","data":"x\ny"}"#).unwrap(), "x\ny");
        assert_eq!(
            data(r#"{"channel":"a","data":{"n": [1, 2]}}"#).unwrap(),
            r#"{"n": [1, 2]}"#
        );
        assert_eq!(data(r#"{"channel":"a","data":null}"#).unwrap(), "null");
        assert_eq!(data(r#"{"channel":"a\u002eb","data":""}"#).unwrap(), "");
        let (channel, publication) =
            parse(r#"{"channel":"a","event":"e","key":"k","data":1}"#).unwrap();
        assert_eq!(channel.as_str(), "a");
        assert_eq!(publication.event_type.unwrap().as_str(), "e");
        assert_eq!(publication.key.unwrap().as_str(), "k");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (bad, word) in [
            ("", "EOF"),
            ("[]", "a publication"),
            ("{}", "channel"),
            (r#"{"channel":"a"}"#, "data"),
            (r#"{"channel":"a b","data":""}"#, "a b"),
            (r#"{"channel":"a","data":"","dat":1}"#, "dat"),
            (
                r#"{"channel":"a","data":"","event":"fanfare.gap"}"#,
                "reserved",
            ),
            (r#"{"channel":"a","data":"","event":"x\ny"}"#, "event"),
            (r#"{"channel":"a","data":"","key":""}"#, "key"),
            (r#"{"channel":"a","data":"\ud800"}"#, "data"),
            (r#"{"channel":"a","channel":"b","data":""}"#, "channel"),
        ] {
            let problem = json!(parse(bad).unwrap_err().problem()).to_string();
            assert!(
                problem.contains(word) && problem.contains("400"),
                "{bad}: {problem}"
            );
        }
    }
}
