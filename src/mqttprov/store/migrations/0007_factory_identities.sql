-- Devices of a profile may come in by a certificate: the authorities that issue those (PEM, public) and how the common
-- name of the subject becomes the device's name.
ALTER TABLE profile ADD COLUMN rotate_on_first_use INTEGER NOT NULL DEFAULT 0;
ALTER TABLE profile ADD COLUMN authorities TEXT;
ALTER TABLE profile ADD COLUMN subject_pattern TEXT;

-- The certificates (PEM, public) with which devices were imported; beside `device`, whose rows are read all the time.
CREATE TABLE factory_certificate (
    device_id TEXT PRIMARY KEY REFERENCES device (id),
    certificate TEXT NOT NULL
) STRICT, WITHOUT ROWID;

CREATE INDEX device_factory_key ON device (factory_key) WHERE factory_key IS NOT NULL;
-- A certificate that was superseded does not come in by its chain once more.
CREATE INDEX ended_certificate ON credential (login_key) WHERE status = 'superseded' AND type = 'X509_CERTIFICATE';
