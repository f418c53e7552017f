//! The two small hashes that buckets are made of: murmur3_x86_32 and FNV-1a 32.
//!
//! Both take their input in parts, so that salt, separator and unit are hashed without being joined. They are stable for
//! ever and seeded by nothing but their arguments; they protect against nobody and are not for hash tables. Called by
//! `scheme`.

/// murmur3_x86_32 over input that comes in parts; the same as over all parts joined.
#[derive(Clone, Copy, Debug)]
pub struct Murmur3 {
    hash: u32,
    /// Bytes that do not fill a block yet, the first one lowest.
    tail: u32,
    tail_bits: u32,
    bytes: u32,
}

impl Murmur3 {
    /// A hash under that seed, with no input so far.
    #[inline]
    pub const fn new(seed: u32) -> Self {
        Murmur3 { hash: seed, tail: 0, tail_bits: 0, bytes: 0 }
    }

    /// Takes the next part.
    #[inline]
    #[must_use]
    pub fn with(mut self, part: impl AsRef<[u8]>) -> Self {
        let mut rest = part.as_ref();
        // The definition counts bytes modulo 2^32.
        self.bytes = self.bytes.wrapping_add(rest.len() as u32);
        while self.tail_bits != 0 {
            let Some((&byte, after)) = rest.split_first() else { return self };
            self.push(byte);
            rest = after;
        }
        let (blocks, rest) = rest.as_chunks::<4>();
        for block in blocks {
            self.mix(u32::from_le_bytes(*block));
        }
        for &byte in rest {
            self.push(byte);
        }
        self
    }

    /// The hash of everything so far.
    #[inline]
    pub const fn finish(self) -> u32 {
        // An empty tail scrambles to zero, so it needs no case of its own.
        let mut hash = self.hash ^ scramble(self.tail) ^ self.bytes;
        hash = (hash ^ (hash >> 16)).wrapping_mul(0x85eb_ca6b);
        hash = (hash ^ (hash >> 13)).wrapping_mul(0xc2b2_ae35);
        hash ^ (hash >> 16)
    }

    #[inline]
    const fn push(&mut self, byte: u8) {
        self.tail |= (byte as u32) << self.tail_bits;
        self.tail_bits += 8;
        if self.tail_bits == u32::BITS {
            self.mix(self.tail);
            self.tail = 0;
            self.tail_bits = 0;
        }
    }

    #[inline]
    const fn mix(&mut self, block: u32) {
        self.hash = (self.hash ^ scramble(block)).rotate_left(13).wrapping_mul(5).wrapping_add(0xe654_6b64);
    }
}

#[inline]
const fn scramble(block: u32) -> u32 {
    block.wrapping_mul(0xcc9e_2d51).rotate_left(15).wrapping_mul(0x1b87_3593)
}

/// FNV-1a 32 over input that comes in parts.
///
/// GrowthBook's reference is JavaScript and feeds UTF-16 code units, each as one number, where the usual form feeds
/// bytes. For ASCII both are the same.
#[derive(Clone, Copy, Debug)]
pub struct Fnv1a(u32);

impl Fnv1a {
    /// The hash of nothing.
    pub const EMPTY: Fnv1a = Fnv1a(0x811c_9dc5);

    /// Takes the next part, byte by byte.
    #[must_use]
    pub fn with_bytes(self, part: &[u8]) -> Self {
        part.iter().fold(self, |hash, &byte| hash.with(u32::from(byte)))
    }

    /// Takes the next part by its UTF-16 code units.
    #[must_use]
    pub fn with_utf16(self, part: &str) -> Self {
        part.encode_utf16().fold(self, |hash, unit| hash.with(u32::from(unit)))
    }

    /// The hash of everything so far.
    pub const fn finish(self) -> u32 {
        self.0
    }

    const fn with(self, number: u32) -> Self {
        Fnv1a((self.0 ^ number).wrapping_mul(0x0100_0193))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn murmur3_gives_the_published_values() {
        for (text, seed, hash) in [("", 0, 0), ("", 1, 0x514e_28b7), ("a", 0, 0x3c25_69b2), ("hello", 1, 0xbb4a_bcad)] {
            assert_eq!(Murmur3::new(seed).with(text).finish(), hash, "{text:?} under seed {seed}");
        }
        let text = "The quick brown fox jumps over the lazy dog";
        assert_eq!(Murmur3::new(0x9747_b28c).with(text).finish(), 0x2fa8_26cd);
    }

    #[test]
    fn murmur3_does_not_care_where_its_input_is_cut() {
        let text = "checkout-v2.0198c0de-0000";
        let whole = Murmur3::new(7).with(text).finish();
        for first in 0..=text.len() {
            for second in first..=text.len() {
                let parts = Murmur3::new(7).with(&text[..first]).with(&text[first..second]).with(&text[second..]);
                assert_eq!(parts.finish(), whole, "cut at {first} and {second}");
            }
        }
    }

    #[test]
    fn fnv1a_gives_the_published_values_and_differs_by_encoding_only_beyond_ascii() {
        let bytes = |text: &str| Fnv1a::EMPTY.with_bytes(text.as_bytes()).finish();
        let units = |text: &str| Fnv1a::EMPTY.with_utf16(text).finish();
        assert_eq!(bytes(""), 0x811c_9dc5);
        assert_eq!(bytes("a"), 0xe40c_292c);
        assert_eq!(bytes("foobar"), 0xbf9c_f968);
        assert_eq!(bytes("foobar"), units("foobar"));
        assert_ne!(bytes("ü"), units("ü"));
    }
}
