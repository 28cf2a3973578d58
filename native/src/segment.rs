//! Segments of a TCP or UDP super-packet, as the kernel's TSO and USO would cut them (virtio 1.2, section 5.1.6).

use crate::checksum::{copy_sum, field, sum};
use crate::io::VNET;
use crate::packet::{be16, pseudo_sum, put_be16};

pub const NEEDS_CSUM: u8 = 1;
pub const GSO_NONE: u8 = 0;
pub const GSO_TCPV4: u8 = 1;
pub const GSO_TCPV6: u8 = 4;
pub const GSO_UDP_L4: u8 = 5;
const GSO_ECN: u8 = 0x80;

const TCP: u8 = 6;
const UDP: u8 = 17;
const FIN_PSH: u8 = 0x09;
const SYN: u8 = 0x02;
const RST: u8 = 0x04;
const URG: u8 = 0x20;
const CWR: u8 = 0x80;
const SMALLEST_MSS: usize = 128;

/// The virtio_net_hdr before a packet; its numbers are in the machine's order.
#[derive(Clone, Copy, Debug)]
pub struct Vnet {
    pub flags: u8,
    pub gso_type: u8,
    pub gso_size: usize,
    pub csum_start: usize,
    pub csum_offset: usize,
}

impl Vnet {
    pub fn read(header: &[u8; VNET]) -> Self {
        let number = |at: usize| usize::from(u16::from_ne_bytes([header[at], header[at + 1]]));
        Self {
            flags: header[0],
            gso_type: header[1] & !GSO_ECN,
            gso_size: number(4),
            csum_start: number(6),
            csum_offset: number(8),
        }
    }
}

impl Vnet {
    /// For a packet on its own that is a TCP segment: as if it were a super-packet, so that it can be cut.
    pub fn of_tcp(packet: &[u8]) -> Option<Self> {
        let (ipv4, csum_start, protocol) = match packet.first()? >> 4 {
            4 => (true, usize::from(packet[0] & 15) * 4, *packet.get(9)?),
            _ => (false, 40, *packet.get(6)?),
        };
        let fragment = ipv4 && (packet[6] & 0x3f != 0 || packet[7] != 0);
        let flags = *packet.get(csum_start + 13)?;
        if protocol != 6 || fragment || flags & (SYN | RST | URG) != 0 {
            return None;
        }
        let gso_type = if ipv4 { GSO_TCPV4 } else { GSO_TCPV6 };
        Some(Self { flags: 0, gso_type, gso_size: packet.len(), csum_start, csum_offset: 16 })
    }
}

/// Why a super-packet doesn't leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    Malformed,
    TooBig,
}

/// How a super-packet is cut.
#[derive(Clone, Copy, Debug)]
pub struct Super {
    ipv4: bool,
    tcp: bool,
    l4: usize,
    check_at: usize,
    headers: usize,
    gso_size: usize,
    payload: usize,
    /// The largest segment, headers included.
    pub size: usize,
    pub segments: usize,
}

impl Super {
    /// `packet` is without its virtio header; `mtu`: of a path narrower than the interface, where TCP gets smaller segments.
    pub fn plan(packet: &[u8], vnet: &Vnet, mtu: Option<u32>) -> Result<Self, Refusal> {
        let l4 = vnet.csum_start;
        let ipv4 = packet.first().is_some_and(|first| first >> 4 == 4);
        if l4 < if ipv4 { 20 } else { 40 } {
            return Err(Refusal::Malformed);
        }
        let (tcp, headers) = match vnet.gso_type {
            GSO_TCPV4 | GSO_TCPV6 if packet.len() >= l4 + 20 => (true, l4 + usize::from(packet[l4 + 12] >> 4) * 4),
            GSO_UDP_L4 if packet.len() >= l4 + 8 => (false, l4 + 8),
            _ => return Err(Refusal::Malformed),
        };
        let payload = packet.len().saturating_sub(headers);
        let mut gso_size = vnet.gso_size;
        if payload == 0 || gso_size == 0 || headers < l4 + 8 || (tcp && headers < l4 + 20) || headers + gso_size > 65535 {
            return Err(Refusal::Malformed);
        }
        if let Some(mtu) = mtu.map(|mtu| mtu as usize).filter(|mtu| headers + gso_size.min(payload) > *mtu) {
            if !tcp || mtu < headers + SMALLEST_MSS {
                return Err(Refusal::TooBig);
            }
            gso_size = mtu - headers;
        }
        let check_at = l4 + if tcp { 16 } else { 6 };
        let (size, segments) = (headers + gso_size.min(payload), payload.div_ceil(gso_size));
        Ok(Self { ipv4, tcp, l4, check_at, headers, gso_size, payload, size, segments })
    }

