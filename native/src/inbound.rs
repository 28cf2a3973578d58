//! From the underlay to an interface.
//!
//! A batch passes in two steps. [`open`] works beside other threads: sorts datagrams by their first bytes, finds sessions, decrypts in
//! place, checks inner addresses and checksums. [`deliver`] follows in the lane's order: replay window, then everything that an
//! authenticated packet causes, and packets joined to super-packets for the interface.

use std::sync::{Arc, MutexGuard};

use crate::aead::TAG;
use crate::coalesce::{Grouper, Segment};
use crate::counters::Field;
use crate::event::{DatagramKind, RX_ANY, RX_DATA};
use crate::io::{Interface, Offloads};
use crate::packet::{
    FRAME_HEADER, Sort, TRANSPORT_HEADER, addresses, answer_prefix, inner_size, is_group_address, mac1_valid, sort_of,
};
use crate::path::{Path, Remote};
use crate::replay::ReplayWindow;
use crate::session::Session;
use crate::state::{After, Peer, State, lock};
use std::net::IpAddr;

/// Datagrams of equal size (the last perhaps shorter) from one place, behind each other in the batch's buffer.
#[derive(Clone, Copy, Debug)]
pub struct Message {
    pub start: usize,
    pub end: usize,
    /// Distance from one datagram to the next.
    pub each: usize,
    /// Bytes before each that are not part of it (a stream's lengths).
    pub skip: usize,
    pub remote: Option<Remote>,
    pub local: Option<IpAddr>,
}

/// What became of a datagram.
enum Verdict {
    Other(Sort),
    NoSession,
    Dead,
    Forged,
    Keepalive,
    WrongSource,
    WrongDestination,
    Filtered,
    Enters(Option<Segment>),
}

/// One datagram of a batch.
pub struct Row<'s> {
    message: usize,
    frame: bool,
    start: usize, // of the datagram, or of the plaintext
    size: usize,  // the inner packet's, where it enters
    session: Option<&'s Arc<Session>>,
    counter: u64,
    verdict: Verdict,
}

/// What was found for the last datagram: the next is usually of the same session and flow.
struct Known<'s> {
    session: &'s Arc<Session>,
    peer: &'s Peer,
    offloads: Offloads,
    ends: [u8; 32],
    size: usize,
}

/// Decrypts and checks a batch in place.
pub fn open<'s>(state: &'s State, buffer: &mut [u8], messages: &[Message], now: u64) -> Vec<Row<'s>> {
    let total: usize = messages.iter().map(|m| (m.end - m.start).div_ceil(m.each.max(1))).sum();
    let mut rows = Vec::with_capacity(total);
    let mut known: Option<Known<'s>> = None;
    for (number, message) in messages.iter().enumerate() {
        let mut at = message.start;
        while at < message.end && message.each > 0 {
            let end = (at + message.each).min(message.end);
            let start = (at + message.skip).min(end);
            if let Some(datagram) = buffer.get_mut(start..end) {
                rows.push(row(state, datagram, number, start, &mut known, now, total > 1));
            }
            at = end;
        }
    }
    rows
}

fn row<'s>(
    state: &'s State,
    mut datagram: &mut [u8],
    message: usize,
    mut start: usize,
    known: &mut Option<Known<'s>>,
    now: u64,
    joins: bool,
) -> Row<'s> {
    let mut sort = sort_of(datagram);
    let frame = sort == Sort::Frame && datagram.len() > FRAME_HEADER;
    if frame {
        datagram = &mut datagram[FRAME_HEADER..];
        start += FRAME_HEADER;
        sort = match sort_of(datagram) {
            // a relay carries what peers say to each other, nothing else
            Sort::Frame | Sort::RelayControl | Sort::Stun => Sort::Unknown,
            inner => inner,
        };
    }
    let mut row = Row { message, frame, start, size: datagram.len(), session: None, counter: 0, verdict: Verdict::Other(sort) };
    if sort != Sort::Transport {
        return row;
    }
    let index = u32::from_le_bytes([datagram[4], datagram[5], datagram[6], datagram[7]]);
    if known.as_ref().is_none_or(|known| known.session.local_index != index) {
        let session = state.by_index.get(&index);
        *known = session.and_then(|session| {
            let peer = state.peer(session.peer)?;
            let offloads = state.nets[peer.net].tun.as_ref().map_or(Offloads::default(), |tun| tun.offloads());
            Some(Known { session, peer, offloads, ends: [0; 32], size: 0 })
        });
    }
    let Some(known) = known else {
        row.verdict = Verdict::NoSession;
        return row;
    };
    row.session = Some(known.session);
    if now >= known.session.dies {
        row.verdict = Verdict::Dead;
        return row;
    }
    let (header, sealed) = datagram.split_at_mut(TRANSPORT_HEADER);
    row.counter = header[8..].iter().rev().fold(0, |counter, byte| counter << 8 | u64::from(*byte));
    if !known.session.rx.open(row.counter, sealed) {
        row.verdict = Verdict::Forged;
        return row;
    }
    row.start += TRANSPORT_HEADER;
    let plain = &sealed[..sealed.len() - TAG];
    row.size = inner_size(plain);
    row.verdict = if plain.is_empty() { Verdict::Keepalive } else { check_inner(state, known, &plain[..row.size], joins) };
    row
}

