//! What the pump knows of networks, peers, sessions and paths.
//!
//! Packets are handled under a shared borrow of [`State`], taken once per batch; commands, and the rare things that a packet
//! causes (a promotion, a plain WireGuard peer that moved), need it for themselves. What changes per batch is atomic or
//! behind a lock of its own.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::counters::{CounterTable, Field, Record};
use crate::event::{DatagramKind, Event, Rings, TX_DATA, TX_LONG, Waiting};

const LONG: u64 = 600; // bytes of an inner packet that a narrow path may not carry
use crate::io::{Interface, Link, Way};
use crate::packet::too_big;
use crate::path::{Path, Remote};
use crate::prefix::{Mixed, Network, PrefixMap};
use crate::session::{PeerId, Session, Slots};

const STAGED_PACKETS: usize = 256;
const STAGED_BYTES: usize = 512 * 1024;
const TOLD_LIMIT: usize = 4096;
pub(crate) const ASKED_LIMIT: usize = 4096;
const SECOND: u64 = 1_000_000_000;

/// Locks; a panic ends the process, so there is no poison.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One network on this host: its interface and who is where in it.
pub struct Net {
    pub index: u32,
    pub mtu: u32,
    pub local: PrefixMap<()>,
    pub routes: PrefixMap<PeerId>,
    pub closed: bool, // by a filter that this pump can't run
    pub tun: Option<Arc<dyn Interface>>,
}

/// What waits for a session: packets as they were read, bounded in number and bytes; the oldest make room.
#[derive(Default)]
pub struct Staged {
    packets: VecDeque<Box<[u8]>>,
    size: usize,
    pub(crate) wants_told: bool,
}

impl Staged {
    fn push(&mut self, packet: &[u8]) -> u64 {
        self.packets.push_back(packet.into());
        self.size += packet.len();
        let mut dropped = 0;
        while self.packets.len() > STAGED_PACKETS || self.size > STAGED_BYTES {
            let Some(oldest) = self.packets.pop_front() else { break };
            self.size -= oldest.len();
            dropped += 1;
        }
        dropped
    }

    pub(crate) fn take(&mut self) -> VecDeque<Box<[u8]>> {
        self.size = 0;
        std::mem::take(&mut self.packets)
    }
}

/// One peer: keys, paths, what waits, what is armed, and its record of counters.
pub struct Peer {
    pub index: u32,
    pub net: usize, // place in `State::nets`
    pub allowed: Vec<Network>,
    pub roam: bool,
    pub slots: Slots,
    pub primary: Option<Arc<Way>>,
    pub also: Option<Arc<Way>>,
    /// Inner MTU of the path where it is below the interface's.
    pub mtu: Option<u32>,
    pub record: Record,
    pub(crate) edges: AtomicU8,
    pub(crate) staged: Mutex<Staged>,
    pub(crate) has_staged: AtomicBool,
}

impl Peer {
    /// The session to send on, None without a usable one.
    pub fn sender(&self, now: u64) -> Option<&Arc<Session>> {
        self.slots.current.as_ref().filter(|session| session.usable(now))
    }

    /// Size to which a packet is padded: a multiple of 16, not beyond the MTU (paper, 5.4.6).
    pub fn padded(&self, size: usize, net: &Net) -> usize {
        let padded = (size + 15) & !15;
        let limit = self.mtu.unwrap_or(net.mtu) as usize;
        if padded <= limit { padded } else { size.max(limit) }
    }

    pub fn knows(&self, via: u32, remote: Option<Remote>, prefix: &[u8]) -> bool {
        [&self.primary, &self.also].into_iter().flatten().any(|way| way.path.same_way(via, remote, prefix))
    }
}

/// What a batch found to be done that changes the state.
pub enum After {
    Promote(Arc<Session>),
    Roam(Arc<Session>, Path),
}

/// What is told at most once a second.
#[derive(PartialEq, Eq, Hash)]
enum Told {
    TooBig(u32, Option<Remote>, usize),
    Source(u32, u32, Option<Remote>, Box<[u8]>),
}

