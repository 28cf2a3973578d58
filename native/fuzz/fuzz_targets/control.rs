//! Messages of the control socket, applied to a core.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shadowmesh_native::command::decode_message;
use shadowmesh_native::io::Offloads;
use shadowmesh_native::memory::Bench;
use shadowmesh_native::state::lock;

fuzz_target!(|data: &[u8]| {
    let Ok(commands) = decode_message(data) else { return };
    let mut bench = Bench::new(Offloads::default(), None, &[], false);
    for command in commands {
        bench.state.apply(command, 2_000_000_000);
    }
    bench.leave(&[vec![0x45; 40]]);
    while let Some(event) = lock(&bench.state.events.rings).pop(0) {
        event.encode();
    }
});
