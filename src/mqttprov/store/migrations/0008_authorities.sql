-- Certificate authorities, in the order of their making: `active` signs, `trusted` ones are older and still trusted,
-- `retired` ones are history. Certificates only (PEM, with those above it). Empty until an operator changes the first.
CREATE TABLE authority (
    id INTEGER PRIMARY KEY,
    certificate TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL
) STRICT;
-- What our authorities issued, by time: lists of ended certificates look only at what has not run out.
CREATE INDEX issued_certificate ON credential (issued_ms) WHERE certificate IS NOT NULL AND supplied = 0;
