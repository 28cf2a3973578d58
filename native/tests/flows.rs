//! From a super-packet to datagrams and back, over the whole core: what goes in as a super-packet comes out as one, and what is not a
//! right continuation of a flow stays by itself.

use shadowmesh_native::checksum::{field, fold, sum};
use shadowmesh_native::counters::Field;
use shadowmesh_native::io::{Offloads, VNET};
use shadowmesh_native::memory::Bench;
use shadowmesh_native::packet::{be16, inner_size, pseudo_sum};

const ALL: Offloads = Offloads { header: true, tcp: true, udp: true };
const ACK: u8 = 0x10;
const PSH: u8 = 0x08;

/// As the kernel gives it to the interface at 10.7.0.1 and fd::1, to 10.7.0.2 and fd::2.
fn super_packet(ipv4: bool, tcp: bool, payload: usize, mss: usize, flags: u8, seq: u32, id: u16) -> Vec<u8> {
    let (l4, protocol) = (if ipv4 { 20 } else { 40 }, if tcp { 6 } else { 17 });
    let headers = l4 + if tcp { 32 } else { 8 };
    let kind = if !tcp {
        5
    } else if ipv4 {
        1
    } else {
        4
    };
    let mut packet = vec![1, kind];
    for value in [headers, mss, l4, if tcp { 16 } else { 6 }] {
        packet.extend((value as u16).to_ne_bytes());
    }
    let mut head = vec![0u8; headers];
    if ipv4 {
        head[0] = 0x45;
        head[4..6].copy_from_slice(&id.to_be_bytes());
        head[6..10].copy_from_slice(&[0x40, 0, 64, protocol]);
        head[12..20].copy_from_slice(&[10, 7, 0, 1, 10, 7, 0, 2]);
    } else {
        head[0] = 0x60;
        head[6..8].copy_from_slice(&[protocol, 64]);
        (head[8], head[23], head[24], head[39]) = (0xFD, 1, 0xFD, 2);
    }
    head[l4..l4 + 4].copy_from_slice(&[1, 2, 3, 4]);
    if tcp {
        head[l4 + 4..l4 + 8].copy_from_slice(&seq.to_be_bytes());
        head[l4 + 12..l4 + 14].copy_from_slice(&[0x80, flags]);
    }
    packet.extend(head);
    packet.extend((0..payload).map(|i| ((i * 31) >> 3) as u8));
    packet
}

fn far() -> Bench {
    Bench::new(ALL, None, &[], true)
}

/// The inner packets of a super-packet, opened by the far side one at a time.
fn segments(packet: &[u8]) -> Vec<Vec<u8>> {
    let datagrams = Bench::new(ALL, None, &[], false).leave(&[packet.to_vec()]).concat();
    let mut far = far();
    datagrams.iter().flat_map(|d| far.arrive(std::slice::from_ref(d))).map(|p| p[VNET..].to_vec()).collect()
}

/// What the far interface is given when these inner packets arrive at once.
fn arrived(packets: &[Vec<u8>], offloads: Offloads) -> Vec<Vec<u8>> {
    let plain = Bench::new(Offloads::default(), None, &[], false);
    let datagrams = plain.leave(packets).concat();
    Bench::new(offloads, None, &[], true).arrive(&datagrams)
}

fn right(packet: &[u8]) -> bool {
    let ipv4 = packet[0] >> 4 == 4;
    let (l4, protocol) = if ipv4 { (20, packet[9]) } else { (40, packet[6]) };
    let pseudo = pseudo_sum(packet, ipv4, protocol, packet.len() - l4);
    inner_size(packet) == packet.len()
        && (!ipv4 || fold(sum(&packet[..20])) == 0xFFFF)
        && fold(sum(&packet[l4..]) + pseudo) == 0xFFFF
}

#[test]
fn a_super_packet_arrives_as_it_left() {
    for (ipv4, tcp) in [(true, true), (true, false), (false, true), (false, false)] {
        for (payload, mss) in [(40_000, 1000), (40_123, 1000), (30_000, 750), (2001, 1000)] {
            let left = super_packet(ipv4, tcp, payload, mss, ACK | PSH, 0xFFFF_F000, 65_520);
            let sends = Bench::new(ALL, None, &[], false).leave(std::slice::from_ref(&left));
            assert_eq!(sends.len(), 1);
            let given = far().arrive(&sends.concat());
            assert_eq!(given.len(), 1, "{ipv4} {tcp} {payload}");
            let headers = be16(&[left[3], left[2]], 0);
            assert_eq!(given[0][..VNET], left[..VNET]);
            assert_eq!(given[0][VNET + headers..], left[VNET + headers..]);
            let whole = &given[0][VNET..];
            assert_eq!(inner_size(whole), whole.len());
            let (l4, at) = (be16(&[left[7], left[6]], 0), be16(&[left[9], left[8]], 0));
            let pseudo = pseudo_sum(whole, ipv4, if tcp { 6 } else { 17 }, whole.len() - l4);
            assert_eq!(whole[l4 + at..l4 + at + 2], fold(pseudo).to_ne_bytes());
            if tcp {
                assert_eq!(whole[l4 + 13], ACK | PSH);
            }
        }
    }
}

