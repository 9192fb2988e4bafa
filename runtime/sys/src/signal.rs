//! Signals as execve leaves them.

/// Puts every signal back to its default action. Rust ignores SIGPIPE and a caller may ignore others; an ignored
/// signal stays ignored across execve, and a container must not inherit that.
pub fn reset_all() {
    for signal in 1..=64 {
        if signal == libc::SIGKILL || signal == libc::SIGSTOP {
            continue;
        }
        // SAFETY: SIG_DFL is always a valid disposition; glibc's two internal signals return EINVAL.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
}

/// Ignores one signal (SIGTTOU while the terminal is being restored).
pub fn ignore(signal: i32) {
    // SAFETY: SIG_IGN is always a valid disposition.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}
