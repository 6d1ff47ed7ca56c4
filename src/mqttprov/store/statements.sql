-- Named statements of the SQLite store. A line `-- name: x` begins the statement that code knows as `x`.
-- Lists of keys come in as one JSON array, so that a batch costs one step of the engine whatever its size.

-- name: tokens_by_key
SELECT t.id, t.name, t.key, t.verifier, t.labels, t.max_registrations, t.used, t.expires_ms, t.device_name_pattern,
       t.revoked_ms, t.previous_verifier, t.previous_until_ms, t.proof_base, t.owner,
       p.id, p.name, p.strategy, p.credentials_type, p.reprovision, p.min_secret_chars, p.unicode_names,
       p.label_keys, p.publish_topics, p.subscribe_topics, p.rotate_on_first_use
FROM token AS t JOIN profile AS p ON p.id = t.profile_id
WHERE t.key IN (SELECT value FROM json_each(?));

-- name: devices_by_fold
SELECT id, name, fold, profile_id, state, created_ms, token_id, owner, labels, gateway, rotate_from, claim, factory_key,
       transfer_to, transfer_code, transfer_expires_ms, transferred_ms, last_seen_ms, last_generation
FROM device WHERE fold IN (SELECT value FROM json_each(?));

-- name: live_credentials
SELECT device_id, generation, type, login_key, proof, status, verifier, username, client_id, certificate, public_key,
       supplied, issued_ms, first_login_ms
FROM credential
WHERE device_id IN (SELECT value FROM json_each(?)) AND ended = 0
ORDER BY device_id, generation;

-- name: ended_credentials
SELECT device_id, generation, type, login_key, proof, status, verifier, username, client_id, certificate, public_key,
       supplied, issued_ms, first_login_ms
FROM credential
WHERE device_id IN (SELECT value FROM json_each(?)) AND ended = 1;

-- name: registrations_of
SELECT device_id, token_id FROM registration WHERE device_id IN (SELECT value FROM json_each(?));

-- name: owners_of_logins
SELECT login_key, device_id FROM credential
WHERE login_key IN (SELECT value FROM json_each(?)) AND ended = 0;

-- name: use_token
UPDATE token SET used = used + :n, last_used_ms = :at_ms
WHERE id = :id AND (max_registrations IS NULL OR used + :n <= max_registrations);

-- name: update_devices
UPDATE device SET state = j.state, labels = j.labels, token_id = j.token_id, gateway = j.gateway,
                  last_generation = j.last_generation, last_seen_ms = j.last_seen_ms
FROM (SELECT value ->> 0 AS id, value ->> 1 AS state, value ->> 2 AS labels, value ->> 3 AS token_id,
             value ->> 4 AS gateway, value ->> 5 AS last_generation, value ->> 6 AS last_seen_ms
      FROM json_each(?)) AS j
WHERE device.id = j.id;

-- name: mark_seen
UPDATE device SET last_seen_ms = ?1 WHERE id IN (SELECT value FROM json_each(?2));

-- name: release_name
UPDATE device SET name = ?2, fold = ?2 WHERE id = ?1;

-- name: request_rotation
UPDATE device SET rotate_from = ?2 WHERE id = ?1;

-- name: set_transfer
UPDATE device SET transfer_to = ?2, transfer_code = ?3, transfer_expires_ms = ?4 WHERE id = ?1;

-- name: change_owner
UPDATE device SET owner = ?2, transferred_ms = coalesce(?3, transferred_ms),
                  transfer_to = NULL, transfer_code = NULL, transfer_expires_ms = NULL
WHERE id = ?1;

-- name: activate_devices
UPDATE device SET state = ?1, last_seen_ms = ?2 WHERE id IN (SELECT value FROM json_each(?3));

-- Two statements, because no index mentions what the first one changes, and first logins are many.
-- name: activate_credentials
UPDATE credential SET first_login_ms = ?2
WHERE generation = ?1 AND device_id IN (SELECT value FROM json_each(?3));

-- name: end_credentials
UPDATE credential SET ended = 1
FROM (SELECT value ->> 0 AS device_id, value ->> 1 AS generation FROM json_each(?)) AS j
WHERE credential.device_id = j.device_id AND credential.generation = j.generation;

