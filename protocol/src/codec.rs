//! One bounded reader under all parsing of bytes from outside.
//!
//! It never indexes past its input and every error names the field it was reading, so that a
//! decoder built on it cannot panic and its errors say where the input went wrong.

/// Reads fixed-size integers and runs of bytes from a slice, front to back.
#[derive(Debug, Clone)]
pub struct Reader<'a> {
    rest: &'a [u8],
    consumed: usize,
}

/// The input ended inside a field, or a field holds what it may not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    /// The input ended early.
    #[error("{field} at byte {at} needs {needed} bytes, {left} are left")]
    Short {
        /// The field being read.
        field: &'static str,
        /// Its offset.
        at: usize,
        /// Its size.
        needed: usize,
        /// What the input still had.
        left: usize,
    },
    /// A value that is not allowed here.
    #[error("{field} at byte {at} is {value:#x}, which is not allowed")]
    Value {
        /// The field being read.
        field: &'static str,
        /// Its offset.
        at: usize,
        /// What was found.
        value: u64,
    },
    /// Bytes after the end of the structure.
    #[error("{left} bytes follow the end of {field}")]
    Trailing {
        /// The structure.
        field: &'static str,
        /// How many bytes follow.
        left: usize,
    },
    /// Text that is not UTF-8 or has no end.
    #[error("{field} at byte {at} is not text")]
    Text {
        /// The field being read.
        field: &'static str,
        /// Its offset.
        at: usize,
    },
}

macro_rules! integers {
    ($($(#[$doc:meta])* $name:ident: $type:ty, $from:ident;)*) => {
        $(
            $(#[$doc])*
            ///
            /// # Errors
            /// When fewer bytes are left.
            pub fn $name(&mut self, field: &'static str) -> Result<$type, CodecError> {
                let bytes = self.take(size_of::<$type>(), field)?;
                Ok(<$type>::$from(bytes.try_into().expect("took its size")))
            }
        )*
    };
}

impl<'a> Reader<'a> {
    /// Reads `input` from its first byte.
    #[must_use]
    pub fn new(input: &'a [u8]) -> Reader<'a> {
        Reader {
            rest: input,
            consumed: 0,
        }
    }

    /// Bytes read so far.
    #[must_use]
    pub fn position(&self) -> usize {
        self.consumed
    }

    /// What has not been read.
    #[must_use]
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything has been read.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// The next `length` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn take(&mut self, length: usize, field: &'static str) -> Result<&'a [u8], CodecError> {
        let Some((head, tail)) = self.rest.split_at_checked(length) else {
            return Err(CodecError::Short {
                field,
                at: self.consumed,
                needed: length,
                left: self.rest.len(),
            });
        };
        self.rest = tail;
        self.consumed += length;
        Ok(head)
    }

    /// The next `N` bytes.
    ///
    /// # Errors
    /// When fewer are left.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], CodecError> {
        Ok(self.take(N, field)?.try_into().expect("took N"))
    }

    integers! {
        /// One byte.
        u8: u8, from_be_bytes;
        /// A 16-bit little-endian integer.
        u16_le: u16, from_le_bytes;
        /// A 32-bit little-endian integer.
        u32_le: u32, from_le_bytes;
        /// A 64-bit little-endian integer.
        u64_le: u64, from_le_bytes;
        /// A signed 64-bit little-endian integer.
        i64_le: i64, from_le_bytes;
        /// A 16-bit big-endian integer.
        u16_be: u16, from_be_bytes;
        /// A 32-bit big-endian integer.
        u32_be: u32, from_be_bytes;
        /// A 64-bit big-endian integer.
        u64_be: u64, from_be_bytes;
        /// A signed 64-bit big-endian integer.
        i64_be: i64, from_be_bytes;
    }

    /// UTF-8 text up to a zero byte, which is consumed.
    ///
    /// # Errors
    /// When there is no zero byte, or the text is not UTF-8.
    pub fn c_str(&mut self, field: &'static str) -> Result<&'a str, CodecError> {
        let at = self.consumed;
        let end = self.rest.iter().position(|b| *b == 0);
        let length = end.ok_or(CodecError::Text { field, at })?;
        let text = self.take(length, field)?;
        self.take(1, field)?;
        std::str::from_utf8(text).map_err(|_| CodecError::Text { field, at })
    }

    /// An unsigned LEB128 integer of at most 64 bits.
    ///
    /// # Errors
    /// When the input ends inside it, or it does not fit.
    pub fn varint(&mut self, field: &'static str) -> Result<u64, CodecError> {
        let at = self.consumed;
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8(field)?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                break;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(CodecError::Value { field, at, value })
    }

    /// The error for a value read at the current position that is not allowed.
    #[must_use]
    pub fn refuse(&self, field: &'static str, value: u64) -> CodecError {
        CodecError::Value {
            field,
            at: self.consumed,
            value,
        }
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// When bytes follow.
    pub fn finish(self, field: &'static str) -> Result<(), CodecError> {
        match self.rest.len() {
            0 => Ok(()),
            left => Err(CodecError::Trailing { field, left }),
        }
    }
}

/// Appends `value` as unsigned LEB128.
pub fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7F) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// Maps signed to unsigned so that small magnitudes stay small (zig-zag).
#[must_use]
pub const fn zigzag(value: i64) -> u64 {
    ((value << 1) ^ (value >> 63)) as u64
}

/// The inverse of [`zigzag`].
#[must_use]
pub const fn unzigzag(value: u64) -> i64 {
    (value >> 1) as i64 ^ -((value & 1) as i64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn varints_round_trip(value: u64, signed: i64) {
            let mut out = Vec::new();
            put_varint(&mut out, value);
            put_varint(&mut out, zigzag(signed));
            let mut reader = Reader::new(&out);
            prop_assert_eq!(reader.varint("value"), Ok(value));
            prop_assert_eq!(reader.varint("signed").map(unzigzag), Ok(signed));
            prop_assert!(reader.finish("input").is_ok());
        }

        #[test]
        fn varint_never_panics(input: Vec<u8>) {
            let _ = Reader::new(&input).varint("value");
        }
    }

    #[test]
    fn errors_name_the_field_and_its_place() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u16_be("first"), Ok(0x0102));
        let error = reader.u32_le("second").expect_err("one byte is left");
        assert_eq!(
            error.to_string(),
            "second at byte 2 needs 4 bytes, 1 are left"
        );
    }
}
