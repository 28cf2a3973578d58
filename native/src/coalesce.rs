//! Segments of one flow become one super-packet for the kernel (GRO in software).
//!
//! Segments are joined only if everything but what must differ is equal, and only if each checksum is right: the super-packet goes
//! up as CHECKSUM_PARTIAL, and a segment that came wrong must not be repaired by that. The payload is never copied: the headers are
//! changed where they lie, in the first segment, and the rest is pieces.

use crate::checksum::{field, fold, sum};
use crate::counters::Field;
use crate::io::{Interface, Offloads, Piece, VNET};
use crate::packet::{be16, pseudo_sum, put_be16};
use crate::segment::{GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, NEEDS_CSUM};
use crate::state::Peer;
use crate::sys::MOST_PIECES;

const TCP: u8 = 6;
const UDP: u8 = 17;
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;
const LARGEST: usize = 65535;

/// What makes a packet one that can be joined with others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    l4: u8,
    headers: u8,
    tcp: bool,
}

impl Segment {
    /// Looks at an inner packet of exactly its claimed size; None if it stands alone.
    pub fn of(packet: &[u8], offloads: Offloads) -> Option<Self> {
        let ipv4 = packet[0] >> 4 == 4;
        let (l4, protocol) = if ipv4 { (20, packet[9]) } else { (40, packet[6]) };
        if ipv4 && (packet[0] != 0x45 || packet[6] & 0x3F != 0 || packet[7] != 0) {
            return None; // options, fragments
        }
        let tcp = match protocol {
            TCP if offloads.tcp && packet.len() > l4 + 20 => true,
            UDP if offloads.udp && packet.len() > l4 + 8 => false,
            _ => return None,
        };
        let headers = if tcp { l4 + usize::from(packet[l4 + 12] >> 4) * 4 } else { l4 + 8 };
        let whole = if tcp {
            headers >= l4 + 20 && packet[l4 + 13] & !PSH == ACK
        } else {
            be16(packet, l4 + 4) == packet.len() - l4 && be16(packet, l4 + 6) != 0
        };
        if !whole || headers >= packet.len() || (ipv4 && fold(sum(&packet[..20])) != 0xFFFF) {
            return None;
        }
        let pseudo = pseudo_sum(packet, ipv4, protocol, packet.len() - l4);
        if fold(sum(&packet[l4..]) + pseudo) != 0xFFFF {
            return None;
        }
        Some(Self { l4: l4 as u8, headers: headers as u8, tcp })
    }
}

/// The segments that the next super-packet will be made of.
struct Group<'s> {
    peer: &'s Peer,
    tun: &'s dyn Interface,
    segment: Option<Segment>,
    first: usize,
    mss: usize,
    last: usize,
    total: usize, // headers and payloads
    inner: usize,
    closed: bool,
}

/// Gathers packets for interfaces, in order.
#[derive(Default)]
pub struct Grouper<'s> {
    open: Option<Group<'s>>,
    pieces: Vec<Piece>,
    /// Of the packets handed over since `take_counts`.
    pub bytes: u64,
    pub packets: u64,
}

impl<'s> Grouper<'s> {
    /// Takes the packet at `start`, of `size` bytes, before which there are at least 10 bytes that nobody needs.
    pub fn push(
        &mut self,
        buffer: &mut [u8],
        peer: &'s Peer,
        tun: &'s dyn Interface,
        segment: Option<Segment>,
        (start, size): Piece,
    ) {
        if let (Some(group), Some(segment)) = (&mut self.open, segment) {
            let headers = usize::from(segment.headers);
            let payload = size - headers;
            if !group.closed
                && group.segment == Some(segment)
                && std::ptr::eq(group.peer, peer)
                && payload <= group.mss
                && group.total + payload <= LARGEST
                && self.pieces.len() < MOST_PIECES
                && continues(buffer, group.last, start, segment, group.mss)
            {
                self.pieces.push((start + headers, payload));
                group.last = start;
                group.total += payload;
                group.inner += size;
                if segment.tcp {
                    // PSH marks no boundary (RFC 9293, section 3.9.1.2): one that any segment carries is the super-packet's
                    let flags = usize::from(segment.l4) + 13;
                    buffer[group.first + flags] |= buffer[start + flags] & PSH;
                }
                group.closed = payload < group.mss;
                return;
            }
        }
        self.flush(buffer);
        self.pieces.push((start, size));
        let mss = segment.map_or(0, |segment| size - usize::from(segment.headers));
        let closed = segment.is_none();
        self.open = Some(Group { peer, tun, segment, first: start, mss, last: start, total: size, inner: size, closed });
    }

