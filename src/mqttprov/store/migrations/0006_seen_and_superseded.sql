-- When a device was last known to be in use. Written about once an hour (`mqttprov.responder.gathered`), and without an
-- index: it changes more often than anybody asks, and a million devices are looked through in 0.3 s.
ALTER TABLE device ADD COLUMN last_seen_ms INTEGER;
UPDATE device SET last_seen_ms = (SELECT max(first_login_ms) FROM credential WHERE device_id = device.id);

-- Refused logins look here, to tell a superseded credential from one that nobody ever had.
CREATE INDEX superseded_login ON credential (login_key, generation) WHERE status = 'superseded';
