-- Where changes are told to, see `watchly_core.relays`. The secret of a webhook is needed as it is, to sign.
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

-- Messages that a target did not take; without `due_at` they were given up.
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
