//! API keys: what they may do, how much of it, and how long. A key's text is not stored, only its hash: it has 192 random
//! bits, so that one round of SHA-256 is enough.

use crate::error::{Result, StoreError};
use crate::ids::{hexadecimal, new_id, random};
use crate::money::Money;
use crate::{Store, now};
use rusqlite::{OptionalExtension, Row, params};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// What every key begins with.
const PREFIX: &str = "sk-alti-";

/// How much a key may use; `None` sets no limit. A day is a day of UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quotas {
    /// Requests a day.
    pub requests_per_day: Option<u64>,
    /// Tokens a day, prompt and answer together.
    pub tokens_per_day: Option<u64>,
    /// Cost a day.
    pub cost_per_day: Option<Money>,
    /// Requests at once.
    pub concurrency: Option<u32>,
}

/// A key to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    /// What the owner calls it.
    pub name: String,
    /// Whose data it sees; keys of one tenant share everything.
    pub tenant: String,
    /// What it may be used for, by names that the server gives a meaning: words without spaces.
    pub scopes: Vec<String>,
    /// How much.
    pub quotas: Quotas,
    /// When it ends, in seconds since 1970.
    pub expires_at: Option<i64>,
}

/// A key, without its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Key {
    /// Its id, which is no secret.
    pub id: String,
    /// The last four characters of its text, to recognise it by.
    pub hint: String,
    /// What the owner calls it.
    pub name: String,
    /// Whose data it sees.
    pub tenant: String,
    /// What it may be used for.
    pub scopes: Vec<String>,
    /// How much.
    pub quotas: Quotas,
    /// When it was made.
    pub created_at: i64,
    /// When it ends.
    pub expires_at: Option<i64>,
    /// When it was revoked.
    pub revoked_at: Option<i64>,
}

/// Whether a key opens anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyState {
    /// It does.
    Active,
    /// Its time is over.
    Expired,
    /// The owner took it back.
    Revoked,
}

impl Key {
    /// What it is worth at a time.
    #[must_use]
    pub fn state(&self, at: i64) -> KeyState {
        match (self.revoked_at, self.expires_at) {
            (Some(_), _) => KeyState::Revoked,
            (None, Some(end)) if end <= at => KeyState::Expired,
            _ => KeyState::Active,
        }
    }
}

/// The keys of a store.
#[derive(Clone, Copy, Debug)]
pub struct Keys<'a> {
    pub(crate) store: &'a Store,
}

const COLUMNS: &str = "id, hint, name, tenant, scopes, requests_per_day, tokens_per_day, cost_nanos_per_day, \
                       concurrency, created_at, expires_at, revoked_at";