-- name: chain_head
SELECT seq, hash FROM audit_event ORDER BY seq DESC LIMIT 1;

-- name: mark_published
UPDATE outbox SET published_seq = max(published_seq, ?) WHERE id = 1;

-- name: published_seq
SELECT published_seq FROM outbox WHERE id = 1;

-- name: events_after
SELECT seq, kind, at_ms, body, hash, device_id FROM audit_event WHERE seq > ? ORDER BY seq LIMIT ?;

-- name: events_of_device
SELECT seq, kind, at_ms, body, hash, device_id FROM audit_event WHERE device_id = ? ORDER BY seq;

-- name: events_with
SELECT seq, kind, at_ms, body, hash, device_id FROM audit_event WHERE instr(body, ?) > 0 ORDER BY seq DESC LIMIT ?;

-- name: shared_keys
SELECT count(*) OVER (), k.public_key, json_group_array(DISTINCT d.name)
FROM (SELECT public_key, device_id FROM credential WHERE public_key IS NOT NULL
      UNION ALL SELECT factory_key, id FROM device WHERE factory_key IS NOT NULL) AS k
JOIN device AS d ON d.id = k.device_id
GROUP BY k.public_key HAVING count(DISTINCT k.device_id) > 1 ORDER BY count(DISTINCT k.device_id) DESC LIMIT ?;

-- name: provisioning_sources
SELECT device_id, body ->> '$.event.device', body ->> '$.event.source' FROM audit_event
WHERE kind IN ('provisioned', 'reprovisioned', 'repeated') AND device_id IN (
    SELECT device_id FROM audit_event WHERE kind IN ('reprovisioned', 'repeated') AND device_id IS NOT NULL
    GROUP BY device_id HAVING count(*) > 1)
ORDER BY device_id, seq;

-- name: failed_attempts
SELECT count(*) OVER (), body ->> '$.event.source', sum(coalesce(body ->> '$.event.count', 1)),
       json_group_array(DISTINCT body ->> '$.event.reason'), max(at_ms)
FROM audit_event
WHERE seq > coalesce((SELECT seq FROM audit_event WHERE at_ms < ?1 ORDER BY seq DESC LIMIT 1), 0)
  AND kind IN ('refused', 'limited', 'login-refused')
GROUP BY 2 ORDER BY 3 DESC LIMIT ?2;

-- name: superseded_in_use
SELECT count(*) OVER (), max(body ->> '$.event.device'), body ->> '$.event.generation',
       json_group_array(DISTINCT body ->> '$.event.source'), sum(body ->> '$.event.count'), min(at_ms), max(at_ms)
FROM audit_event
WHERE seq > coalesce((SELECT seq FROM audit_event WHERE at_ms < ?1 ORDER BY seq DESC LIMIT 1), 0)
  AND kind = 'login-refused' AND device_id IS NOT NULL
GROUP BY device_id, 3 ORDER BY 5 DESC LIMIT ?2;

-- name: client_id_fights
SELECT count(*) OVER (), max(body ->> '$.event.device'),
       json_group_array(DISTINCT body ->> '$.event.source'), sum(body ->> '$.event.count'), min(at_ms), max(at_ms)
FROM audit_event
WHERE seq > coalesce((SELECT seq FROM audit_event WHERE at_ms < ?1 ORDER BY seq DESC LIMIT 1), 0)
  AND kind = 'taken-over' AND device_id IS NOT NULL
GROUP BY device_id ORDER BY 4 DESC LIMIT ?2;

-- name: reused_names
SELECT count(*) OVER (), max(body ->> '$.event.device'), sum(kind = 'reprovisioned'), sum(kind = 'repeated'), max(at_ms)
FROM audit_event WHERE kind IN ('reprovisioned', 'repeated')
GROUP BY device_id ORDER BY count(*) DESC LIMIT ?;

-- name: devices_without_owner
SELECT count(*) OVER (), d.name, p.name, d.state FROM device AS d JOIN profile AS p ON p.id = d.profile_id
WHERE d.owner IS NULL AND d.state <> 'decommissioned' ORDER BY d.id LIMIT ?;

