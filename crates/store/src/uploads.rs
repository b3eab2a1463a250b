//! Files that come in parts: what is announced, the parts that have come, and the file that is made of them.
//!
//! A part is a content like that of a file, and named by a row of its own until the upload ends. However an upload ends
//! (done, given up, too late), its parts go in the same transaction.

use crate::blobs::Staged;
use crate::error::{IoContext, Result, StoreError};
use crate::files::{self, File, FileWriter, NewFile};
use crate::ids::{hexadecimal, new_id};
use crate::{Store, now};
use md5::{Digest, Md5};
use rusqlite::{OptionalExtension, Row, Transaction, params};
use std::collections::HashMap;
use std::io::{ErrorKind, Read};

/// How long the parts may take to come: an hour, as with OpenAI.
const PATIENCE_SECONDS: i64 = 60 * 60;

/// How long an upload that has ended is told of.
const REMEMBERED_SECONDS: i64 = 7 * 24 * 60 * 60;

/// Most parts of an upload.
const MOST_PARTS: i64 = 10_000;

/// What is going to be uploaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewUpload {
    /// Whose it is.
    pub tenant: String,
    /// The file's name, as its owner calls it; never used as a path.
    pub name: String,
    /// What the file is for.
    pub purpose: String,
    /// The file's size.
    pub bytes: u64,
    /// How long the file is kept once it is there.
    pub file_seconds: Option<i64>,
}

/// How far an upload is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UploadStatus {
    /// Parts may come.
    Pending,
    /// The file is there.
    Completed,
    /// It was given up.
    Cancelled,
    /// Its time was over.
    Expired,
}

impl UploadStatus {
    /// Every status with its name.
    pub const TABLE: [(UploadStatus, &'static str); 4] = [
        (UploadStatus::Pending, "pending"),
        (UploadStatus::Completed, "completed"),
        (UploadStatus::Cancelled, "cancelled"),
        (UploadStatus::Expired, "expired"),
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        Self::TABLE.iter().find(|(status, _)| *status == self).map_or("", |(_, name)| name)
    }
}

/// An upload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upload {
    /// Its id.
    pub id: String,
    /// When it was announced.
    pub created_at: i64,
    /// Until when it has to be done.
    pub expires_at: i64,
    /// How far it is.
    pub status: UploadStatus,
    /// The file's name.
    pub name: String,
    /// What the file is for.
    pub purpose: String,
    /// The file's size.
    pub bytes: u64,
    /// The file, once it is there and as long as it is.
    pub file: Option<File>,
    tenant: String,
    file_seconds: Option<i64>,
}

/// A part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UploadPart {
    /// Its id.
    pub id: String,
    /// When it came.
    pub created_at: i64,
    /// What it is a part of.
    pub upload: String,
    /// Its size.
    pub bytes: u64,
    digest: String,
}

/// The uploads of a store.
#[derive(Clone, Copy, Debug)]
pub struct Uploads<'a> {
    pub(crate) store: &'a Store,
}

const COLUMNS: &str = "id, tenant, created_at, expires_at, status, name, purpose, bytes, file_seconds, file";

impl FileWriter {
    /// Ends the content and makes it a part of an upload, whose parts may have `most` bytes together.
    ///
    /// # Errors
    /// When no part can be added to that upload any more, or nothing can be written.
    pub fn finish_part(self, tenant: &str, upload: &str, most: u64) -> Result<UploadPart> {
        let FileWriter { store, blob } = self;
        let staged = blob.finish()?;
        store.write(|transaction| {
            pending(transaction, tenant, upload)?;
            let sql = "SELECT count(*), coalesce(sum(bytes), 0) FROM upload_parts WHERE upload = ?";
            let (parts, before): (i64, i64) =
                transaction.prepare_cached(sql)?.query_row([upload], |row| Ok((row.get(0)?, row.get(1)?)))?;
            if parts >= MOST_PARTS {
                return Err(StoreError::invalid("upload", format!("it has {MOST_PARTS} parts already")));
            }
            let sum = u64::try_from(before).unwrap_or(0).saturating_add(staged.bytes);
            if sum > most {
                let reason = format!("its parts would have {sum} bytes, and {most} are allowed");
                return Err(StoreError::invalid("upload", reason));
            }
            let part = UploadPart {
                id: new_id("part_")?,
                created_at: now(),
                upload: upload.to_owned(),
                bytes: staged.bytes,
                digest: staged.digest.clone(),
            };
            store.inner.blobs.publish(staged, transaction)?;
            transaction.execute(
                "INSERT INTO upload_parts (upload, id, created_at, bytes, digest) VALUES (?, ?, ?, ?, ?)",
                params![part.upload, part.id, part.created_at, whole(part.bytes), part.digest],
            )?;
            Ok(part)
        })
    }
}

