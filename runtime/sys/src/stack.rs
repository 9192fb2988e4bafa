//! What the standard library asks the C library about stacks, unanswered.
//!
//! At its start a Rust program asks where its stack is, so that it can tell an overflow from another fault. glibc finds that
//! out by reading /proc/self/maps with `sscanf`, which brings reading floating point numbers of all sizes into a static
//! program: 127 KB of 2,096, and five system calls of each start (docs/decisions.md). An overflow is a plain SIGSEGV without
//! this; the guard page itself is the kernel's.

/// Takes the place of the C library's pthread_getattr_np(3), which may fail.
#[no_mangle]
extern "C" fn pthread_getattr_np(_: libc::pthread_t, _: *mut libc::pthread_attr_t) -> libc::c_int {
    libc::ENOSYS
}