-- name: devices_waiting
SELECT count(*) OVER (), d.name, p.name, coalesce(c.issued_ms, d.created_ms) AS since_ms
FROM device AS d JOIN profile AS p ON p.id = d.profile_id
LEFT JOIN credential AS c ON c.device_id = d.id AND c.generation = d.last_generation
WHERE d.state = ?1 AND coalesce(c.issued_ms, d.created_ms) < ?2 ORDER BY since_ms LIMIT ?3;

-- name: logins
SELECT c.device_id, c.generation, c.type, c.login_key, c.proof, c.status, c.verifier, c.username, c.client_id,
       NULL, c.public_key, c.supplied, c.issued_ms, c.first_login_ms,
       d.id, d.name, d.fold, d.profile_id, d.state, d.created_ms, d.token_id, d.owner, d.labels, d.gateway,
       d.rotate_from, NULL, NULL, NULL, NULL, NULL, NULL, d.last_seen_ms,
       p.id, p.name, p.strategy, p.credentials_type, p.reprovision, p.min_secret_chars, p.unicode_names,
       p.label_keys, p.publish_topics, p.subscribe_topics, p.rotate_on_first_use
FROM credential AS c JOIN device AS d ON d.id = c.device_id JOIN profile AS p ON p.id = d.profile_id
WHERE c.login_key IN (SELECT value FROM json_each(?)) AND c.ended = 0;

-- The newest few for each login key: a device may have had one user name with very many passwords.
-- name: superseded
SELECT k.value, (
    SELECT json_group_array(json_array(d.name, d.id, c.generation, c.verifier))
    FROM (SELECT device_id, generation, verifier FROM credential
          WHERE login_key = k.value AND ended = 1 ORDER BY generation DESC LIMIT 8) AS c
    JOIN device AS d ON d.id = c.device_id)
FROM json_each(?) AS k;

-- name: operator
SELECT name, role, verifier FROM operator WHERE name = ?;

-- name: operators
SELECT name, role, created_ms FROM operator ORDER BY name;

-- name: insert_operator
INSERT INTO operator (name, role, verifier, created_ms) VALUES (?, ?, ?, ?);

-- name: update_operator
UPDATE operator SET verifier = ? WHERE name = ?;

-- name: delete_operator
DELETE FROM operator WHERE name = ?;

-- Not those that came in by a chain: their authority is trusted, or they are not.
-- name: knows_certificate
SELECT EXISTS (SELECT 1 FROM credential
               WHERE login_key = ?1 AND ended = 0 AND certificate IS NOT NULL)
    OR EXISTS (SELECT 1 FROM credential WHERE login_key = ?1 AND ended = 1 AND type = 'X509_CERTIFICATE'
               AND certificate IS NOT NULL);

-- name: ended_certificates
SELECT login_key FROM credential
WHERE login_key IN (SELECT value FROM json_each(?)) AND ended = 1 AND type = 'X509_CERTIFICATE';

-- The token that every profile is born with is the one named `default`; tokens are never renamed.
-- name: factory_devices
SELECT d.name, d.fold, d.state, d.transferred_ms IS NOT NULL, d.rotate_from IS NOT NULL AND NOT EXISTS (
           SELECT 1 FROM credential AS c
           WHERE c.device_id = d.id AND c.generation > d.rotate_from AND c.status = 'active'),
       t.key, p.id, p.name, p.strategy, p.credentials_type, p.reprovision, p.min_secret_chars, p.unicode_names,
       p.label_keys, p.publish_topics, p.subscribe_topics, p.rotate_on_first_use
FROM device AS d JOIN profile AS p ON p.id = d.profile_id JOIN token AS t ON t.profile_id = p.id AND t.fold = 'default'
WHERE d.id IN (SELECT id FROM device WHERE factory_key = ?1 UNION ALL SELECT id FROM device WHERE fold = ?2)
ORDER BY d.id LIMIT 2;

-- name: chains
SELECT p.authorities, p.subject_pattern, t.key,
       p.id, p.name, p.strategy, p.credentials_type, p.reprovision, p.min_secret_chars, p.unicode_names,
       p.label_keys, p.publish_topics, p.subscribe_topics, p.rotate_on_first_use
