//! Cards of models that are not in memory. To read one is to open a checkpoint and to build a whole tokenizer.

use super::ModelCard;
use crate::auth::off_the_runtime;
use crate::error::ApiResult;
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

/// Most cards kept; the oldest goes.
const MOST: usize = 64;

/// A model's name, and the digest of its files: other files under the same name are read anew.
type Identity = (String, String);

/// The cards that were read last. Clones are the same ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Cards {
    known: Arc<Mutex<VecDeque<(Identity, ModelCard)>>>,
    /// Held while one is read: whoever asks for many costs no more than one at a time.
    reading: Arc<tokio::sync::Mutex<()>>,
}

impl Cards {
    /// The card of this model, read with `read` if it is not known.
    ///
    /// # Errors
    /// Those of `read`: such a card is not kept.
    pub(super) async fn card(
        &self,
        name: &str,
        digest: &str,
        read: impl FnOnce() -> ApiResult<ModelCard> + Send + 'static,
    ) -> ApiResult<ModelCard> {
        let identity = (name.to_owned(), digest.to_owned());
        if let Some(card) = self.find(&identity) {
            return Ok(card);
        }
        let alone = self.reading.clone().lock_owned().await;
        let cards = self.clone();
        off_the_runtime(move || {
            // In here: reading goes on where whoever asked has gone away.
            let _one_at_a_time = alone;
            // Who was in front may have asked for the same.
            if let Some(card) = cards.find(&identity) {
                return Ok(card);
            }
            let card = read()?;
            cards.keep(identity, card.clone());
            Ok(card)
        })
        .await
    }

    fn find(&self, identity: &Identity) -> Option<ModelCard> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.iter().find(|(known, _)| known == identity).map(|(_, card)| card.clone())
    }

    fn keep(&self, identity: Identity, card: ModelCard) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.push_back((identity, card));
        if known.len() > MOST {
            known.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ApiError;

    #[tokio::test]
    async fn the_last_ones_are_kept_and_failures_are_not() {
        let cards = Cards::default();
        let card =
            |number: usize| ModelCard { numbers: vec![("n".into(), number as u64)], ..ModelCard::default() };
        assert!(cards.card("a", "0", || Err(ApiError::invalid("no"))).await.is_err());
        for number in 0..=MOST {
            let read = cards.card("a", &number.to_string(), move || Ok(card(number))).await.unwrap();
            assert_eq!(read, card(number));
        }
        let unread = || Err(ApiError::invalid("it is read again"));
        assert_eq!(cards.card("a", "1", unread).await.unwrap(), card(1));
        assert!(cards.card("b", "1", unread).await.is_err());
        assert!(cards.card("a", "0", unread).await.is_err(), "more than {MOST} are kept");
    }
}
