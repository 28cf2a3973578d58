//! Messages from the relay's clients: each is u8 sender and circumstances, u16be step, u16be length, and the datagrams that the kernel
//! gathered. Cut into runs, all frames are found; they pass within their network only, and every one that passed is counted.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shadowmesh_native::relay::table::{Counts, FRAME_HEADER, Key, MIN_FRAME, PREFIX, Place, Table, run};

const CLIENTS: [(u8, u8, Place); 5] =
    [(1, 1, udp(1)), (1, 2, udp(2)), (1, 3, Place::Stream(3)), (2, 1, udp(4)), (2, 2, udp(5))];

const fn udp(port: u16) -> Place {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};
    Place::Udp(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), port))
}

fn key(network: u8, host: u8) -> Key {
    let mut key = [network; 36];
    key[32..].copy_from_slice(&[10, 0, 0, host]);
    key
}

fn place(network: &[u8], address: &[u8]) -> Option<Place> {
    let known = |(n, h, _): &&(u8, u8, Place)| key(*n, *h)[..] == [network, address].concat();
    CLIENTS.iter().find(known).map(|c| c.2)
}

fn prefix(datagram: &[u8]) -> Option<&[u8]> {
    (datagram.len() >= MIN_FRAME && datagram.starts_with(FRAME_HEADER)).then(|| &datagram[..PREFIX])
}

fuzz_target!(|data: &[u8]| {
    let Some((options, mut rest)) = data.split_first() else { return };
    let mut table = Table::new((options & 1 != 0).then_some(20_000.0));
    let kbit = if options & 2 != 0 { 100 } else { 0 };
    for (network, host, place) in CLIENTS {
        table.put(key(network, host), place, [kbit, kbit], 0.0, false);
    }
    let (mut now, mut passed) = (0.0, (0, 0));
    while let Some(([head, s0, s1, l0, l1], after)) = rest.split_first_chunk::<5>() {
        let (message, after) = after.split_at(after.len().min(usize::from(u16::from_be_bytes([*l0, *l1]))));
        rest = after;
        let step = usize::from(u16::from_be_bytes([*s0, *s1])).max(1);
        let from = CLIENTS[usize::from(head & 7) % CLIENTS.len()].2;
        now += f64::from(head >> 4) * 0.02;
        table.begin(now);

        let mut datagrams = message.chunks(step).peekable();
        let mut at = 0;
        while let Some(first) = datagrams.next() {
            let Some((found, size, frames)) = run(&message[at..], step) else {
                assert_eq!(prefix(first), None);
                at += first.len();
                continue;
            };
            assert_eq!(prefix(first), Some(&found[..]));
            let (mut end, mut count) = (at + first.len(), 1);
            while let Some(next) = datagrams.next_if(|next| prefix(next) == Some(&found[..])) {
                (end, count) = (end + next.len(), count + 1);
            }
            assert_eq!((at + size, frames), (end, count));
            at = end;

            let (source, dest) = (place(&found[4..36], &found[36..40]), place(&found[4..36], &found[40..]));
            let may = dest.filter(|_| source == Some(from));
            match table.route(&found, &from, frames, size as u64) {
                Some((id, to)) => {
                    assert_eq!(may, Some(to));
                    passed = (passed.0 + frames, passed.1 + size as u64);
                    if head & 8 != 0 {
                        table.undelivered(id, frames, size as u64);
                    }
                }
                None => assert!(may.is_none() || options & 3 != 0),
            }
        }
        assert_eq!(at, message.len());
    }
    let sum = |of: fn(&Counts) -> u64| table.counts().map(|(_, c)| of(&c)).sum::<u64>();
    assert_eq!((sum(|c| c.rx_frames), sum(|c| c.rx_bytes)), passed);
    assert_eq!((sum(|c| c.tx_frames), sum(|c| c.tx_bytes)), (table.totals.forwarded_frames, table.totals.forwarded_bytes));
    assert_eq!(table.totals.forwarded_frames + table.totals.undelivered, passed.0);
});