impl Uploads<'_> {
    /// Announces an upload.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn create(&self, new: &NewUpload) -> Result<Upload> {
        let upload = Upload {
            id: new_id("upload_")?,
            created_at: now(),
            expires_at: now() + PATIENCE_SECONDS,
            status: UploadStatus::Pending,
            name: new.name.clone(),
            purpose: new.purpose.clone(),
            bytes: new.bytes,
            file: None,
            tenant: new.tenant.clone(),
            file_seconds: new.file_seconds,
        };
        self.store.write(|transaction| {
            transaction.execute(
                "INSERT INTO uploads \
                 (id, tenant, created_at, expires_at, status, name, purpose, bytes, file_seconds) \
                 VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                params![
                    upload.id,
                    upload.tenant,
                    upload.created_at,
                    upload.expires_at,
                    upload.status.name(),
                    upload.name,
                    upload.purpose,
                    whole(upload.bytes),
                    upload.file_seconds
                ],
            )?;
            Ok(())
        })?;
        Ok(upload)
    }

    /// One upload.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn get(&self, tenant: &str, id: &str) -> Result<Upload> {
        self.store.read(|transaction| find(transaction, tenant, id))
    }

    /// Begins a part of an upload; [`FileWriter::finish_part`] ends it.
    ///
    /// # Errors
    /// When no part can be added to that upload any more, or there is no room for it.
    pub fn part_writer(&self, tenant: &str, id: &str) -> Result<FileWriter> {
        self.store.read(|transaction| pending(transaction, tenant, id))?;
        self.store.files().writer()
    }

    /// Makes the file of these parts, in this order, and ends the upload; parts that are not named go. `md5` is what the
    /// file's digest has to be, in hexadecimal digits.
    ///
    /// # Errors
    /// When the upload has ended, a part is not its own or named twice, the file is not as long as announced or has
    /// another digest: then nothing has changed, and other parts may be named. When nothing can be written.
    pub fn complete(&self, tenant: &str, id: &str, parts: &[String], md5: Option<&str>) -> Result<Upload> {
        let (upload, parts) = self.store.read(|transaction| {
            let upload = pending(transaction, tenant, id)?;
            let parts = chosen(transaction, &upload, parts)?;
            Ok((upload, parts))
        })?;
        let staged = self.join(&parts, md5).or_else(|error| {
            // Whoever ended the upload meanwhile took its parts away.
            self.store.read(|transaction| pending(transaction, tenant, id))?;
            Err(error)
        })?;
        let new = NewFile {
            tenant: tenant.to_owned(),
            name: upload.name.clone(),
            purpose: upload.purpose.clone(),
            expires_at: upload.file_seconds.map(|seconds| now().saturating_add(seconds)),
        };
        let (file, digests) = self.store.write(|transaction| {
            pending(transaction, tenant, id)?;
            let file = files::insert(self.store, transaction, staged, &new)?;
            transaction.execute("UPDATE uploads SET file = ? WHERE id = ?", [&file.id, id])?;
            Ok((file, end(transaction, id, UploadStatus::Completed)?))
        })?;
        // What the parts held goes now or with the next sweep.
        let _ = self.store.remove_unnamed(&digests);
        Ok(Upload { status: UploadStatus::Completed, file: Some(file), ..upload })
    }

    /// The parts in one piece.
    fn join(&self, parts: &[UploadPart], md5: Option<&str>) -> Result<Staged> {
        let blobs = &self.store.inner.blobs;
        let mut whole = blobs.writer()?;
        let mut hasher = md5.map(|_| Md5::new());
        let mut buffer = vec![0; 1 << 16];
        for part in parts {
            let mut content = blobs.open(&part.digest)?;
            loop {
                let count = match content.read(&mut buffer) {
                    Ok(0) => break,
                    Ok(count) => count,
                    Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                    Err(error) => return Err(error).context("read", &blobs.path(&part.digest)),
                };
                whole.write(&buffer[..count])?;
                if let Some(hasher) = &mut hasher {
                    hasher.update(&buffer[..count]);
                }
            }
        }
        if let (Some(hasher), Some(announced)) = (hasher, md5) {
            let found = hexadecimal(&hasher.finalize());
            if !found.eq_ignore_ascii_case(announced) {
                let reason =
                    format!("the parts together have the digest {found}, not the one that was given");
                return Err(StoreError::invalid("md5", reason));
            }
        }
        whole.finish()
    }

    /// Gives an upload up.
    ///
    /// # Errors
    /// When it has ended, or nothing can be written.
    pub fn cancel(&self, tenant: &str, id: &str) -> Result<Upload> {
        let (upload, digests) = self.store.write(|transaction| {
            let upload = pending(transaction, tenant, id)?;
            Ok((upload, end(transaction, id, UploadStatus::Cancelled)?))
        })?;
        let _ = self.store.remove_unnamed(&digests);
        Ok(Upload { status: UploadStatus::Cancelled, ..upload })
    }

    /// Ends the uploads of all tenants whose time is over, and forgets those that ended long ago. Returns how many were
    /// ended.
    ///
    /// # Errors
    /// When nothing can be written.
    pub fn expire(&self, at: i64) -> Result<usize> {
        let over = "SELECT id FROM uploads WHERE status = 'pending' AND expires_at <= ?";
        let long_ago = "DELETE FROM uploads WHERE status <> 'pending' AND expires_at <= ?";
        let (ended, digests) = self.store.write(|transaction| {
            let mut statement = transaction.prepare_cached(over)?;
            let rows = statement.query_map([at], |row| row.get(0))?;
            let over = rows.collect::<rusqlite::Result<Vec<String>>>()?;
            let mut digests = Vec::new();
            for id in &over {
                digests.extend(end(transaction, id, UploadStatus::Expired)?);
            }
            transaction.prepare_cached(long_ago)?.execute([at.saturating_sub(REMEMBERED_SECONDS)])?;
            Ok((over.len(), digests))
        })?;
        let _ = self.store.remove_unnamed(&digests);
        Ok(ended)
    }
}

