//! From an interface to the underlay.
//!
//! A batch passes in two steps. [`plan`] reads headers: whose each packet is, how a super-packet is cut, which counters its
//! segments get; it is done while the lane is held, so that counters rise in the order of reading. [`Sealer`] then does the work,
//! beside other threads: each packet or segment is copied once to its place in a row (its checksum is summed on the way),
//! encrypted there, and rows of one peer and size go out in one send. When it is this batch's turn (`Turn`) they are sent as
//! soon as a send is full, while they are still in the cache; before that they are gathered.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::aead::TAG;
use crate::counters::Field;
use crate::io::{Link, Piece, VNET, Way};
use crate::packet::{OVERHEAD, TRANSPORT_HEADER, addresses, is_group_address};
use crate::segment::{GSO_NONE, NEEDS_CSUM, Refusal, Super, Vnet, complete_checksum};
use crate::session::Session;
use crate::state::{Net, Peer, State};

/// Sealed rows that wait for their turn take no more than this.
const GATHERED: usize = 384 << 10;
const BUFFER: usize = GATHERED + (66 << 10);

/// The order in which a lane's batches leave.
pub trait Turn {
    /// Whether it is this batch's turn.
    fn is_mine(&self) -> bool;

    /// Waits until it is.
    fn wait(&self);
}

/// A batch that is alone.
pub struct Alone;

impl Turn for Alone {
    fn is_mine(&self) -> bool {
        true
    }

    fn wait(&self) {}
}

/// A packet or super-packet that will leave.
pub struct Item<'s> {
    peer: &'s Peer,
    session: &'s Session,
    way: &'s Way,
    link: &'s dyn Link,
    counter: u64,
    packet: Piece, // without its virtio header
    shape: Shape,
}

enum Shape {
    Whole { checksum: Option<(usize, usize)> },
    Super(Super),
}

/// Where the last packet went: the next is usually of the same flow.
struct Known<'s> {
    ends: [u8; 32],
    size: usize,
    to: Target<'s>,
}

#[derive(Clone, Copy)]
struct Target<'s> {
    peer: &'s Peer,
    send: Option<(&'s Session, &'s Way, Option<&'s dyn Link>)>,
}

/// Decides for each of `packets` (pieces of `raw`, each with `lead` bytes of virtio header) whether and how it leaves. What doesn't is
/// counted, staged or answered here.
pub fn plan<'s>(state: &'s State, net: &'s Net, lead: usize, raw: &[u8], packets: &[Piece], now: u64) -> Vec<Item<'s>> {
    let mut items = Vec::with_capacity(packets.len());
    let mut last: Option<Known<'s>> = None;
    for (start, size) in packets.iter().copied() {
        let Some(packet) = raw.get(start + lead..start + size) else { continue };
        let Some(ends) = ends(packet) else {
            state.nobody.add(Field::Destination, 1);
            continue;
        };
        let target = match &last {
            Some(known) if known.ends[..known.size] == *ends => known.to,
            _ => {
                let Some(peer) = route(state, net, ends) else { continue };
                let to = target(state, peer, now);
                let mut known = Known { ends: [0; 32], size: ends.len(), to };
                known.ends[..ends.len()].copy_from_slice(ends);
                last = Some(known);
                to
            }
        };
        if let Some(item) = item(state, target, lead, raw, (start, size), now) {
            items.push(item);
        }
    }
    items
}

/// Source and destination, which lie behind each other in both families.
fn ends(packet: &[u8]) -> Option<&[u8]> {
    addresses(packet).map(|(source, _)| if source.len() == 4 { &packet[12..20] } else { &packet[8..40] })
}

/// Whose a packet from the network's interface is; None, and counted, where it must not leave.
fn route<'s>(state: &'s State, net: &Net, ends: &[u8]) -> Option<&'s Peer> {
    let (source, destination) = ends.split_at(ends.len() / 2);
    if is_group_address(destination) {
        state.nobody.add(Field::Destination, 1);
        return None;
    }
    if net.local.lookup(source).is_none() {
        state.nobody.add(Field::Source, 1); // another network's packets, forwarded by this host
        return None;
    }
    let Some(peer) = net.routes.lookup(destination).and_then(|id| state.peer(id)) else {
        state.nobody.add(Field::Destination, 1);
        return None;
    };
    if net.closed {
        peer.record.add(Field::Filter, 1);
        return None;
    }
    Some(peer)
}

fn target<'s>(state: &'s State, peer: &'s Peer, now: u64) -> Target<'s> {
    let send = match (peer.sender(now), &peer.primary) {
        (Some(session), Some(way)) => Some((&**session, &**way, state.link(way))),
        _ => None,
    };
    Target { peer, send }
}