    /// Size of segment number `i`, headers included.
    pub fn size_of(&self, i: usize) -> usize {
        self.headers + self.gso_size.min(self.payload - i * self.gso_size)
    }

    /// Writes segment number `i` of `packet` into `row`, which has exactly its size.
    pub fn write(&self, packet: &[u8], i: usize, row: &mut [u8]) {
        let (l4, headers) = (self.l4, self.headers);
        let start = headers + i * self.gso_size;
        let (head, body) = row.split_at_mut(headers);
        let payload = copy_sum(body, &packet[start..start + body.len()]);
        head.copy_from_slice(&packet[..headers]);
        let size = headers + body.len();
        if self.ipv4 {
            put_be16(head, 2, size);
            put_be16(head, 4, be16(packet, 4) + i);
            head[10..12].fill(0);
            let check = field(sum(&head[..l4]));
            head[10..12].copy_from_slice(&check);
        } else {
            put_be16(head, 4, size - 40);
        }
        if self.tcp {
            let seq = u32::from_be_bytes([head[l4 + 4], head[l4 + 5], head[l4 + 6], head[l4 + 7]]);
            let seq = seq.wrapping_add((i * self.gso_size) as u32);
            head[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
            if i > 0 {
                head[l4 + 13] &= !CWR; // belongs on the first segment (RFC 3168 section 6.1.2)
            }
            if i + 1 < self.segments {
                head[l4 + 13] &= !FIN_PSH;
            }
        } else {
            put_be16(head, l4 + 4, size - l4);
        }
        head[self.check_at..self.check_at + 2].fill(0);
        let pseudo = pseudo_sum(head, self.ipv4, if self.tcp { TCP } else { UDP }, size - l4);
        // headers are of even length, so the payload's words are the segment's
        let check = field(payload + sum(&head[l4..]) + pseudo);
        head[self.check_at..self.check_at + 2].copy_from_slice(&check);
    }
}

/// Finishes a checksum that the kernel left partial (CHECKSUM_PARTIAL: the field holds the pseudo header's sum).
pub fn complete_checksum(packet: &mut [u8], start: usize, offset: usize) {
    let at = start + offset;
    if at + 2 <= packet.len() {
        let check = field(sum(&packet[start..]));
        packet[at..at + 2].copy_from_slice(&check);
    }
}

#[cfg(test)]
pub mod tests {
    use super::*;
    use crate::checksum::fold;

