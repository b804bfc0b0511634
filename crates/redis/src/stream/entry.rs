//! An entry of a foreign stream as the content of an event.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use fanfare_core::{
    Channel, Data, Event, EventType, Offset, Position, Publication, Tags, Undeliverable,
};

use super::id;

/// Which fields of an entry mean what.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Fields {
    /// The field with the data; without it, the data is a JSON object of all fields.
    pub(crate) data: Option<String>,
    /// The field with the event type.
    pub(crate) event: Option<String>,
    /// Fields that become tags of their names.
    pub(crate) tags: Vec<String>,
}

/// An entry as Redis answers it: names and values in turn; `None` where it is too large to be asked
/// for.
pub(super) type Raw = Option<Vec<Vec<u8>>>;

/// What an event is made of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Content {
    pub(super) event_type: Option<EventType>,
    pub(super) data: Data,
    pub(super) tags: Tags,
}

impl Fields {
    /// The fields that are asked for; none where all are.
    pub(super) fn wanted(&self) -> Vec<&str> {
        let Some(data) = &self.data else {
            return Vec::new();
        };
        let more = self.event.iter().chain(&self.tags);
        [data].into_iter().chain(more).map(String::as_str).collect()
    }

    /// Reads an entry. Where a field stands there twice, the later one counts.
    pub(super) fn read(&self, entry: Raw, max_bytes: usize) -> Result<Content, Undeliverable> {
        let values = entry.ok_or(Undeliverable::TooLarge)?;
        let find = |name: &str| {
            let mut pairs = values.chunks_exact(2).rev();
            pairs.find_map(|pair| (pair[0] == name.as_bytes()).then_some(&pair[1]))
        };
        let text = |value: &Vec<u8>| {
            let text = std::str::from_utf8(value).map_err(|_| Undeliverable::NotUtf8)?;
            Ok(text.to_owned())
        };
        let data = match &self.data {
            Some(name) => {
                let value = find(name).ok_or(Undeliverable::MissingField)?;
                Data::parse(Bytes::from(value.clone())).map_err(|_| Undeliverable::NotUtf8)?
            }
            None => Data::from(object(&values)?),
        };
        if data.len() > max_bytes {
            return Err(Undeliverable::TooLarge);
        }
        let event_type = self.event.as_deref().and_then(find);
        let event_type = event_type.filter(|value| !value.is_empty()).map(|value| {
            let parsed = EventType::parse(&text(value)?);
            parsed.map_err(|_| Undeliverable::BadEventType)
        });
        let mut tags = Vec::new();
        for name in &self.tags {
            if let Some(value) = find(name) {
                tags.push((name.as_str(), text(value)?));
            }
        }
        Ok(Content {
            event_type: event_type.transpose()?,
            data,
            tags: tags.into_iter().collect(),
        })
    }

    /// The fields of an entry for a publication; what they cannot carry, where they cannot.
    pub(super) fn write<'p>(
        &'p self,
        publication: &'p Publication,
    ) -> Result<Vec<(&'p str, &'p [u8])>, String> {
        let data = self.data.as_deref().ok_or(
            "has no `data`, which names the field that a publication's data goes to".to_owned(),
        )?;
        let mut fields = vec![(data, &**publication.data.bytes())];
        if let Some(event_type) = &publication.event_type {
            let name = self.event.as_deref().ok_or(
                "has no `event`, which names the field that an event type goes to".to_owned(),
            )?;
            fields.push((name, event_type.as_str().as_bytes()));
        }
        for (name, value) in publication.tags.iter() {
            if !self.tags.iter().any(|known| known == name) {
                return Err(format!("does not have the field {name:?} among its `tags`"));
            }
            fields.push((name, value.as_bytes()));
        }
        Ok(fields)
    }
}

/// A JSON object of names and values, in the entry's order. A name that comes twice has its later
/// value, at its first place.
fn object(values: &[Vec<u8>]) -> Result<String, Undeliverable> {
    let mut pairs: Vec<(&str, &str)> = Vec::new();
    for pair in values.chunks_exact(2) {
        let text = |bytes| std::str::from_utf8(bytes).map_err(|_| Undeliverable::NotUtf8);
        let (name, value) = (text(&pair[0])?, text(&pair[1])?);
        match pairs.iter_mut().find(|(known, _)| *known == name) {
            Some(known) => known.1 = value,
            None => pairs.push((name, value)),
        }
    }
    let mut json = String::from("{");
    for (index, (name, value)) in pairs.into_iter().enumerate() {
        if index > 0 {
            json.push(',');
        }
        // Strings serialise without fail.
        json.push_str(&serde_json::to_string(name).unwrap_or_default());
        json.push(':');
        json.push_str(&serde_json::to_string(value).unwrap_or_default());
    }
    json.push('}');
    Ok(json)
}

