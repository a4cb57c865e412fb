//! One component of a path.

use crate::opaque::{Opaque, zero};

/// Bytes of a name that take part in a comparison. Rules with longer names are refused by the parser.
pub const NAME_LEN: usize = 64;

/// One path component, padded with zeros.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Name {
    bytes: [u8; NAME_LEN],
    len: Opaque<u32>,
    pad: u32,
}

crate::shared!(Name = 72);

impl Name {
    /// The empty name.
    pub const EMPTY: Self = Self { bytes: [0; NAME_LEN], len: Opaque::new(0), pad: 0 };

    /// A name from bytes; `None` when it is empty or longer than [`NAME_LEN`] - 1.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Option<Self> {
        if bytes.is_empty() || bytes.len() >= NAME_LEN {
            return None;
        }
        let mut name = Self::EMPTY;
        for &byte in bytes {
            name.push(byte);
        }
        Some(name)
    }

    /// Length in bytes; [`NAME_LEN`] or more for a name that did not fit.
    #[inline(always)]
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len.get()
    }

    /// True for the empty name.
    #[inline(always)]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// True when the name did not fit and must not be compared.
    #[inline(always)]
    #[must_use]
    pub fn is_truncated(&self) -> bool {
        self.len() as usize >= NAME_LEN
    }

    /// Makes the name empty.
    #[inline(always)]
    pub fn clear(&mut self) {
        zero(self);
    }

    /// Sets the length after the bytes were written from outside.
    #[inline(always)]
    pub fn set_len(&mut self, len: u32) {
        self.len.set(len);
    }

    /// Adds a byte; counts on past the end, so that [`Name::is_truncated`] tells.
    #[inline(always)]
    pub fn push(&mut self, byte: u8) {
        let len = self.len();
        if (len as usize) < NAME_LEN - 1 {
            self.bytes[len as usize & (NAME_LEN - 1)] = byte;
        }
        self.set_len(len.wrapping_add(1));
    }

    /// The byte at `index`, modulo [`NAME_LEN`].
    #[inline(always)]
    #[must_use]
    pub fn at(&self, index: u32) -> u8 {
        self.bytes[index as usize & (NAME_LEN - 1)]
    }

    /// The padded bytes.
    #[inline(always)]
    #[must_use]
    pub const fn bytes(&self) -> &[u8; NAME_LEN] {
        &self.bytes
    }

    /// The padded bytes, to be filled from outside; call [`Name::set_len`] after.
    #[inline(always)]
    pub fn bytes_mut(&mut self) -> &mut [u8; NAME_LEN] {
        &mut self.bytes
    }
}

impl Default for Name {
    fn default() -> Self {
        Self::EMPTY
    }
}
