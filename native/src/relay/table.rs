//! Who may send what where, and what was counted: the mirror of the relay's sessions that frames are looked up in.
//!
//! The rules are those of `shadowmesh/relay/relaycore.py` and `fairness.py`; the same tests hold for both.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};

/// NetworkID and overlay address.
pub type Key = [u8; 36];
/// A frame's constant beginning: header 4, NetworkID 32, source 4, destination 4.
pub type Prefix = [u8; 44];

pub const PREFIX: usize = 44;
/// Every message of the peers ends in a MAC of 16 bytes.
pub const MIN_FRAME: usize = PREFIX + 16;
pub const FRAME_HEADER: &[u8; 4] = b"SM\x01\x02";

const WINDOW: f64 = 0.1;
const BURST_WINDOWS: f64 = 10.0;

/// Where a client is: a UDP address, or one of Python's connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Place {
    Udp(SocketAddr),
    Stream(u64),
}

/// Frames and bytes of one session, from it and to it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Counts {
    pub heard: f64,
    pub rx_frames: u64,
    pub rx_bytes: u64,
    pub tx_frames: u64,
    pub tx_bytes: u64,
}

#[derive(Clone, Copy, Debug)]
struct Budget {
    window: i64,
    left: f64,
    granted: f64,
    credit: f64,
    offered: u64,
}

impl Default for Budget {
    fn default() -> Self {
        Self { window: -1, left: 0.0, granted: 0.0, credit: f64::INFINITY, offered: 0 }
    }
}

#[derive(Debug)]
struct Session {
    key: Key,
    place: Place,
    kbit: u32,
    network_kbit: u32,
    counts: Counts,
    budget: Budget,
}

type Network = [u8; 32];

/// What the sessions of one network may send together. Bytes, of a window.
#[derive(Debug)]
struct NetworkBudget {
    rate: f64,
    window: i64,
    credit: f64,
    level: f64,
}

/// Of the whole relay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub forwarded_frames: u64,
    pub forwarded_bytes: u64,
    /// Forwarded, but the receiver's queue or the socket was full.
    pub undelivered: u64,
}

/// The level L with sum(min(demand, L)) = capacity; infinite if the capacity suffices.
fn fair_level(demands: &mut [f64], capacity: f64) -> f64 {
    demands.sort_unstable_by(f64::total_cmp);
    let (mut left, mut remaining) = (capacity, demands.len());
    for &demand in demands.iter() {
        if demand * remaining as f64 > left {
            return left / remaining as f64;
        }
        left -= demand;
        remaining -= 1;
    }
    f64::INFINITY
}

pub struct Table {
    sessions: HashMap<u64, Session>,
    by_key: HashMap<Key, u64>,
    locals: HashMap<SocketAddr, IpAddr>,
    next_id: u64,
    now: f64,
    window: i64,
    share: f64,
    capacity: Option<f64>,
    active: Vec<u64>,
    networks: HashMap<Network, NetworkBudget>, // those that have a limit
    pub totals: Totals,
}

impl Table {
    /// `capacity` in bytes per second of the whole relay, None for as much as it can.
    pub fn new(capacity: Option<f64>) -> Self {
        Self {
            sessions: HashMap::new(),
            by_key: HashMap::new(),
            locals: HashMap::new(),
            next_id: 1, // 0 is nobody's
            now: 0.0,
            window: 0,
            share: f64::INFINITY,
            capacity: capacity.map(|c| c * WINDOW),
            active: Vec::new(),
            networks: HashMap::new(),
            totals: Totals::default(),
        }
    }

