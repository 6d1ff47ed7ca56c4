-- Times are milliseconds since the epoch. Hashes are keyed (HMAC-SHA256, hex): no secret is in this file (P6).
CREATE TABLE profile (
    id INTEGER PRIMARY KEY,
    name TEXT NOT NULL,
    fold TEXT NOT NULL UNIQUE,
    strategy TEXT NOT NULL,
    credentials_type TEXT NOT NULL,
    reprovision TEXT NOT NULL,
    min_secret_chars INTEGER NOT NULL,
    unicode_names INTEGER NOT NULL,
    label_keys TEXT NOT NULL,       -- JSON array
    publish_topics TEXT NOT NULL,   -- JSON array
    subscribe_topics TEXT NOT NULL, -- JSON array
    created_ms INTEGER NOT NULL
) STRICT;

CREATE TABLE token (
    id INTEGER PRIMARY KEY,
    profile_id INTEGER NOT NULL REFERENCES profile (id),
    name TEXT NOT NULL,
    fold TEXT NOT NULL,
    key TEXT NOT NULL UNIQUE,
    verifier TEXT NOT NULL,
    labels TEXT NOT NULL,           -- JSON object
    max_registrations INTEGER CHECK (max_registrations > 0),
    used INTEGER NOT NULL DEFAULT 0 CHECK (used >= 0),
    expires_ms INTEGER,
    device_name_pattern TEXT,
    revoked_ms INTEGER,
    created_ms INTEGER NOT NULL,
    last_used_ms INTEGER,
    UNIQUE (profile_id, fold)
) STRICT;

CREATE TABLE device (
    id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    fold TEXT NOT NULL UNIQUE,      -- the form in which names are unique (P8)
    profile_id INTEGER NOT NULL REFERENCES profile (id),
    state TEXT NOT NULL,
    token_id INTEGER REFERENCES token (id),
    owner TEXT,
    labels TEXT NOT NULL,           -- JSON object
    gateway INTEGER NOT NULL,
    created_ms INTEGER NOT NULL,
    last_generation INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

-- One row for each device that a token registered: what `token.used` counts, once and for ever (P1).
CREATE TABLE registration (
    device_id TEXT NOT NULL REFERENCES device (id),
    token_id INTEGER NOT NULL REFERENCES token (id),
    at_ms INTEGER NOT NULL,
    PRIMARY KEY (device_id, token_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE credential (
    device_id TEXT NOT NULL REFERENCES device (id),
    generation INTEGER NOT NULL,
    type TEXT NOT NULL,
    status TEXT NOT NULL,
    login_key TEXT NOT NULL,        -- keyed hash by which a login finds it
    verifier TEXT,                  -- keyed hash of the password (MQTT_BASIC)
    proof TEXT NOT NULL,            -- keyed hash of the request, recognises its repetition (P4)
    username TEXT,
    client_id TEXT,
    certificate TEXT,               -- PEM, public
    public_key TEXT,                -- SHA-256 of the public key, hex
    supplied INTEGER NOT NULL,
    issued_ms INTEGER NOT NULL,
    first_login_ms INTEGER,
    PRIMARY KEY (device_id, generation)
) STRICT, WITHOUT ROWID;

-- Not unique: generations of one device may share a user name with different passwords. That no two devices share one is
-- decided by the rules, within the one write transaction.
CREATE INDEX live_login ON credential (login_key) WHERE status <> 'superseded';

CREATE TABLE operator (
    name TEXT PRIMARY KEY,
    role TEXT NOT NULL,
    verifier TEXT NOT NULL,
    created_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE audit_event (
    seq INTEGER PRIMARY KEY,
    at_ms INTEGER NOT NULL,
    kind TEXT NOT NULL,
    device_id TEXT,
    body TEXT NOT NULL,
    hash TEXT NOT NULL
) STRICT;

CREATE TRIGGER audit_event_is_append_only_u BEFORE UPDATE ON audit_event
BEGIN SELECT RAISE(ABORT, 'audit events are never changed'); END;

CREATE TRIGGER audit_event_is_append_only_d BEFORE DELETE ON audit_event
BEGIN SELECT RAISE(ABORT, 'audit events are never removed'); END;

-- How far the audit events have been published; what lies behind it is sent again after a crash (at least once).
CREATE TABLE outbox (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    published_seq INTEGER NOT NULL
) STRICT;
INSERT INTO outbox (id, published_seq) VALUES (1, 0);
