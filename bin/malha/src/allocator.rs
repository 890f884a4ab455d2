//! Memory that is freed goes back to the machine.
//!
//! By default glibc keeps an arena per thread and raises its thresholds with every large block that was freed, so that
//! one loaded image leaves megabytes behind for good. A node shares its memory with the containers.

/// Two arenas, as many as there are busy threads as a rule.
const ARENAS: i32 = 2;
/// Blocks above this are mapped and unmapped one by one, and free memory above it is given back.
const LARGE: i32 = 128 << 10;

/// To be called before the first thread is started.
pub(crate) fn settle() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_ARENA_MAX, ARENAS), (libc::M_MMAP_THRESHOLD, LARGE), (libc::M_TRIM_THRESHOLD, LARGE)]
    {
        // SAFETY: sets a number inside the allocator; no other thread runs yet.
        #[allow(unsafe_code, reason = "glibc offers no other way from inside the process")]
        let accepted = unsafe { libc::mallopt(parameter, value) };
        debug_assert_eq!(accepted, 1);
    }
}
