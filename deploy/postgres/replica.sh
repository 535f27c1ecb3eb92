#!/bin/sh
# Runs a replica of the server at PGHOST, which it copies first where there is none yet.
set -eu
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    # A copy that was broken off is none.
    rm -rf "$PGDATA" "$PGDATA.new"
    pg_basebackup -U replicator -D "$PGDATA.new" -R -S replica -X stream -c fast
    mv "$PGDATA.new" "$PGDATA"
fi
exec "$@"
