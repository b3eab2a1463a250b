-- Times are Unix seconds unless a name says otherwise; durations are whole microseconds and money is whole billionths
-- of the owner's currency, so that sums are exact. `tenant` is whose data a row is: keys of one tenant see the same rows.

CREATE TABLE keys (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    hash BLOB NOT NULL UNIQUE,
    hint TEXT NOT NULL,
    name TEXT NOT NULL,
    tenant TEXT NOT NULL,
    scopes TEXT NOT NULL,
    requests_per_day INTEGER,
    tokens_per_day INTEGER,
    cost_nanos_per_day INTEGER,
    concurrency INTEGER,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    revoked_at INTEGER
) STRICT;

CREATE TABLE usage (
    seq INTEGER PRIMARY KEY,
    at_micros INTEGER NOT NULL,
    day INTEGER NOT NULL,
    request TEXT NOT NULL,
    key TEXT NOT NULL,
    model TEXT NOT NULL,
    route TEXT NOT NULL,
    outcome TEXT NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    generated_tokens INTEGER NOT NULL,
    queue_micros INTEGER NOT NULL,
    prefill_micros INTEGER NOT NULL,
    decode_micros INTEGER NOT NULL,
    cpu_micros INTEGER NOT NULL,
    cost_nanos INTEGER NOT NULL
) STRICT;
CREATE INDEX usage_by_day ON usage (day, key, model);

-- Sums of `usage`, kept by the trigger below whoever inserts: a quota is checked at every request, and must not cost a
-- sum over a day's rows.
CREATE TABLE usage_days (
    day INTEGER NOT NULL,
    key TEXT NOT NULL,
    model TEXT NOT NULL,
    requests INTEGER NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    cached_tokens INTEGER NOT NULL,
    generated_tokens INTEGER NOT NULL,
    queue_micros INTEGER NOT NULL,
    prefill_micros INTEGER NOT NULL,
    decode_micros INTEGER NOT NULL,
    cpu_micros INTEGER NOT NULL,
    cost_nanos INTEGER NOT NULL,
    PRIMARY KEY (day, key, model)
) STRICT, WITHOUT ROWID;

CREATE TRIGGER usage_summed AFTER INSERT ON usage BEGIN
    INSERT INTO usage_days VALUES (
        new.day, new.key, new.model, 1, new.prompt_tokens, new.cached_tokens, new.generated_tokens,
        new.queue_micros, new.prefill_micros, new.decode_micros, new.cpu_micros, new.cost_nanos)
    ON CONFLICT (day, key, model) DO UPDATE SET
        requests = requests + 1,
        prompt_tokens = prompt_tokens + excluded.prompt_tokens,
        cached_tokens = cached_tokens + excluded.cached_tokens,
        generated_tokens = generated_tokens + excluded.generated_tokens,
        queue_micros = queue_micros + excluded.queue_micros,
        prefill_micros = prefill_micros + excluded.prefill_micros,
        decode_micros = decode_micros + excluded.decode_micros,
        cpu_micros = cpu_micros + excluded.cpu_micros,
        cost_nanos = cost_nanos + excluded.cost_nanos;
END;

