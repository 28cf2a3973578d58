//! Ways to send datagrams.

use std::net::IpAddr;

/// Where a datagram goes or came from. `scope`: the interface of a link-local IPv6 address, else 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Remote {
    pub ip: IpAddr,
    pub port: u16,
    pub scope: u32,
}

/// A way to send datagrams; `remote` is None on a stream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Path {
    pub via: u32,
    pub remote: Option<Remote>,
    pub local: Option<IpAddr>,
    pub prefix: Box<[u8]>,
}

impl Path {
    /// Whether both are the same way: not the source address makes it.
    pub fn same_way(&self, via: u32, remote: Option<Remote>, prefix: &[u8]) -> bool {
        self.via == via && self.remote == remote && *self.prefix == *prefix
    }

    /// Metered apart: everything but a datagram straight to the peer.
    pub fn is_relayed(&self) -> bool {
        !self.prefix.is_empty() || self.remote.is_none()
    }
}
