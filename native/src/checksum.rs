//! The Internet checksum (RFC 1071). Sums are of native-endian 16-bit words: the one's complement sum doesn't care, as long as
//! it is written back the same way.

use std::sync::LazyLock;

/// Folds a sum to 16 bits.
pub fn fold(sum: u64) -> u16 {
    let sum = (sum >> 32) + (sum & 0xFFFF_FFFF);
    let sum = (sum >> 32) + (sum & 0xFFFF_FFFF);
    let sum = (sum >> 16) + (sum & 0xFFFF);
    let sum = (sum >> 16) + (sum & 0xFFFF);
    ((sum >> 16) + (sum & 0xFFFF)) as u16
}

/// The checksum field for a sum: its complement, but never 0, which UDP keeps for "none" (RFC 768) and which equals 0xFFFF
/// everywhere else.
pub fn field(sum: u64) -> [u8; 2] {
    let check = !fold(sum);
    if check == 0 { 0xFFFF } else { check }.to_ne_bytes()
}

/// Sum of the data as 16-bit words, an odd last byte padded with zero.
pub fn sum(data: &[u8]) -> u64 {
    if data.len() < 128 {
        return sum_words(data);
    }
    #[cfg(target_arch = "x86_64")]
    if *AVX2 {
        // SAFETY: the processor has AVX2.
        return unsafe { sum_avx2(data) };
    }
    sum_words(data)
}

/// Copies `from` into `to`, which must be as long, and returns its sum.
pub fn copy_sum(to: &mut [u8], from: &[u8]) -> u64 {
    #[cfg(target_arch = "x86_64")]
    if *AVX2 {
        // SAFETY: the processor has AVX2.
        return unsafe { copy_sum_avx2(to, from) };
    }
    copy_sum_words(to, from)
}

#[cfg(target_arch = "x86_64")]
static AVX2: LazyLock<bool> = LazyLock::new(|| std::arch::is_x86_feature_detected!("avx2"));

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sum_avx2(data: &[u8]) -> u64 {
    sum_words(data)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn copy_sum_avx2(to: &mut [u8], from: &[u8]) -> u64 {
    copy_sum_words(to, from)
}

fn word(bytes: &[u8]) -> u64 {
    u64::from(u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
}

/// 32-bit words in lanes of 64 bits: the compiler makes vectors of it, and 2^32 of them can't overflow.
#[inline(always)]
fn sum_words(data: &[u8]) -> u64 {
    let mut lanes = [0u64; 16];
    let mut blocks = data.chunks_exact(64);
    for block in &mut blocks {
        for (lane, bytes) in lanes.iter_mut().zip(block.chunks_exact(4)) {
            *lane += word(bytes);
        }
    }
    lanes.iter().sum::<u64>() + sum_rest(blocks.remainder())
}

#[inline(always)]
fn copy_sum_words(to: &mut [u8], from: &[u8]) -> u64 {
    let mut lanes = [0u64; 16];
    let mut blocks = from.chunks_exact(64);
    let mut into = to.chunks_exact_mut(64);
    for (block, into) in (&mut blocks).zip(&mut into) {
        for (lane, bytes) in lanes.iter_mut().zip(block.chunks_exact(4)) {
            *lane += word(bytes);
        }
        into.copy_from_slice(block);
    }
    into.into_remainder().copy_from_slice(blocks.remainder());
    lanes.iter().sum::<u64>() + sum_rest(blocks.remainder())
}

#[inline(always)]
fn sum_rest(rest: &[u8]) -> u64 {
    let mut words = rest.chunks_exact(4);
    let sum: u64 = (&mut words).map(word).sum();
    let tail = words.remainder();
    let mut last = [0u8; 4];
    last[..tail.len()].copy_from_slice(tail);
    sum + word(&last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(data: &[u8]) -> u16 {
        let mut total = 0u32;
        for pair in data.chunks(2) {
            total += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            total = (total & 0xFFFF) + (total >> 16);
        }
        total as u16
    }

    #[test]
    fn sums_are_those_of_the_rfc_whatever_the_length() {
        let data: Vec<u8> = (0..3000u32).map(|i| ((i * 7919) >> 3) as u8).collect();
        for size in (0..300).chain([1368, 1369, 2999]) {
            let expected = plain(&data[..size]);
            assert_eq!(fold(sum(&data[..size])).to_be(), expected, "{size}");
            let mut copy = vec![0u8; size];
            assert_eq!(fold(copy_sum(&mut copy, &data[..size])).to_be(), expected, "{size}");
            assert_eq!(copy, data[..size]);
        }
    }

    #[test]
    fn all_ones_do_not_overflow() {
        assert_eq!(fold(sum(&[0xFF; 65535 - 1])), 0xFFFF);
        assert_eq!(fold(0), 0);
        assert_eq!(field(0xFFFF), [0xFF, 0xFF]);
    }
}