/// Whether an inner packet may enter this host: its source is the peer's, its destination this host's.
fn check_inner(state: &State, known: &mut Known, packet: &[u8], joins: bool) -> Verdict {
    let Some((source, destination)) = addresses(packet) else {
        return Verdict::WrongSource;
    };
    let ends = if source.len() == 4 { &packet[12..20] } else { &packet[8..40] };
    if known.ends[..known.size] != *ends {
        let net = &state.nets[known.peer.net];
        if net.routes.lookup(source) != Some(known.session.peer) {
            return Verdict::WrongSource;
        }
        if is_group_address(destination) || net.local.lookup(destination).is_none() {
            return Verdict::WrongDestination;
        }
        if net.closed {
            return Verdict::Filtered;
        }
        known.size = ends.len();
        known.ends[..ends.len()].copy_from_slice(ends);
    }
    Verdict::Enters(if joins { Segment::of(packet, known.offloads) } else { None })
}

/// Consecutive datagrams of one session from one place.
struct Run<'s> {
    session: &'s Arc<Session>,
    peer: &'s Peer,
    tun: Option<&'s dyn Interface>,
    message: usize,
    header: Option<[u8; FRAME_HEADER]>,
    window: MutexGuard<'s, ReplayWindow>,
    fresh: bool,
    entered: bool,
}

/// Hands a batch over, in order. Returns what has to be done with the state afterwards.
pub fn deliver<'s>(
    state: &'s State,
    via: u32,
    buffer: &mut [u8],
    messages: &[Message],
    rows: &[Row<'s>],
    now: u64,
) -> Vec<After> {
    let mut delivery = Delivery { state, via, messages, now, grouper: Grouper::default(), run: None, after: Vec::new() };
    for row in rows {
        delivery.row(buffer, row);
    }
    delivery.end_run(buffer);
    delivery.after
}

struct Delivery<'s, 'b> {
    state: &'s State,
    via: u32,
    messages: &'b [Message],
    now: u64,
    grouper: Grouper<'s>,
    run: Option<Run<'s>>,
    after: Vec<After>,
}