/// Events for the deciding side; the control lane empties it.
#[derive(Default)]
pub struct Events {
    pub rings: Mutex<Rings>,
    pub waiting: Waiting,
}

impl Events {
    pub fn notice(&self, event: Event) {
        lock(&self.rings).notice(event);
        self.waiting.raise();
    }
}

/// State and rules of a pump (`docs/pump.md`), without descriptors.
pub struct State {
    pub nets: Vec<Net>,
    pub by_index: HashMap<u32, Arc<Session>, Mixed>,
    pub links: HashMap<u32, Arc<dyn Link>>,
    pub nobody: Record,
    pub events: Arc<Events>,
    pub mac1_keys: Vec<(u32, [u8; 32])>,
    pub(crate) peers: Vec<Option<Box<Peer>>>,
    pub(crate) places: HashMap<u32, PeerId>,
    pub(crate) table: CounterTable,
    told: Mutex<HashMap<Told, u64>>,
    pub(crate) asked: (HashSet<[u8; 4]>, VecDeque<[u8; 4]>), // sender indices of our own handshake messages
}

impl State {
    pub fn new(table: CounterTable) -> Self {
        Self {
            nets: Vec::new(),
            by_index: HashMap::default(),
            links: HashMap::new(),
            nobody: table.nobody(),
            events: Arc::default(),
            mac1_keys: Vec::new(),
            peers: Vec::new(),
            places: HashMap::new(),
            table,
            told: Mutex::default(),
            asked: Default::default(),
        }
    }

    /// The network's place, made on first mention.
    pub fn net(&mut self, index: u32) -> usize {
        self.nets.iter().position(|net| net.index == index).unwrap_or_else(|| {
            self.nets.push(Net {
                index,
                mtu: 65535,
                local: PrefixMap::default(),
                routes: PrefixMap::default(),
                closed: false,
                tun: None,
            });
            self.nets.len() - 1
        })
    }

    pub fn peer(&self, id: PeerId) -> Option<&Peer> {
        self.peers.get(id.0)?.as_deref()
    }

    pub(crate) fn named(&self, index: u32) -> Option<&Peer> {
        self.peer(*self.places.get(&index)?)
    }

    pub(crate) fn named_mut(&mut self, index: u32) -> Option<&mut Peer> {
        self.peers.get_mut(self.places.get(&index)?.0)?.as_deref_mut()
    }

    /// Whether a cookie reply answers a handshake message that was sent.
    pub fn was_asked(&self, reply: &[u8]) -> bool {
        reply.get(4..8).and_then(|index| <[u8; 4]>::try_from(index).ok()).is_some_and(|index| self.asked.0.contains(&index))
    }

    // what waits

    /// Keeps a packet until there are a session and a path; asks for the session, once.
    pub fn stage(&self, peer: &Peer, packet: &[u8], now: u64) {
        let mut staged = lock(&peer.staged);
        peer.record.add(Field::Queue, staged.push(packet));
        peer.has_staged.store(true, Relaxed);
        if !staged.wants_told && peer.sender(now).is_none() {
            staged.wants_told = true;
            self.events.notice(Event::Wants { at: now, peer: peer.index });
        }
    }

    // sending

    /// Sends one datagram on a way; what fails is counted in `record` and told where it says something.
    pub fn send_on(&self, way: &Way, datagram: &[u8], record: &Record, now: u64) {
        let head = way.head_size();
        let mut data = vec![0u8; head + datagram.len()];
        way.write_head(&mut data[..head], datagram.len());
        data[head..].copy_from_slice(datagram);
        let failed = match self.link(way) {
            Some(link) => link.send(way, &data, data.len()),
            None => libc::EBADF,
        };
        if failed != 0 {
            self.send_failed(way, data.len(), failed, record, 1, now);
        }
    }

