CREATE TABLE images (
    key text PRIMARY KEY,
    state text NOT NULL CHECK (state IN ('pending', 'attached', 'discarded', 'deleting')),
    -- No foreign key: a record outlives its movie until the store has dropped the file.
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
