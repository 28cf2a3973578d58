//! What a packet is, by its first bytes: datagrams of the underlay and inner IP packets.

use crate::checksum::{fold, sum};

pub const INITIATION_SIZE: usize = 148;
pub const RESPONSE_SIZE: usize = 92;
pub const COOKIE_REPLY_SIZE: usize = 64;
pub const TRANSPORT_HEADER: usize = 16;
/// Header and tag of a transport packet.
pub const OVERHEAD: usize = 32;
/// Of a relay frame: magic 4, NetworkID 32, SourceIP 4, DestIP 4.
pub const FRAME_HEADER: usize = 44;

/// Sorts of datagrams on the one UDP port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sort {
    Unknown,
    Initiation,
    Response,
    CookieReply,
    Transport,
    Disco,
    Frame,
    RelayControl,
    Stun,
}

/// The sort of a datagram; `Unknown` too where the size can't be right.
pub fn sort_of(data: &[u8]) -> Sort {
    let Some(first) = data.first_chunk::<4>() else {
        return Sort::Unknown;
    };
    let of_size = |sort, size| if data.len() == size { sort } else { Sort::Unknown };
    match first {
        [4, 0, 0, 0] if (OVERHEAD..=65535).contains(&data.len()) => Sort::Transport,
        [4, 0, 0, 0] => Sort::Unknown,
        [1, 0, 0, 0] => of_size(Sort::Initiation, INITIATION_SIZE),
        [2, 0, 0, 0] => of_size(Sort::Response, RESPONSE_SIZE),
        [3, 0, 0, 0] => of_size(Sort::CookieReply, COOKIE_REPLY_SIZE),
        [b'S', b'M', 1, 1] => Sort::Disco,
        [b'S', b'M', 1, 2] => Sort::Frame,
        [b'S', b'M', 1, 3] => Sort::RelayControl,
        [b'S', b'M', 1, _] => Sort::Unknown,
        [first, ..] if *first < 0x40 && data.len() >= 20 && data[4..8] == [0x21, 0x12, 0xa4, 0x42] => Sort::Stun,
        _ => Sort::Unknown,
    }
}

/// Whether the handshake message was made for the owner of this key (WireGuard paper, section 5.4.4).
pub fn mac1_valid(message: &[u8], key: &[u8; 32]) -> bool {
    let Some(at) = message.len().checked_sub(32) else {
        return false;
    };
    let mut params = blake2s_simd::Params::new();
    params.hash_length(16).key(key);
    params.hash(&message[..at]) == message[at..at + 16] // compares in constant time
}

/// The frame header of an answer: source and destination change places.
pub fn answer_prefix(header: &[u8; FRAME_HEADER]) -> [u8; FRAME_HEADER] {
    let mut answer = *header;
    answer[36..40].copy_from_slice(&header[40..44]);
    answer[40..44].copy_from_slice(&header[36..40]);
    answer
}

/// Source and destination of an IPv4 or IPv6 packet, None for anything else or a cut header.
pub fn addresses(packet: &[u8]) -> Option<(&[u8], &[u8])> {
    match packet.first()? >> 4 {
        4 if packet.len() >= 20 => Some((&packet[12..16], &packet[16..20])),
        6 if packet.len() >= 40 => Some((&packet[8..24], &packet[24..40])),
        _ => None,
    }
}

/// Length that the IP header claims (WireGuard pads behind it); 0 where header or claim can't be right.
pub fn inner_size(packet: &[u8]) -> usize {
    let claimed = match packet.first().map(|first| first >> 4) {
        Some(4) if packet.len() >= 20 => be16(packet, 2),
        Some(6) if packet.len() >= 40 => be16(packet, 4) + 40,
        _ => return 0,
    };
    if (20..=packet.len()).contains(&claimed) { claimed } else { 0 }
}

/// Multicast of either family, or the IPv4 limited broadcast.
pub fn is_group_address(address: &[u8]) -> bool {
    address[0] >= 0xE0 && (address.len() == 4 || address[0] == 0xFF)
}

/// The big-endian number of 16 bits at `at`, which must be inside.
pub fn be16(data: &[u8], at: usize) -> usize {
    usize::from(data[at]) << 8 | usize::from(data[at + 1])
}

pub fn put_be16(data: &mut [u8], at: usize, value: usize) {
    data[at..at + 2].copy_from_slice(&(value as u16).to_be_bytes());
}

/// Sum of the pseudo header of TCP or UDP (RFC 9293 section 3.1, RFC 8200 section 8.1).
pub fn pseudo_sum(packet: &[u8], ipv4: bool, protocol: u8, l4_size: usize) -> u64 {
    let ends = if ipv4 { &packet[12..20] } else { &packet[8..40] };
    let size = (l4_size as u32).to_be_bytes();
    sum(ends) + sum(&[0, protocol]) + sum(&size)
}

