//! Events on their way up: what the engine must not miss, and one bounded ring per kind of datagram.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use crate::command::host_text;
use crate::msgpack::Writer;
use crate::path::Path;

/// Kinds of datagrams that go up, in the order of `model.pump.DatagramKind`, which counts from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DatagramKind {
    Handshake = 1,
    Disco = 2,
    Stun = 3,
    RelayControl = 4,
}

const UNCLAIMED_RING: usize = 64;
const UNCLAIMED_PLACES: usize = 1024; // remembered, so that each is told of once a second; the oldest makes room
const SECOND: u64 = 1_000_000_000;
const RINGS: [(DatagramKind, usize); 4] =
    [(DatagramKind::Handshake, 256), (DatagramKind::Disco, 1024), (DatagramKind::Stun, 64), (DatagramKind::RelayControl, 256)];

pub const TX_DATA: u8 = 1;
pub const RX_DATA: u8 = 2;
pub const RX_ANY: u8 = 4;
pub const TX_LONG: u8 = 8;

/// What a descriptor was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum DescriptorKind {
    Socket = 1,
    Stream = 2,
    Tun = 3,
}

/// What the deciding side is told; times are CLOCK_BOOTTIME nanoseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Datagram { at: u64, path: Path, kind: DatagramKind, data: Box<[u8]> },
    Wants { at: u64, peer: u32 },
    Confirmed { at: u64, peer: u32, local_index: u32 },
    Edge { at: u64, peer: u32, which: u8 },
    Source { at: u64, peer: u32, path: Path },
    TooBig { at: u64, path: Path, size: usize },
    DescriptorGone { at: u64, what: DescriptorKind, index: u32, errno: i32 },
    Lost { at: u64, kind: DatagramKind, n: u64 },
    Unclaimed { at: u64, path: Path, receiver_index: u32, size: usize },
}

fn seconds(at: u64) -> f64 {
    at as f64 / 1e9
}

fn write_path(w: &mut Writer, path: &Path) {
    w.array(4);
    w.unsigned(u64::from(path.via));
    match &path.remote {
        Some(remote) => {
            w.array(2);
            w.text(&host_text(remote));
            w.unsigned(u64::from(remote.port));
        }
        None => w.nil(),
    }
    match path.local {
        Some(local) => w.text(&local.to_string()),
        None => w.nil(),
    }
    w.bytes(&path.prefix);
}

impl Event {
    /// As `dataplane/wire.py` reads it.
    pub fn encode(&self) -> Vec<u8> {
        let mut w = Writer::default();
        let mut start = |size, number, at| {
            w.array(size);
            w.unsigned(number);
            w.real(seconds(at));
        };
        match self {
            Event::Datagram { at, path, kind, data } => {
                start(5, 20, *at);
                write_path(&mut w, path);
                w.unsigned(*kind as u64);
                w.bytes(data);
            }
            Event::Wants { at, peer } => {
                start(3, 21, *at);
                w.unsigned(u64::from(*peer));
            }
            Event::Confirmed { at, peer, local_index } => {
                start(4, 22, *at);
                w.unsigned(u64::from(*peer));
                w.unsigned(u64::from(*local_index));
            }
            Event::Edge { at, peer, which } => {
                start(4, 23, *at);
                w.unsigned(u64::from(*peer));
                w.unsigned(u64::from(*which));
            }
            Event::Source { at, peer, path } => {
                start(4, 24, *at);
                w.unsigned(u64::from(*peer));
                write_path(&mut w, path);
            }
            Event::TooBig { at, path, size } => {
                start(4, 25, *at);
                write_path(&mut w, path);
                w.unsigned(*size as u64);
            }
            Event::DescriptorGone { at, what, index, errno } => {
                start(5, 26, *at);
                w.unsigned(*what as u64);
                w.unsigned(u64::from(*index));
                w.unsigned(*errno as u64);
            }
            Event::Lost { at, kind, n } => {
                start(4, 27, *at);
                w.unsigned(*kind as u64);
                w.unsigned(*n);
            }
            Event::Unclaimed { at, path, receiver_index, size } => {
                start(5, 28, *at);
                write_path(&mut w, path);
                w.unsigned(u64::from(*receiver_index));
                w.unsigned(*size as u64);
            }
        }
        w.0
    }
}

/// A flood of one kind fills that kind's ring only; what finds it full is counted and told as `Lost`.
#[derive(Default)]
pub struct Rings {
    notices: VecDeque<Event>, // bounded by what causes them: peers, descriptors, one a second per path
    rings: [VecDeque<Event>; 4],
    lost: [u64; 4],
    turn: usize,
    unclaimed: VecDeque<Event>,
    unclaimed_at: HashMap<Path, u64>,
    unclaimed_places: VecDeque<Path>, // the keys of `unclaimed_at`, oldest first
}

impl Rings {
    pub fn notice(&mut self, event: Event) {
        self.notices.push_back(event);
    }

    /// Whether another datagram of this kind has a place; counts it as lost if not.
    pub fn admits(&mut self, kind: DatagramKind) -> bool {
        let at = kind as usize - 1;
        let fits = self.rings[at].len() < RINGS[at].1;
        self.lost[at] += u64::from(!fits);
        fits
    }

