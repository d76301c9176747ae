//! Which commands of a partition are answered: the committed offset, and what its metadata add.
//!
//! The offset is that of the oldest command without an answer. Later ones may be answered already, since no device waits for another; so the
//! metadata hold which are not. Both are written in one transaction with the answers, so they are never of different opinions.
//!
//! Metadata: `<writer>;<d1>.<d2>.….<dn>`, distances in base 36. From the committed offset on, each distance leads to the next command
//! without an answer, and the last one to where nobody has read yet. Without an open command there is none: the offset says it all.

use std::collections::BTreeSet;

/// What Kafka takes of metadata with an offset, bytes (the broker's `offset.metadata.max.bytes`, its default).
const METADATA: usize = 4096;
/// The longest distance of all, with its dot.
const LONGEST: usize = 14;
const BASE: u32 = 36;

/// How far the commands of a partition are answered.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Those before `next` without an answer.
    pub open: BTreeSet<i64>,
    /// From here on none is answered.
    pub next: i64,
}

impl Position {
    /// The offset to commit, and to read from.
    pub fn offset(&self) -> i64 {
        self.open.first().copied().unwrap_or(self.next)
    }

    /// The metadata to commit; `writer`: whose transaction it is.
    pub fn metadata(&self, writer: &str) -> String {
        let mut text = format!("{writer};");
        let mut at = self.offset();
        for &offset in self
            .open
            .iter()
            .skip(1)
            .chain((!self.open.is_empty()).then_some(&self.next))
        {
            if !text.ends_with(';') {
                text.push('.');
            }
            write_number(&mut text, offset.saturating_sub(at).unsigned_abs());
            at = offset;
        }
        text
    }

    /// Whether one more open command fits into the metadata, whatever comes after it.
    pub fn has_room(&self, writer: &str) -> bool {
        self.metadata(writer).len() + 2 * LONGEST <= METADATA
    }

    /// As it was committed. What cannot be read says nothing but its offset.
    pub fn read(offset: i64, metadata: &str) -> Self {
        let plain = Self {
            open: BTreeSet::new(),
            next: offset,
        };
        let Some((_, distances)) = metadata.split_once(';').filter(|(_, text)| !text.is_empty()) else {
            return plain;
        };
        let mut open = BTreeSet::from([offset]);
        let mut at = offset;
        for distance in distances.split('.') {
            match i64::from_str_radix(distance, BASE)
                .ok()
                .and_then(|distance| at.checked_add(distance))
            {
                Some(next) if next > at => at = next,
                _ => return plain,
            }
            open.insert(at);
        }
        // The last is where nobody has read yet.
        open.remove(&at);
        Self { open, next: at }
    }

    /// Whose transaction committed this.
    pub fn writer(metadata: &str) -> &str {
        metadata.split_once(';').map_or(metadata, |(writer, _)| writer)
    }
}

fn write_number(text: &mut String, mut number: u64) {
    let mut digits = Vec::new();
    loop {
        let digit = (number % u64::from(BASE)) as u32;
        digits.extend(char::from_digit(digit, BASE));
        number /= u64::from(BASE);
        if number == 0 {
            break;
        }
    }
    text.extend(digits.into_iter().rev());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn position(open: &[i64], next: i64) -> Position {
        Position {
            open: open.iter().copied().collect(),
            next,
        }
    }

    #[test]
    fn the_oldest_open_command_is_the_offset() {
        assert_eq!(position(&[], 7).offset(), 7);
        assert_eq!(position(&[3, 5], 7).offset(), 3);
        assert_eq!(position(&[3, 40], 1340).metadata("w"), "w;11.104");
        assert_eq!(position(&[], 7).metadata("w"), "w;");
        assert_eq!(Position::writer("hw.bridge.0a;11.104"), "hw.bridge.0a");
        assert_eq!(Position::writer("hw.bridge.0a"), "hw.bridge.0a");
    }

    #[test]
    fn what_is_none_of_ours_says_its_offset() {
        for metadata in [
            "",
            "writer",
            "writer;",
            ";",
            "w;x.!",
            "w;0",
            "w;-1",
            "w;1..1",
            "w;1y2p0ij32e8e8",
        ] {
            assert_eq!(Position::read(9, metadata), position(&[], 9), "{metadata}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn what_is_committed_is_read_back(open in prop::collection::btree_set(0..1i64 << 40, 0..300), more in 1..1i64 << 40) {
            let next = open.last().unwrap_or(&0) + more;
            let position = Position { open, next };
            let metadata = position.metadata("writer");
            prop_assert_eq!(Position::read(position.offset(), &metadata), position);
        }

        #[test]
        fn answering_and_reading_on_never_outgrow_the_room(
            gaps in prop::collection::vec(1..100_000i64, 1..2000), answered in prop::collection::vec(any::<prop::sample::Index>(), 0..200),
            further in 1..i64::MAX / 2,
        ) {
            let mut position = Position::default();
            for gap in gaps {
                position.next += gap;
                if position.has_room("a writer") {
                    position.open.insert(position.next);
                }
                position.next += 1;
            }
            prop_assert!(position.metadata("a writer").len() <= METADATA);
            for index in answered {
                let open: Vec<i64> = position.open.iter().copied().collect();
                if !open.is_empty() {
                    position.open.remove(index.get(&open));
                }
                prop_assert!(position.metadata("a writer").len() <= METADATA);
            }
            position.next += further;
            prop_assert!(position.metadata("a writer").len() <= METADATA);
        }
    }
}