/// The parts with these ids, if they make the file that was announced.
fn chosen(transaction: &Transaction<'_>, upload: &Upload, ids: &[String]) -> Result<Vec<UploadPart>> {
    let sql = "SELECT id, created_at, upload, bytes, digest FROM upload_parts WHERE upload = ?";
    let mut statement = transaction.prepare_cached(sql)?;
    let rows = statement.query_map([&upload.id], read_part)?;
    let rows = rows.map(|row| row.map(|part| (part.id.clone(), part)));
    let mut there = rows.collect::<rusqlite::Result<HashMap<String, UploadPart>>>()?;
    let mut parts = Vec::with_capacity(ids.len().min(there.len()));
    for id in ids {
        // Taken out, so that a part that is named twice is not found the second time.
        parts.push(there.remove(id).ok_or_else(|| StoreError::not_found("part left of this upload", id))?);
    }
    let sum: u64 = parts.iter().map(|part| part.bytes).sum();
    if sum != upload.bytes {
        let reason = format!("the parts have {sum} bytes, and {} were announced", upload.bytes);
        return Err(StoreError::invalid("part_ids", reason));
    }
    Ok(parts)
}

/// Ends an upload and returns what its parts held.
fn end(transaction: &Transaction<'_>, id: &str, status: UploadStatus) -> Result<Vec<String>> {
    transaction.execute("UPDATE uploads SET status = ? WHERE id = ?", [status.name(), id])?;
    let mut statement =
        transaction.prepare_cached("DELETE FROM upload_parts WHERE upload = ? RETURNING digest")?;
    let digests = statement.query_map([id], |row| row.get(0))?.collect::<rusqlite::Result<_>>()?;
    Ok(digests)
}

/// An upload that parts may be added to.
fn pending(transaction: &Transaction<'_>, tenant: &str, id: &str) -> Result<Upload> {
    let upload = find(transaction, tenant, id)?;
    // Between its end and the next sweep it is over, too.
    let status = match upload.status {
        UploadStatus::Pending if upload.expires_at <= now() => UploadStatus::Expired,
        status => status,
    };
    if status == UploadStatus::Pending {
        return Ok(upload);
    }
    let reason = format!("`{id}` is {}: begin another one", status.name());
    Err(StoreError::invalid("upload", reason))
}

fn find(transaction: &Transaction<'_>, tenant: &str, id: &str) -> Result<Upload> {
    let sql = format!("SELECT {COLUMNS} FROM uploads WHERE id = ? AND tenant = ?");
    let found = transaction.prepare_cached(&sql)?.query_row([id, tenant], read).optional()?;
    let (upload, file) = found.ok_or_else(|| StoreError::not_found("upload", id))?;
    // The file may have been deleted since.
    let file = file.and_then(|file| files::find(transaction, tenant, &file).ok());
    Ok(Upload { file, ..upload })
}

fn read(row: &Row<'_>) -> rusqlite::Result<(Upload, Option<String>)> {
    let status: String = row.get("status")?;
    let status = UploadStatus::TABLE.iter().find(|(_, name)| *name == status);
    let upload = Upload {
        id: row.get("id")?,
        created_at: row.get("created_at")?,
        expires_at: row.get("expires_at")?,
        status: status.map_or(UploadStatus::Cancelled, |(status, _)| *status),
        name: row.get("name")?,
        purpose: row.get("purpose")?,
        bytes: u64::try_from(row.get::<_, i64>("bytes")?).unwrap_or(0),
        file: None,
        tenant: row.get("tenant")?,
        file_seconds: row.get("file_seconds")?,
    };
    Ok((upload, row.get("file")?))
}

fn read_part(row: &Row<'_>) -> rusqlite::Result<UploadPart> {
    Ok(UploadPart {
        id: row.get("id")?,
        created_at: row.get("created_at")?,
        upload: row.get("upload")?,
        bytes: u64::try_from(row.get::<_, i64>("bytes")?).unwrap_or(0),
        digest: row.get("digest")?,
    })
}

/// A size as SQLite has whole numbers.
fn whole(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
