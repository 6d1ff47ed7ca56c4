-- A first login changes one column that no index mentions: an index of what is live, by its status, would be rewritten at
-- each. `status` follows from whether a generation has ended and whether it was ever used.
DROP INDEX live_login;
DROP INDEX superseded_login;
DROP INDEX ended_certificate;
ALTER TABLE credential ADD COLUMN ended INTEGER NOT NULL DEFAULT 0;
UPDATE credential SET ended = 1 WHERE status = 'superseded';
UPDATE credential SET first_login_ms = issued_ms WHERE status = 'active' AND first_login_ms IS NULL;
UPDATE credential SET first_login_ms = NULL WHERE status = 'issued' AND first_login_ms IS NOT NULL;
ALTER TABLE credential DROP COLUMN status;
ALTER TABLE credential ADD COLUMN status TEXT GENERATED ALWAYS AS (
    iif(ended, 'superseded', iif(first_login_ms IS NULL, 'issued', 'active'))) VIRTUAL;
CREATE INDEX live_login ON credential (login_key) WHERE ended = 0;
CREATE INDEX superseded_login ON credential (login_key, generation) WHERE ended = 1;
CREATE INDEX ended_certificate ON credential (login_key) WHERE ended = 1 AND type = 'X509_CERTIFICATE';