impl<'s> Delivery<'s, '_> {
    fn row(&mut self, buffer: &mut [u8], row: &Row<'s>) {
        let nobody = &self.state.nobody;
        let (sort, session) = match (&row.verdict, row.session) {
            (Verdict::Other(sort), _) => (*sort, None),
            (_, None) => {
                nobody.add(Field::NoSession, 1);
                return self.unclaimed(buffer, row);
            }
            (_, Some(session)) => (Sort::Transport, Some(session)),
        };
        let Some(session) = session else {
            return self.other(buffer, row, sort);
        };
        let Some(peer) = self.state.peer(session.peer) else { return };
        match row.verdict {
            Verdict::Dead => return peer.record.add(Field::NoSession, 1),
            Verdict::Forged => return peer.record.add(Field::Auth, 1),
            _ => {}
        }
        let header = row.frame.then(|| frame_header(buffer, row.start - TRANSPORT_HEADER)).flatten();
        if !self.run.as_ref().is_some_and(|run| self.continues(run, session, row.message, header.as_ref())) {
            self.end_run(buffer);
            let tun = self.state.nets[peer.net].tun.as_deref();
            let window = lock(&session.window);
            self.run = Some(Run { session, peer, tun, message: row.message, header, window, fresh: false, entered: false });
        }
        let Some(run) = &mut self.run else { return };
        if !run.window.accept(row.counter) {
            return peer.record.add(Field::Duplicate, 1);
        }
        run.fresh = true;
        match row.verdict {
            Verdict::WrongSource => peer.record.add(Field::Source, 1),
            Verdict::WrongDestination => peer.record.add(Field::Destination, 1),
            Verdict::Filtered => peer.record.add(Field::Filter, 1),
            Verdict::Enters(segment) => {
                run.entered = true;
                match run.tun {
                    Some(tun) => self.grouper.push(buffer, run.peer, tun, segment, (row.start, row.size)),
                    None => peer.record.add(Field::Queue, 1),
                }
            }
            _ => {}
        }
    }

    fn continues(&self, run: &Run, session: &Arc<Session>, message: usize, header: Option<&[u8; FRAME_HEADER]>) -> bool {
        let (a, b) = (&self.messages[run.message], &self.messages[message]);
        Arc::ptr_eq(run.session, session)
            && run.header.as_ref() == header
            && (run.message == message || (a.remote == b.remote && a.local == b.local))
    }

    /// A run's packets authenticated and were new: edges, where they came from, and what waited goes out.
    fn end_run(&mut self, buffer: &mut [u8]) {
        let Some(run) = self.run.take() else { return };
        self.grouper.flush(buffer);
        if !run.fresh {
            return;
        }
        drop(run.window);
        let (state, peer, now) = (self.state, run.peer, self.now);
        peer.record.set(Field::LastRxAny, now);
        state.edge(peer, RX_ANY, now);
        let message = &self.messages[run.message];
        let answer = run.header.as_ref().map(answer_prefix);
        let prefix: &[u8] = answer.as_ref().map_or(&[], |answer| answer);
        if run.entered {
            let (bytes, packets) = self.grouper.take_counts();
            let relayed = run.header.is_some() || message.remote.is_none();
            peer.record.add_traffic(if relayed { Field::RxRelay } else { Field::RxDirect }, bytes, packets);
            peer.record.set(Field::LastRxData, now);
            state.edge(peer, RX_DATA, now);
        }
        if !peer.knows(self.via, message.remote, prefix) {
            let path = Path { via: self.via, remote: message.remote, local: message.local, prefix: prefix.into() };
            state.tell_source(peer, &path, now);
            if peer.roam {
                self.after.push(After::Roam(run.session.clone(), path));
            }
        }
        if peer.slots.is_next(run.session) {
            self.after.push(After::Promote(run.session.clone()));
        } else {
            state.flush_staged(peer, now);
        }
    }

    /// What isn't a transport packet: up, or counted.
    fn other(&self, buffer: &[u8], row: &Row, sort: Sort) {
        let state = self.state;
        let data = &buffer[row.start..row.start + row.size];
        let kind = match sort {
            Sort::Initiation | Sort::Response if state.mac1_keys.iter().any(|(_, key)| mac1_valid(data, key)) => {
                DatagramKind::Handshake
            }
            Sort::CookieReply if state.was_asked(data) => DatagramKind::Handshake,
            Sort::Disco => DatagramKind::Disco,
            Sort::Stun => DatagramKind::Stun,
            Sort::RelayControl => DatagramKind::RelayControl,
            _ => return state.nobody.add(Field::Auth, 1),
        };
        state.tell_datagram(kind, || self.path(buffer, row), data, self.now);
    }

    /// A transport packet that names no session.
    fn unclaimed(&self, buffer: &[u8], row: &Row) {
        let index = buffer.get(row.start + 4..row.start + 8).and_then(|index| <[u8; 4]>::try_from(index).ok());
        if let Some(index) = index {
            self.state.tell_unclaimed(|| self.path(buffer, row), u32::from_le_bytes(index), row.size, self.now);
        }
    }

    /// The path on which a datagram that wasn't decrypted came, ready to answer on.
    fn path(&self, buffer: &[u8], row: &Row) -> Path {
        let message = &self.messages[row.message];
        let header = row.frame.then(|| frame_header(buffer, row.start)).flatten();
        let prefix = header.map_or_else(Box::default, |header| Box::from(answer_prefix(&header)));
        Path { via: self.via, remote: message.remote, local: message.local, prefix }
    }
}

/// The frame header that ends at `end`.
fn frame_header(buffer: &[u8], end: usize) -> Option<[u8; FRAME_HEADER]> {
    buffer.get(end.checked_sub(FRAME_HEADER)?..end)?.try_into().ok()
}
