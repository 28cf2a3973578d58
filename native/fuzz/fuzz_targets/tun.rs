//! Packets from an interface, virtio headers included: u16be lengths and packets, by a narrow and by a wide path.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shadowmesh_native::io::Offloads;
use shadowmesh_native::memory::Bench;

fuzz_target!(|data: &[u8]| {
    let Some((options, mut rest)) = data.split_first() else { return };
    let offloads = Offloads { header: options & 1 == 0, tcp: true, udp: true };
    let mtu = (options & 2 != 0).then_some(1000);
    let prefix: &[u8] = if options & 4 != 0 { &[9; 44] } else { &[] };
    let mut packets = Vec::new();
    while let Some((size, after)) = rest.split_first_chunk::<2>() {
        let (packet, after) = after.split_at(after.len().min(usize::from(u16::from_be_bytes(*size))));
        packets.push(packet.to_vec());
        rest = after;
    }
    let bench = Bench::new(offloads, mtu, prefix, false);
    for run in bench.leave(&packets) {
        let first = run[0].len();
        assert!(run.len() <= 64 && run.concat().len() <= 65507 || run.len() == 1);
        assert!(run.iter().rev().skip(1).all(|row| row.len() == first) && run.iter().all(|row| row.len() <= first));
    }
});
