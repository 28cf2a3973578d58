//! Interrupt moderation, as network cards do it: where small packets come one by one and without a pause, a wake per packet costs more than
//! the packet. Then the leading thread sleeps a moment, so that the next batch has several. A ping, or a request that waits for its
//! answer, leaves pauses and never meets this.

use std::time::Duration;

/// How long packets are left to gather.
pub const NAP: Duration = Duration::from_micros(100);
const SMALL_BYTES: usize = 4096;
const NO_PAUSE: u64 = 60_000; // nanoseconds
const SETTLED: u32 = 32;
const MOST: u32 = 48;
const WORTH: usize = 4; // packets after a nap

/// Watches one batch after the other.
#[derive(Default)]
pub struct Pace {
    score: u32,
    ended: u64,
    napped: bool,
}

impl Pace {
    /// A batch of so many packets and bytes was begun and ended at these times (nanoseconds). True if a nap is due.
    pub fn nap(&mut self, packets: usize, bytes: usize, began: u64, ended: u64) -> bool {
        let small = bytes < SMALL_BYTES;
        let pause = began.saturating_sub(self.ended);
        if self.napped && packets < WORTH {
            self.score = self.score.saturating_sub(8);
        } else if !small {
            self.score = self.score.saturating_sub(1);
        } else if pause < NO_PAUSE {
            self.score = (self.score + 1).min(MOST);
        } else {
            self.score /= 2;
        }
        self.napped = small && self.score >= SETTLED;
        self.ended = ended + if self.napped { NAP.as_nanos() as u64 } else { 0 };
        self.napped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How many of 1,000 batches are followed by a nap; after one, `gathered` packets are there.
    fn naps(pause: u64, bytes: usize, gathered: usize) -> usize {
        let (mut pace, mut now, mut count, mut packets) = (Pace::default(), 0, 0, 1);
        for _ in 0..1000 {
            now += pause;
            let nap = pace.nap(packets, bytes, now, now + 5_000);
            now += 5_000 + if nap { NAP.as_nanos() as u64 } else { 0 };
            packets = if nap { gathered } else { 1 };
            count += usize::from(nap);
        }
        count
    }

    #[test]
    fn a_flood_of_small_packets_is_gathered_and_nothing_else_waits() {
        assert!(naps(5_000, 94, 20) > 900);
        assert_eq!(naps(100_000, 94, 20), 0); // a ping
        assert_eq!(naps(5_000, 60_000, 20), 0); // a bulk transfer
        assert!(naps(5_000, 94, 1) < 150); // what doesn't gather isn't kept waiting
    }
}
