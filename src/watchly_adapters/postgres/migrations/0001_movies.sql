-- The table as it stands in databases of the older system: adopted where it is, made where it is not. What cannot
-- be adopted is refused here, before anything is changed.

-- Where a table is called as its model is, an empty one beside it would pass for a catalogue that lost its movies.
DO $$
BEGIN
    IF to_regclass('movies') IS NULL AND EXISTS (
        SELECT FROM pg_class
        WHERE lower(relname) = 'movies' AND relkind IN ('r', 'p') AND pg_table_is_visible(oid)
    ) THEN
        RAISE EXCEPTION 'its movies are in a table whose name has capital letters; call it movies, and its columns '
            'id, title, description, release_year, genre, image_url, created_at, updated_at';
    END IF;
END
$$;

CREATE TABLE IF NOT EXISTS movies (
    id SERIAL PRIMARY KEY,
    title VARCHAR(255) NOT NULL,
    description TEXT,
    release_year INTEGER,
    genre VARCHAR(100),
    image_url TEXT,
    created_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP,
    updated_at TIMESTAMP DEFAULT CURRENT_TIMESTAMP
);

-- A table of that name which is another one is left as it is: this fails.
SELECT id, title, description, release_year, genre, image_url, created_at, updated_at FROM movies LIMIT 0;

-- So is what is no table of its own, whose ids name several rows, or beside which ours have no room.
DO $$
DECLARE
    taken text;
BEGIN
    IF (SELECT relkind <> 'r' FROM pg_class WHERE oid = 'movies'::regclass) THEN
        RAISE EXCEPTION 'movies is a view, or a table of another kind, and has to be an ordinary table';
    END IF;
    IF NOT EXISTS (
        SELECT FROM pg_index JOIN pg_attribute ON attrelid = indrelid AND attnum = indkey[0]
        WHERE indrelid = 'movies'::regclass AND attname = 'id' AND attnotnull
          AND indisunique AND indisvalid AND indnkeyatts = 1 AND indpred IS NULL
    ) THEN
        RAISE EXCEPTION 'the column id of the table movies has to be its primary key';
    END IF;
    SELECT string_agg(relname, ', ' ORDER BY relname) INTO taken
    FROM pg_class
    WHERE relnamespace = current_schema()::regnamespace AND relname IN (
        'images', 'events', 'trigrams', 'change_log', 'receipts', 'relay_targets', 'relay_letters',
        'watchly_users', 'watchly_sessions', 'watchly_api_keys', 'watchly_signing_keys', 'watchly_throttles'
    );
    IF taken IS NOT NULL THEN
        RAISE EXCEPTION 'names that Watchly takes for tables of its own are taken: %; rename those, or put a schema for '
            'its own before theirs in the search_path of its role', taken;
    END IF;
END
$$;

-- And one whose movies lack what each has.
DO $$
BEGIN
    IF EXISTS (SELECT FROM movies WHERE title IS NULL) THEN
        RAISE EXCEPTION 'rows of the table movies have no title';
    END IF;
END
$$;

-- One whose columns hold something else, are taken, or have to be given what no movie has.
DO $$
DECLARE
    fault text;
BEGIN
    SELECT string_agg(wrong, '; ' ORDER BY attnum) INTO fault
    FROM pg_attribute
    LEFT JOIN (VALUES
        ('id', '{integer}'::regtype[], false),
        ('title', '{varchar,text}', false),
        ('description', '{text,varchar}', true),
        ('release_year', '{integer,smallint}', true),
        ('genre', '{varchar,text}', true),
        ('image_url', '{text,varchar}', true),
        ('created_at', '{timestamp,timestamptz}', false),
        ('updated_at', '{timestamp,timestamptz}', false)
    ) AS ours (attname, types, empty) USING (attname)
    CROSS JOIN LATERAL (SELECT CASE
        WHEN atttypid <> ALL (types)
            THEN format('%I is %s, and has to be %s', attname, format_type(atttypid, atttypmod), types[1])
        WHEN empty AND attnotnull THEN format('%I has to take NULL', attname)
        WHEN attname = 'title' AND NOT attnotnull THEN format('%I has to be NOT NULL', attname)
        WHEN attname IN ('image', 'version', 'title_key', 'search', 'search_version')
            THEN format('%I is a name that Watchly takes for itself', attname)
        WHEN types IS NULL AND attnotnull AND NOT atthasdef AND attidentity = ''
            THEN format('%I is NOT NULL and has no default, and no movie of Watchly has it', attname)
    END AS wrong) AS faults
    WHERE attrelid = 'movies'::regclass AND attnum > 0 AND NOT attisdropped;
    IF fault IS NOT NULL THEN
        RAISE EXCEPTION 'columns of the table movies: %', fault;
    END IF;
END
$$;

-- One whose rows are not all of them movies.
DO $$
DECLARE
    mark name;
    marked bigint;
BEGIN
    FOR mark IN
        SELECT attname FROM pg_attribute
        WHERE attrelid = 'movies'::regclass AND attname IN ('deleted_at', 'deletedAt') AND NOT attisdropped
    LOOP
        EXECUTE format('SELECT count(*) FROM movies WHERE %I IS NOT NULL', mark) INTO marked;
        IF marked > 0 THEN
            RAISE EXCEPTION 'rows of the table movies that are only marked as deleted (%) would be shown: %',
                mark, marked;
        END IF;
    END LOOP;
END
$$;

-- And one whose ids do not come from a sequence cannot be added to.
DO $$
BEGIN
    IF pg_get_serial_sequence('movies', 'id') IS NULL AND NOT EXISTS (
        SELECT FROM pg_attrdef JOIN pg_attribute ON attrelid = adrelid AND attnum = adnum
        WHERE adrelid = 'movies'::regclass AND attname = 'id'
    ) THEN
        RAISE EXCEPTION 'the ids of the table movies come from no sequence';
    END IF;
END
$$;

-- Columns that are too short for what a movie may have are made longer, which rewrites no row.
DO $$
DECLARE
    short record;
BEGIN
    FOR short IN
        SELECT attname, wide
        FROM pg_attribute
        JOIN (VALUES ('title', 255, 'varchar(255)'), ('description', NULL, 'text'), ('genre', 100, 'varchar(100)'))
            AS ours (attname, size, wide) USING (attname)
        WHERE attrelid = 'movies'::regclass AND atttypmod > 0 AND (size IS NULL OR atttypmod - 4 < size)
    LOOP
        EXECUTE format('ALTER TABLE movies ALTER COLUMN %I TYPE %s', short.attname, short.wide);
    END LOOP;
END
$$;
