//! Where brokers are: one, or several in order of preference.

use std::fmt;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer};

/// Addresses of brokers, in order of preference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Brokers(Vec<String>);

impl Brokers {
    /// The addresses as they were given.
    pub fn addresses(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Brokers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join(", "))
    }
}

impl From<&str> for Brokers {
    fn from(address: &str) -> Self {
        Self(vec![address.to_string()])
    }
}

impl From<String> for Brokers {
    fn from(address: String) -> Self {
        Self(vec![address])
    }
}

impl From<Vec<String>> for Brokers {
    fn from(addresses: Vec<String>) -> Self {
        Self(addresses)
    }
}

impl<'de> Deserialize<'de> for Brokers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMore;
        impl<'de> Visitor<'de> for OneOrMore {
            type Value = Brokers;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a broker's address, or a list of them")
            }

            fn visit_str<E: de::Error>(self, address: &str) -> Result<Brokers, E> {
                Ok(address.into())
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<Brokers, A::Error> {
                let mut addresses = Vec::new();
                while let Some(address) = list.next_element()? {
                    addresses.push(address);
                }
                Ok(Brokers(addresses))
            }
        }
        deserializer.deserialize_any(OneOrMore)
    }
}
