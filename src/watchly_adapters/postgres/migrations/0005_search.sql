-- What movies are found and sorted by, made by Watchly: NULL in rows that another program wrote last.
ALTER TABLE movies
    ADD COLUMN title_key text COLLATE "C",
    ADD COLUMN search tsvector,
    -- The version that both were made for.
    ADD COLUMN search_version integer,
    -- The planner has to know more of the frequent words than the first hundred.
    ALTER COLUMN search SET STATISTICS 300;

-- The words of all movies by their trigrams, for those who mistype them. Nothing makes a word unique:
-- writers of the same new word would have to wait for each other.
CREATE TABLE trigrams (
    trigram text COLLATE "C" NOT NULL,
    word text COLLATE "C" NOT NULL,
    size integer NOT NULL  -- trigrams of the word
);
CREATE INDEX trigrams_trigram ON trigrams (trigram, word) INCLUDE (size);

-- A write of another program raises the version as well, so that nobody overwrites it unseen, and leaves
-- the row to be searched again after `watchly reindex`.
CREATE FUNCTION watchly_note_foreign_write() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.version = OLD.version THEN
        NEW.version := OLD.version + 1;
    END IF;
    NEW.title_key := NULL;
    NEW.search := NULL;
    NEW.search_version := NULL;
    RETURN NEW;
END
$$;

CREATE TRIGGER zzz_watchly_note_foreign_write BEFORE UPDATE ON movies FOR EACH ROW
WHEN (
    (NEW.version = OLD.version OR NEW.search_version IS DISTINCT FROM NEW.version)
    AND (
        NEW.id, NEW.version, NEW.title, NEW.description, NEW.release_year, NEW.genre,
        NEW.image_url, NEW.image, NEW.created_at, NEW.updated_at
    ) IS DISTINCT FROM (
        OLD.id, OLD.version, OLD.title, OLD.description, OLD.release_year, OLD.genre,
        OLD.image_url, OLD.image, OLD.created_at, OLD.updated_at
    )
)
EXECUTE FUNCTION watchly_note_foreign_write();

-- An id that was used before goes on with the versions it had, for the log has each of them once. The other
-- program need not have a right to read the log. Only what reads it has our rights, and the table it reads is
-- settled here for good: whoever calls it, or makes a trigger of it, can put no other table in its place.
CREATE FUNCTION watchly_last_version(integer) RETURNS integer LANGUAGE sql STABLE SECURITY DEFINER
BEGIN ATOMIC
    SELECT max(version) FROM events WHERE movie_id = $1;
END;

CREATE FUNCTION watchly_note_foreign_insert() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    last integer;
BEGIN
    EXECUTE format('SELECT %I.watchly_last_version($1)', TG_TABLE_SCHEMA) INTO last USING NEW.id;
    NEW.version := coalesce(last + 1, NEW.version);
    RETURN NEW;
END
$$;

CREATE TRIGGER zzz_watchly_note_foreign_insert BEFORE INSERT ON movies FOR EACH ROW
WHEN (NEW.search_version IS NULL)
EXECUTE FUNCTION watchly_note_foreign_insert();

-- Tables of older systems may have a trigger that notes the time of each update. Filling the columns above
-- is none: it alone makes `search_version` of a row's own version. Triggers fire in the order of their names,
-- and ours have to come last.
CREATE FUNCTION watchly_keep_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := OLD.updated_at;
    RETURN NEW;
END
$$;

CREATE TRIGGER zzz_watchly_keep_updated_at BEFORE UPDATE ON movies FOR EACH ROW
WHEN (
    NEW.version = OLD.version AND NEW.search_version = NEW.version AND OLD.search_version IS NULL
    AND NEW.updated_at IS DISTINCT FROM OLD.updated_at
)
EXECUTE FUNCTION watchly_keep_updated_at();