#[test]
fn what_does_not_continue_a_flow_stays_by_itself() {
    let packets = segments(&super_packet(true, true, 8000, 1000, ACK, 5, 9));
    assert_eq!(packets.len(), 8);
    for at in [1, 8, 20, 27, 31, 33, 35, 45, 4] {
        let mut changed = packets.clone();
        let packet = &mut changed[4];
        packet[at] ^= 1;
        packet[10..12].fill(0);
        packet[36..38].fill(0);
        let check = field(sum(&packet[..20]));
        packet[10..12].copy_from_slice(&check);
        let check = field(sum(&packet[20..]) + pseudo_sum(packet, true, 6, packet.len() - 20));
        packet[36..38].copy_from_slice(&check);
        assert!(right(packet));
        let given = arrived(&changed, ALL);
        let single = [vec![0; VNET], changed[4].clone()].concat();
        assert!(given.len() >= 2 && given.contains(&single), "byte {at}");
    }
}

#[test]
fn a_wrong_checksum_stays_wrong() {
    let packets = segments(&super_packet(true, true, 8000, 1000, ACK, 5, 9));
    for at in [60, 36, 10] {
        let mut changed = packets.clone();
        changed[3][at] ^= 1;
        let given = arrived(&changed, ALL);
        assert_eq!(given.len(), 3);
        assert!(given.contains(&[vec![0; VNET], changed[3].clone()].concat()));
    }
}

#[test]
fn a_short_segment_ends_a_super_packet_and_a_push_does_not() {
    let mut packets = segments(&super_packet(true, true, 4000, 1000, ACK | PSH, 5, 9));
    packets.extend(segments(&super_packet(true, true, 3500, 1000, ACK, 4005, 13)));
    packets.extend(segments(&super_packet(true, true, 2000, 1000, ACK, 7505, 17)));
    let found = arrived(&packets, ALL);
    let sizes_and_flags: Vec<_> = found.iter().map(|p| (p.len() - VNET - 52, p[VNET + 33])).collect();
    assert_eq!(sizes_and_flags, [(7500, ACK | PSH), (2000, ACK)]);
}

#[test]
fn without_offloads_packets_stay_single() {
    let tcp = segments(&super_packet(true, true, 8000, 1000, ACK, 5, 9));
    assert_eq!(arrived(&tcp, Offloads::default()), tcp);
    let udp = segments(&super_packet(true, false, 8000, 1000, 0, 0, 9));
    assert_eq!(arrived(&udp, Offloads { header: true, tcp: true, udp: false }).len(), 8);
    assert_eq!(arrived(&udp, ALL).len(), 1);
}

#[test]
fn a_narrow_path_gets_smaller_segments_and_other_packets_an_answer() {
    let bench = Bench::new(ALL, Some(1000), &[], false);
    let sends = bench.leave(&[super_packet(true, true, 50_000, 1368, ACK, 5, 9)]);
    assert_eq!(sends.concat().iter().map(Vec::len).max(), Some(1000 + 32));
    let sends = bench.leave(&[super_packet(true, false, 50_000, 1368, 0, 0, 9)]);
    assert!(sends.is_empty());
    let answers = bench.tun.packets.lock().unwrap();
    assert_eq!((answers.len(), answers[0][VNET + 20]), (1, 3));
}

#[test]
fn equal_small_packets_share_a_send_and_keep_their_order() {
    let mut packet = vec![0u8; VNET];
    packet.extend(segments(&super_packet(true, false, 64, 64, 0, 0, 9)).concat());
    let sends = Bench::new(ALL, None, &[9; 44], false).leave(&vec![packet; 100]);
    assert_eq!(sends.iter().map(Vec::len).collect::<Vec<_>>(), [64, 36]);
    for (i, datagram) in sends.concat().iter().enumerate() {
        assert_eq!(datagram[..44], [9; 44]);
        assert_eq!(datagram[52..60], (i as u64).to_le_bytes());
    }
}

#[test]
fn duplicates_are_counted_and_forged_sources_dropped() {
    let datagrams = Bench::new(ALL, None, &[], false).leave(&[super_packet(true, true, 4000, 1000, ACK, 5, 9)]).concat();
    let mut far = far();
    assert_eq!(far.arrive(&datagrams).len(), 1);
    assert!(far.arrive(&datagrams).is_empty());
    let peer = far.state.peer(far.state.by_index[&7].peer).unwrap();
    assert_eq!(peer.record.get(Field::Duplicate), 4);
    let mut near = Bench::new(ALL, None, &[], false); // the same packets are not from its peer
    assert!(near.arrive(&datagrams).is_empty());
    let peer = near.state.peer(near.state.by_index[&7].peer).unwrap();
    assert_eq!(peer.record.get(Field::Source), 4);
}