CREATE TABLE closed_prices (
    name TEXT PRIMARY KEY,
    input_nanos INTEGER NOT NULL,
    cached_input_nanos INTEGER NOT NULL,
    output_nanos INTEGER NOT NULL,
    updated_at INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE conversations (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    metadata TEXT NOT NULL
) STRICT;

CREATE TABLE conversation_items (
    seq INTEGER PRIMARY KEY,
    conversation TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    id TEXT NOT NULL,
    item TEXT NOT NULL,
    UNIQUE (conversation, id)
) STRICT;

CREATE TABLE responses (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    status TEXT NOT NULL,
    background INTEGER NOT NULL,
    previous TEXT,
    conversation TEXT,
    body TEXT NOT NULL
) STRICT;
CREATE INDEX responses_unfinished ON responses (status) WHERE status IN ('queued', 'in_progress');

CREATE TABLE response_items (
    seq INTEGER PRIMARY KEY,
    response TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE,
    id TEXT NOT NULL,
    item TEXT NOT NULL,
    UNIQUE (response, id)
) STRICT;

CREATE TABLE response_events (
    response TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE,
    sequence INTEGER NOT NULL,
    event TEXT NOT NULL,
    PRIMARY KEY (response, sequence)
) STRICT, WITHOUT ROWID;

CREATE TABLE files (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    name TEXT NOT NULL,
    purpose TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    digest TEXT NOT NULL
) STRICT;
CREATE INDEX files_by_digest ON files (digest);

CREATE TABLE batches (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    key TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    status TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    input_file TEXT NOT NULL,
    completion_window TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    output_seconds INTEGER,
    model TEXT,
    metadata TEXT,
    errors TEXT,
    output_file TEXT,
    error_file TEXT,
    in_progress_at INTEGER,
    finalizing_at INTEGER,
    completed_at INTEGER,
    failed_at INTEGER,
    expired_at INTEGER,
    cancelling_at INTEGER,
    cancelled_at INTEGER,
    prompt_tokens INTEGER NOT NULL DEFAULT 0,
    cached_tokens INTEGER NOT NULL DEFAULT 0,
    generated_tokens INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX batches_unfinished ON batches (status)
    WHERE status IN ('validating', 'in_progress', 'finalizing', 'cancelling');

CREATE TABLE batch_lines (
    seq INTEGER PRIMARY KEY,
    batch TEXT NOT NULL REFERENCES batches (id) ON DELETE CASCADE,
    line INTEGER NOT NULL,
    custom_id TEXT NOT NULL,
    request TEXT,
    state TEXT NOT NULL,
    output TEXT,
    UNIQUE (batch, line),
    UNIQUE (batch, custom_id)
) STRICT;
CREATE INDEX batch_lines_by_state ON batch_lines (batch, state, line);

CREATE TABLE vector_stores (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    last_active_at INTEGER NOT NULL,
    expires_after_days INTEGER,
    expired INTEGER NOT NULL DEFAULT 0,
    name TEXT NOT NULL,
    description TEXT,
    metadata TEXT,
    model TEXT
) STRICT;

CREATE TABLE vector_store_batches (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    vector_store TEXT NOT NULL REFERENCES vector_stores (id) ON DELETE CASCADE,
    created_at INTEGER NOT NULL
) STRICT;

CREATE TABLE vector_store_files (
    seq INTEGER PRIMARY KEY,
    vector_store TEXT NOT NULL REFERENCES vector_stores (id) ON DELETE CASCADE,
    id TEXT NOT NULL,
    batch TEXT,
    key TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    status TEXT NOT NULL,
    error TEXT,
    attributes TEXT NOT NULL,
    chunking TEXT NOT NULL,
    bytes INTEGER NOT NULL DEFAULT 0,
    UNIQUE (vector_store, id)
) STRICT;
CREATE INDEX vector_store_files_unfinished ON vector_store_files (status) WHERE status = 'in_progress';
CREATE INDEX vector_store_files_by_file ON vector_store_files (id);

CREATE TABLE chunks (
    seq INTEGER PRIMARY KEY,
    vector_store TEXT NOT NULL,
    file TEXT NOT NULL,
    ordinal INTEGER NOT NULL,
    text TEXT NOT NULL,
    scale REAL NOT NULL,
    vector BLOB NOT NULL,
    UNIQUE (vector_store, file, ordinal),
    FOREIGN KEY (vector_store, file) REFERENCES vector_store_files (vector_store, id) ON DELETE CASCADE
) STRICT;

CREATE VIRTUAL TABLE chunks_text USING fts5 (
    text, content = 'chunks', content_rowid = 'seq', tokenize = 'porter unicode61 remove_diacritics 2'
);
CREATE TRIGGER chunks_inserted AFTER INSERT ON chunks BEGIN
    INSERT INTO chunks_text (rowid, text) VALUES (new.seq, new.text);
END;
CREATE TRIGGER chunks_deleted AFTER DELETE ON chunks BEGIN
    INSERT INTO chunks_text (chunks_text, rowid, text) VALUES ('delete', old.seq, old.text);
END;

CREATE TABLE moderations (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    model TEXT NOT NULL,
    input TEXT NOT NULL,
    results TEXT NOT NULL
) STRICT;

CREATE TABLE settings (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
