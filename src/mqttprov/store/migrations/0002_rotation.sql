-- The newest generation at the time when an operator asked for a newer one; the rotation is due while it is the newest.
ALTER TABLE device ADD COLUMN rotate_from INTEGER;