/// The event of an entry. Its time is that of its id, which every node reads alike.
pub(super) fn event(channel: &Channel, position: Position, content: Content) -> Event {
    Event {
        channel: channel.clone(),
        published_at: published_at(position.offset),
        position,
        // A stream does not say what was there before.
        previous: None,
        event_type: content.event_type,
        data: content.data,
        tags: content.tags,
    }
}

fn published_at(offset: Offset) -> SystemTime {
    let since = Duration::from_millis(id::millis(offset));
    let at = SystemTime::UNIX_EPOCH.checked_add(since);
    at.unwrap_or(SystemTime::UNIX_EPOCH)
}

/// How long ago it was published; `None` where the id is a count of the publisher's, not a time.
pub(super) fn lag(offset: Offset) -> Option<Duration> {
    const OLDEST_CLOCK: u64 = 1_000_000_000_000;
    let is_time = id::millis(offset) >= OLDEST_CLOCK;
    // Another machine's clock may be ahead of this one's.
    is_time.then(|| published_at(offset).elapsed().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raw(fields: &[(&str, &[u8])]) -> Raw {
        let pair = |(name, value): &(&str, &[u8])| [name.as_bytes().to_vec(), value.to_vec()];
        Some(fields.iter().flat_map(pair).collect())
    }

    fn named() -> Fields {
        Fields {
            data: Some("payload".into()),
            event: Some("type".into()),
            tags: vec!["region".into()],
        }
    }

    #[test]
    fn fields_become_what_the_rule_says() {
        let entry = raw(&[
            ("type", b"placed"),
            ("region", b"eu"),
            ("x", b"\xff"),
            ("payload", b"{}"),
        ]);
        let content = named().read(entry, 10).unwrap();
        assert_eq!(content.data.as_str(), "{}");
        assert_eq!(content.event_type.unwrap().as_str(), "placed");
        assert_eq!(content.tags.get("region"), Some("eu"));
        let bare = named()
            .read(raw(&[("type", b""), ("payload", b"x")]), 10)
            .unwrap();
        assert_eq!((bare.event_type, bare.tags.is_empty()), (None, true));
    }

    #[test]
    fn without_a_data_field_all_of_them_are_an_object_in_order() {
        let entry = raw(&[
            ("b", b"1"),
            ("a", b"\"q\"\n"),
            ("b", b"2"),
            ("", "ü".as_bytes()),
        ]);
        let content = Fields::default().read(entry, 100).unwrap();
        assert_eq!(content.data.as_str(), r#"{"b":"2","a":"\"q\"\n","":"ü"}"#);
    }

    #[test]
    fn what_cannot_be_delivered_says_why() {
        let why = |fields: &Fields, entry| fields.read(entry, 5).unwrap_err();
        let all = Fields::default();
        assert_eq!(
            why(&named(), raw(&[("type", b"x")])),
            Undeliverable::MissingField
        );
        assert_eq!(
            why(&named(), raw(&[("payload", b"\xff")])),
            Undeliverable::NotUtf8
        );
        assert_eq!(why(&all, raw(&[("a", b"\xff")])), Undeliverable::NotUtf8);
        assert_eq!(
            why(&named(), raw(&[("payload", b"123456")])),
            Undeliverable::TooLarge
        );
        assert_eq!(why(&all, raw(&[("a", b"")])), Undeliverable::TooLarge);
        assert_eq!(why(&all, None), Undeliverable::TooLarge);
        let bad = raw(&[("payload", b"x"), ("type", b"fanfare.gap")]);
        assert_eq!(why(&named(), bad), Undeliverable::BadEventType);
    }

    #[test]
    fn a_publication_becomes_fields_or_says_what_is_missing() {
        let publication = Publication {
            event_type: Some(EventType::parse("placed").unwrap()),
            tags: [("region", "eu")].into_iter().collect(),
            ..Publication::new("x")
        };
        let fields = named();
        let written = fields.write(&publication).unwrap();
        assert_eq!(
            written,
            [
                ("payload", &b"x"[..]),
                ("type", b"placed"),
                ("region", b"eu")
            ]
        );
        for (fields, missing) in [
            (Fields::default(), "`data`"),
            (
                Fields {
                    event: None,
                    ..named()
                },
                "`event`",
            ),
            (
                Fields {
                    tags: Vec::new(),
                    ..named()
                },
                "region",
            ),
        ] {
            assert!(fields.write(&publication).unwrap_err().contains(missing));
        }
    }
}