FROM profile AS p JOIN token AS t ON t.profile_id = p.id AND t.fold = 'default'
WHERE p.strategy = 'certificate-chain' AND p.authorities IS NOT NULL ORDER BY p.id;

-- name: issued_certificates
SELECT c.certificate, c.status, d.state FROM credential AS c JOIN device AS d ON d.id = c.device_id
WHERE c.certificate IS NOT NULL AND c.supplied = 0 AND c.issued_ms >= ?1
  AND (c.ended = 1 OR d.state IN ('suspended', 'decommissioned')) = ?2;

-- name: authorities
SELECT certificate, state FROM authority ORDER BY id;

-- name: put_authority
INSERT INTO authority (certificate, state) VALUES (?, ?)
ON CONFLICT (certificate) DO UPDATE SET state = excluded.state;

-- name: insert_profile
INSERT INTO profile (name, fold, strategy, credentials_type, reprovision, min_secret_chars, unicode_names, label_keys,
                     publish_topics, subscribe_topics, rotate_on_first_use, created_ms, authorities, subject_pattern)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: update_profile
UPDATE profile SET rotate_on_first_use = ?, authorities = ?, subject_pattern = ? WHERE id = ?;

-- name: profiles
SELECT p.id, p.name, p.strategy, p.credentials_type, p.reprovision, p.min_secret_chars, p.unicode_names,
       p.label_keys, p.publish_topics, p.subscribe_topics, p.rotate_on_first_use, p.created_ms,
       (SELECT count(*) FROM token AS t WHERE t.profile_id = p.id),
       (SELECT count(*) FROM device AS d WHERE d.profile_id = p.id), p.authorities, p.subject_pattern
FROM profile AS p WHERE ?1 IS NULL OR p.fold = ?1 ORDER BY p.id;

-- name: insert_token
INSERT INTO token (profile_id, name, fold, key, verifier, labels, max_registrations, expires_ms, device_name_pattern,
                   created_ms, owner)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: tokens
SELECT t.id, t.name, t.key, p.name, t.labels, t.max_registrations, t.used, t.expires_ms, t.device_name_pattern,
       t.revoked_ms, t.created_ms, t.last_used_ms, t.previous_until_ms, t.owner
FROM token AS t JOIN profile AS p ON p.id = t.profile_id
WHERE (?1 IS NULL OR p.fold = ?1) AND (?2 IS NULL OR t.fold = ?2 OR t.key = ?2) ORDER BY t.id;

-- name: update_token
UPDATE token SET labels = ?, max_registrations = ?, expires_ms = ?, device_name_pattern = ?, revoked_ms = ? WHERE id = ?;

-- name: rotate_token
UPDATE token SET previous_verifier = iif(:until_ms IS NULL, NULL, verifier), previous_until_ms = :until_ms,
                 proof_base = iif(:until_ms IS NULL, NULL, coalesce(proof_base, verifier)), verifier = :verifier
WHERE id = :id;

-- What `find_devices` asks for follows behind it. CROSS JOIN keeps devices first: they come in order without sorting.
-- name: devices
SELECT d.id, d.name, d.state, p.name, d.owner, d.labels, t.name, d.gateway, d.created_ms,
       c.type, c.status, c.generation, c.first_login_ms, coalesce(d.last_generation <= d.rotate_from, 0),
       d.transfer_to, d.transfer_expires_ms, d.last_seen_ms
FROM device AS d
CROSS JOIN profile AS p ON p.id = d.profile_id
LEFT JOIN token AS t ON t.id = d.token_id
LEFT JOIN credential AS c ON c.device_id = d.id AND c.generation = d.last_generation

-- name: registered
SELECT d.id, d.name, d.state, r.at_ms FROM registration AS r JOIN device AS d ON d.id = r.device_id
WHERE r.token_id = ? ORDER BY d.id;

-- name: credentials_of
SELECT generation, type, status, supplied, issued_ms, first_login_ms FROM credential
WHERE device_id = ? ORDER BY generation;

-- name: states
SELECT state, count(*) FROM device GROUP BY state;
