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
    version integer NOT NULL DEFAULT 1
);

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
    CHECK ((state = 'attached') = (due_at IS NULL))
);

CREATE INDEX images_movie_id ON images (movie_id);
CREATE INDEX images_due_at ON images (due_at) WHERE due_at IS NOT NULL;

CREATE TABLE events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    movie_id integer NOT NULL,
    version integer NOT NULL,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    movie json NOT NULL,
    UNIQUE (movie_id, version)
);