fn item<'s>(state: &State, to: Target<'s>, lead: usize, raw: &[u8], (start, size): Piece, now: u64) -> Option<Item<'s>> {
    let peer = to.peer;
    let Some((session, way, link)) = to.send.filter(|(session, ..)| session.usable(now)) else {
        state.stage(peer, &raw[start..start + size], now);
        return None;
    };
    let Some(link) = link else {
        peer.record.add(Field::Queue, 1);
        return None;
    };
    let (at, size) = (start + lead, size - lead);
    let packet = &raw[at..at + size];
    let mut checksum = None;
    if let Some(header) = (lead == VNET).then(|| raw[start..].first_chunk::<VNET>()).flatten() {
        let vnet = Vnet::read(header);
        if vnet.gso_type != GSO_NONE {
            match Super::plan(packet, &vnet, peer.mtu) {
                Ok(plan) => {
                    let counter = session.take(plan.segments as u64);
                    return Some(Item { peer, session, way, link, counter, packet: (at, size), shape: Shape::Super(plan) });
                }
                Err(Refusal::Malformed) => peer.record.add(Field::TooBig, 1),
                Err(Refusal::TooBig) => state.refuse_too_big(peer, packet, peer.mtu.unwrap_or(0)),
            }
            return None;
        }
        if vnet.flags & NEEDS_CSUM != 0 {
            checksum = Some((vnet.csum_start, vnet.csum_offset));
        }
    }
    if let Some(mtu) = peer.mtu.filter(|mtu| size > *mtu as usize) {
        if let Some(Ok(plan)) = Vnet::of_tcp(packet).map(|vnet| Super::plan(packet, &vnet, peer.mtu)) {
            let counter = session.take(plan.segments as u64);
            return Some(Item { peer, session, way, link, counter, packet: (at, size), shape: Shape::Super(plan) });
        }
        state.refuse_too_big(peer, packet, mtu);
        return None;
    }
    let counter = session.take(1);
    Some(Item { peer, session, way, link, counter, packet: (at, size), shape: Shape::Whole { checksum } })
}

/// A thread's memory for sealed rows.
pub struct Scratch {
    rows: Vec<u8>,
    double: Vec<u8>,
}

impl Default for Scratch {
    fn default() -> Self {
        Self { rows: vec![0; BUFFER], double: Vec::new() }
    }
}

/// Rows that go out in one send: same peer and size, the last perhaps shorter.
struct Run<'s> {
    peer: &'s Peer,
    way: &'s Way,
    link: &'s dyn Link,
    start: usize,
    end: usize,
    size: usize, // of the plaintext in a row
    stride: usize,
    rows: usize,
    capacity: usize,
    inner: u64, // bytes of inner packets
}

/// Turns planned packets into rows and sends them.
pub struct Sealer<'s, 'b> {
    state: &'s State,
    net: &'s Net,
    scratch: &'b mut Scratch,
    turn: &'b dyn Turn,
    now: u64,
    open: Option<Run<'s>>,
    full: Vec<Run<'s>>,
}

impl<'s, 'b> Sealer<'s, 'b> {
    pub fn new(state: &'s State, net: &'s Net, scratch: &'b mut Scratch, turn: &'b dyn Turn, now: u64) -> Self {
        Self { state, net, scratch, turn, now, open: None, full: Vec::new() }
    }

