//! The shared table of counters: one record of u64 per peer, record 0 for what belongs to no peer. The deciding side reads
//! it while it is written, so all is atomic and relaxed: each field is right by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Fields of a record, in the order of `COUNTER_FIELDS` in `shadowmesh/model/pump.py`.
pub const FIELDS: usize = 20;

#[derive(Clone, Copy)]
#[repr(usize)]
pub enum Field {
    Peer = 0,
    TxDirect = 1, // bytes, then packets
    RxDirect = 3,
    TxRelay = 5,
    RxRelay = 7,
    LastTxData = 9,
    LastRxData = 10,
    LastRxAny = 11,
    NoSession = 12,
    Auth = 13,
    Duplicate = 14,
    Source = 15,
    Destination = 16,
    Filter = 17,
    TooBig = 18,
    Queue = 19,
}

/// Memory that holds the records for as long as anyone refers to it.
pub trait Memory: Send + Sync {
    fn words(&self) -> &[AtomicU64];
}

impl Memory for Vec<AtomicU64> {
    fn words(&self) -> &[AtomicU64] {
        self
    }
}

/// One record. When all are taken, a peer has one that nobody sees.
#[derive(Clone)]
pub struct Record {
    memory: Arc<dyn Memory>,
    number: usize,
}

impl Record {
    fn at(&self, field: usize) -> &AtomicU64 {
        &self.memory.words()[self.number * FIELDS + field]
    }

    pub fn add(&self, field: Field, value: u64) {
        self.at(field as usize).fetch_add(value, Relaxed);
    }

    /// Adds bytes and packets to one of the four pairs.
    pub fn add_traffic(&self, field: Field, bytes: u64, packets: u64) {
        self.at(field as usize).fetch_add(bytes, Relaxed);
        self.at(field as usize + 1).fetch_add(packets, Relaxed);
    }

    pub fn set(&self, field: Field, value: u64) {
        self.at(field as usize).store(value, Relaxed);
    }

    pub fn get(&self, field: Field) -> u64 {
        self.at(field as usize).load(Relaxed)
    }
}

/// Hands out records.
pub struct CounterTable {
    memory: Arc<dyn Memory>,
    freed: Vec<usize>,
    next: usize,
}

impl CounterTable {
    /// `memory`: zeroed, at least one record long.
    pub fn new(memory: Arc<dyn Memory>) -> Self {
        assert!(memory.words().len() >= FIELDS, "a table holds at least record 0");
        Self { memory, freed: Vec::new(), next: 1 }
    }

    pub fn nobody(&self) -> Record {
        Record { memory: self.memory.clone(), number: 0 }
    }

    /// A zeroed record for a peer.
    pub fn allocate(&mut self, peer: u32) -> Record {
        let number = self.freed.pop().unwrap_or_else(|| {
            self.next += 1;
            self.next - 1
        });
        if (number + 1) * FIELDS > self.memory.words().len() {
            self.next = number;
            let unseen: Vec<AtomicU64> = (0..FIELDS).map(|_| AtomicU64::new(0)).collect();
            return Record { memory: Arc::new(unseen), number: 0 };
        }
        let record = Record { memory: self.memory.clone(), number };
        record.set(Field::Peer, u64::from(peer) + 1);
        record
    }

    /// Takes a record back and clears it.
    pub fn release(&mut self, record: &Record) {
        if record.number != 0 {
            (0..FIELDS).for_each(|field| record.at(field).store(0, Relaxed));
            self.freed.push(record.number);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_reused_and_a_full_table_still_serves() {
        let memory: Vec<AtomicU64> = (0..3 * FIELDS).map(|_| AtomicU64::new(0)).collect();
        let mut table = CounterTable::new(Arc::new(memory));
        let one = table.allocate(7);
        let two = table.allocate(8);
        assert_eq!((one.number, two.number, one.get(Field::Peer)), (1, 2, 8));
        let three = table.allocate(9);
        three.add(Field::Queue, 1);
        assert_eq!((three.number, two.get(Field::Queue)), (0, 0));
        one.add_traffic(Field::TxRelay, 100, 2);
        table.release(&one);
        let again = table.allocate(10);
        assert_eq!((again.number, again.get(Field::TxRelay), again.get(Field::Peer)), (1, 0, 11));
    }
}
