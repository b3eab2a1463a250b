//! Batches: many requests from a file, answered when there is time, and resumed where they were.
//!
//! The state of a batch is in its rows and nowhere else: every line is waiting or has its output, which is stored in
//! the same transaction as its usage, and a batch becomes completed in the same transaction as its output files. So
//! whoever opens the database after a kill finds exactly the lines that still have to be answered.

use crate::error::{Result, StoreError};
use crate::files::{self, NewFile};
use crate::ids::new_id;
use crate::page::{Listed, Page, Table};
use crate::usage::{self, UsageRecord};
use crate::{Store, now};
use rusqlite::{OptionalExtension, Row, ToSql, Transaction, params};
use serde_json::Value;

/// How far a batch is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BatchStatus {
    /// Its file is being read.
    Validating,
    /// Its file cannot be used.
    Failed,
    /// Its lines are being answered.
    InProgress,
    /// Its output files are being written.
    Finalizing,
    /// Its output files are there.
    Completed,
    /// Its window closed; the output files have what was answered.
    Expired,
    /// It ends as soon as the lines in the works have.
    Cancelling,
    /// It was cancelled; the output files have what was answered.
    Cancelled,
}

impl BatchStatus {
    /// Every state, its name, and the column of the time it was entered.
    const TABLE: [(BatchStatus, &'static str, Option<&'static str>); 8] = [
        (BatchStatus::Validating, "validating", None),
        (BatchStatus::Failed, "failed", Some("failed_at")),
        (BatchStatus::InProgress, "in_progress", Some("in_progress_at")),
        (BatchStatus::Finalizing, "finalizing", Some("finalizing_at")),
        (BatchStatus::Completed, "completed", Some("completed_at")),
        (BatchStatus::Expired, "expired", Some("expired_at")),
        (BatchStatus::Cancelling, "cancelling", Some("cancelling_at")),
        (BatchStatus::Cancelled, "cancelled", Some("cancelled_at")),
    ];

    fn row(self) -> (BatchStatus, &'static str, Option<&'static str>) {
        BatchStatus::TABLE[BatchStatus::TABLE.iter().position(|(status, ..)| *status == self).unwrap_or(0)]
    }

    /// The state's name.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().1
    }

    /// Whether nothing more comes.
    #[must_use]
    pub fn is_final(self) -> bool {
        matches!(self, Self::Failed | Self::Completed | Self::Expired | Self::Cancelled)
    }

    fn named(name: &str) -> Option<BatchStatus> {
        BatchStatus::TABLE.iter().find(|(_, own, _)| *own == name).map(|(status, ..)| *status)
    }
}

/// A batch to be made.
#[derive(Clone, Debug, PartialEq)]
pub struct NewBatch {
    /// Whose it is.
    pub tenant: String,
    /// The key it is billed to; empty for none.
    pub key: String,
    /// The route that answers its lines.
    pub endpoint: String,
    /// The file with its lines.
    pub input_file: String,
    /// How long it may take, as its maker said it.
    pub completion_window: String,
    /// When that is over.
    pub expires_at: i64,
    /// How many seconds its output files are kept; `None` keeps them.
    pub output_seconds: Option<i64>,
    /// What its maker noted.
    pub metadata: Option<Value>,
}

/// Lines of a batch, by state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchCounts {
    /// All lines.
    pub total: u64,
    /// Lines answered.
    pub completed: u64,
    /// Lines answered with an error.
    pub failed: u64,
}

