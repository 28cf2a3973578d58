//! Who is served when: the lanes that are ready, and the batches of each.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};

use crate::outbound::Turn;
use crate::state::lock;

/// Sorts lanes that are ready so that the one served last comes last: a full batch ends the round, and a lane that always has one
/// would else be all that is ever read (a bulk transfer's acknowledgements would wait for the end of its backlog).
pub fn in_turn(ready: &mut [(u64, u32)], served: u64) {
    ready.sort_unstable_by_key(|(token, _)| (*token <= served, *token));
}

/// The order of a lane's batches.
#[derive(Default)]
pub struct Queue {
    next: AtomicU64, // drawn by the leader only
    serving: AtomicU64,
    sleepers: AtomicU32,
    lock: Mutex<()>,
    changed: Condvar,
}

/// A batch's place in the order; the next one's turn comes when it is dropped.
pub struct Ticket<'q> {
    queue: &'q Queue,
    number: u64,
}

impl Queue {
    /// The next place, for the leader.
    pub fn draw(&self) -> Ticket<'_> {
        Ticket { queue: self, number: self.next.fetch_add(1, Ordering::Relaxed) }
    }
}

impl Turn for Ticket<'_> {
    fn is_mine(&self) -> bool {
        self.queue.serving.load(Ordering::Acquire) == self.number
    }

    fn wait(&self) {
        for _ in 0..64 {
            if self.is_mine() {
                return;
            }
            std::hint::spin_loop();
        }
        self.queue.sleepers.fetch_add(1, Ordering::SeqCst);
        let mut held = lock(&self.queue.lock);
        while self.queue.serving.load(Ordering::SeqCst) != self.number {
            held = self.queue.changed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        self.queue.sleepers.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        self.wait();
        self.queue.serving.store(self.number + 1, Ordering::SeqCst);
        if self.queue.sleepers.load(Ordering::SeqCst) > 0 {
            drop(lock(&self.queue.lock));
            self.queue.changed.notify_all();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_that_is_ready_has_its_turn_though_each_batch_is_full() {
        let (mut served, mut order) = (0, Vec::new());
        for _ in 0..6 {
            let mut ready = vec![(7, 1), (2, 1), (4, 1)]; // as epoll happens to tell them
            in_turn(&mut ready, served);
            served = ready[0].0; // a full batch: the round ends here
            order.push(served);
        }
        assert_eq!(order, [2, 4, 7, 2, 4, 7]);
    }
}
