//! What is in the works for each key: the places that its requests hold, and the most that they may still use of the day's
//! quotas. What is used is in the store when a request is done; until then it is set aside here, so that requests at the
//! same time cannot each use what is left.

use crate::auth::{Accounts, Key, off_the_runtime};
use crate::error::{ApiError, ApiResult, ErrorKind};
use alti_store::Money;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

/// How long a request waits for what others of its key hold: one that has just ended gives back what it did not use.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is in the works for each key.
#[derive(Debug, Default)]
pub struct Running {
    keys: Mutex<HashMap<String, Share>>,
    /// Held by who asks the store whether something is left of a quota: in between, another could be told the same. The
    /// async threads take `keys` alone, which nobody holds for long.
    admission: Mutex<()>,
    /// Something was given back.
    ended: Notify,
}

/// What requests in the works may use at most of a day's quotas.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// Requests.
    pub requests: u64,
    /// Tokens, prompts and answers together.
    pub tokens: u64,
    /// Cost, as far as it can be told.
    pub cost: Money,
    /// Requests of which nobody can tell what they may cost.
    pub unknown_costs: u64,
}

/// A key's part of what is in the works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    places: u32,
    held: Held,
}

impl Share {
    fn add(&mut self, other: &Share) {
        self.places += other.places;
        self.held.requests += other.held.requests;
        self.held.tokens += other.held.tokens;
        self.held.cost = self.held.cost + other.held.cost;
        self.held.unknown_costs += other.held.unknown_costs;
    }

    fn subtract(&mut self, other: &Share) {
        self.places -= other.places;
        self.held.requests -= other.held.requests;
        self.held.tokens -= other.held.tokens;
        self.held.cost = Money::from_nanos(self.held.cost.nanos - other.held.cost.nanos);
        self.held.unknown_costs -= other.held.unknown_costs;
    }
}

/// What a request holds of its key's, until it is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    running: Arc<Running>,
    key: String,
    share: Share,
}

impl Hold {
    /// Holds what was used so far, in the place of what may be used at most. It still is one request.
    pub(crate) fn settle(&mut self, tokens: u64, cost: Money) {
        let mut settled = self.share;
        settled.held = Held { tokens, cost, unknown_costs: 0, ..settled.held };
        let mut keys = self.running.keys();
        let share = keys.entry(self.key.clone()).or_default();
        share.subtract(&self.share);
        share.add(&settled);
        self.share = settled;
        drop(keys);
        self.running.ended.notify_waiters();
    }

    /// Holds what another of the same key holds, too.
    pub(crate) fn join(&mut self, mut other: Hold) {
        self.share.add(&std::mem::take(&mut other.share));
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut keys = self.running.keys();
        if let Some(share) = keys.get_mut(&self.key) {
            share.subtract(&self.share);
            if *share == Share::default() {
                keys.remove(&self.key);
            }
        }
        drop(keys);
        self.running.ended.notify_waiters();
    }
}

