-- Entries of new movies wait in a list until one write sorts in all of them, and every search reads the list. At
-- the server's own limit of 4 MB that write, and all behind it, stand still for a tenth of a second and more.
ALTER INDEX IF EXISTS watchly_movies_search SET (gin_pending_list_limit = 256);
