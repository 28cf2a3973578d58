//! The control socket: events go up, each a message, until the socket is full; the rest waits in its bounded rings.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use crate::state::{Events, lock};
use crate::sys::{Epoll, READABLE, WRITABLE, send};

/// Commands come in messages no longer than this.
pub const COMMAND_BYTES: usize = 1 << 18;

/// Whether an errno means that the descriptor itself is of no use any more; all others are the network's weather.
pub fn closes(error: i32) -> bool {
    matches!(error, libc::EBADF | libc::ENOTSOCK | libc::EPIPE | libc::ECONNRESET | libc::ENOTCONN | libc::ESHUTDOWN)
}

/// Sends events up.
pub struct Reporter {
    pub fd: OwnedFd,
    token: u64,
    epoll: Arc<Epoll>,
    events: Arc<Events>,
    blocked: Mutex<Option<Vec<u8>>>, // an event that the socket couldn't take yet
}

impl Reporter {
    pub fn new(fd: OwnedFd, token: u64, epoll: Arc<Epoll>, events: Arc<Events>) -> Self {
        Self { fd, token, epoll, events, blocked: Mutex::default() }
    }

    /// Sends what waits, if anything does and the socket isn't known to be full. False if the other end has gone.
    pub fn report(&self, now: u64) -> bool {
        if !self.events.waiting.take() {
            return true;
        }
        let mut blocked = lock(&self.blocked);
        blocked.is_some() || self.send(&mut blocked, now)
    }

    /// The socket takes more.
    pub fn unblocked(&self, now: u64) -> bool {
        let mut blocked = lock(&self.blocked);
        self.epoll.modify(self.fd.as_fd(), self.token, READABLE);
        match blocked.take() {
            Some(event) => self.send_one(event, &mut blocked) && (blocked.is_some() || self.send(&mut blocked, now)),
            None => true,
        }
    }

    fn send(&self, blocked: &mut Option<Vec<u8>>, now: u64) -> bool {
        while blocked.is_none() {
            let Some(event) = lock(&self.events.rings).pop(now) else { return true };
            if !self.send_one(event.encode(), blocked) {
                return false;
            }
        }
        true
    }

    fn send_one(&self, event: Vec<u8>, blocked: &mut Option<Vec<u8>>) -> bool {
        match send(&self.fd, &event) {
            Ok(_) => true,
            Err(libc::EAGAIN | libc::ENOBUFS | libc::EINTR) => {
                *blocked = Some(event);
                self.epoll.modify(self.fd.as_fd(), self.token, READABLE | WRITABLE);
                true
            }
            Err(libc::EMSGSIZE) => true, // can't be told; nothing else suffers
            Err(_) => false,
        }
    }
}
