//! The core's edge: interfaces and links as it sees them. The shell implements these on descriptors, tests and fuzzers in memory.

use crate::path::Path;
use std::sync::atomic::AtomicU32;

pub const MAX_UDP_PAYLOAD: usize = 65507;
/// What every kernel with UDP_SEGMENT takes in one send.
pub const MAX_SEGMENTS: usize = 64;
pub const MAX_STREAM_WRITE: usize = 65536;
pub const VNET: usize = 10;

/// What a TUN descriptor can do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offloads {
    /// A virtio_net_hdr stands before each packet.
    pub header: bool,
    pub tcp: bool,
    pub udp: bool,
}

impl Offloads {
    /// Bytes before each packet.
    pub fn lead(self) -> usize {
        if self.header { VNET } else { 0 }
    }
}

/// A piece of a buffer: start and length.
pub type Piece = (usize, usize);

/// A network's interface.
pub trait Interface: Send + Sync {
    fn offloads(&self) -> Offloads;

    /// Hands the pieces of `buffer` over as one packet. Returns an errno, 0 for none.
    fn write(&self, buffer: &[u8], pieces: &[Piece]) -> i32;
}

/// A UDP socket or a stream.
pub trait Link: Send + Sync {
    fn is_stream(&self) -> bool;

    /// Sends datagrams (or stream frames) that lie behind each other, all of `stride` bytes but the last. Returns an errno, 0 for
    /// none.
    fn send(&self, way: &Way, rows: &[u8], stride: usize) -> i32;
}

/// A path that is in use, with what was learnt about it.
pub struct Way {
    pub path: Path,
    /// Datagrams of this size and above can't be segmented by the kernel here.
    pub gso_below: AtomicU32,
}

impl Way {
    pub fn new(path: Path) -> Self {
        Self { path, gso_below: AtomicU32::new(MAX_UDP_PAYLOAD as u32 + 1) }
    }

    /// Bytes before a datagram: the frame header of a relayed one, on a stream also the length.
    pub fn head_size(&self) -> usize {
        self.path.prefix.len() + if self.path.remote.is_none() { 2 } else { 0 }
    }

    /// Writes what stands before a datagram of `size` bytes; `head` has `head_size` bytes.
    pub fn write_head(&self, head: &mut [u8], size: usize) {
        let prefix = &self.path.prefix;
        if self.path.remote.is_none() {
            let total = (prefix.len() + size) as u16;
            head[..2].copy_from_slice(&total.to_be_bytes());
            head[2..].copy_from_slice(prefix);
        } else {
            head.copy_from_slice(prefix);
        }
    }

    /// How many rows of `stride` bytes go out in one call.
    pub fn rows_at_once(&self, stride: usize) -> usize {
        let most = if self.path.remote.is_none() { MAX_STREAM_WRITE } else { MAX_UDP_PAYLOAD };
        (most / stride).clamp(1, MAX_SEGMENTS)
    }
}
