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