impl Keys<'_> {
    /// Makes a key and returns it with its text, which is told this once and never again.
    ///
    /// # Errors
    /// When a field is empty or cannot be written.
    pub fn create(&self, new: NewKey) -> Result<(Key, String)> {
        for (what, text) in [("the key's name", &new.name), ("the key's tenant", &new.tenant)] {
            if text.trim().is_empty() || text.chars().count() > 200 || text.chars().any(char::is_control) {
                return Err(StoreError::invalid(what, "must be 1 to 200 printable characters"));
            }
        }
        if let Some(scope) =
            new.scopes.iter().find(|scope| scope.is_empty() || scope.contains(char::is_whitespace))
        {
            return Err(StoreError::invalid("the key's scopes", format!("`{scope}` is no name of a scope")));
        }
        if new.scopes.is_empty() {
            return Err(StoreError::invalid(
                "the key's scopes",
                "name at least one: a key without any opens nothing",
            ));
        }
        let mut bytes = [0u8; 24];
        random(&mut bytes)?;
        let secret = format!("{PREFIX}{}", hexadecimal(&bytes));
        let mut scopes = new.scopes;
        scopes.sort_unstable();
        scopes.dedup();
        let key = Key {
            id: new_id("key_")?,
            hint: secret[secret.len() - 4..].to_owned(),
            name: new.name,
            tenant: new.tenant,
            scopes,
            quotas: new.quotas,
            created_at: now(),
            expires_at: new.expires_at,
            revoked_at: None,
        };
        let scopes = key.scopes.join(" ");
        let count = |value: Option<u64>| value.map(|value| i64::try_from(value).unwrap_or(i64::MAX));
        self.store.write(|transaction| {
            transaction.execute(
                "INSERT INTO keys (id, hash, hint, name, tenant, scopes, requests_per_day, tokens_per_day, \
                 cost_nanos_per_day, concurrency, created_at, expires_at) VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
                params![
                    key.id,
                    hash(&secret),
                    key.hint,
                    key.name,
                    key.tenant,
                    scopes,
                    count(key.quotas.requests_per_day),
                    count(key.quotas.tokens_per_day),
                    key.quotas.cost_per_day.map(|money| money.nanos),
                    key.quotas.concurrency,
                    key.created_at,
                    key.expires_at
                ],
            )?;
            Ok(())
        })?;
        Ok((key, secret))
    }

    /// The key with that text, whatever its state.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn find(&self, secret: &str) -> Result<Option<Key>> {
        if !secret.starts_with(PREFIX) || secret.len() > 200 {
            return Ok(None);
        }
        let sql = format!("SELECT {COLUMNS} FROM keys WHERE hash = ?");
        self.store.read(|transaction| {
            Ok(transaction.prepare_cached(&sql)?.query_row([hash(secret)], read).optional()?)
        })
    }

    /// The key with that id.
    ///
    /// # Errors
    /// When there is none.
    pub fn get(&self, id: &str) -> Result<Key> {
        let sql = format!("SELECT {COLUMNS} FROM keys WHERE id = ?");
        self.store
            .read(|transaction| Ok(transaction.prepare_cached(&sql)?.query_row([id], read).optional()?))?
            .ok_or_else(|| StoreError::not_found("key", id))
    }

    /// All keys, oldest first.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn list(&self) -> Result<Vec<Key>> {
        let sql = format!("SELECT {COLUMNS} FROM keys ORDER BY seq");
        self.store.read(|transaction| {
            let mut statement = transaction.prepare_cached(&sql)?;
            let keys = statement.query_map([], read)?.collect::<rusqlite::Result<_>>()?;
            Ok(keys)
        })
    }

    /// The ids of the keys that are meant by an id, or else by a name: of one name there are several where a key was taken
    /// back and made again. None where no key ever had it.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn meant_by(&self, named: &str) -> Result<Vec<String>> {
        let ids = |column: &str| {
            let sql = format!("SELECT id FROM keys WHERE {column} = ? ORDER BY seq");
            self.store.read(|transaction| {
                let mut statement = transaction.prepare_cached(&sql)?;
                let ids = statement.query_map([named], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
                Ok(ids)
            })
        };
        let by_id: Vec<String> = ids("id")?;
        if by_id.is_empty() { ids("name") } else { Ok(by_id) }
    }

    /// Whether any key was ever made.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn any(&self) -> Result<bool> {
        self.store.read(|transaction| {
            Ok(transaction
                .prepare_cached("SELECT EXISTS (SELECT 1 FROM keys)")?
                .query_row([], |row| row.get(0))?)
        })
    }

    /// Takes a key back. One that was taken back before keeps its time.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn revoke(&self, id: &str) -> Result<Key> {
        self.store.write(|transaction| {
            transaction.execute(
                "UPDATE keys SET revoked_at = ? WHERE id = ? AND revoked_at IS NULL",
                params![now(), id],
            )?;
            let sql = format!("SELECT {COLUMNS} FROM keys WHERE id = ?");
            transaction
                .query_row(&sql, [id], read)
                .optional()?
                .ok_or_else(|| StoreError::not_found("key", id))
        })
    }
}

fn hash(secret: &str) -> Vec<u8> {
    Sha256::digest(secret.as_bytes()).to_vec()
}

fn read(row: &Row<'_>) -> rusqlite::Result<Key> {
    let scopes: String = row.get("scopes")?;
    let count =
        |name| row.get::<_, Option<i64>>(name).map(|value| value.and_then(|value| u64::try_from(value).ok()));
    Ok(Key {
        id: row.get("id")?,
        hint: row.get("hint")?,
        name: row.get("name")?,
        tenant: row.get("tenant")?,
        scopes: scopes.split(' ').map(str::to_owned).collect(),
        quotas: Quotas {
            requests_per_day: count("requests_per_day")?,
            tokens_per_day: count("tokens_per_day")?,
            cost_per_day: row.get::<_, Option<i64>>("cost_nanos_per_day")?.map(Money::from_nanos),
            concurrency: row.get("concurrency")?,
        },
        created_at: row.get("created_at")?,
        expires_at: row.get("expires_at")?,
        revoked_at: row.get("revoked_at")?,
    })
}
