//! Which partitions, and so which shards, a bridge owns.

use headwater_proto::shard::SHARDS;
use headwater_proto::topic::{self, Kind};

/// The partitions a bridge owns. For now all of them; a group of bridges will share them out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ownership {
    owned: Vec<bool>,
}

impl Ownership {
    /// All of `partitions`.
    pub fn all(partitions: u32) -> Self {
        Self {
            owned: vec![true; partitions as usize],
        }
    }

    /// The number of partitions there are.
    pub fn partitions(&self) -> u32 {
        self.owned.len() as u32
    }

    /// The partitions owned.
    pub fn owned(&self) -> impl Iterator<Item = u32> + '_ {
        (0..self.partitions()).filter(|&partition| self.owned[partition as usize])
    }

    /// The partition of a device, if it is owned.
    pub fn partition(&self, device: &str) -> Option<u32> {
        let partition = headwater_proto::shard::partition(device, self.partitions());
        self.owned[partition as usize].then_some(partition)
    }

    /// The MQTT filters that cover one kind of topic for what is owned.
    pub fn filters(&self, kind: Kind) -> Vec<String> {
        if self.owned.iter().all(|&owned| owned) {
            return vec![topic::filter(kind)];
        }
        let owned = |shard: &u32| self.owned[(shard % self.partitions()) as usize];
        (0..SHARDS)
            .filter(owned)
            .map(|shard| topic::shard_filter(shard as u8, kind))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_owns_all_needs_one_filter() {
        let all = Ownership::all(8);
        assert_eq!(all.filters(Kind::Data), ["hw1/+/+/data"]);
        assert_eq!(all.owned().count(), 8);
    }

    #[test]
    fn a_share_is_its_shards() {
        let share = Ownership {
            owned: vec![false, true, false, false],
        };
        let filters = share.filters(Kind::Hello);
        assert_eq!(filters.len(), 64);
        assert_eq!(filters[1], "hw1/5/+/hello");
        for device in ["a", "b", "gw-01", "pump-7"] {
            let filter = topic::shard_filter(headwater_proto::shard::shard(device), Kind::Hello);
            assert_eq!(
                share.partition(device).is_some(),
                filters.contains(&filter),
                "{device}"
            );
        }
    }
}
