//! What a fuzzer gives us, read as numbers.

/// Bytes that are read from the front; behind the end there are zeros.
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let count = N.min(self.0.len());
        bytes[..count].copy_from_slice(&self.0[..count]);
        self.0 = &self.0[count..];
        bytes
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.bytes::<1>()[0]
    }

    pub(super) fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    pub(super) fn word(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// A number below `limit`, which is not zero.
    pub(super) fn below(&mut self, limit: usize) -> usize {
        usize::from(self.short()) % limit
    }

    /// What is to become of a word: some value that may mean something, near to what is there, or
    /// any at all.
    pub(super) fn change(&mut self) -> Change {
        let kind = self.byte();
        let small = u64::from(self.byte());
        match kind % 24 {
            0 => Change::To(0),
            1 => Change::To(u64::MAX),
            2 => Change::To(small),
            3 => Change::To(small * 8),
            4 => Change::To(1 << 63 | small),
            5 => Change::To(1 << (small % 64)),
            6 => Change::To((1 << (small % 64)) - 1),
            7 => Change::To(u64::MAX - small),
            8 => Change::To(1 << 63 | 1 << 62 | small << 3),
            9 => Change::To(i64::MAX as u64 - small),
            10 => Change::By(small),
            11 => Change::By(0u64.wrapping_sub(small)),
            12 => Change::Flip(1 << (small % 64)),
            13 => Change::By(small << 32),
            14 => Change::By(small << 4),
            15 => Change::Flip(small),
            16 => Change::Flip(small % 16),
            17 => Change::By(1),
            18 => Change::By(u64::MAX),
            19 => Change::By(2),
            20 => Change::By(16),
            21 => Change::To(1 << 63 | (small * 8)),
            22 => Change::To(1 << 63 | (small * 32)),
            _ => Change::To(self.word()),
        }
    }
}

/// What becomes of a word.
#[derive(Clone, Copy, Debug)]
pub(super) enum Change {
    To(u64),
    By(u64),
    Flip(u64),
}

impl Change {
    pub(super) fn of(self, word: u64) -> u64 {
        match self {
            Self::To(value) => value,
            Self::By(value) => word.wrapping_add(value),
            Self::Flip(bits) => word ^ bits,
        }
    }
}

/// SplitMix64, for whoever writes while others work.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn bytes(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next().to_le_bytes());
        bytes[8..].copy_from_slice(&self.next().to_le_bytes());
        bytes
    }
}