impl Running {
    fn keys(&self) -> MutexGuard<'_, HashMap<String, Share>> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hold(self: &Arc<Self>, keys: &mut HashMap<String, Share>, key: &Key, share: Share) -> Hold {
        keys.entry(key.id.clone()).or_default().add(&share);
        Hold { running: self.clone(), key: key.id.clone(), share }
    }

    /// A place among the requests of `key`.
    ///
    /// # Errors
    /// When it has as many as it may.
    pub(crate) fn take_place(self: &Arc<Self>, key: &Key) -> ApiResult<Hold> {
        let mut keys = self.keys();
        let count = keys.get(&key.id).map_or(0, |share| share.places);
        if key.max_concurrent.is_some_and(|most| count >= most) {
            let message =
                format!("this key has {count} requests in the works, as many as it may have at once");
            let refused = ApiError::new(ErrorKind::RateLimit, message);
            return Err(refused.code("rate_limit_exceeded").retry_after(1));
        }
        Ok(self.hold(&mut keys, key, Share { places: 1, held: Held::default() }))
    }

    /// Sets aside what a request may use at most, if something is left of the key's quotas beside what others hold. What is
    /// no request of its own is another part of one that is held already, which does not stand in its own way.
    fn reserve(self: &Arc<Self>, accounts: &dyn Accounts, key: &Key, wanted: Held) -> ApiResult<Hold> {
        let _alone = self.admission.lock().unwrap_or_else(PoisonError::into_inner);
        // What is given back from here on counts twice, as held and as used: some wait a moment longer for that.
        let mut held = self.keys().get(&key.id).map_or_else(Held::default, |share| share.held);
        held.requests = held.requests.saturating_sub(u64::from(wanted.requests == 0));
        accounts.admit(key, &held)?;
        Ok(self.hold(&mut self.keys(), key, Share { places: 0, held: wanted }))
    }

    /// The same, waiting a moment for what requests hold that are about to end.
    ///
    /// # Errors
    /// When a quota is used up, or what is left of it stays held.
    pub(crate) async fn reserve_patiently(
        self: &Arc<Self>,
        accounts: &Arc<dyn Accounts>,
        key: &Key,
        wanted: Held,
    ) -> ApiResult<Hold> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let mut ended = std::pin::pin!(self.ended.notified());
            ended.as_mut().enable();
            let (running, accounts, key) = (self.clone(), accounts.clone(), key.clone());
            let asked = off_the_runtime(move || running.reserve(accounts.as_ref(), &key, wanted)).await;
            match asked {
                Err(error) if error.kind == ErrorKind::RateLimit => {
                    if timeout_at(deadline, ended).await.is_err() {
                        return Err(error);
                    }
                }
                asked => return asked,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::UsageRow;

    /// A day's quota of 100 tokens, of which nothing has been recorded.
    struct Hundred;

    impl Accounts for Hundred {
        fn has_keys(&self) -> ApiResult<bool> {
            Ok(true)
        }

        fn find_key(&self, _: &str) -> ApiResult<Option<Key>> {
            Ok(None)
        }

        fn admit(&self, _: &Key, held: &Held) -> ApiResult<()> {
            let full = || ApiError::new(ErrorKind::RateLimit, "held");
            (held.tokens < 100).then_some(()).ok_or_else(full)
        }

        fn record(&self, _: &[&UsageRow]) -> ApiResult<()> {
            Ok(())
        }
    }

    fn key(max_concurrent: Option<u32>) -> Key {
        let (id, tenant) = ("k".to_owned(), "t".to_owned());
        Key { id, tenant, scopes: Vec::new(), max_concurrent, has_quotas: true }
    }

    #[test]
    fn a_key_has_only_so_many_requests_at_once() {
        let running = Arc::new(Running::default());
        let key = key(Some(2));
        let first = running.take_place(&key).unwrap();
        let _second = running.take_place(&key).unwrap();
        assert_eq!(running.take_place(&key).unwrap_err().kind, ErrorKind::RateLimit);
        drop(first);
        running.take_place(&key).unwrap();
    }

    #[test]
    fn what_is_held_is_given_back() {
        let running = Arc::new(Running::default());
        let wanted = Held { requests: 1, tokens: 60, cost: Money::from_nanos(5), unknown_costs: 1 };
        let first = running.reserve(&Hundred, &key(None), wanted).unwrap();
        let second = running.reserve(&Hundred, &key(None), wanted).unwrap();
        assert!(running.reserve(&Hundred, &key(None), wanted).is_err(), "120 of 100 are held");
        drop(first);
        drop(running.reserve(&Hundred, &key(None), wanted).unwrap());
        drop(second);
        assert!(running.keys().is_empty());
    }

    /// Says whether something is left when it is asked to.
    struct Slow(Mutex<std::sync::mpsc::Receiver<()>>);

    impl Accounts for Slow {
        fn has_keys(&self) -> ApiResult<bool> {
            Ok(true)
        }

        fn find_key(&self, _: &str) -> ApiResult<Option<Key>> {
            Ok(None)
        }

        fn admit(&self, _: &Key, _: &Held) -> ApiResult<()> {
            self.0.lock().unwrap().recv().map_err(|_| ApiError::internal("nobody answers"))
        }

        fn record(&self, _: &[&UsageRow]) -> ApiResult<()> {
            Ok(())
        }
    }

    #[test]
    fn a_store_that_is_slow_holds_up_nobody_who_does_not_ask_it() {
        let running = Arc::new(Running::default());
        let (answer, asked) = std::sync::mpsc::channel();
        let slow = Slow(Mutex::new(asked));
        std::thread::scope(|scope| {
            let reserved = scope.spawn(|| running.reserve(&slow, &key(None), Held::default()).is_ok());
            // Until the store is being asked.
            while running.admission.try_lock().is_ok() {
                std::thread::yield_now();
            }
            drop(running.take_place(&key(Some(1))).unwrap());
            answer.send(()).unwrap();
            assert!(reserved.join().unwrap());
        });
    }

    #[test]
    fn a_part_is_admitted_beside_what_earlier_ones_used() {
        /// A day's quota of one request and 100 tokens.
        struct One;

        impl Accounts for One {
            fn has_keys(&self) -> ApiResult<bool> {
                Ok(true)
            }

            fn find_key(&self, _: &str) -> ApiResult<Option<Key>> {
                Ok(None)
            }

            fn admit(&self, _: &Key, held: &Held) -> ApiResult<()> {
                let full = || ApiError::new(ErrorKind::RateLimit, "held");
                (held.requests < 1 && held.tokens < 100).then_some(()).ok_or_else(full)
            }

            fn record(&self, _: &[&UsageRow]) -> ApiResult<()> {
                Ok(())
            }
        }

        let running = Arc::new(Running::default());
        let (request, part) = (Held { requests: 1, tokens: 90, ..Held::default() }, Held::default());
        let mut first = running.reserve(&One, &key(None), request).unwrap();
        first.settle(40, Money::ZERO);
        assert!(running.reserve(&One, &key(None), request).is_err(), "it is another request");
        let second = Held { tokens: 90, ..part };
        first.join(running.reserve(&One, &key(None), second).unwrap());
        assert!(running.reserve(&One, &key(None), part).is_err(), "130 tokens are held");
        first.settle(70, Money::ZERO);
        first.join(running.reserve(&One, &key(None), part).unwrap());
        drop(first);
        assert!(running.keys().is_empty());
    }

    #[tokio::test]
    async fn who_comes_while_another_ends_waits_for_it() {
        let running = Arc::new(Running::default());
        let accounts: Arc<dyn Accounts> = Arc::new(Hundred);
        let wanted = Held { tokens: 100, ..Held::default() };
        let first = running.reserve(&Hundred, &key(None), wanted).unwrap();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(30)).await;
            drop(first);
        });
        let _second = running.reserve_patiently(&accounts, &key(None), wanted).await.unwrap();
        let third = running.reserve_patiently(&accounts, &key(None), wanted).await;
        assert_eq!(third.unwrap_err().kind, ErrorKind::RateLimit);
    }
}