    /// Takes a session in, in place of the one with its key, whose counts and budget it takes over if `carry` says so.
    /// `kbit`: what it may send, and what all of its network together.
    pub fn put(&mut self, key: Key, place: Place, kbit: [u32; 2], heard: f64, carry: bool) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let [kbit, network_kbit] = kbit;
        let (counts, budget) = (Counts::default(), Budget::default());
        let mut session = Session { key, place, kbit, network_kbit, counts, budget };
        if let Some(old) = self.by_key.insert(key, id).and_then(|old| self.sessions.remove(&old))
            && carry
        {
            session.counts = old.counts;
            session.budget = old.budget;
            if session.budget.window == self.window {
                self.active.push(id);
            }
        }
        session.counts.heard = heard;
        self.sessions.insert(id, session);
        id
    }

    pub fn remove(&mut self, id: u64) {
        if let Some(old) = self.sessions.remove(&id)
            && self.by_key.get(&old.key) == Some(&id)
        {
            self.by_key.remove(&old.key);
        }
    }

    pub fn counts(&self) -> impl Iterator<Item = (u64, Counts)> + '_ {
        self.sessions.iter().map(|(id, s)| (*id, s.counts))
    }

    /// Whether the last window wanted more than the capacity.
    pub fn short(&self) -> bool {
        self.share.is_finite()
    }

    /// Which of our addresses to send from to `client`; None: the kernel's choice.
    pub fn local(&self, client: &SocketAddr) -> Option<IpAddr> {
        self.locals.get(client).copied()
    }

    pub fn set_local(&mut self, client: SocketAddr, local: IpAddr) {
        self.locals.insert(client, local);
    }

    pub fn forget_local(&mut self, client: &SocketAddr) {
        self.locals.remove(client);
    }

    /// The time of what follows, in seconds since boot; once per batch is enough.
    pub fn begin(&mut self, now: f64) {
        self.now = self.now.max(now);
        let window = (now / WINDOW) as i64;
        if window <= self.window {
            return; // two threads read the clock: one may come a little late
        }
        if window != self.window + 1 {
            self.active.clear(); // after an idle window nobody's demand is known: start without a share
        }
        if !self.networks.is_empty() {
            self.share_networks(window);
        }
        if let Some(capacity) = self.capacity {
            let mut demands: Vec<f64> = self
                .active
                .iter()
                .filter_map(|id| self.sessions.get(id))
                .map(|s| (s.budget.offered as f64).min(self.networks.get(&s.network()).map_or(f64::INFINITY, |n| n.level)))
                .collect();
            self.share = fair_level(&mut demands, capacity);
        }
        self.window = window;
        self.active.clear();
    }

    /// Levels for the window that begins. A network that sent nothing for as long as a burst has a full budget anyway.
    fn share_networks(&mut self, window: i64) {
        let mut demands: HashMap<Network, Vec<f64>> = HashMap::new();
        for session in self.active.iter().filter_map(|id| self.sessions.get(id)) {
            demands.entry(session.network()).or_default().push(session.budget.offered as f64);
        }
        self.networks.retain(|id, budget| {
            let wanted = demands.get_mut(id);
            let keep = wanted.is_some() || (window - budget.window) as f64 <= BURST_WINDOWS;
            budget.level = wanted.map_or(f64::INFINITY, |wanted| fair_level(wanted, budget.rate));
            keep
        });
    }

    /// The session that `frames` frames with this prefix, `octets` bytes in all, go to, and where that is; counted as
    /// forwarded. None if they may not pass.
    pub fn route(&mut self, prefix: &Prefix, from: &Place, frames: u64, octets: u64) -> Option<(u64, Place)> {
        let (source_key, dest_key) = keys(prefix);
        let source_id = *self.by_key.get(&source_key)?;
        let dest_id = *self.by_key.get(&dest_key)?;
        let source = self.sessions.get_mut(&source_id)?;
        if source.place != *from {
            return None;
        }
        if source.budget.window != self.window {
            let level = source.together(&mut self.networks, self.window);
            source.refill(self.window, self.share.min(level));
            self.active.push(source_id);
        }
        source.budget.offered += octets;
        let together = if self.networks.is_empty() { None } else { self.networks.get_mut(&source.network()) };
        if source.budget.left <= 0.0 || together.as_ref().is_some_and(|budget| budget.credit <= 0.0) {
            return None;
        }
        source.budget.left -= octets as f64;
        if let Some(budget) = together {
            budget.credit -= octets as f64;
        }
        source.counts.heard = self.now;
        source.counts.rx_frames += frames;
        source.counts.rx_bytes += octets;
        let dest = self.sessions.get_mut(&dest_id)?;
        dest.counts.tx_frames += frames;
        dest.counts.tx_bytes += octets;
        self.totals.forwarded_frames += frames;
        self.totals.forwarded_bytes += octets;
        Some((dest_id, dest.place))
    }

    /// What `route` counted as forwarded didn't get out.
    pub fn undelivered(&mut self, dest: u64, frames: u64, octets: u64) {
        if let Some(session) = self.sessions.get_mut(&dest) {
            session.counts.tx_frames = session.counts.tx_frames.saturating_sub(frames);
            session.counts.tx_bytes = session.counts.tx_bytes.saturating_sub(octets);
        }
        self.totals.forwarded_frames = self.totals.forwarded_frames.saturating_sub(frames);
        self.totals.forwarded_bytes = self.totals.forwarded_bytes.saturating_sub(octets);
        self.totals.undelivered += frames;
    }
}

impl Session {
    fn network(&self) -> Network {
        let mut network = [0; 32];
        network.copy_from_slice(&self.key[..32]);
        network
    }

    /// Fills its network's budget for this window; returns the level at which the network's sessions share it.
    fn together(&self, networks: &mut HashMap<Network, NetworkBudget>, window: i64) -> f64 {
        let rate = f64::from(self.network_kbit) * 125.0 * WINDOW;
        if rate <= 0.0 {
            return if networks.is_empty() {
                f64::INFINITY
            } else {
                networks.get(&self.network()).map_or(f64::INFINITY, |n| n.level)
            };
        }
        let full = rate * BURST_WINDOWS;
        let budget =
            networks.entry(self.network()).or_insert(NetworkBudget { rate, window, credit: full, level: f64::INFINITY });
        if budget.window == window {
            budget.rate = budget.rate.min(rate);
        } else {
            budget.credit = full.min(budget.credit + rate * (window - budget.window) as f64);
            (budget.rate, budget.window) = (rate, window);
        }
        budget.level
    }

