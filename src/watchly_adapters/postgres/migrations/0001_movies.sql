-- The table as it stands in databases of the older system: adopted where it is, made where it is not.
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

-- So is one whose movies may lack what each has.
DO $$
BEGIN
    IF EXISTS (SELECT FROM movies WHERE title IS NULL) THEN
        RAISE EXCEPTION 'rows of the table movies have no title';
    END IF;
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
