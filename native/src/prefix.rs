//! Longest prefix match: one hash table per prefix length in use, asked from the longest. Networks use two or three lengths.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::net::IpAddr;

/// An IP network as it comes in commands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    pub address: IpAddr,
    pub length: u8,
}

impl Network {
    fn key(self) -> (bool, u128) {
        match self.address {
            IpAddr::V4(a) => (true, shifted(u128::from(u32::from(a)), 32 - u32::from(self.length.min(32)))),
            IpAddr::V6(a) => (false, shifted(u128::from(a), 128 - u32::from(self.length.min(128)))),
        }
    }
}

fn shifted(number: u128, by: u32) -> u128 {
    number.checked_shr(by).unwrap_or(0)
}

/// Multiplies: addresses are chosen by the network's owner, and a lookup is per packet.
#[derive(Default)]
pub struct Mixer(u64);

impl Hasher for Mixer {
    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 32)
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0u8; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_ne_bytes(word));
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = (self.0.rotate_left(23) ^ value).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    }

    fn write_u32(&mut self, value: u32) {
        self.write_u64(u64::from(value));
    }
}

pub type Mixed = BuildHasherDefault<Mixer>;
type Table<V> = (u8, HashMap<u128, V, Mixed>);

/// Values by prefix, of both families.
pub struct PrefixMap<V> {
    v4: Vec<Table<V>>, // longest first
    v6: Vec<Table<V>>,
}

impl<V> Default for PrefixMap<V> {
    fn default() -> Self {
        Self { v4: Vec::new(), v6: Vec::new() }
    }
}

impl<V: Copy + PartialEq> PrefixMap<V> {
    /// Sets the value of a prefix; another's claim on the same prefix ends.
    pub fn put(&mut self, network: Network, value: V) {
        let (is_v4, key) = network.key();
        let tables = if is_v4 { &mut self.v4 } else { &mut self.v6 };
        let at = match tables.binary_search_by(|(length, _)| network.length.cmp(length)) {
            Ok(at) => at,
            Err(at) => {
                tables.insert(at, (network.length, HashMap::default()));
                at
            }
        };
        tables[at].1.insert(key, value);
    }

    /// Removes a prefix if it still has this value.
    pub fn discard(&mut self, network: Network, value: V) {
        let (is_v4, key) = network.key();
        let tables = if is_v4 { &mut self.v4 } else { &mut self.v6 };
        if let Ok(at) = tables.binary_search_by(|(length, _)| network.length.cmp(length)) {
            if tables[at].1.get(&key) == Some(&value) {
                tables[at].1.remove(&key);
                if tables[at].1.is_empty() {
                    tables.remove(at);
                }
            }
        }
    }

    /// The value for an address of 4 or 16 bytes, None where no prefix holds it.
    pub fn lookup(&self, address: &[u8]) -> Option<V> {
        if let Ok(v4) = <[u8; 4]>::try_from(address) {
            let number = u128::from(u32::from_be_bytes(v4));
            self.v4.iter().find_map(|(length, table)| table.get(&shifted(number, 32 - u32::from(*length))).copied())
        } else {
            let number = u128::from_be_bytes(address.try_into().ok()?);
            self.v6.iter().find_map(|(length, table)| table.get(&shifted(number, 128 - u32::from(*length))).copied())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(text: &str, length: u8) -> Network {
        Network { address: text.parse().unwrap(), length }
    }

    #[test]
    fn the_longest_prefix_wins() {
        let mut map = PrefixMap::default();
        map.put(network("0.0.0.0", 0), 0);
        map.put(network("10.0.0.0", 8), 1);
        map.put(network("10.1.2.3", 32), 2);
        map.put(network("::", 0), 3);
        map.put(network("fd00::", 8), 4);
        assert_eq!(map.lookup(&[10, 1, 2, 3]), Some(2));
        assert_eq!(map.lookup(&[10, 1, 2, 4]), Some(1));
        assert_eq!(map.lookup(&[11, 1, 2, 4]), Some(0));
        let mut v6 = [0u8; 16];
        assert_eq!(map.lookup(&v6), Some(3));
        v6[0] = 0xFD;
        assert_eq!(map.lookup(&v6), Some(4));
        map.discard(network("10.1.2.3", 32), 7);
        assert_eq!(map.lookup(&[10, 1, 2, 3]), Some(2));
        map.discard(network("10.1.2.3", 32), 2);
        assert_eq!(map.lookup(&[10, 1, 2, 3]), Some(1));
        assert_eq!(map.lookup(&[1, 2, 3]), None);
    }
}
