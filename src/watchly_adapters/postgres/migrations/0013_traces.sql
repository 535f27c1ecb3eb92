-- What an event was made in, for whoever traces requests through services (W3C `traceparent`). An earlier version
-- leaves it empty, and no row is written anew.
ALTER TABLE events ADD COLUMN trace text;