    /// A super-packet without its virtio header, and that header's values.
    pub fn super_packet(ipv4: bool, tcp: bool, payload: usize, gso_size: usize, flags: u8) -> (Vec<u8>, Vnet) {
        let l4 = if ipv4 { 20 } else { 40 };
        let headers = l4 + if tcp { 32 } else { 8 };
        let mut packet = vec![0u8; headers];
        if ipv4 {
            packet[..2].copy_from_slice(&[0x45, 0]);
            packet[4..10].copy_from_slice(&[0xFF, 0xF0, 0x40, 0, 64, if tcp { 6 } else { 17 }]);
            packet[12..20].copy_from_slice(&[10, 7, 0, 1, 10, 7, 0, 2]);
        } else {
            packet[0] = 0x60;
            packet[6..8].copy_from_slice(&[if tcp { 6 } else { 17 }, 64]);
            packet[8] = 0xFD;
            packet[23] = 1;
            packet[24] = 0xFD;
            packet[39] = 2;
        }
        packet[l4..l4 + 4].copy_from_slice(&[0x10, 0x20, 0x30, 0x40]);
        if tcp {
            packet[l4 + 4..l4 + 8].copy_from_slice(&0xFFFF_F000u32.to_be_bytes());
            packet[l4 + 12] = 8 << 4;
            packet[l4 + 13] = flags;
        }
        packet.extend((0..payload).map(|i| ((i * 31) >> 2) as u8));
        let gso_type = if !tcp {
            GSO_UDP_L4
        } else if ipv4 {
            GSO_TCPV4
        } else {
            GSO_TCPV6
        };
        let vnet = Vnet { flags: NEEDS_CSUM, gso_type, gso_size, csum_start: l4, csum_offset: if tcp { 16 } else { 6 } };
        (packet, vnet)
    }

    pub fn segments(packet: &[u8], vnet: &Vnet, mtu: Option<u32>) -> Vec<Vec<u8>> {
        let plan = Super::plan(packet, vnet, mtu).unwrap();
        (0..plan.segments)
            .map(|i| {
                let mut row = vec![0xEE; plan.size_of(i)];
                plan.write(packet, i, &mut row);
                row
            })
            .collect()
    }

    #[test]
    fn segments_are_right_packets_and_hold_the_payload() {
        for (ipv4, tcp) in [(true, true), (true, false), (false, true), (false, false)] {
            for (payload, gso) in [(1, 1000), (1000, 1000), (4321, 1000), (60000, 1368), (777, 11), (501, 250)] {
                let (packet, vnet) = super_packet(ipv4, tcp, payload, gso, 0x99);
                let found = segments(&packet, &vnet, None);
                let l4 = vnet.csum_start;
                let headers = packet.len() - payload;
                let joined: Vec<u8> = found.iter().flat_map(|s| s[headers..].to_vec()).collect();
                assert_eq!(joined, packet[headers..]);
                for (i, segment) in found.iter().enumerate() {
                    assert_eq!(crate::packet::inner_size(segment), segment.len());
                    if ipv4 {
                        assert_eq!(fold(sum(&segment[..20])), 0xFFFF);
                        assert_eq!(be16(segment, 4), (0xFFF0 + i) & 0xFFFF);
                    }
                    let pseudo = pseudo_sum(segment, ipv4, if tcp { 6 } else { 17 }, segment.len() - l4);
                    assert_eq!(fold(sum(&segment[l4..]) + pseudo), 0xFFFF);
                    if tcp {
                        let (first, last) = (i == 0, i + 1 == found.len());
                        assert_eq!(segment[l4 + 13], 0x10 | if first { 0x80 } else { 0 } | if last { 0x09 } else { 0 });
                    } else {
                        assert_eq!(be16(segment, l4 + 4), segment.len() - l4);
                    }
                }
            }
        }
    }

    #[test]
    fn a_narrower_path_gets_smaller_segments_of_tcp_only() {
        let (packet, vnet) = super_packet(true, true, 9000, 1368, 0x10);
        let found = segments(&packet, &vnet, Some(1000));
        assert_eq!(found[0].len(), 1000);
        let (packet, vnet) = super_packet(true, false, 9000, 1368, 0);
        assert_eq!(Super::plan(&packet, &vnet, Some(1000)).unwrap_err(), Refusal::TooBig);
    }

    #[test]
    fn headers_beyond_the_packet_are_refused() {
        let (packet, vnet) = super_packet(true, true, 100, 50, 0x10);
        for size in 0..=52 {
            assert!(Super::plan(&packet[..size], &vnet, None).is_err());
        }
        for start in [0, 19, 100, 65535] {
            let wrong = Vnet { csum_start: start, ..vnet };
            let _ = Super::plan(&packet, &wrong, None);
        }
        assert!(Super::plan(&packet, &Vnet { gso_size: 0, ..vnet }, None).is_err());
    }
}