    fn refill(&mut self, window: i64, share: f64) {
        let budget = &mut self.budget;
        let rate = f64::from(self.kbit) * 125.0 * WINDOW;
        if rate > 0.0 {
            let full = rate * BURST_WINDOWS;
            budget.credit = if budget.window < 0 {
                full
            } else {
                let spent = budget.granted - budget.left;
                full.min(budget.credit - spent + rate * (window - budget.window) as f64)
            };
        }
        let overdrawn = budget.left.min(0.0);
        budget.window = window;
        budget.left = budget.credit.min(share + overdrawn);
        budget.granted = budget.left;
        budget.offered = 0;
    }
}

fn keys(prefix: &Prefix) -> (Key, Key) {
    let (mut source, mut dest) = ([0; 36], [0; 36]);
    source.copy_from_slice(&prefix[4..40]);
    dest[..32].copy_from_slice(&prefix[4..36]);
    dest[32..].copy_from_slice(&prefix[40..44]);
    (source, dest)
}

/// How many bytes of `data` are datagrams of `step` bytes (the last may be shorter) that are frames with the prefix of the
/// first, and how many these are. None if the first is no frame.
pub fn run(data: &[u8], step: usize) -> Option<(Prefix, usize, u64)> {
    let step = step.max(1);
    let first = data.get(..step.min(data.len()))?;
    if first.len() < MIN_FRAME || first[..4] != FRAME_HEADER[..] {
        return None;
    }
    let prefix: Prefix = first[..PREFIX].try_into().ok()?;
    let (mut stop, mut frames) = (first.len(), 1);
    while data.len() - stop >= MIN_FRAME && data[stop..stop + PREFIX] == prefix {
        stop = (stop + step).min(data.len());
        frames += 1;
    }
    Some((prefix, stop, frames))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(port: u16) -> Place {
        Place::Udp(SocketAddr::from(([198, 51, 100, 1], port)))
    }

    fn key(network: u8, host: u8) -> Key {
        let mut key = [network; 36];
        key[32..].copy_from_slice(&[10, 0, 0, host]);
        key
    }

    fn prefix(network: u8, source: u8, dest: u8) -> Prefix {
        let mut prefix = [network; 44];
        prefix[..4].copy_from_slice(FRAME_HEADER);
        prefix[36..].copy_from_slice(&[10, 0, 0, source, 10, 0, 0, dest]);
        prefix
    }

    #[test]
    fn nothing_crosses_networks_and_nobody_speaks_for_another() {
        let mut table = Table::new(None);
        for network in [1, 2] {
            for host in [1, 2] {
                table.put(key(network, host), place(u16::from(network * 10 + host)), [0, 0], 0.0, false);
            }
        }
        let mut passed = 0;
        for (at_network, at_host) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
            for network in [1, 2] {
                for (source, dest) in [(1, 1), (1, 2), (2, 1), (2, 2)] {
                    let from = place(u16::from(at_network * 10 + at_host));
                    let found = table.route(&prefix(network, source, dest), &from, 1, 100);
                    let own = network == at_network && source == at_host;
                    assert_eq!(found.map(|f| f.1), own.then(|| place(u16::from(network * 10 + dest))));
                    passed += u64::from(own);
                }
            }
        }
        assert_eq!(table.totals, Totals { forwarded_frames: passed, forwarded_bytes: passed * 100, undelivered: 0 });
    }

    #[test]
    fn a_run_ends_at_another_prefix_and_at_a_stub() {
        let good: Vec<u8> = prefix(1, 1, 2).iter().copied().chain([7; 56]).collect();
        let other: Vec<u8> = prefix(1, 1, 3).iter().copied().chain([7; 56]).collect();
        let all = [&good[..], &good, &other, &good, &good[..60], &good[..59]].concat();
        assert_eq!(run(&all, 100), Some((prefix(1, 1, 2), 200, 2)));
        assert_eq!(run(&all[200..], 100), Some((prefix(1, 1, 3), 100, 1)));
        assert_eq!(run(&all[300..460], 100), Some((prefix(1, 1, 2), 160, 2)));
        assert_eq!(run(&[&good[..], &good[..59]].concat(), 100), Some((prefix(1, 1, 2), 100, 1)));
        assert_eq!(run(&good[..59], 100), None);
        assert_eq!(run(&[], 0), None);
    }

    #[test]
    fn a_replaced_session_is_no_way_in_and_keeps_its_counts_where_told() {
        let mut table = Table::new(None);
        let old = table.put(key(1, 1), place(1), [0, 0], 0.0, false);
        table.put(key(1, 2), place(2), [0, 0], 0.0, false);
        assert!(table.route(&prefix(1, 1, 2), &place(1), 3, 300).is_some());
        let new = table.put(key(1, 1), place(9), [0, 0], 5.0, true);
        assert!(table.route(&prefix(1, 1, 2), &place(1), 1, 100).is_none());
        let counts: HashMap<u64, Counts> = table.counts().collect();
        assert!(!counts.contains_key(&old));
        assert_eq!((counts[&new].rx_frames, counts[&new].heard), (3, 5.0));
        table.remove(old);
        assert!(table.route(&prefix(1, 1, 2), &place(9), 1, 100).is_some());
    }
}