    /// The link that a way goes by, if it is there and of the right sort.
    pub fn link(&self, way: &Way) -> Option<&dyn Link> {
        let link = self.links.get(&way.path.via)?;
        (link.is_stream() == way.path.remote.is_none()).then_some(&**link)
    }

    /// Books a failed send of `packets` datagrams of `size` bytes. No errno of the network's closes a socket.
    pub fn send_failed(&self, way: &Way, size: usize, error: i32, record: &Record, packets: u64, now: u64) {
        if error != libc::EMSGSIZE {
            record.add(Field::Queue, packets);
            return;
        }
        record.add(Field::TooBig, packets);
        if self.tell(Told::TooBig(way.path.via, way.path.remote, size), now) {
            self.events.notice(Event::TooBig { at: now, path: way.path.clone(), size });
        }
    }

    /// Books data packets that went out: `size` inner bytes in all.
    pub fn sent(&self, peer: &Peer, size: u64, packets: u64, now: u64) {
        let relayed = peer.primary.as_ref().is_some_and(|way| way.path.is_relayed());
        peer.record.add_traffic(if relayed { Field::TxRelay } else { Field::TxDirect }, size, packets);
        peer.record.set(Field::LastTxData, now);
        self.edge(peer, TX_DATA, now);
        if size >= LONG * packets {
            self.edge(peer, TX_LONG, now);
        }
    }

    /// Drops a packet above the path's MTU and tells this host's kernel the size that fits.
    pub fn refuse_too_big(&self, peer: &Peer, packet: &[u8], mtu: u32) {
        peer.record.add(Field::TooBig, 1);
        if let (Some(answer), Some(tun)) = (too_big(packet, mtu), &self.nets[peer.net].tun) {
            let lead = tun.offloads().lead();
            let mut buffer = vec![0u8; lead];
            buffer.extend_from_slice(&answer);
            tun.write(&buffer, &[(0, buffer.len())]);
        }
    }

    // notices

    /// Tells an armed edge, once.
    pub fn edge(&self, peer: &Peer, which: u8, now: u64) {
        if peer.edges.load(Relaxed) & which != 0 && peer.edges.fetch_and(!which, Relaxed) & which != 0 {
            self.events.notice(Event::Edge { at: now, peer: peer.index, which });
        }
    }

    /// An authenticated packet came on a path that the peer isn't known on.
    pub fn tell_source(&self, peer: &Peer, path: &Path, now: u64) {
        if self.tell(Told::Source(peer.index, path.via, path.remote, path.prefix.clone()), now) {
            self.events.notice(Event::Source { at: now, peer: peer.index, path: path.clone() });
        }
    }

    /// Sends a datagram up, if its ring has a place; it is copied only then.
    pub fn tell_datagram(&self, kind: DatagramKind, path: impl FnOnce() -> Path, data: &[u8], now: u64) {
        let mut rings = lock(&self.events.rings);
        if rings.admits(kind) {
            rings.datagram(kind, Event::Datagram { at: now, path: path(), kind, data: data.into() });
        }
        self.events.waiting.raise();
    }

    /// A transport packet whose receiver index names no session; told if the ring has room, once a second for each place.
    pub fn tell_unclaimed(&self, path: impl FnOnce() -> Path, receiver_index: u32, size: usize, now: u64) {
        let mut rings = lock(&self.events.rings);
        if rings.admits_unclaimed() && rings.unclaimed(path(), receiver_index, size, now) {
            self.events.waiting.raise();
        }
    }

    /// At most once a second for each thing.
    fn tell(&self, about: Told, now: u64) -> bool {
        let mut told = lock(&self.told);
        if told.get(&about).is_some_and(|last| now.saturating_sub(*last) < SECOND) {
            return false;
        }
        if told.len() >= TOLD_LIMIT {
            told.retain(|_, last| now.saturating_sub(*last) < SECOND);
            if told.len() >= TOLD_LIMIT {
                return false;
            }
        }
        told.insert(about, now);
        true
    }
}
