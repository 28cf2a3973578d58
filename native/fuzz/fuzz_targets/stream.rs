//! Frames of a stream, cut anywhere: what is found whole is the same as when all comes at once.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shadowmesh_native::inbound::Message;
use shadowmesh_native::io::Offloads;
use shadowmesh_native::memory::Bench;
use shadowmesh_native::stream::frames;

fn bodies(data: &[u8], messages: &[Message]) -> Vec<Vec<u8>> {
    messages.iter().flat_map(|m| data[m.start..m.end].chunks(m.each).map(|frame| frame[m.skip..].to_vec())).collect()
}

fuzz_target!(|data: &[u8]| {
    let Some((cut, data)) = data.split_first() else { return };
    let mut messages = Vec::new();
    let used = frames(data, &mut messages);
    assert!(used <= data.len() && data.len() - used < 65537);
    let whole = bodies(data, &messages);

    let cut = usize::from(*cut).min(data.len());
    let mut first = Vec::new();
    let before = frames(&data[..cut], &mut first);
    let mut pieces = bodies(&data[..cut], &first);
    let mut second = Vec::new();
    frames(&data[before..], &mut second);
    pieces.extend(bodies(&data[before..], &second));
    assert_eq!(pieces, whole);

    let mut buffer = data.to_vec();
    Bench::new(Offloads::default(), None, &[], true).arrive_in(&mut buffer, &messages);
});