    /// A datagram that was admitted.
    pub fn datagram(&mut self, kind: DatagramKind, event: Event) {
        self.rings[kind as usize - 1].push_back(event);
    }

    /// Whether another transport packet of an unknown index has a place. If not it is dropped: who sent it will send again.
    pub fn admits_unclaimed(&self) -> bool {
        self.unclaimed.len() < UNCLAIMED_RING
    }

    /// One that was admitted; told once a second for each place. Returns whether it is.
    pub fn unclaimed(&mut self, path: Path, receiver_index: u32, size: usize, now: u64) -> bool {
        let place = Path { local: None, ..path.clone() };
        let known = self.unclaimed_at.get(&place);
        if known.is_some_and(|at| now.saturating_sub(*at) < SECOND) {
            return false;
        }
        if known.is_some() {
            self.unclaimed_places.retain(|other| *other != place);
        } else if self.unclaimed_places.len() >= UNCLAIMED_PLACES {
            if let Some(oldest) = self.unclaimed_places.pop_front() {
                self.unclaimed_at.remove(&oldest);
            }
        }
        self.unclaimed_at.insert(place.clone(), now);
        self.unclaimed_places.push_back(place);
        self.unclaimed.push_back(Event::Unclaimed { at: now, path, receiver_index, size });
        true
    }

    /// The next event: notices first, then what was lost, then the kinds in turn, oldest first within each, unclaimed packets last.
    pub fn pop(&mut self, now: u64) -> Option<Event> {
        if let Some(notice) = self.notices.pop_front() {
            return Some(notice);
        }
        if let Some(at) = self.lost.iter().position(|lost| *lost > 0) {
            return Some(Event::Lost { at: now, kind: RINGS[at].0, n: std::mem::take(&mut self.lost[at]) });
        }
        for _ in 0..RINGS.len() {
            self.turn = (self.turn + 1) % RINGS.len();
            if let Some(event) = self.rings[self.turn].pop_front() {
                return Some(event);
            }
        }
        self.unclaimed.pop_front()
    }
}

/// A flag that events wait, so that a batch without any needs no lock to know it.
#[derive(Default)]
pub struct Waiting(AtomicBool);

impl Waiting {
    pub fn raise(&self) {
        self.0.store(true, Relaxed);
    }

    /// Whether it was raised; it is lowered.
    pub fn take(&self) -> bool {
        self.0.load(Relaxed) && self.0.swap(false, Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn datagram(kind: DatagramKind) -> Event {
        let path = Path { via: 0, remote: None, local: None, prefix: Box::default() };
        Event::Datagram { at: 0, path, kind, data: Box::default() }
    }

    #[test]
    fn unclaimed_packets_are_told_once_a_second_for_each_place() {
        let place = |port: u16| Path {
            via: 1,
            remote: Some(crate::path::Remote { ip: "192.0.2.1".parse().unwrap(), port, scope: 0 }),
            local: None,
            prefix: Box::default(),
        };
        let mut rings = Rings::default();
        for n in 0..100 {
            assert_eq!(rings.unclaimed(place(1), n, 64, 5), n == 0);
        }
        assert!(rings.unclaimed(place(1), 7, 64, 5 + SECOND));
        for port in 0..u16::MAX {
            if rings.admits_unclaimed() {
                rings.unclaimed(place(port), 1, 64, 5 + SECOND);
            }
        }
        let told: Vec<Event> = std::iter::from_fn(|| rings.pop(9)).collect();
        assert_eq!(told.len(), UNCLAIMED_RING);
        for port in 0..u16::MAX {
            rings.unclaimed(place(port), 1, 64, 5 + 2 * SECOND);
            rings.pop(9);
        }
        assert_eq!(rings.unclaimed_at.len(), UNCLAIMED_PLACES);
        assert_eq!(rings.unclaimed_places.len(), UNCLAIMED_PLACES);
        assert!(rings.unclaimed(place(3), 1, 64, 5 + 2 * SECOND), "an honest place isn't starved by a flood of others");
    }

    #[test]
    fn a_flood_fills_its_own_ring_only() {
        let mut rings = Rings::default();
        for _ in 0..100 {
            if rings.admits(DatagramKind::Stun) {
                rings.datagram(DatagramKind::Stun, datagram(DatagramKind::Stun));
            }
        }
        assert!(rings.admits(DatagramKind::Disco));
        rings.datagram(DatagramKind::Disco, datagram(DatagramKind::Disco));
        rings.notice(Event::Wants { at: 0, peer: 1 });
        assert!(matches!(rings.pop(5), Some(Event::Wants { .. })));
        assert_eq!(rings.pop(5), Some(Event::Lost { at: 5, kind: DatagramKind::Stun, n: 36 }));
        let rest: Vec<Event> = std::iter::from_fn(|| rings.pop(5)).collect();
        assert_eq!(rest.len(), 65);
        assert!(rest[..2].contains(&datagram(DatagramKind::Disco)));
    }
}
