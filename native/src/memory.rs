//! A pump's core with interfaces and links in memory, for tests and fuzzers.

use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};

use crate::command::{Command, SessionKeys};
use crate::counters::{CounterTable, FIELDS};
use crate::inbound::{Message, deliver, open};
use crate::io::{Interface, Link, Offloads, Piece, Way};
use crate::outbound::{Alone, Scratch, Sealer, plan};
use crate::path::{Path, Remote};
use crate::prefix::Network;
use crate::state::{State, lock};

pub const LOCAL: ([u8; 4], u8) = ([10, 7, 0, 1], 1);
pub const KEY: [u8; 32] = [7; 32];
pub const INDEX: u32 = 7;
const NOW: u64 = 1_000_000_000;

/// Keeps what it is given.
#[derive(Default)]
pub struct MemoryTun {
    pub offloads: Offloads,
    pub packets: Mutex<Vec<Vec<u8>>>,
}

impl Interface for MemoryTun {
    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn write(&self, buffer: &[u8], pieces: &[Piece]) -> i32 {
        let packet = pieces.iter().flat_map(|(start, size)| buffer[*start..*start + *size].iter().copied()).collect();
        lock(&self.packets).push(packet);
        0
    }
}

/// Keeps the datagrams of each send.
#[derive(Default)]
pub struct MemoryLink {
    pub sends: Mutex<Vec<Vec<Vec<u8>>>>,
}

impl Link for MemoryLink {
    fn is_stream(&self) -> bool {
        false
    }

    fn send(&self, _: &Way, rows: &[u8], stride: usize) -> i32 {
        lock(&self.sends).push(rows.chunks(stride).map(<[u8]>::to_vec).collect());
        0
    }
}

/// One network with one peer, whose session has the same key both ways.
pub struct Bench {
    pub state: State,
    pub tun: Arc<MemoryTun>,
    pub link: Arc<MemoryLink>,
    pub remote: Remote,
}

fn networks(v4: [u8; 4], v6: u8) -> Vec<Network> {
    let mut six = [0u8; 16];
    (six[0], six[15]) = (0xFD, v6);
    vec![Network { address: IpAddr::from(v4), length: 32 }, Network { address: IpAddr::from(six), length: 128 }]
}

impl Bench {
    /// `mirrored`: the far side, with the other addresses and the same session.
    pub fn new(offloads: Offloads, path_mtu: Option<u32>, prefix: &[u8], mirrored: bool) -> Self {
        let table: Vec<AtomicU64> = (0..FIELDS * 4).map(|_| AtomicU64::new(0)).collect();
        let mut state = State::new(CounterTable::new(Arc::new(table)));
        let tun = Arc::new(MemoryTun { offloads, ..MemoryTun::default() });
        let link = Arc::new(MemoryLink::default());
        let remote = Remote { ip: IpAddr::from([192, 0, 2, 9]), port: 9, scope: 0 };
        let (mut ours, mut theirs) = (networks(LOCAL.0, LOCAL.1), networks([10, 7, 0, 2], 2));
        if mirrored {
            std::mem::swap(&mut ours, &mut theirs);
        }
        let path = Path { via: 0, remote: Some(remote), local: None, prefix: prefix.into() };
        let keys =
            SessionKeys { local_index: INDEX, remote_index: INDEX, send_key: KEY, recv_key: KEY, initiator: true, dies: 180.0 };
        state.apply(Command::AddTun { net: 0, fd: 0, mtu: 1500, local: ours }, NOW);
        state.nets[0].tun = Some(tun.clone());
        state.links.insert(0, link.clone());
        state.apply(Command::AddIdentity { net: 0, mac1_key: KEY }, NOW);
        state.apply(Command::PutPeer { peer: 1, net: 0, allowed: theirs, roam: false }, NOW);
        state.apply(Command::SetPath { peer: 1, primary: Some(path), also: None, mtu: path_mtu }, NOW);
        state.apply(Command::Install { peer: 1, session: Box::new(keys) }, NOW);
        Self { state, tun, link, remote }
    }

    /// Packets as the interface gives them leave. Returns the datagrams of each send.
    pub fn leave(&self, packets: &[Vec<u8>]) -> Vec<Vec<Vec<u8>>> {
        let raw = packets.concat();
        let mut start = 0;
        let mut pieces = Vec::new();
        for packet in packets {
            pieces.push((start, packet.len()));
            start += packet.len();
        }
        let net = &self.state.nets[0];
        let items = plan(&self.state, net, self.tun.offloads.lead(), &raw, &pieces, NOW);
        Sealer::new(&self.state, net, &mut Scratch::default(), &Alone, NOW).finish(&items, &raw);
        std::mem::take(&mut lock(&self.link.sends))
    }

    /// Datagrams arrive, each in a message of its own. Returns what the interface is given.
    pub fn arrive(&mut self, datagrams: &[Vec<u8>]) -> Vec<Vec<u8>> {
        let mut buffer = datagrams.concat();
        let mut start = 0;
        let mut messages = Vec::new();
        for datagram in datagrams {
            let end = start + datagram.len();
            messages.push(Message { start, end, each: datagram.len(), skip: 0, remote: Some(self.remote), local: None });
            start = end;
        }
        self.arrive_in(&mut buffer, &messages)
    }

    pub fn arrive_in(&mut self, buffer: &mut [u8], messages: &[Message]) -> Vec<Vec<u8>> {
        let rows = open(&self.state, buffer, messages, NOW);
        let after = deliver(&self.state, 0, buffer, messages, &rows, NOW);
        after.into_iter().for_each(|what| self.state.after(what, NOW));
        std::mem::take(&mut lock(&self.tun.packets))
    }
}
