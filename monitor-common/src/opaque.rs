//! Numbers that the compiler may not keep in a register.

/// A number that lives in memory only.
///
/// To the kernel's verifier each value that a register can have at some instruction is a case of its own to walk, and
/// the cases multiply from one loop to the next. A value that was just loaded from memory is any number, and all
/// cases become one. Whatever changes inside a loop is therefore kept in these.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opaque<T>(T);

impl<T: Copy> Opaque<T> {
    /// With a first value.
    #[must_use]
    pub const fn new(value: T) -> Self {
        Self(value)
    }

    /// The value.
    #[inline(always)]
    #[must_use]
    pub fn get(&self) -> T {
        // SAFETY: a reference to an initialised field.
        unsafe { core::ptr::read_volatile(&raw const self.0) }
    }

    /// Changes the value.
    #[inline(always)]
    pub fn set(&mut self, value: T) {
        // SAFETY: a reference to a field that we own.
        unsafe { core::ptr::write_volatile(&raw mut self.0, value) }
    }
}

/// Fills plain old data with zeros, word by word.
///
/// An ordinary assignment becomes a call of `memset`, which in a kernel program is a loop over single bytes.
#[inline(always)]
pub fn wipe<T: Copy>(value: &mut T) {
    const { assert!(size_of::<T>().is_multiple_of(4) && align_of::<T>() >= 4) };
    let words = (&raw mut *value).cast::<u32>();
    for index in 0..size_of::<T>() / 4 {
        // SAFETY: within the value, which is aligned for words; the types that are wiped have no invalid bit patterns.
        unsafe { core::ptr::write_volatile(words.add(index), 0) };
    }
}
