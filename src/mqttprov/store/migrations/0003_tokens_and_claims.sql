-- A rotated token keeps its older secret's hash for an overlap; `proof_base` stands for the secret in proofs (P4).
ALTER TABLE token ADD COLUMN previous_verifier TEXT;
ALTER TABLE token ADD COLUMN previous_until_ms INTEGER;
ALTER TABLE token ADD COLUMN proof_base TEXT;

-- What a factory gave a device: the keyed hash of its claim secret, the SHA-256 of its certificate's public key.
ALTER TABLE device ADD COLUMN claim TEXT;
ALTER TABLE device ADD COLUMN factory_key TEXT;
