//! The relay's fast path: datagrams between clients on UDP, and from these to Python's WebSockets, on a thread of its own.
//!
//! Python decides who has a session (`shadowmesh/relay/relaycore.py`) and tells [`table`]; [`forwarder`] reads the sockets, passes
//! runs of frames on, and leaves to Python what is anything else.

pub mod forwarder;
pub mod table;

#[cfg(feature = "python")]
pub mod python;