/// A batch.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// Its id.
    pub id: String,
    /// Whose it is.
    pub tenant: String,
    /// The key it is billed to; empty for none.
    pub key: String,
    /// When it was made.
    pub created_at: i64,
    /// How far it is.
    pub status: BatchStatus,
    /// The route that answers its lines.
    pub endpoint: String,
    /// The file with its lines.
    pub input_file: String,
    /// How long it may take.
    pub completion_window: String,
    /// When that is over.
    pub expires_at: i64,
    /// How many seconds its output files are kept; `None` keeps them.
    pub output_seconds: Option<i64>,
    /// The model its lines name, if they all name one.
    pub model: Option<String>,
    /// What its maker noted.
    pub metadata: Option<Value>,
    /// Why it failed.
    pub errors: Option<Value>,
    /// The file with the answers.
    pub output_file: Option<String>,
    /// The file with the errors.
    pub error_file: Option<String>,
    /// Its lines.
    pub counts: BatchCounts,
    /// Tokens of the prompts of answered lines.
    pub prompt_tokens: u64,
    /// Of these, cached ones.
    pub cached_tokens: u64,
    /// Tokens generated.
    pub generated_tokens: u64,
    /// When it entered each state that has a time, by the name of the time.
    pub times: Vec<(&'static str, Option<i64>)>,
}

/// A line to be answered.
#[derive(Clone, Debug, PartialEq)]
pub struct LineInput {
    /// Its maker's id.
    pub custom_id: String,
    /// The body of its request.
    pub request: Value,
}

/// A line that waits.
#[derive(Clone, Debug, PartialEq)]
pub struct PendingLine {
    /// Which line of the batch, from 0.
    pub line: u64,
    /// Its maker's id.
    pub custom_id: String,
    /// The body of its request.
    pub request: Value,
}

/// A line with what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchLine {
    /// Which line of the batch, from 0.
    pub line: u64,
    /// Its maker's id.
    pub custom_id: String,
    /// Whether the output is an error.
    pub failed: bool,
    /// Its line of the output or error file.
    pub output: Value,
}

/// What became of a line.
#[derive(Clone, Debug, PartialEq)]
pub struct BatchResult {
    /// Which line.
    pub line: u64,
    /// Whether it is an error.
    pub failed: bool,
    /// Its line of the output or error file.
    pub output: Value,
    /// What it took.
    pub usage: Option<UsageRecord>,
}

/// The batches of a store.
#[derive(Clone, Copy, Debug)]
pub struct Batches<'a> {
    pub(crate) store: &'a Store,
}

