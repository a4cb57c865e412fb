//! What the kernel programs and the userspace of Flowwarden share.
//!
//! Everything here is `no_std`, has one layout on both sides and no dependency in the kernel build.
//! The crate answers three questions, each in one place:
//!
//! * what may a record look like: [`event`];
//! * what does a policy look like once it is compiled to map entries: [`policy`], [`scope`];
//! * what is done with an access: [`decide`], the only place where a verdict is made.
#![no_std]
#![expect(
    clippy::cast_possible_truncation,
    reason = "kernel and userspace pass small numbers in fields of fixed width"
)]

#[cfg(test)]
extern crate std;

pub mod access;
pub mod control;
pub mod decide;
pub mod dns;
pub mod event;
pub mod hooks;
pub mod inbound;
pub mod name;
pub mod offsets;
pub mod opaque;
pub mod policy;
pub mod scope;
pub mod security;
pub mod socket;
pub mod syscall;
pub mod verdict;
pub mod volume;

pub use access::Access;
pub use verdict::Verdict;

/// Declares that shared types have no padding and are plain old data.
///
/// The size is checked at compile time, so that a change on one side cannot go unnoticed on the other.
macro_rules! shared {
    ($($ty:ty = $size:literal),+ $(,)?) => {$(
        const _: () = assert!(core::mem::size_of::<$ty>() == $size);
        #[cfg(feature = "user")]
        // SAFETY: `repr(C)`, integers only, no padding (the size is the sum of the fields).
        unsafe impl aya::Pod for $ty {}
    )+};
}
pub(crate) use shared;
