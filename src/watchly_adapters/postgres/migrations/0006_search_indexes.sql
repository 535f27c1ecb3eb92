-- watchly: outside a transaction

-- Their names are ours: a table of an older system may well have an index `movies_genre`.
CREATE INDEX CONCURRENTLY IF NOT EXISTS watchly_movies_search ON movies USING gin (search);

-- Each sort key has an index in both directions, because what is equal is in ascending order of ids both
-- times; only equal titles are too few for that to matter.
CREATE INDEX CONCURRENTLY IF NOT EXISTS watchly_movies_title ON movies (title_key, title COLLATE "C", id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS watchly_movies_release_year ON movies (release_year, id);
CREATE INDEX CONCURRENTLY IF NOT EXISTS watchly_movies_release_year_down ON movies (release_year DESC, id);

-- Times that no calendar of ours holds are NULL to those who read them.
CREATE INDEX CONCURRENTLY IF NOT EXISTS watchly_movies_created_at ON movies (
    (CASE WHEN created_at BETWEEN '0001-01-01+00' AND '9999-12-31 23:59:59.999999+00' THEN created_at END), id
);
CREATE INDEX CONCURRENTLY IF NOT EXISTS watchly_movies_created_at_down ON movies (
    (CASE WHEN created_at BETWEEN '0001-01-01+00' AND '9999-12-31 23:59:59.999999+00' THEN created_at END) DESC,
    id
);
CREATE INDEX CONCURRENTLY IF NOT EXISTS watchly_movies_updated_at ON movies (
    (CASE WHEN updated_at BETWEEN '0001-01-01+00' AND '9999-12-31 23:59:59.999999+00' THEN updated_at END), id
);
CREATE INDEX CONCURRENTLY IF NOT EXISTS watchly_movies_updated_at_down ON movies (
    (CASE WHEN updated_at BETWEEN '0001-01-01+00' AND '9999-12-31 23:59:59.999999+00' THEN updated_at END) DESC,
    id
);

CREATE INDEX CONCURRENTLY IF NOT EXISTS watchly_movies_genre ON movies (genre, id);
-- Rows that other programs wrote last.
CREATE INDEX CONCURRENTLY IF NOT EXISTS watchly_movies_unsearched ON movies (id) WHERE search_version IS NULL;

-- Nobody has looked at the new columns yet, and plans depend on what is in them.
ANALYZE movies;
ANALYZE trigrams;
