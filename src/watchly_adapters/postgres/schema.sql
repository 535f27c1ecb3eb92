-- The schema that all migrations together give, for reading; a test holds it equal to them.

CREATE TABLE movies (
    id SERIAL PRIMARY KEY,
    title VARCHAR(255) NOT NULL,
    description TEXT,
    release_year INTEGER,
    genre VARCHAR(100),
    image_url TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    image jsonb,
    version integer NOT NULL DEFAULT 1,
    title_key text COLLATE "C",
    search tsvector,
    search_version integer
);

CREATE INDEX watchly_movies_search ON movies USING gin (search) WITH (gin_pending_list_limit = 256);
CREATE INDEX watchly_movies_title ON movies (title_key, title COLLATE "C", id);
CREATE INDEX watchly_movies_release_year ON movies (release_year, id);
CREATE INDEX watchly_movies_release_year_down ON movies (release_year DESC, id);
CREATE INDEX watchly_movies_created_at ON movies (
    (CASE WHEN created_at BETWEEN '0001-01-01+00' AND '9999-12-31 23:59:59.999999+00' THEN created_at END), id
);
CREATE INDEX watchly_movies_created_at_down ON movies (
    (CASE WHEN created_at BETWEEN '0001-01-01+00' AND '9999-12-31 23:59:59.999999+00' THEN created_at END) DESC,
    id
);
CREATE INDEX watchly_movies_updated_at ON movies (
    (CASE WHEN updated_at BETWEEN '0001-01-01+00' AND '9999-12-31 23:59:59.999999+00' THEN updated_at END), id
);
CREATE INDEX watchly_movies_updated_at_down ON movies (
    (CASE WHEN updated_at BETWEEN '0001-01-01+00' AND '9999-12-31 23:59:59.999999+00' THEN updated_at END) DESC,
    id
);
CREATE INDEX watchly_movies_genre ON movies (genre, id);
CREATE INDEX watchly_movies_unsearched ON movies (id) WHERE search_version IS NULL;

CREATE TABLE images (
    key text PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('pending', 'attached', 'discarded', 'deleting')),
    movie_id integer NOT NULL,
    width integer NOT NULL,
    height integer NOT NULL,
    format text NOT NULL,
    bytes bigint NOT NULL,
    due_at timestamptz,
    attempts integer NOT NULL DEFAULT 0,
    open_until timestamptz,
    CHECK (
        CASE state WHEN 'attached' THEN due_at IS NULL WHEN 'deleting' THEN true ELSE due_at IS NOT NULL END
    )
);

CREATE INDEX images_movie_id ON images (movie_id);
CREATE INDEX images_due_at ON images (due_at) WHERE due_at IS NOT NULL;
CREATE INDEX images_dead ON images (key COLLATE "C") WHERE state = 'deleting' AND due_at IS NULL;

CREATE TABLE events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    movie_id integer NOT NULL,
    version integer NOT NULL,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    movie json NOT NULL,
    seq bigint,
    trace text,
    UNIQUE (movie_id, version)
);

CREATE UNIQUE INDEX events_seq ON events (seq) WHERE seq IS NOT NULL;
CREATE INDEX events_unnumbered ON events (id) WHERE seq IS NULL;

CREATE TABLE change_log (
    single boolean PRIMARY KEY DEFAULT true CHECK (single),
    last_seq bigint NOT NULL DEFAULT 0,
    horizon bigint NOT NULL DEFAULT 0
);
INSERT INTO change_log DEFAULT VALUES;

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

CREATE TABLE trigrams (
    trigram text COLLATE "C" NOT NULL,
    word text COLLATE "C" NOT NULL,
    size integer NOT NULL
);
CREATE INDEX trigrams_trigram ON trigrams (trigram, word) INCLUDE (size);

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

CREATE TABLE relay_targets (
    name text PRIMARY KEY,
    url text,
    secret text,
    position bigint NOT NULL,
    version bigint NOT NULL,
    failures integer NOT NULL,
    failing_since timestamptz,
    due_at timestamptz,
    reason text NOT NULL
);

CREATE TABLE relay_letters (
    target text NOT NULL REFERENCES relay_targets ON DELETE CASCADE,
    seq bigint NOT NULL,
    message_id text NOT NULL,
    movie_id integer NOT NULL,
    kind text NOT NULL,
    body text NOT NULL,
    due_at timestamptz,
    attempts integer NOT NULL,
    reason text NOT NULL,
    PRIMARY KEY (target, seq)
);
CREATE INDEX relay_letters_waiting ON relay_letters (target, movie_id, seq) WHERE due_at IS NOT NULL;
CREATE INDEX relay_letters_dead ON relay_letters (target, seq) WHERE due_at IS NULL;

CREATE TABLE watchly_users (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text COLLATE "C" NOT NULL UNIQUE,
    role text NOT NULL CHECK (role IN ('viewer', 'editor', 'admin')),
    password_hash text NOT NULL,
    created_at timestamptz NOT NULL,
    version integer NOT NULL
);
CREATE INDEX watchly_users_admins ON watchly_users (id) WHERE role = 'admin';

CREATE TABLE watchly_sessions (
    id text COLLATE "C" PRIMARY KEY,
    user_id integer NOT NULL REFERENCES watchly_users ON DELETE CASCADE,
    handle bytea NOT NULL UNIQUE,
    secret bytea NOT NULL,
    created_at timestamptz NOT NULL,
    rotated_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX watchly_sessions_user_id ON watchly_sessions (user_id);
CREATE INDEX watchly_sessions_expires_at ON watchly_sessions (expires_at);

CREATE TABLE watchly_api_keys (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    role text NOT NULL CHECK (role IN ('viewer', 'editor', 'admin')),
    prefix text COLLATE "C" NOT NULL UNIQUE,
    digest bytea NOT NULL,
    user_id integer REFERENCES watchly_users ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX watchly_api_keys_user_id ON watchly_api_keys (user_id, id);

CREATE TABLE watchly_signing_keys (
    kid text COLLATE "C" PRIMARY KEY,
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL,
    signs_from timestamptz NOT NULL,
    ends_at timestamptz
);

CREATE TABLE watchly_throttles (
    bucket text COLLATE "C" PRIMARY KEY,
    count integer NOT NULL,
    until timestamptz NOT NULL
);
CREATE INDEX watchly_throttles_until ON watchly_throttles (until);
