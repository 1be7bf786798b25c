//! What messages consist of: every byte follows from the number and from who wrote it.

/// A message: its number, which attempt wrote it, and its length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content {
    pub number: u64,
    /// So that what a dead sender left is not taken for what its successor wrote.
    pub attempt: u64,
    pub len: usize,
}

impl Content {
    /// All of it.
    pub fn bytes(&self) -> Vec<u8> {
        let words = self.len.div_ceil(8) as u64;
        let mut bytes: Vec<u8> =
            (0..words).flat_map(|word| self.word(word).to_le_bytes()).collect();
        bytes.truncate(self.len);
        bytes
    }

    /// Word number `index`: no two are alike, and none is zero.
    fn word(&self, index: u64) -> u64 {
        let seed = (self.number << 32) ^ (self.attempt << 8) ^ index;
        let mut x = seed.wrapping_add(0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 29)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (x ^ (x >> 32)) | 1
    }
}

/// Compares what came with what was to come.
pub fn compare(got: &[u8], wanted: &Content) -> Result<(), String> {
    let bytes = wanted.bytes();
    if got == bytes {
        return Ok(());
    }
    let differs = got.iter().zip(&bytes).position(|(got, wanted)| got != wanted);
    Err(format!(
        "message {wanted:?} came as {} bytes that differ from byte {:?} on",
        got.len(),
        differs.unwrap_or(got.len().min(bytes.len()))
    ))
}
