//! One end of a stream socketpair to a WebSocket or TURN task: u16be length and frame, many per read and write.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex};

use crate::inbound::Message;
use crate::io::{Link, Way};
use crate::state::lock;
use crate::sys::{Epoll, READABLE, WRITABLE, send};

pub struct Stream {
    pub fd: OwnedFd,
    token: u64,
    epoll: Arc<Epoll>,
    unsent: Mutex<Vec<u8>>, // the rest of a write that the buffer cut: framing must not break
}

impl Stream {
    pub fn new(fd: OwnedFd, token: u64, epoll: Arc<Epoll>) -> Self {
        crate::sys::set_nonblocking(&fd);
        Self { fd, token, epoll, unsent: Mutex::default() }
    }

    /// Writes what is left over; the descriptor takes more.
    pub fn push(&self) {
        let mut unsent = lock(&self.unsent);
        if !self.push_locked(&mut unsent) {
            self.epoll.modify(self.fd.as_fd(), self.token, READABLE);
        }
    }

    /// True while something is left.
    fn push_locked(&self, unsent: &mut Vec<u8>) -> bool {
        match send(&self.fd, unsent) {
            Ok(sent) => drop(unsent.drain(..sent)),
            Err(libc::EAGAIN) => {}
            Err(_) => unsent.clear(), // its end is read soon
        }
        !unsent.is_empty()
    }
}

impl Link for Stream {
    fn is_stream(&self) -> bool {
        true
    }

    /// Writes whole frames; what the buffer can't take is kept up to one write, then frames are dropped.
    fn send(&self, _: &Way, rows: &[u8], _: usize) -> i32 {
        let mut unsent = lock(&self.unsent);
        if !unsent.is_empty() && self.push_locked(&mut unsent) {
            return libc::EAGAIN;
        }
        match send(&self.fd, rows) {
            Ok(sent) => {
                if sent < rows.len() {
                    unsent.extend_from_slice(&rows[sent..]);
                    self.epoll.modify(self.fd.as_fd(), self.token, READABLE | WRITABLE);
                }
                0
            }
            Err(error) => error,
        }
    }
}

/// The whole frames in `data`, frames of equal size as one message. Returns their bytes; what follows is the start of a frame.
pub fn frames(data: &[u8], messages: &mut Vec<Message>) -> usize {
    let mut at = 0;
    while let Some(head) = data.get(at..at + 2) {
        let each = usize::from(u16::from_be_bytes([head[0], head[1]])) + 2;
        let mut end = at;
        while end + each <= data.len() && data[end..end + 2] == *head {
            end += each;
        }
        if end == at {
            break;
        }
        messages.push(Message { start: at, end, each, skip: 2, remote: None, local: None });
        at = end;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sizes(data: &[u8]) -> (usize, Vec<(usize, usize, usize)>) {
        let mut messages = Vec::new();
        let used = frames(data, &mut messages);
        (used, messages.iter().map(|m| (m.start, m.end, m.each)).collect())
    }

    #[test]
    fn frames_of_equal_size_are_one_message_and_the_rest_waits() {
        let data = [0, 1, 9, 0, 1, 8, 0, 2, 1, 2, 0, 0, 0, 3, 1];
        assert_eq!(sizes(&data), (12, vec![(0, 6, 3), (6, 10, 4), (10, 12, 2)]));
        assert_eq!(sizes(&data[12..]), (0, vec![]));
        assert_eq!(sizes(&[0]), (0, vec![]));
        assert_eq!(sizes(&[]), (0, vec![]));
    }
}
