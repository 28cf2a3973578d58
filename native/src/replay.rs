//! The replay window of a session (WireGuard paper, section 5.4.6), 65,536 counters wide, asked only after a packet has
//! authenticated.
//!
//! Most packets arrive in order. So the newest unbroken run of counters is kept as two numbers, and the bitmap of 8 KB is
//! touched only when a gap appears or something old comes late; it doesn't exist before that.

pub const WINDOW: u64 = 65536;
const WORDS: usize = (WINDOW / 64) as usize;

/// Remembers which of the last 65,536 counters were seen.
#[derive(Default)]
pub struct ReplayWindow {
    end: u64,                        // one above the highest counter seen
    run: u64,                        // all of run … end - 1 were seen
    bits: Option<Box<[u64; WORDS]>>, // ring over counter mod 65,536, valid below `run`
}

impl ReplayWindow {
    /// True, and remembered, if the counter is new and not older than the window.
    pub fn accept(&mut self, counter: u64) -> bool {
        if counter == u64::MAX {
            return false; // no sender gets there (paper, section 6.2)
        }
        if counter >= self.end {
            if counter > self.end {
                self.skip(counter);
            }
            self.end = counter + 1;
            return true;
        }
        if counter >= self.run || counter + WINDOW < self.end {
            return false;
        }
        let Some(bits) = &mut self.bits else {
            return false;
        };
        let (word, bit) = place(counter);
        let new = bits[word] & bit == 0;
        bits[word] |= bit;
        new
    }

    /// Opens a gap between the run and `counter`, which starts a new run.
    fn skip(&mut self, counter: u64) {
        let bits = self.bits.get_or_insert_with(|| Box::new([0; WORDS]));
        let oldest = (counter + 1).saturating_sub(WINDOW);
        fill(bits, self.run.max(oldest), self.end, true);
        fill(bits, self.end.max(oldest), counter, false);
        self.run = counter;
    }
}

fn place(counter: u64) -> (usize, u64) {
    ((counter % WINDOW / 64) as usize, 1 << (counter % 64))
}

/// Marks the counters start … stop - 1, at most 65,536 of them.
fn fill(bits: &mut [u64; WORDS], mut start: u64, stop: u64, seen: bool) {
    while start < stop {
        let (word, bit) = place(start);
        if bit == 1 && stop - start >= 64 {
            bits[word] = if seen { u64::MAX } else { 0 };
            start += 64;
        } else {
            if seen {
                bits[word] |= bit;
            } else {
                bits[word] &= !bit;
            }
            start += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn it_agrees_with_a_set_on_any_order() {
        let mut window = ReplayWindow::default();
        let mut seen = HashSet::new();
        let mut highest = 0u64;
        let mut random = 12345u64;
        for i in 0..300_000u64 {
            random = random.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let jump = (random >> 33) % 97;
            let counter = match jump {
                0 => highest + (random >> 40) % 90_000,
                1..=30 => highest.saturating_sub((random >> 40) % 70_000),
                _ => highest + 1,
            };
            let expected = counter + WINDOW > highest && !seen.contains(&counter);
            assert_eq!(window.accept(counter), expected, "{i}: {counter} under {highest}");
            if expected {
                seen.insert(counter);
            }
            highest = highest.max(counter);
        }
    }

    #[test]
    fn in_order_needs_no_bitmap() {
        let mut window = ReplayWindow::default();
        assert!((0..100_000).all(|counter| window.accept(counter)));
        assert!(window.bits.is_none());
        assert!(!window.accept(99_999) && !window.accept(0));
        assert!(!window.accept(u64::MAX));
    }
}
