//! What commands, promotions and moves do to the state, and what goes out because of it.

use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::command::{Command, SessionKeys};
use crate::counters::Field;
use crate::event::Event;
use crate::io::Way;
use crate::outbound;
use crate::packet::{Sort, sort_of};
use crate::path::Path;
use crate::prefix::{Network, PrefixMap};
use crate::session::{PeerId, Session, Slots};
use crate::state::{ASKED_LIMIT, After, Peer, State, lock};

impl State {
    /// Applies one command. What names an unknown peer is without effect: it may just have been removed.
    ///
    /// Descriptors are the caller's part: it sets a network's `tun`, and `links`.
    pub fn apply(&mut self, command: Command, now: u64) {
        match command {
            Command::AddTun { net, mtu, local, .. } => {
                let at = self.net(net);
                self.nets[at].mtu = mtu;
                self.set_local(at, &local);
            }
            Command::SetLocal { net, local } => {
                let at = self.net(net);
                self.set_local(at, &local);
            }
            Command::SetMtu { net, mtu } => {
                let at = self.net(net);
                self.nets[at].mtu = mtu;
            }
            Command::RemoveTun { net } => {
                let at = self.net(net);
                self.nets[at].tun = None;
                self.set_local(at, &[]);
            }
            Command::AddIdentity { net, mac1_key } => {
                self.mac1_keys.retain(|(owner, _)| *owner != net);
                self.mac1_keys.push((net, mac1_key));
            }
            Command::RemoveIdentity { net } => self.mac1_keys.retain(|(owner, _)| *owner != net),
            Command::AddSocket { .. } | Command::AddStream { .. } => {}
            Command::RemoveSocket { slot } | Command::RemoveStream { slot } => drop(self.links.remove(&slot)),
            Command::PutPeer { peer, net, allowed, roam } => self.put_peer(peer, net, allowed, roam),
            Command::RemovePeer { peer } => self.remove_peer(peer),
            Command::SetPath { peer, primary, also, mtu } => {
                if let Some(peer) = self.named_mut(peer) {
                    let known: Vec<Arc<Way>> = [&peer.primary, &peer.also].into_iter().flatten().cloned().collect();
                    let way = |path: Path| {
                        known.iter().find(|way| way.path == path).cloned().unwrap_or_else(|| Arc::new(Way::new(path)))
                    };
                    peer.primary = primary.map(way);
                    peer.also = also.map(way);
                    peer.mtu = mtu;
                }
                self.flush_named(peer, now);
            }
            Command::Install { peer, session } => self.install(peer, &session, now),
            Command::DropSessions { peer, indices } => {
                if let Some(peer) = self.named_mut(peer) {
                    let gone = peer.slots.drop_indices(indices.as_deref());
                    self.forget(gone);
                }
            }
            Command::SetFilter { net, closed } => {
                let at = self.net(net);
                self.nets[at].closed = closed; // no form of program is defined yet, so none can be obeyed
            }
            Command::Send { path, data } => self.send(path, &data, now),
            Command::Keepalive { peer } => {
                if let Some(peer) = self.named(peer) {
                    outbound::keepalive(self, peer, now);
                }
            }
            Command::Arm { peer, edges } => {
                if let Some(peer) = self.named(peer) {
                    peer.edges.fetch_or(edges, Relaxed);
                }
            }
            Command::Unstage { peer } => {
                if let Some(peer) = self.named(peer) {
                    let mut staged = lock(&peer.staged);
                    peer.record.add(Field::NoSession, staged.take().len() as u64);
                    staged.wants_told = false;
                    peer.has_staged.store(false, Relaxed);
                }
            }
        }
    }

    fn set_local(&mut self, net: usize, local: &[Network]) {
        let mut prefixes = PrefixMap::default();
        local.iter().for_each(|network| prefixes.put(*network, ()));
        self.nets[net].local = prefixes;
    }

    fn put_peer(&mut self, index: u32, net: u32, allowed: Vec<Network>, roam: bool) {
        let net = self.net(net);
        if self.named(index).is_some_and(|peer| peer.net != net) {
            self.remove_peer(index);
        }
        let id = match self.places.get(&index) {
            Some(id) => *id,
            None => self.new_peer(index, net),
        };
        let Some(peer) = self.peers[id.0].as_deref_mut() else { return };
        let routes = &mut self.nets[net].routes;
        for network in peer.allowed.iter().filter(|network| !allowed.contains(network)) {
            routes.discard(*network, id);
        }
        allowed.iter().for_each(|network| routes.put(*network, id));
        peer.allowed = allowed;
        peer.roam = roam;
    }

