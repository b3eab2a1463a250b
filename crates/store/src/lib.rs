#![forbid(unsafe_code)]
//! The embedded database: everything a server has to remember, in one SQLite file and a folder of contents beside it.
//!
//! A [`Store`] is cheap to clone and may be used from any thread; its functions block. One connection writes, several
//! read, and other processes may have the same file open (`alti keys` does while `alti serve` runs). Every function that
//! writes is one transaction: after it returned, what it did survives a killed process; before, nothing of it is there.
//!
//! Rows belong to a *tenant*: who asks with one tenant's name finds nothing of another's, not even that it exists.
//!
//! The crate knows no wire format. Items, responses and events go in and come out as JSON values.

mod backup;
mod batches;
mod blobs;
mod chat_completions;
mod connection;
mod conversations;
mod error;
mod files;
mod ids;
mod keys;
mod migrations;
mod moderations;
mod money;
mod page;
mod prices;
mod responses;
mod serving;
mod settings;
mod uploads;
mod usage;
mod vector_stores;

pub use backup::{BackupReport, RestoreReport};
pub use batches::{
    Batch, BatchCounts, BatchLine, BatchResult, BatchStatus, Batches, LineInput, NewBatch, PendingLine,
};
pub use chat_completions::{ChatCompletion, ChatCompletionFilter, ChatCompletions};
pub use connection::StoreSettings;
pub use conversations::{Conversation, Conversations};
pub use error::{Result, StoreError};
pub use files::{File, FileWriter, Files, NewFile};
pub use ids::new_id;
pub use keys::{Key, KeyState, Keys, NewKey, Quotas};
pub use migrations::SCHEMA;
pub use moderations::{Moderation, Moderations};
pub use money::{ExactMoney, Money};
pub use page::{Listed, Page};
pub use prices::{ClosedPrice, ClosedPrices, TokenPrices};
pub use responses::{NewResponse, Response, Responses};
pub use serving::ServingLock;
pub use settings::Settings;
pub use uploads::{NewUpload, Upload, UploadPart, UploadStatus, Uploads};
pub use usage::{Group, Summary, Totals, UsageFilter, UsageLog, UsageRecord};
pub use vector_stores::{
    Attributes, Chunk, Comparison, FileStatus, Filter, Hit, NewChunk, NewVectorStore, SearchQuery,
    VectorStore, VectorStoreBatch, VectorStoreChange, VectorStoreFile, VectorStores, fuse, quantise,
};

use connection::Connections;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

/// An open database. Clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    path: PathBuf,
    connections: Connections,
    blobs: blobs::Blobs,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Store").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl Store {
    /// Opens a database, making it where there is none and bringing an older one up to date. A file that can only be
    /// read is opened for reading.
    ///
    /// # Errors
    /// When it cannot be opened, is of a newer program, or is something else.
    pub fn open(path: &Path, settings: StoreSettings) -> Result<Store> {
        let connections = Connections::open(path, settings)?;
        let blobs = blobs::Blobs::beside(path);
        let store = Store { inner: Arc::new(Inner { path: path.to_owned(), connections, blobs }) };
        // What a killed process left behind. Not being able to clean is no reason not to start.
        let _ = store.sweep_blobs();
        Ok(store)
    }

    /// Where the database is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.inner.path
    }

    /// API keys.
    #[must_use]
    pub fn keys(&self) -> Keys<'_> {
        Keys { store: self }
    }

    /// The log of requests, and its sums.
    #[must_use]
    pub fn usage(&self) -> UsageLog<'_> {
        UsageLog { store: self }
    }

    /// What closed APIs charge, as the owner entered it.
    #[must_use]
    pub fn closed_prices(&self) -> ClosedPrices<'_> {
        ClosedPrices { store: self }
    }

    /// Conversations and their items.
    #[must_use]
    pub fn conversations(&self) -> Conversations<'_> {
        Conversations { store: self }
    }

    /// Responses, with what went in and what came out.
    #[must_use]
    pub fn responses(&self) -> Responses<'_> {
        Responses { store: self }
    }

    /// Answers to chats.
    #[must_use]
    pub fn chat_completions(&self) -> ChatCompletions<'_> {
        ChatCompletions { store: self }
    }

    /// Files that come in parts.
    #[must_use]
    pub fn uploads(&self) -> Uploads<'_> {
        Uploads { store: self }
    }

    /// Files.
    #[must_use]
    pub fn files(&self) -> Files<'_> {
        Files { store: self }
    }

    /// Batches of requests.
    #[must_use]
    pub fn batches(&self) -> Batches<'_> {
        Batches { store: self }
    }

    /// Documents that can be searched.
    #[must_use]
    pub fn vector_stores(&self) -> VectorStores<'_> {
        VectorStores { store: self }
    }

    /// Judgements of texts.
    #[must_use]
    pub fn moderations(&self) -> Moderations<'_> {
        Moderations { store: self }
    }

    /// Settings that programs keep.
    #[must_use]
    pub fn settings(&self) -> Settings<'_> {
        Settings { store: self }
    }

    /// Whether the database is whole: every page, every index, every reference.
    ///
    /// # Errors
    /// What is damaged.
    pub fn check(&self) -> Result<()> {
        self.read(|transaction| backup::check_integrity(transaction))
    }

    pub(crate) fn read<T>(&self, work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T>) -> Result<T> {
        self.inner.connections.read(work)
    }

    pub(crate) fn write<T>(&self, work: impl FnOnce(&rusqlite::Transaction<'_>) -> Result<T>) -> Result<T> {
        self.inner.connections.write(work)
    }
}

/// Seconds since 1970.
#[must_use]
pub fn now() -> i64 {
    now_micros() / 1_000_000
}

/// Microseconds since 1970.
#[must_use]
pub fn now_micros() -> i64 {
    // A clock before 1970 is as good as one that stands still.
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |time| i64::try_from(time.as_micros()).unwrap_or(i64::MAX))
}
