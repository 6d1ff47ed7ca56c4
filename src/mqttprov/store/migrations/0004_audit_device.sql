-- The story of one device. Ids begin with the time, so new entries land at the end of the index and cost the same at any
-- size. A `ref` is random: an index on it would make every event dearer (three times, at 400,000 events) for a question
-- that an operator asks now and then, so it is found by looking through the events, newest first.
CREATE INDEX audit_event_device ON audit_event (device_id) WHERE device_id IS NOT NULL;