    fn new_peer(&mut self, index: u32, net: usize) -> PeerId {
        let peer = Box::new(Peer {
            index,
            net,
            allowed: Vec::new(),
            roam: false,
            slots: Slots::default(),
            primary: None,
            also: None,
            mtu: None,
            record: self.table.allocate(index),
            edges: AtomicU8::new(0),
            staged: Mutex::default(),
            has_staged: AtomicBool::new(false),
        });
        let id = match self.peers.iter().position(Option::is_none) {
            Some(free) => PeerId(free),
            None => {
                self.peers.push(None);
                PeerId(self.peers.len() - 1)
            }
        };
        self.peers[id.0] = Some(peer);
        self.places.insert(index, id);
        id
    }

    fn remove_peer(&mut self, index: u32) {
        let Some(id) = self.places.remove(&index) else { return };
        let Some(mut peer) = self.peers[id.0].take() else { return };
        for network in &peer.allowed {
            self.nets[peer.net].routes.discard(*network, id);
        }
        self.forget(peer.slots.drop_indices(None));
        self.table.release(&peer.record);
    }

    fn install(&mut self, index: u32, keys: &SessionKeys, now: u64) {
        let Some(id) = self.places.get(&index).copied() else { return };
        let Some(peer) = self.peers[id.0].as_deref_mut() else { return };
        let session = Arc::new(Session::new(keys, id));
        let gone = peer.slots.install(session.clone(), keys.initiator);
        lock(&peer.staged).wants_told = false;
        self.forget(gone);
        self.by_index.insert(keys.local_index, session);
        if keys.initiator {
            self.flush_named(index, now);
        }
    }

    fn forget(&mut self, gone: impl IntoIterator<Item = Arc<Session>>) {
        for session in gone {
            if self.by_index.get(&session.local_index).is_some_and(|owner| Arc::ptr_eq(owner, &session)) {
                self.by_index.remove(&session.local_index); // else it has been given out again
            }
        }
    }

    fn send(&mut self, path: Path, data: &[u8], now: u64) {
        if let (Sort::Initiation | Sort::Response, Some(index)) = (sort_of(data), data.get(4..8)) {
            let index = [index[0], index[1], index[2], index[3]];
            if self.asked.0.insert(index) {
                self.asked.1.push_back(index);
            }
            if self.asked.1.len() > ASKED_LIMIT {
                if let Some(oldest) = self.asked.1.pop_front() {
                    self.asked.0.remove(&oldest);
                }
            }
        }
        self.send_on(&Way::new(path), data, &self.nobody, now);
    }

    /// What a batch left to be done.
    pub fn after(&mut self, what: After, now: u64) {
        let (After::Promote(session) | After::Roam(session, _)) = &what;
        if !self.by_index.get(&session.local_index).is_some_and(|owner| Arc::ptr_eq(owner, session)) {
            return;
        }
        let Some(peer) = self.peers[session.peer.0].as_deref_mut() else { return };
        match what {
            After::Promote(session) if peer.slots.is_next(&session) => {
                let gone = peer.slots.promote();
                let (index, local_index) = (peer.index, session.local_index);
                self.events.notice(Event::Confirmed { at: now, peer: index, local_index });
                self.forget(gone);
                self.flush_named(index, now);
            }
            After::Promote(_) => {}
            After::Roam(_, path) => peer.primary = Some(Arc::new(Way::new(path))),
        }
    }

    fn flush_named(&self, index: u32, now: u64) {
        if let Some(peer) = self.named(index) {
            self.flush_staged(peer, now);
        }
    }

    /// Sends what waited, if it can go now.
    pub fn flush_staged(&self, peer: &Peer, now: u64) {
        if peer.has_staged.load(Relaxed) && peer.primary.is_some() && peer.sender(now).is_some() {
            let packets = lock(&peer.staged).take();
            peer.has_staged.store(false, Relaxed);
            outbound::resend(self, peer, &packets, now);
        }
    }
}
