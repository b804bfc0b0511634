//! Entries by rising numbers: a sorted list, whose entries are a third of a tree's.

use std::sync::{Arc, Weak};

/// Entries by rising numbers, none of which keeps its value alive.
#[derive(Debug)]
pub(super) struct Table<T> {
    /// By number. What was taken out stays as a dead one until there are many.
    rows: Vec<(u64, Weak<T>)>,
    /// How many rows are there still.
    live: usize,
    last: u64,
}

/// So few rows are not worth a clearing.
const FEW: usize = 64;

impl<T> Table<T> {
    pub(super) fn new() -> Self {
        Self {
            rows: Vec::new(),
            live: 0,
            last: 0,
        }
    }

    /// Puts a value in under the next number, which it is told.
    pub(super) fn add(&mut self, make: impl FnOnce(u64) -> Arc<T>) -> Arc<T> {
        self.last += 1;
        let value = make(self.last);
        self.rows.push((self.last, Arc::downgrade(&value)));
        self.live += 1;
        value
    }

    pub(super) fn get(&self, number: u64) -> Option<&Weak<T>> {
        let index = self.find(number)?;
        Some(&self.rows[index].1)
    }

    /// Takes a value out. Once, by its own end.
    pub(super) fn remove(&mut self, number: u64) {
        let Some(index) = self.find(number) else {
            return;
        };
        self.rows[index].1 = Weak::new();
        self.live -= 1;
        if self.rows.len() > FEW && self.live < self.rows.len() / 2 {
            let dead = Weak::new();
            self.rows.retain(|(_, row)| !row.ptr_eq(&dead));
            // A wave of clients leaves no table of its size behind.
            if self.rows.len() * 4 < self.rows.capacity() {
                self.rows.shrink_to(self.rows.len() * 2);
            }
        }
    }

    /// What is there after a number, in order.
    pub(super) fn after(&self, number: u64) -> impl Iterator<Item = &Weak<T>> {
        let from = self.rows.partition_point(|(held, _)| *held <= number);
        self.rows[from..].iter().map(|(_, row)| row)
    }

    /// How many there are.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    fn find(&self, number: u64) -> Option<usize> {
        self.rows.binary_search_by_key(&number, |row| row.0).ok()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn rows_are_found_and_forgotten_as_in_a_map() {
        let mut rng = fastrand::Rng::with_seed(7);
        let (mut table, mut model) = (Table::new(), BTreeMap::new());
        for round in 0..20_000 {
            // Grows, then shrinks to little.
            if rng.usize(0..20_000) > round {
                let value = table.add(Arc::new);
                model.insert(*value, value);
            } else if let Some(number) = model.keys().nth(rng.usize(0..model.len().max(1))).copied()
            {
                model.remove(&number);
                table.remove(number);
            }
            let after = rng.u64(0..10_000);
            let page: Vec<u64> = (table.after(after).filter_map(Weak::upgrade))
                .map(|value| *value)
                .take(3)
                .collect();
            let wanted: Vec<u64> = model.range(after + 1..).take(3).map(|(n, _)| *n).collect();
            assert_eq!(page, wanted);
            assert_eq!(table.len(), model.len());
            let some = rng.u64(0..10_000);
            assert_eq!(
                table.get(some).and_then(Weak::upgrade),
                model.get(&some).cloned()
            );
            assert!(table.rows.len() <= 2 * model.len() + FEW + 1);
        }
        assert!(table.rows.capacity() <= 8 * model.len() + FEW * 4);
    }
}
