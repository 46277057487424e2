//! Room for slices in `SLOTS`.

use std::collections::{BTreeMap, BTreeSet};

/// Slots that nothing uses, as ranges.
#[derive(Clone, Debug, Default)]
pub(super) struct FreeSlots {
    /// First slot → length.
    by_place: BTreeMap<u32, u32>,
    /// Length and first slot.
    by_length: BTreeSet<(u32, u32)>,
    /// What plans have freed (first slot, length): whoever carries them out may still wait for its readers.
    resting: Vec<(u32, u32)>,
}

impl FreeSlots {
    /// What the `used` ranges (first slot, length; in order of their first slots) leave of a capacity.
    pub(super) fn between(used: impl IntoIterator<Item = (u32, u32)>, capacity: usize) -> Self {
        let capacity = u32::try_from(capacity).unwrap_or(u32::MAX);
        let (mut free, mut next) = (Self::default(), 0);
        for (first, length) in used.into_iter().chain([(capacity, 0)]) {
            let first = first.min(capacity);
            if first > next {
                free.insert(next, first - next);
            }
            next = next.max(first.saturating_add(length));
        }
        free
    }

    /// Takes the smallest range that is long enough: large ones stay for large slices. What rests is taken only when nothing
    /// else is.
    pub(super) fn take(&mut self, length: u32) -> Option<u32> {
        self.take_rested(length).or_else(|| {
            self.rested();
            self.take_rested(length)
        })
    }

    fn take_rested(&mut self, length: u32) -> Option<u32> {
        let (free, first) = self.by_length.range((length, 0)..).next().copied()?;
        self.remove(first, free);
        if free > length {
            self.insert(first + length, free - length);
        }
        Some(first)
    }

    /// Nothing has readers any more.
    pub(super) fn rested(&mut self) {
        std::mem::take(&mut self.resting).into_iter().for_each(|(first, length)| self.give(first, length));
    }

    /// Gives a range back that may have readers.
    pub(super) fn give_later(&mut self, first: u32, length: u32) {
        self.resting.push((first, length));
    }

    /// Gives a range back.
    pub(super) fn give(&mut self, first: u32, length: u32) {
        let (mut first, mut length) = (first, length);
        let before = self.by_place.range(..=first).next_back().map(|(at, free)| (*at, *free));
        if let Some((at, free)) = before.filter(|(at, free)| at + free == first) {
            self.remove(at, free);
            (first, length) = (at, free + length);
        }
        if let Some(free) = self.by_place.get(&(first + length)).copied() {
            self.remove(first + length, free);
            length += free;
        }
        self.insert(first, length);
    }

    fn insert(&mut self, first: u32, length: u32) {
        if length > 0 {
            self.by_place.insert(first, length);
            self.by_length.insert((length, first));
        }
    }

    fn remove(&mut self, first: u32, length: u32) {
        self.by_place.remove(&first);
        self.by_length.remove(&(length, first));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_given_back_joins_its_neighbours() {
        let mut free = FreeSlots::between([(10, 5), (20, 1)], 30);
        assert_eq!(free.by_length, BTreeSet::from([(5, 15), (9, 21), (10, 0)]));
        assert_eq!(free.take(6), Some(21));
        assert_eq!(free.take(11), None);
        free.give(10, 5);
        assert_eq!(free.by_place, BTreeMap::from([(0, 20), (27, 3)]));
        assert_eq!(free.take(20), Some(0));
        free.give(20, 1);
        free.give(21, 6);
        assert_eq!(free.by_place, BTreeMap::from([(20, 10)]));
    }

    #[test]
    fn what_rests_is_taken_when_it_has_no_readers_or_nothing_else_is_left() {
        let mut free = FreeSlots::between([(0, 10)], 14);
        free.give_later(0, 4);
        assert_eq!(free.take(4), Some(10));
        free.give_later(10, 4);
        free.rested();
        assert_eq!((free.take(4), free.take(4), free.take(1)), (Some(0), Some(10), None));
        free.give_later(4, 2);
        assert_eq!(free.take(2), Some(4));
    }

    #[test]
    fn used_ranges_may_overlap_and_exceed_the_capacity() {
        assert_eq!(
            FreeSlots::between([(2, 5), (4, 1), (9, 5)], 10).by_place,
            BTreeMap::from([(0, 2), (7, 2)])
        );
        assert!(FreeSlots::between([(0, 12)], 10).by_place.is_empty());
    }
}