impl Batches<'_> {
    /// Makes a batch whose file has still to be read.
    ///
    /// # Errors
    /// When its file is not there or nothing can be written.
    pub fn create(&self, new: &NewBatch) -> Result<Batch> {
        let id = new_id("batch_")?;
        self.store.write(|transaction| {
            files::find(transaction, &new.tenant, &new.input_file)?;
            transaction.execute(
                "INSERT INTO batches (id, tenant, key, created_at, status, endpoint, input_file, completion_window, \
                 expires_at, output_seconds, metadata) VALUES (?, ?, ?, ?, 'validating', ?, ?, ?, ?, ?, ?)",
                params![
                    id,
                    new.tenant,
                    new.key,
                    now(),
                    new.endpoint,
                    new.input_file,
                    new.completion_window,
                    new.expires_at,
                    new.output_seconds,
                    new.metadata.as_ref().map(Value::to_string)
                ],
            )?;
            find(transaction, &id)
        })
    }

    /// One batch.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn get(&self, tenant: &str, id: &str) -> Result<Batch> {
        self.store.read(|transaction| find_of(transaction, tenant, id))
    }

    /// How far a batch is, without counting its lines.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn status(&self, id: &str) -> Result<BatchStatus> {
        let found: Option<String> = self.store.read(|transaction| {
            let mut statement = transaction.prepare_cached("SELECT status FROM batches WHERE id = ?")?;
            Ok(statement.query_row([id], |row| row.get(0)).optional()?)
        })?;
        found.and_then(|name| BatchStatus::named(&name)).ok_or_else(|| StoreError::not_found("batch", id))
    }

    /// Batches, a page at a time.
    ///
    /// # Errors
    /// When the page begins at what is not there.
    pub fn list(&self, tenant: &str, page: &Page) -> Result<Listed<Batch>> {
        let parameters: [&dyn ToSql; 1] = [&tenant];
        let table =
            Table { name: "batches", columns: "id", condition: "tenant = ?1", parameters: &parameters };
        self.store.read(|transaction| {
            let ids = table.page(transaction, page, |row| row.get::<_, String>(0))?;
            let items = ids.items.iter().map(|id| find(transaction, id)).collect::<Result<_>>()?;
            Ok(Listed { items, has_more: ids.has_more })
        })
    }

    /// Batches of all tenants that are not at their end, oldest first: what there is to do.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn unfinished(&self) -> Result<Vec<Batch>> {
        self.store.read(|transaction| {
            let sql = "SELECT id FROM batches \
                       WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling') ORDER BY seq";
            let mut statement = transaction.prepare_cached(sql)?;
            let ids = statement.query_map([], |row| row.get(0))?.collect::<rusqlite::Result<Vec<String>>>()?;
            ids.iter().map(|id| find(transaction, id)).collect()
        })
    }

    /// Takes the lines of a batch whose file was read; it is in progress from here on.
    ///
    /// # Errors
    /// When two lines have one id, or the batch is not being validated.
    pub fn begin(&self, id: &str, model: Option<&str>, lines: &[LineInput]) -> Result<Batch> {
        self.store.write(|transaction| {
            enter(transaction, id, &[BatchStatus::Validating], BatchStatus::InProgress)?;
            transaction.execute("UPDATE batches SET model = ? WHERE id = ?", (model, id))?;
            let mut statement = transaction.prepare_cached(
                "INSERT INTO batch_lines (batch, line, custom_id, request, state) VALUES (?, ?, ?, ?, 'waiting')",
            )?;
            for (number, line) in lines.iter().enumerate() {
                let number = i64::try_from(number).unwrap_or(i64::MAX);
                statement.execute(params![id, number, line.custom_id, line.request.to_string()])?;
            }
            find(transaction, id)
        })
    }

    /// Ends a batch whose file cannot be used.
    ///
    /// # Errors
    /// When the batch is not being validated.
    pub fn fail(&self, id: &str, errors: &Value) -> Result<Batch> {
        self.store.write(|transaction| {
            enter(transaction, id, &[BatchStatus::Validating], BatchStatus::Failed)?;
            transaction.execute("UPDATE batches SET errors = ? WHERE id = ?", (errors.to_string(), id))?;
            find(transaction, id)
        })
    }

    /// Lines that wait, in order, beginning with line `from`, at most `limit`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn waiting(&self, id: &str, from: u64, limit: usize) -> Result<Vec<PendingLine>> {
        let sql = "SELECT line, custom_id, request FROM batch_lines \
                   WHERE batch = ? AND state = 'waiting' AND line >= ? ORDER BY line LIMIT ?";
        let (from, limit) =
            (i64::try_from(from).unwrap_or(i64::MAX), i64::try_from(limit).unwrap_or(i64::MAX));
        self.store.read(|transaction| {
            let mut statement = transaction.prepare_cached(sql)?;
            let rows = statement.query_map(params![id, from, limit], |row| {
                Ok(PendingLine {
                    line: unsigned(row.get("line")?),
                    custom_id: row.get("custom_id")?,
                    request: row.get("request")?,
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Stores what became of a line, with its usage, in one transaction. A line has one outcome: whether this was it is
    /// returned, and if not, nothing was stored.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn finish_line(&self, id: &str, result: &BatchResult) -> Result<bool> {
        self.store.write(|transaction| {
            let state = if result.failed { "failed" } else { "completed" };
            let line = i64::try_from(result.line).unwrap_or(i64::MAX);
            let sql = "UPDATE batch_lines SET state = ?, output = ?, request = NULL \
                       WHERE batch = ? AND line = ? AND state = 'waiting'";
            let mut statement = transaction.prepare_cached(sql)?;
            if statement.execute(params![state, result.output.to_string(), id, line])? == 0 {
                return Ok(false);
            }
            if let Some(record) = &result.usage {
                usage::insert(transaction, record)?;
                let sql = "UPDATE batches SET prompt_tokens = prompt_tokens + ?, cached_tokens = cached_tokens + ?, \
                           generated_tokens = generated_tokens + ? WHERE id = ?";
                let signed = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
                transaction.prepare_cached(sql)?.execute(params![
                    signed(record.prompt_tokens),
                    signed(record.cached_tokens),
                    signed(record.generated_tokens),
                    id
                ])?;
            }
            Ok(true)
        })
    }

    /// Asks for a batch to end. One that has not begun is cancelled at once.
    ///
    /// # Errors
    /// When there is no such batch, or it is at its end.
    pub fn cancel(&self, tenant: &str, id: &str) -> Result<Batch> {
        self.store.write(|transaction| {
            let found = find_of(transaction, tenant, id)?;
            match found.status {
                BatchStatus::Cancelling => return Ok(found),
                BatchStatus::Validating => {
                    enter(transaction, id, &[BatchStatus::Validating], BatchStatus::Cancelling)?;
                    enter(transaction, id, &[BatchStatus::Cancelling], BatchStatus::Cancelled)?;
                }
                _ => enter(transaction, id, &[BatchStatus::InProgress], BatchStatus::Cancelling)?,
            }
            find(transaction, id)
        })
    }

    /// Ends a batch: writes its output and error files, and enters `end` in the same transaction. Lines that still wait
    /// are told as errors made by `unanswered`. Calling it again after a kill does what was not done.
    ///
    /// # Errors
    /// When the batch is at its end already, or nothing can be written.
    pub fn finish(
        &self,
        id: &str,
        end: BatchStatus,
        expires_at: Option<i64>,
        unanswered: impl Fn(&PendingLine) -> Value,
    ) -> Result<Batch> {
        let from = [BatchStatus::InProgress, BatchStatus::Finalizing, BatchStatus::Cancelling];
        let batch = self.store.write(|transaction| {
            let found = find(transaction, id)?;
            // A cancelled batch stays `cancelling` until its files are there.
            if found.status == BatchStatus::InProgress {
                enter(transaction, id, &from, BatchStatus::Finalizing)?;
            }
            Ok(found)
        })?;
        let mut next = 0;
        loop {
            let lines = self.waiting(id, next, 256)?;
            let Some(last) = lines.last() else { break };
            next = last.line + 1;
            for line in &lines {
                let output = unanswered(line);
                self.finish_line(id, &BatchResult { line: line.line, failed: true, output, usage: None })?;
            }
        }
        let output = self.stage(id, "completed")?;
        let errors = self.stage(id, "failed")?;
        self.store.write(|transaction| {
            enter(transaction, id, &from, end)?;
            let keep = |staged, kind: &str| -> Result<Option<String>> {
                let Some(staged) = staged else { return Ok(None) };
                let name = format!("{id}_{kind}.jsonl");
                let (tenant, purpose) = (batch.tenant.clone(), "batch_output".to_owned());
                let new = NewFile { tenant, name, purpose, expires_at };
                Ok(Some(files::insert(self.store, transaction, staged, &new)?.id))
            };
            let files = (keep(output, "output")?, keep(errors, "error")?);
            let sql = "UPDATE batches SET output_file = ?, error_file = ? WHERE id = ?";
            transaction.execute(sql, (files.0, files.1, id))?;
            find(transaction, id)
        })
    }

    /// Lines with their outcomes, in order, beginning with line `from`, at most `limit`.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub fn lines(&self, id: &str, from: u64, limit: usize) -> Result<Vec<BatchLine>> {
        let sql = "SELECT line, custom_id, state, output FROM batch_lines \
                   WHERE batch = ? AND state <> 'waiting' AND line >= ? ORDER BY line LIMIT ?";
        let (from, limit) =
            (i64::try_from(from).unwrap_or(i64::MAX), i64::try_from(limit).unwrap_or(i64::MAX));
        self.store.read(|transaction| {
            let mut statement = transaction.prepare_cached(sql)?;
            let rows = statement.query_map(params![id, from, limit], |row| {
                Ok(BatchLine {
                    line: unsigned(row.get("line")?),
                    custom_id: row.get("custom_id")?,
                    failed: row.get::<_, String>("state")? == "failed",
                    output: row.get("output")?,
                })
            })?;
            Ok(rows.collect::<rusqlite::Result<_>>()?)
        })
    }

    /// Writes the outputs of the lines in a state to a content; `None` if there are none.
    fn stage(&self, id: &str, state: &str) -> Result<Option<crate::blobs::Staged>> {
        let reader = self.store.inner.connections.private_reader()?;
        let sql = "SELECT output FROM batch_lines WHERE batch = ? AND state = ? ORDER BY line";
        let mut statement = reader.prepare(sql)?;
        let mut rows = statement.query((id, state))?;
        let mut writer = None;
        while let Some(row) = rows.next()? {
            let output: String = row.get(0)?;
            if writer.is_none() {
                writer = Some(self.store.inner.blobs.writer()?);
            }
            if let Some(writer) = &mut writer {
                writer.write(output.as_bytes())?;
                writer.write(b"\n")?;
            }
        }
        writer.map(crate::blobs::BlobWriter::finish).transpose()
    }
}

/// Changes the state of a batch that is in one of the states `from`.
fn enter(transaction: &Transaction<'_>, id: &str, from: &[BatchStatus], to: BatchStatus) -> Result<()> {
    let batch = find(transaction, id)?;
    if !from.contains(&batch.status) {
        let state = batch.status.name().to_owned();
        let reason = "it cannot change that way any more";
        return Err(StoreError::Conflict { what: "batch", id: id.to_owned(), state, reason });
    }
    let (_, name, time) = to.row();
    transaction.execute("UPDATE batches SET status = ? WHERE id = ?", (name, id))?;
    if let Some(time) = time {
        transaction.execute(&format!("UPDATE batches SET {time} = ? WHERE id = ?"), (now(), id))?;
    }
    Ok(())
}

fn find_of(transaction: &Transaction<'_>, tenant: &str, id: &str) -> Result<Batch> {
    let found = find(transaction, id)?;
    if found.tenant == tenant { Ok(found) } else { Err(StoreError::not_found("batch", id)) }
}

fn find(transaction: &Transaction<'_>, id: &str) -> Result<Batch> {
    let mut statement = transaction.prepare_cached("SELECT * FROM batches WHERE id = ?")?;
    let found = statement.query_row([id], read).optional()?;
    let mut batch = found.ok_or_else(|| StoreError::not_found("batch", id))?;
    let sql = "SELECT state, count(*) FROM batch_lines WHERE batch = ? GROUP BY state";
    let mut statement = transaction.prepare_cached(sql)?;
    let mut rows = statement.query([id])?;
    while let Some(row) = rows.next()? {
        let (state, count): (String, i64) = (row.get(0)?, row.get(1)?);
        let count = unsigned(count);
        batch.counts.total += count;
        match state.as_str() {
            "completed" => batch.counts.completed = count,
            "failed" => batch.counts.failed = count,
            _ => {}
        }
    }
    Ok(batch)
}

fn unsigned(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn read(row: &Row<'_>) -> rusqlite::Result<Batch> {
    let status: String = row.get("status")?;
    let times = BatchStatus::TABLE.iter().filter_map(|(_, _, time)| *time);
    Ok(Batch {
        id: row.get("id")?,
        tenant: row.get("tenant")?,
        key: row.get("key")?,
        created_at: row.get("created_at")?,
        status: BatchStatus::named(&status).unwrap_or(BatchStatus::Failed),
        endpoint: row.get("endpoint")?,
        input_file: row.get("input_file")?,
        completion_window: row.get("completion_window")?,
        expires_at: row.get("expires_at")?,
        output_seconds: row.get("output_seconds")?,
        model: row.get("model")?,
        metadata: row.get("metadata")?,
        errors: row.get("errors")?,
        output_file: row.get("output_file")?,
        error_file: row.get("error_file")?,
        counts: BatchCounts::default(),
        prompt_tokens: unsigned(row.get("prompt_tokens")?),
        cached_tokens: unsigned(row.get("cached_tokens")?),
        generated_tokens: unsigned(row.get("generated_tokens")?),
        times: times.map(|time| Ok((time, row.get(time)?))).collect::<rusqlite::Result<_>>()?,
    })
}
