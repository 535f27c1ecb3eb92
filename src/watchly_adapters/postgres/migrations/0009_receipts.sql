-- The replies to writes that their senders named by keys (Idempotency-Key), kept for a day.
CREATE TABLE receipts (
    actor text COLLATE "C" NOT NULL,
    key text COLLATE "C" NOT NULL,
    digest bytea NOT NULL,
    status integer NOT NULL,
    headers json NOT NULL,
    body bytea NOT NULL,
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (actor, key)
);
CREATE INDEX receipts_expires_at ON receipts (expires_at);
