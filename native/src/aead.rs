//! ChaCha20-Poly1305 as WireGuard's transport packets use it: no associated data, a 64-bit counter as nonce.
//!
//! By `ring`: level with aws-lc-rs on packets of 64 and 1,400 bytes, and it builds in half the time, without cmake.

use std::mem::ManuallyDrop;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};

pub const TAG: usize = 16;

/// One direction's key. Its memory is overwritten when it goes.
pub struct Key(ManuallyDrop<LessSafeKey>);

impl Key {
    pub fn new(key: &[u8; 32]) -> Self {
        let key = UnboundKey::new(&CHACHA20_POLY1305, key).expect("the key has the cipher's size");
        Self(ManuallyDrop::new(LessSafeKey::new(key)))
    }

    fn nonce(counter: u64) -> Nonce {
        let mut nonce = [0u8; 12];
        nonce[4..].copy_from_slice(&counter.to_le_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Encrypts `text` in place and writes the tag. The caller never uses a counter twice.
    pub fn seal(&self, counter: u64, text: &mut [u8], tag: &mut [u8]) {
        // Fails for texts of 256 GB and more only.
        if let Ok(made) = self.0.seal_in_place_separate_tag(Self::nonce(counter), Aad::empty(), text) {
            tag.copy_from_slice(made.as_ref());
        }
    }

    /// Decrypts text and tag in place; false (and the bytes of no use) if the tag is wrong.
    pub fn open(&self, counter: u64, sealed: &mut [u8]) -> bool {
        self.0.open_in_place(Self::nonce(counter), Aad::empty(), sealed).is_ok()
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        let bytes = (&raw mut self.0).cast::<u8>();
        for i in 0..size_of::<LessSafeKey>() {
            // SAFETY: within the value, which owns no other memory, isn't dropped, and is never used again.
            unsafe { bytes.add(i).write_volatile(0) };
        }
        std::sync::atomic::compiler_fence(std::sync::atomic::Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_what_it_sealed_and_nothing_else() {
        let key = Key::new(&[7; 32]);
        let mut packet = *b"some text that is to be sealedTTTTTTTTTTTTTTTT";
        let (text, tag) = packet.split_at_mut(30);
        key.seal(5, text, tag);
        let mut wrong = packet;
        wrong[3] ^= 1;
        assert!(!key.open(5, &mut wrong));
        assert!(!key.open(6, &mut packet.clone()));
        assert!(key.open(5, &mut packet));
        assert_eq!(&packet[..30], b"some text that is to be sealed");
    }
}
