//! Numbers that stay in memory, and how to write code that the kernel's verifier accepts.
//!
//! The verifier walks through each path of a program, and remembers for each instruction what registers and stack slots can
//! hold. It stops at a million instructions. What keeps programs below that, with the place that shows it:
//!
//! * **Few states.** Each value that a register can have at an instruction is a state, and states multiply from one loop to
//!   the next. A value that was just loaded from memory is any number: all states become one ([`Opaque`]).
//! * **Few branches.** Each handled error and each `bool` is one more path to the end. In loops, reads yield 0 instead of an
//!   error, and a mask of ones or zeros replaces a branch (`facts::word`, `facts::state` of the kernel programs).
//! * **Global functions.** The verifier checks them once, not on each path of each caller. Before Linux 5.12 their arguments
//!   are numbers only (`global` of the kernel programs).
//! * **Programs in a row.** A tail call begins a program with a budget of its own (`hooks::path`).
//! * **Numbers, not pointers.** The arguments of a security hook and the sockets of a packet are typed pointers to the
//!   verifier, and it refuses arithmetic on them. Through memory they become numbers.
//! * **512 bytes of stack** for all frames of a call chain. Large values are in scratch memory, and `#[inline(never)]` ends
//!   the lifetime of a frame (`hooks::judge_place`).
//! * **Volatile reads** of constants that the loader fills in, which the compiler would otherwise fold, and of contexts, whose
//!   fields are loaded at constant offsets only.
//! * **Constants as results.** The verifier checks the range of an LSM program's result. A store on one path keeps the
//!   compiler from making one computed value of two constants (`hooks::security::enter`).
//! * **No `memset`.** It is a loop over bytes ([`zero`]).

/// A number that the compiler keeps in memory, not in a register.
///
/// Values that change inside a loop are of this type: the verifier then walks through what follows once.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opaque<T>(T);

impl<T: Copy> Opaque<T> {
    /// A number with this value.
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

    /// Sets the value.
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
pub fn zero<T: Copy>(value: &mut T) {
    const { assert!(size_of::<T>().is_multiple_of(4) && align_of::<T>() >= 4) };
    let words = (&raw mut *value).cast::<u32>();
    for index in 0..size_of::<T>() / 4 {
        // SAFETY: within the value, which is aligned for words; types that are zeroed have no invalid bit patterns.
        unsafe { core::ptr::write_volatile(words.add(index), 0) };
    }
}
