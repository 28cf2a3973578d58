//! TUN descriptors. A socketpair in the place of one (tests) carries a packet per read too, without offloads.

use std::os::fd::{AsRawFd, OwnedFd};

use crate::io::{Interface, Offloads, Piece, VNET};
use crate::sys;

/// The largest packet with its virtio header.
pub const LARGEST: usize = 65535 + VNET;

const TUNGETIFF: libc::Ioctl = 0x8004_54D2;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54D0;
const IFF_VNET_HDR: u16 = 0x4000;
const CSUM: u64 = 0x01;
const TCP: u64 = CSUM | 0x02 | 0x04 | 0x08; // TSO4, TSO6, TSO_ECN
const USO: u64 = 0x20 | 0x40;

pub struct Tun {
    pub fd: OwnedFd,
    offloads: Offloads,
}

impl Tun {
    /// Switches on what the kernel can do for this descriptor.
    pub fn new(fd: OwnedFd) -> Self {
        sys::set_nonblocking(&fd);
        let offloads = negotiate(&fd);
        Self { fd, offloads }
    }

    /// One packet. Returns its size, or an errno; the end of a socketpair is EPIPE.
    pub fn read(&self, buffer: &mut [u8]) -> Result<usize, i32> {
        match sys::read(&self.fd, buffer) {
            Ok(0) => Err(libc::EPIPE),
            other => other,
        }
    }
}

impl Interface for Tun {
    fn offloads(&self) -> Offloads {
        self.offloads
    }

    fn write(&self, buffer: &[u8], pieces: &[Piece]) -> i32 {
        sys::write_pieces(&self.fd, buffer, pieces)
    }
}

fn negotiate(fd: &OwnedFd) -> Offloads {
    let mut request = [0u8; 40]; // struct ifreq
    // SAFETY: the buffer has an ifreq's size.
    if unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETIFF, request.as_mut_ptr()) } != 0 {
        return Offloads::default();
    }
    if u16::from_ne_bytes([request[16], request[17]]) & IFF_VNET_HDR == 0 {
        return Offloads::default();
    }
    for wanted in [TCP | USO, TCP, CSUM] {
        // SAFETY: the argument is a number.
        if unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD, wanted) } == 0 {
            return Offloads { header: true, tcp: wanted & TCP == TCP, udp: wanted & USO != 0 };
        }
    }
    Offloads { header: true, ..Offloads::default() }
}
