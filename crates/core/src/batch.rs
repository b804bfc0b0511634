//! Batches of publications that go to several places.

use std::collections::BTreeMap;

use crate::{BrokerError, Channel, Publication, Published};

/// A batch by where its publications go, each part in the batch's order.
#[derive(Debug)]
pub struct Parts {
    /// Of each place, the numbers of its publications.
    parts: BTreeMap<usize, Vec<usize>>,
    len: usize,
}

/// Where a part of a batch goes, the numbers of its publications, and their results.
pub type Part = (usize, Vec<Result<Published, BrokerError>>);

impl Parts {
    /// A batch, whose publications go where `place` says.
    pub fn of(
        batch: &[(Channel, Publication)],
        place: impl Fn(&(Channel, Publication)) -> usize,
    ) -> Self {
        let mut parts: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
        for (number, publication) in batch.iter().enumerate() {
            parts.entry(place(publication)).or_default().push(number);
        }
        let len = batch.len();
        Self { parts, len }
    }

    /// Each place with the numbers of what goes there.
    pub fn iter(&self) -> impl Iterator<Item = (usize, &[usize])> {
        self.parts.iter().map(|(place, part)| (*place, &part[..]))
    }

    /// The results of all parts, in the batch's order. What has none, `missing` answers.
    pub fn join(
        &self,
        results: impl IntoIterator<Item = Part>,
        missing: impl Fn() -> BrokerError,
    ) -> Vec<Result<Published, BrokerError>> {
        let mut all: Vec<Option<Result<Published, BrokerError>>> = Vec::new();
        all.resize_with(self.len, || None);
        for (place, results) in results {
            let numbers = self.parts.get(&place).into_iter().flatten();
            for (number, result) in numbers.zip(results) {
                all[*number] = Some(result);
            }
        }
        let result = |result: Option<_>| result.unwrap_or_else(|| Err(missing()));
        all.into_iter().map(result).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;

    #[test]
    fn parts_come_together_in_the_batch_s_order() {
        let channel = |text: &str| Channel::parse(text).unwrap();
        let batch: Vec<_> = ["a", "b", "aa", "b", "c"]
            .map(|name| (channel(name), Publication::new(name)))
            .into();
        let parts = Parts::of(&batch, |(channel, _)| {
            usize::from(channel.as_str().as_bytes()[0])
        });
        let by_place: Vec<_> = parts.iter().collect();
        assert_eq!(by_place, [(97, &[0, 2][..]), (98, &[1, 3]), (99, &[4])]);
        let of = |duplicate| {
            Ok(Published {
                position: None,
                duplicate,
            })
        };
        let failed = |message: &str| BrokerError::new(ErrorKind::Rejected, "test", message);
        let results = [
            (98, vec![of(true), Err(failed("b"))]),
            (97, vec![of(false), of(true)]),
        ];
        let all = parts.join(results, || failed("missing"));
        let text = |result: &Result<Published, BrokerError>| match result {
            Ok(published) => published.duplicate.to_string(),
            Err(error) => error.to_string(),
        };
        let all: Vec<_> = all.iter().map(text).collect();
        let expected = ["false", "true", "true", "test: b", "test: missing"];
        assert_eq!(all, expected);
    }
}
