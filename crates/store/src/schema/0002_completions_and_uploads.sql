-- Answers to chats that were asked for with `store`, and the turns that they answer.
CREATE TABLE chat_completions (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    model TEXT NOT NULL,
    metadata TEXT NOT NULL,
    body TEXT NOT NULL
) STRICT;

CREATE INDEX chat_completions_by_tenant ON chat_completions (tenant, seq);

CREATE TABLE chat_completion_messages (
    seq INTEGER PRIMARY KEY,
    completion TEXT NOT NULL REFERENCES chat_completions (id) ON DELETE CASCADE,
    id TEXT NOT NULL,
    message TEXT NOT NULL,
    UNIQUE (completion, id)
) STRICT;

-- Files that come in parts. `file_seconds` is how long the file is kept, `file` what became of the parts.
CREATE TABLE uploads (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    status TEXT NOT NULL,
    name TEXT NOT NULL,
    purpose TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    file_seconds INTEGER,
    file TEXT
) STRICT;
CREATE INDEX uploads_pending ON uploads (expires_at) WHERE status = 'pending';

CREATE TABLE upload_parts (
    seq INTEGER PRIMARY KEY,
    upload TEXT NOT NULL REFERENCES uploads (id) ON DELETE CASCADE,
    id TEXT NOT NULL UNIQUE,
    created_at INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    digest TEXT NOT NULL
) STRICT;
CREATE INDEX upload_parts_by_upload ON upload_parts (upload);
CREATE INDEX upload_parts_by_digest ON upload_parts (digest);

-- Every content that a row names: what is not here may be removed, what is here belongs into a backup.
CREATE VIEW contents AS SELECT digest FROM files UNION ALL SELECT digest FROM upload_parts;