    /// Hands over what is gathered.
    pub fn flush(&mut self, buffer: &mut [u8]) {
        let Some(group) = self.open.take() else { return };
        let header = group.tun.offloads().header;
        if header {
            let vnet = match group.segment {
                Some(segment) if self.pieces.len() > 1 => make_super(buffer, &group, segment),
                _ => [0; VNET],
            };
            buffer[group.first - VNET..group.first].copy_from_slice(&vnet);
            self.pieces[0].0 -= VNET;
            self.pieces[0].1 += VNET;
        }
        let packets = self.pieces.len() as u64;
        if group.tun.write(buffer, &self.pieces) != 0 {
            group.peer.record.add(Field::Queue, packets);
        }
        self.bytes += group.inner as u64;
        self.packets += packets;
        self.pieces.clear();
    }

    /// Bytes and packets handed over since the last call.
    pub fn take_counts(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.bytes), std::mem::take(&mut self.packets))
    }
}

/// Whether the segment at `next` continues the one at `last`.
fn continues(buffer: &[u8], last: usize, next: usize, segment: Segment, mss: usize) -> bool {
    let (l4, headers) = (usize::from(segment.l4), usize::from(segment.headers));
    let (a, b) = (&buffer[last..last + headers], &buffer[next..next + headers]);
    let same = |from: usize, to: usize| a[from..to] == b[from..to];
    let ip = if l4 == 20 {
        let step = (be16(b, 4) as u16).wrapping_sub(be16(a, 4) as u16);
        (step == 1 || (step == 0 && a[6] & 0x40 != 0)) && same(0, 2) && same(6, 10) && same(12, 20)
    } else {
        same(0, 4) && same(6, 40)
    };
    if !ip || !same(l4, l4 + 4) {
        return false;
    }
    if !segment.tcp {
        return true;
    }
    let seq = |p: &[u8]| u32::from_be_bytes([p[l4 + 4], p[l4 + 5], p[l4 + 6], p[l4 + 7]]);
    seq(b).wrapping_sub(seq(a)) == mss as u32 && same(l4 + 8, l4 + 13) && same(l4 + 14, l4 + 16) && same(l4 + 18, headers)
}

/// Changes the first segment's headers into the super-packet's and returns its virtio header.
fn make_super(buffer: &mut [u8], group: &Group, segment: Segment) -> [u8; VNET] {
    let (l4, headers) = (usize::from(segment.l4), usize::from(segment.headers));
    let ipv4 = l4 == 20;
    let head = &mut buffer[group.first..group.first + headers];
    if ipv4 {
        put_be16(head, 2, group.total);
        head[10..12].fill(0);
        let check = field(sum(&head[..20]));
        head[10..12].copy_from_slice(&check);
    } else {
        put_be16(head, 4, group.total - 40);
    }
    let l4_size = group.total - l4;
    let (kind, offset) = if segment.tcp {
        (if ipv4 { GSO_TCPV4 } else { GSO_TCPV6 }, 16)
    } else {
        put_be16(head, l4 + 4, l4_size);
        (GSO_UDP_L4, 6)
    };
    let pseudo = fold(pseudo_sum(head, ipv4, if segment.tcp { TCP } else { UDP }, l4_size));
    head[l4 + offset..l4 + offset + 2].copy_from_slice(&pseudo.to_ne_bytes());
    let mut vnet = [0u8; VNET];
    vnet[0] = NEEDS_CSUM;
    vnet[1] = kind;
    for (at, value) in [(2, headers), (4, group.mss), (6, l4), (8, offset)] {
        vnet[at..at + 2].copy_from_slice(&(value as u16).to_ne_bytes());
    }
    vnet
}
