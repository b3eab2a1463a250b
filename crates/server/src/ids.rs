//! Names for requests, answers and calls: a prefix and letters that nobody guesses.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

/// A new name that begins with `prefix`.
pub fn new(prefix: &str) -> String {
    // SipHash of a counter under keys that this process drew at random.
    static KEYS: LazyLock<[RandomState; 2]> = LazyLock::new(|| [RandomState::new(), RandomState::new()]);
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut name = String::with_capacity(prefix.len() + 20);
    name.push_str(prefix);
    for keys in KEYS.iter() {
        let mut hasher = keys.build_hasher();
        hasher.write_u64(count);
        let mut value = hasher.finish();
        for _ in 0..10 {
            name.push(char::from(LETTERS[(value % 62) as usize]));
            value /= 62;
        }
    }
    name
}

/// Seconds since 1970, as APIs put them into their answers.
pub fn unix_seconds() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_differ() {
        let names: std::collections::BTreeSet<String> = (0..1000).map(|_| super::new("call_")).collect();
        assert_eq!(names.len(), 1000);
        assert!(names.iter().all(|name| name.len() == 25 && name.starts_with("call_")));
    }
}
