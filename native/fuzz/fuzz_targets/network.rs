//! Datagrams from the underlay into a core that knows a session. Each is u16be length and bytes; the length's highest bit says that the
//! bytes are an inner packet, to be sealed first, so that what lies behind authentication is reached.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shadowmesh_native::aead::Key;
use shadowmesh_native::inbound::Message;
use shadowmesh_native::io::Offloads;
use shadowmesh_native::memory::{Bench, INDEX, KEY};

fuzz_target!(|data: &[u8]| {
    let Some((options, mut rest)) = data.split_first() else { return };
    let offloads = Offloads { header: true, tcp: options & 1 == 0, udp: options & 2 == 0 };
    let key = Key::new(&KEY);
    let mut datagrams: Vec<Vec<u8>> = Vec::new();
    while let Some((head, after)) = rest.split_first_chunk::<2>() {
        let head = u16::from_be_bytes(*head);
        let (body, after) = after.split_at(after.len().min(usize::from(head & 0x7FF)));
        let mut datagram = body.to_vec();
        if head & 0x8000 != 0 {
            let counter = datagrams.len() as u64 + u64::from(head >> 11 & 3);
            datagram = [&[4, 0, 0, 0], &INDEX.to_le_bytes()[..], &counter.to_le_bytes(), body, &[0; 16]].concat();
            let (text, tag) = datagram[16..].split_at_mut(body.len());
            key.seal(counter, text, tag);
        }
        datagrams.push(datagram);
        rest = after;
    }
    let mut bench = Bench::new(offloads, None, &[], true);
    if options & 4 != 0 {
        bench.arrive(&datagrams);
        return;
    }
    // as one run of equal datagrams, which is what UDP_GRO gives
    let each = datagrams.first().map_or(0, Vec::len);
    let mut buffer = datagrams.concat();
    let (end, remote) = (buffer.len(), Some(bench.remote));
    bench.arrive_in(&mut buffer, &[Message { start: 0, end, each, skip: 0, remote, local: None }]);
});