    /// Seals and sends all of a batch. When it returns, the turn is over.
    pub fn finish(mut self, items: &[Item<'s>], raw: &[u8]) {
        for item in items {
            let packet = &raw[item.packet.0..item.packet.0 + item.packet.1];
            match &item.shape {
                Shape::Whole { checksum } => self.row(item, item.counter, packet.len(), |row| {
                    row.copy_from_slice(packet);
                    if let Some((start, offset)) = *checksum {
                        complete_checksum(row, start, offset);
                    }
                }),
                Shape::Super(plan) => {
                    for i in 0..plan.segments {
                        self.row(item, item.counter + i as u64, plan.size_of(i), |row| plan.write(packet, i, row));
                    }
                }
            }
        }
        self.close();
        self.turn.wait();
        self.send();
    }

    /// One row: head, transport header, what `fill` writes, padding, tag.
    fn row(&mut self, item: &Item<'s>, counter: u64, size: usize, fill: impl FnOnce(&mut [u8])) {
        let padded = item.peer.padded(size, self.net);
        if self
            .open
            .as_ref()
            .is_some_and(|run| !std::ptr::eq(run.peer, item.peer) || padded > run.size || run.rows == run.capacity)
        {
            self.close();
        }
        if self.open.is_none() {
            self.open(item, padded);
        }
        let Some(run) = &mut self.open else { return };
        let head = item.way.head_size();
        let row = &mut self.scratch.rows[run.end..run.end + head + OVERHEAD + padded];
        let (head, row) = row.split_at_mut(head);
        item.way.write_head(head, OVERHEAD + padded);
        row[..8].copy_from_slice(&item.session.header);
        row[8..TRANSPORT_HEADER].copy_from_slice(&counter.to_le_bytes());
        let (plain, tag) = row[TRANSPORT_HEADER..].split_at_mut(padded);
        fill(&mut plain[..size]);
        plain[size..].fill(0);
        item.session.tx.seal(counter, plain, tag);
        debug_assert_eq!(tag.len(), TAG);
        run.end += head.len() + row.len();
        run.rows += 1;
        run.inner += size as u64;
        if padded < run.size {
            self.close(); // a shorter one can only be the last of a run
        }
    }

    fn open(&mut self, item: &Item<'s>, size: usize) {
        let stride = item.way.head_size() + OVERHEAD + size;
        let mut start = self.full.last().map_or(0, |run| run.end);
        if start > GATHERED {
            self.turn.wait();
            self.send();
            start = 0;
        }
        let capacity = item.way.rows_at_once(stride);
        let (peer, way, link) = (item.peer, item.way, item.link);
        if start + capacity * stride > self.scratch.rows.len() {
            self.scratch.rows.resize(start + capacity * stride, 0);
        }
        self.open = Some(Run { peer, way, link, start, end: start, size, stride, rows: 0, capacity, inner: 0 });
    }

    fn close(&mut self) {
        self.full.extend(self.open.take());
        if self.turn.is_mine() {
            self.send();
        }
    }

    fn send(&mut self) {
        for run in self.full.drain(..) {
            let (state, packets) = (self.state, run.rows as u64);
            let rows = &self.scratch.rows[run.start..run.end];
            let failed = run.link.send(run.way, rows, run.stride);
            if failed != 0 {
                state.send_failed(run.way, run.stride, failed, &run.peer.record, packets, self.now);
            }
            if let Some(also) = &run.peer.also {
                if let Some(link) = state.link(also) {
                    let stride = rehead(rows, run.stride, run.way.head_size(), also, &mut self.scratch.double);
                    let failed = link.send(also, &self.scratch.double, stride);
                    if failed != 0 {
                        state.send_failed(also, stride, failed, &run.peer.record, packets, self.now);
                    }
                }
            }
            state.sent(run.peer, run.inner, packets, self.now);
        }
    }
}

/// The same datagrams with another head, for the second path of a double. Returns their stride.
fn rehead(rows: &[u8], stride: usize, head: usize, way: &Way, out: &mut Vec<u8>) -> usize {
    let other = way.head_size();
    out.clear();
    for row in rows.chunks(stride) {
        let at = out.len();
        let datagram = &row[head..];
        out.resize(at + other, 0);
        way.write_head(&mut out[at..], datagram.len());
        out.extend_from_slice(datagram);
    }
    stride - head + other
}

/// Sends what had been staged, as it was read.
pub fn resend(state: &State, peer: &Peer, packets: &VecDeque<Box<[u8]>>, now: u64) {
    let net = &state.nets[peer.net];
    let lead = net.tun.as_ref().map_or(0, |tun| tun.offloads().lead());
    let raw: Vec<u8> = packets.iter().flat_map(|packet| packet.iter().copied()).collect();
    let to = target(state, peer, now);
    let mut start = 0;
    let mut items = Vec::with_capacity(packets.len());
    for packet in packets {
        items.extend(item(state, to, lead, &raw, (start, packet.len()), now));
        start += packet.len();
    }
    Sealer::new(state, net, &mut Scratch::default(), &Alone, now).finish(&items, &raw);
}

/// Sends an empty transport packet on the current session, if there is one.
pub fn keepalive(state: &State, peer: &Peer, now: u64) {
    let Some(session) = peer.sender(now).map(Arc::clone) else { return };
    let counter = session.take(1);
    let mut datagram = [0u8; OVERHEAD];
    datagram[..8].copy_from_slice(&session.header);
    datagram[8..16].copy_from_slice(&counter.to_le_bytes());
    session.tx.seal(counter, &mut [], &mut datagram[16..]);
    for way in [&peer.primary, &peer.also].into_iter().flatten() {
        state.send_on(way, &datagram, &peer.record, now);
    }
}
