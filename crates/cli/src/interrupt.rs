//! Ctrl-C: the first asks whatever runs to stop; the second ends the program.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// The flag that Ctrl-C sets. Installs the handler the first time.
pub fn flag() -> Arc<AtomicBool> {
    static FLAG: OnceLock<Arc<AtomicBool>> = OnceLock::new();
    let install = || {
        let flag = Arc::new(AtomicBool::new(false));
        let seen = flag.clone();
        let handler = move || {
            if seen.swap(true, Ordering::SeqCst) {
                std::process::exit(i32::from(crate::exit::Failure::Interrupted.code()));
            }
        };
        // Without a handler Ctrl-C ends the program, which is no worse than before.
        let _ = ctrlc::set_handler(handler);
        flag
    };
    FLAG.get_or_init(install).clone()
}
