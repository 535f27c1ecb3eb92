-- For a table that is called as its model is: it and its columns get the names that Watchly knows, and the old
-- version goes on by a view that has the old ones. One transaction: nobody sees anything between.
BEGIN;
ALTER TABLE "Movies" RENAME TO movies;
ALTER TABLE movies RENAME "releaseYear" TO release_year;
ALTER TABLE movies RENAME "imageUrl" TO image_url;
ALTER TABLE movies RENAME "createdAt" TO created_at;
ALTER TABLE movies RENAME "updatedAt" TO updated_at;
CREATE VIEW "Movies" AS
    SELECT id, title, description, release_year AS "releaseYear", genre, image_url AS "imageUrl",
        created_at AS "createdAt", updated_at AS "updatedAt"
    FROM movies;
COMMIT;