/// The ICMP answer to an inner packet larger than `mtu`, as if the destination's router had sent it (RFC 1191, RFC 4443
/// section 3.2). None where none is due: IPv4 that allows fragments, and ICMP errors.
pub fn too_big(packet: &[u8], mtu: u32) -> Option<Vec<u8>> {
    let (source, destination) = addresses(packet)?;
    if packet[0] >> 4 == 4 {
        let header = usize::from(packet[0] & 15) * 4;
        let is_error = packet[9] == 1 && !matches!(packet.get(header), Some(0 | 8));
        if packet[6] & 0x40 == 0 || is_error {
            return None;
        }
        let quoted = &packet[..packet.len().min(header + 8)];
        let mut answer = vec![0u8; 28];
        answer[..10].copy_from_slice(&[0x45, 0, 0, 0, 0, 0, 0, 0, 0x40, 1]);
        answer[12..16].copy_from_slice(destination);
        answer[16..20].copy_from_slice(source);
        answer[20..22].copy_from_slice(&[3, 4]);
        put_be16(&mut answer, 26, mtu as usize);
        answer.extend_from_slice(quoted);
        let total = answer.len();
        put_be16(&mut answer, 2, total);
        let check = !fold(sum(&answer[..20]));
        answer[10..12].copy_from_slice(&check.to_ne_bytes());
        let check = !fold(sum(&answer[20..]));
        answer[22..24].copy_from_slice(&check.to_ne_bytes());
        return Some(answer);
    }
    if packet[6] == 58 && packet.get(40).is_none_or(|kind| *kind < 128) {
        return None;
    }
    let quoted = &packet[..packet.len().min(1280 - 48)];
    let mut answer = vec![0u8; 48];
    answer[0] = 0x60;
    put_be16(&mut answer, 4, 8 + quoted.len());
    answer[6..8].copy_from_slice(&[58, 64]);
    answer[8..24].copy_from_slice(destination);
    answer[24..40].copy_from_slice(source);
    answer[40] = 2;
    answer[44..48].copy_from_slice(&mtu.to_be_bytes());
    answer.extend_from_slice(quoted);
    let check = !fold(sum(&answer[40..]) + pseudo_sum(&answer, false, 58, answer.len() - 40));
    answer[42..44].copy_from_slice(&check.to_ne_bytes());
    Some(answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sorts_by_first_bytes_and_size() {
        assert_eq!(sort_of(&[4, 0, 0]), Sort::Unknown);
        assert_eq!(sort_of(&[4, 0, 0, 0]), Sort::Unknown);
        let mut transport = [0u8; 32];
        transport[0] = 4;
        assert_eq!(sort_of(&transport), Sort::Transport);
        assert_eq!(sort_of(b"SM\x01\x01"), Sort::Disco);
        assert_eq!(sort_of(b"SM\x01\x09abcdefgh"), Sort::Unknown);
        let mut stun = [0u8; 20];
        stun[4..8].copy_from_slice(&[0x21, 0x12, 0xa4, 0x42]);
        assert_eq!(sort_of(&stun), Sort::Stun);
        stun[0] = 0x80;
        assert_eq!(sort_of(&stun), Sort::Unknown);
    }

    #[test]
    fn too_big_answers_have_right_checksums() {
        let mut v4 = vec![0u8; 1400];
        v4[0] = 0x45;
        v4[6] = 0x40;
        v4[9] = 17;
        let answer = too_big(&v4, 1200).unwrap();
        assert_eq!(fold(sum(&answer[..20])), 0xFFFF);
        assert_eq!(fold(sum(&answer[20..])), 0xFFFF);
        v4[6] = 0;
        assert!(too_big(&v4, 1200).is_none());
        let mut v6 = vec![0u8; 1400];
        v6[0] = 0x60;
        v6[6] = 6;
        let answer = too_big(&v6, 1300).unwrap();
        assert_eq!(answer.len(), 1280);
        assert_eq!(fold(sum(&answer[40..]) + pseudo_sum(&answer, false, 58, answer.len() - 40)), 0xFFFF);
    }

    #[test]
    fn claims_beyond_the_packet_are_refused() {
        let mut packet = [0u8; 40];
        packet[0] = 0x45;
        packet[3] = 41;
        assert_eq!(inner_size(&packet), 0);
        packet[3] = 40;
        assert_eq!(inner_size(&packet), 40);
        packet[0] = 0x60;
        packet[4..6].copy_from_slice(&[0xFF, 0xFF]);
        assert_eq!(inner_size(&packet), 0);
    }
}
