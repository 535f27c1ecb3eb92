-- Writers wait until every row has its event, so that none slips in between without one. Before all else,
-- because where transactions are serializable, what follows sees the rows as of its first statement.
LOCK TABLE movies IN SHARE ROW EXCLUSIVE MODE;

-- Ids that seeds or a restore gave without the sequence would be given out again.
SELECT setval(sequence, highest)
FROM (
    SELECT
        coalesce(pg_get_serial_sequence('movies', 'id')::regclass, (
            SELECT refobjid::regclass
            FROM pg_depend JOIN pg_attrdef ON pg_attrdef.oid = objid JOIN pg_class ON pg_class.oid = refobjid
            WHERE classid = 'pg_attrdef'::regclass AND refclassid = 'pg_class'::regclass
              AND adrelid = 'movies'::regclass AND relkind = 'S'
        )) AS sequence,
        (SELECT max(id) FROM movies) AS highest
) AS ids
WHERE highest > coalesce(pg_sequence_last_value(sequence), 0);

CREATE TABLE events (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL,
    movie_id integer NOT NULL,
    version integer NOT NULL,
    at timestamptz NOT NULL,
    actor text NOT NULL,
    -- json and not jsonb: the log keeps what was said, member by member.
    movie json NOT NULL,
    UNIQUE (movie_id, version)
);

INSERT INTO events (kind, movie_id, version, at, actor, movie)
SELECT
    'movie_added', id, version, now(), 'system',
    json_build_object(
        'id', id,
        'title', title,
        'description', description,
        'release_year', release_year,
        'genre', genre,
        'image_url', image_url,
        'image', NULL,
        'version', version,
        'created_at', CASE WHEN created_at BETWEEN '0001-01-01+00' AND '9999-12-31 23:59:59.999999+00'
            THEN to_char(created_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') END,
        'updated_at', CASE WHEN updated_at BETWEEN '0001-01-01+00' AND '9999-12-31 23:59:59.999999+00'
            THEN to_char(updated_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') END
    )
FROM movies
ORDER BY id;
