//! Sessions of a peer: the slots previous, current and next (WireGuard paper, section 6.3).

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use crate::aead::Key;
use crate::command::SessionKeys;
use crate::replay::ReplayWindow;

pub const REJECT_AFTER_MESSAGES: u64 = u64::MAX - (1 << 13);

/// A peer's place in the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerId(pub usize);

/// Keys in use: the ciphers, the next send counter and the replay window of what came. Threads share it.
pub struct Session {
    pub local_index: u32,
    /// The first 8 bytes of what is sent: type and the receiver's index.
    pub header: [u8; 8],
    pub tx: Key,
    pub rx: Key,
    /// CLOCK_BOOTTIME nanoseconds.
    pub dies: u64,
    pub peer: PeerId,
    counter: AtomicU64,
    pub window: Mutex<ReplayWindow>,
}

impl Session {
    pub fn new(keys: &SessionKeys, peer: PeerId) -> Self {
        let mut header = [4, 0, 0, 0, 0, 0, 0, 0];
        header[4..].copy_from_slice(&keys.remote_index.to_le_bytes());
        Self {
            local_index: keys.local_index,
            header,
            tx: Key::new(&keys.send_key),
            rx: Key::new(&keys.recv_key),
            dies: (keys.dies.max(0.0) * 1e9) as u64,
            peer,
            counter: AtomicU64::new(0),
            window: Mutex::default(),
        }
    }

    /// Whether it may still send: not dead, and counters left.
    pub fn usable(&self, now: u64) -> bool {
        now < self.dies && self.counter.load(Relaxed) < REJECT_AFTER_MESSAGES
    }

    /// Reserves `count` send counters, each for one packet ever, and returns the first. A batch may pass the limit a
    /// little: there are 8,192 counters above it.
    pub fn take(&self, count: u64) -> u64 {
        self.counter.fetch_add(count, Relaxed)
    }
}

/// Which session sends (current only) and which receive (all three).
#[derive(Default)]
pub struct Slots {
    pub previous: Option<Arc<Session>>,
    pub current: Option<Arc<Session>>,
    pub next: Option<Arc<Session>>,
}

impl Slots {
    /// Places a new session and returns those that fell out.
    pub fn install(&mut self, session: Arc<Session>, initiator: bool) -> Vec<Arc<Session>> {
        if !initiator {
            return self.next.replace(session).into_iter().collect();
        }
        let current = self.current.replace(session);
        let (kept, second) = match self.next.take() {
            Some(next) => (Some(next), current),
            None => (current, None),
        };
        let gone = std::mem::replace(&mut self.previous, kept);
        [gone, second].into_iter().flatten().collect()
    }

    /// `next` has proven itself: it becomes current. Returns what fell out.
    pub fn promote(&mut self) -> Option<Arc<Session>> {
        let gone = std::mem::replace(&mut self.previous, self.current.take());
        self.current = self.next.take();
        gone
    }

    /// Empties the slots that hold these indices (None: all). Returns what fell out.
    pub fn drop_indices(&mut self, indices: Option<&[u32]>) -> Vec<Arc<Session>> {
        [&mut self.previous, &mut self.current, &mut self.next]
            .into_iter()
            .filter_map(|slot| slot.take_if(|s| indices.is_none_or(|i| i.contains(&s.local_index))))
            .collect()
    }

    pub fn is_next(&self, session: &Session) -> bool {
        self.next.as_ref().is_some_and(|next| std::ptr::eq(Arc::as_ptr(next), session))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(local_index: u32) -> Arc<Session> {
        let keys =
            SessionKeys { local_index, remote_index: 1, send_key: [0; 32], recv_key: [0; 32], initiator: true, dies: 9.0 };
        Arc::new(Session::new(&keys, PeerId(0)))
    }

    fn indices(slots: &Slots) -> [Option<u32>; 3] {
        [&slots.previous, &slots.current, &slots.next].map(|slot| slot.as_ref().map(|s| s.local_index))
    }

    fn gone(sessions: Vec<Arc<Session>>) -> Vec<u32> {
        sessions.iter().map(|s| s.local_index).collect()
    }

    #[test]
    fn slots_move_as_the_paper_says() {
        let mut slots = Slots::default();
        assert!(slots.install(session(1), true).is_empty());
        assert!(slots.install(session(2), true).is_empty());
        assert_eq!(indices(&slots), [Some(1), Some(2), None]);
        assert!(slots.install(session(3), false).is_empty());
        assert_eq!(gone(slots.install(session(4), false)), [3]);
        assert_eq!(slots.promote().unwrap().local_index, 1);
        assert_eq!(indices(&slots), [Some(2), Some(4), None]);
        slots.install(session(5), false);
        assert_eq!(gone(slots.install(session(6), true)), [2, 4]);
        assert_eq!(indices(&slots), [Some(5), Some(6), None]);
        assert_eq!(gone(slots.drop_indices(Some(&[5, 77]))), [5]);
        assert_eq!(gone(slots.drop_indices(None)), [6]);
    }

    #[test]
    fn counters_end() {
        let session = session(1);
        assert_eq!(session.take(3), 0);
        assert_eq!(session.take(1), 3);
        assert!(session.usable(8_999_999_999) && !session.usable(9_000_000_000));
        session.counter.store(REJECT_AFTER_MESSAGES, Relaxed);
        assert!(!session.usable(0));
    }
}
