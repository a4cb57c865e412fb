//! Memory of the guard itself.

/// Returns freed memory to the system.
///
/// glibc keeps what is freed below other allocations. The kernel object and the kernel's types are parsed once, at the start,
/// and take more than the guard needs from then on.
pub fn trim() {
    // SAFETY: takes no pointers; it only releases pages that the allocator does not use (malloc_trim(3)).
    unsafe { libc::malloc_trim(0) };
}
