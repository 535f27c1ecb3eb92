-- Events get their public numbers after they are committed, see `numbering.py`; what an earlier version
-- writes is numbered like all else.
ALTER TABLE events ADD COLUMN seq bigint;
CREATE UNIQUE INDEX events_seq ON events (seq) WHERE seq IS NOT NULL;
CREATE INDEX events_unnumbered ON events (id) WHERE seq IS NULL;

-- One row: the last number that was given, and the last one that was pruned.
CREATE TABLE change_log (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    last_seq bigint NOT NULL DEFAULT 0,
    horizon bigint NOT NULL DEFAULT 0
);
INSERT INTO change_log DEFAULT VALUES;
