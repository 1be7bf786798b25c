//! Page sizes and the arithmetic of rounding to them.
//!
//! Everything here is pure: no I/O, no machine. A page size is a power of two
//! of at least 4 KiB; the machine decides which of them exist.

use core::fmt;
use core::str::FromStr;

/// A page size in bytes: a power of two, at least 4 KiB.
///
/// Printed and parsed the way people type it: `4K`, `64K`, `2M`, `1G`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PageSize(u64);

impl PageSize {
    /// 4 KiB, the base page of x86-64 and of most aarch64 kernels.
    pub const SIZE_4K: Self = Self(4 << 10);
    /// 2 MiB, the default huge page of x86-64 and of aarch64 with 4 KiB base pages.
    pub const SIZE_2M: Self = Self(2 << 20);
    /// 1 GiB, the gigantic page of x86-64 and of aarch64 with 4 KiB base pages.
    pub const SIZE_1G: Self = Self(1 << 30);

    /// A page size of `bytes`, or `None` if that is not a power of two of at least 4 KiB.
    pub const fn new(bytes: u64) -> Option<Self> {
        if bytes.is_power_of_two() && bytes >= 4096 { Some(Self(bytes)) } else { None }
    }

    /// The size in bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The base-two logarithm of the size, as the kernel encodes it in `MAP_HUGE_*`.
    pub const fn log2(self) -> u32 {
        self.0.trailing_zeros()
    }

    /// `length` rounded up to whole pages, or `None` past the address space.
    pub const fn round_up(self, length: u64) -> Option<u64> {
        match length.checked_add(self.0 - 1) {
            Some(sum) => Some(sum & !(self.0 - 1)),
            None => None,
        }
    }

    /// How many pages hold `length` bytes.
    pub const fn pages_for(self, length: u64) -> u64 {
        length.div_ceil(self.0)
    }

    /// Whether `value` is a multiple of the page size.
    pub const fn divides(self, value: u64) -> bool {
        value & (self.0 - 1) == 0
    }
}

impl fmt::Display for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (value, unit) = match self.0 {
            b if b >= 1 << 30 => (b >> 30, "G"),
            b if b >= 1 << 20 => (b >> 20, "M"),
            b => (b >> 10, "K"),
        };
        f.pad(&format!("{value}{unit}"))
    }
}

impl fmt::Debug for PageSize {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(feature = "serde")]
impl serde::Serialize for PageSize {
    /// A page size is a number of bytes to a program that reads a report.
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(self.0)
    }
}

impl FromStr for PageSize {
    type Err = crate::Error;

    /// Reads `2M`, `1G`, `64K`, or a number of bytes.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse_bytes(text).and_then(Self::new).ok_or_else(|| {
            crate::Error::new(crate::ErrorKind::UnknownPageSize, "read a page size", text)
                .detail("a page size is a power of two of at least 4K")
                .remedy("write it like 2M or 1G; `hugeshm status` lists those of this machine")
        })
    }
}

/// Reads a number of bytes with an optional binary unit (`64K`, `3MiB`, `1g`, `4096`).
///
/// Returns `None` for anything else, and for what does not fit into 64 bits.
pub fn parse_bytes(text: &str) -> Option<u64> {
    let text = text.trim();
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let shift = match unit.trim_start().to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

/// Writes a number of bytes with the largest binary unit that keeps it short: `64 KiB`, `1.5 GiB`.
pub fn format_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut unit = 0;
    while unit + 1 < UNITS.len() && bytes >> (10 * (unit + 1)) > 0 {
        unit += 1;
    }
    let scale = 1u64 << (10 * unit);
    if bytes.is_multiple_of(scale) {
        format!("{} {}", bytes / scale, UNITS[unit])
    } else {
        format!("{:.1} {}", bytes as f64 / scale as f64, UNITS[unit])
    }
}

/// `value` rounded up to a multiple of `align`, a power of two; `None` on overflow.
pub(crate) const fn align_up(value: u64, align: u64) -> Option<u64> {
    debug_assert!(align.is_power_of_two());
    match value.checked_add(align - 1) {
        Some(sum) => Some(sum & !(align - 1)),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn page_sizes_print_and_parse_as_people_type_them() {
        for (text, bytes) in [("4K", 4096), ("64K", 65536), ("2M", 2 << 20), ("1G", 1 << 30)] {
            let size: PageSize = text.parse().unwrap();
            assert_eq!((size.bytes(), size.to_string()), (bytes, text.to_owned()));
        }
        for bad in ["", "3M", "2", "2X", "-2M", "99999999999999999999G", "2M2"] {
            assert!(bad.parse::<PageSize>().is_err(), "{bad:?} was taken for a page size");
        }
    }

    #[test]
    fn rounding_never_wraps() {
        let page = PageSize::SIZE_2M;
        assert_eq!(page.round_up(0), Some(0));
        assert_eq!(page.round_up(1), Some(2 << 20));
        assert_eq!(page.round_up(2 << 20), Some(2 << 20));
        assert_eq!(page.round_up(u64::MAX), None);
        assert_eq!(page.pages_for(u64::MAX), 1 << 43);
        assert_eq!(align_up(u64::MAX - 6, 8), None);
        assert_eq!(align_up(u64::MAX - 7, 8), Some(u64::MAX - 7));
    }

    #[test]
    fn byte_counts_keep_their_value_in_print() {
        assert_eq!(format_bytes(0), "0 B");
        assert_eq!(format_bytes(1023), "1023 B");
        assert_eq!(format_bytes(3 << 19), "1.5 MiB");
        assert_eq!(format_bytes(4 << 30), "4 GiB");
        assert_eq!(parse_bytes("1.5M"), None);
        assert_eq!(parse_bytes("16 GiB"), Some(16 << 30));
    }
}
