-- Whose devices a token registers.
ALTER TABLE token ADD COLUMN owner TEXT;

-- A device that is offered to another owner: to whom, the keyed hash of the one-time claim code, until when.
-- `transferred_ms` is when its owner last changed that way: from then on only tokens of its owner provision it.
ALTER TABLE device ADD COLUMN transfer_to TEXT;
ALTER TABLE device ADD COLUMN transfer_code TEXT;
ALTER TABLE device ADD COLUMN transfer_expires_ms INTEGER;
ALTER TABLE device ADD COLUMN transferred_ms INTEGER;
