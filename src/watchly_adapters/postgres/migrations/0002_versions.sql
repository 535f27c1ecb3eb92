-- Constant defaults are kept in the catalogue, so no row is rewritten and older programs go on writing.
ALTER TABLE movies
    ADD COLUMN image jsonb,
    ADD COLUMN version integer NOT NULL DEFAULT 1;
