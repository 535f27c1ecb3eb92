-- Named apart from the tables of whoever else uses the database, who may well have users.

-- Accounts. Addresses are kept as `people.email_of` spells them, and compared by code point.
CREATE TABLE watchly_users (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    email text COLLATE "C" NOT NULL UNIQUE,
    role text NOT NULL CHECK (role IN ('viewer', 'editor', 'admin')),
    password_hash text NOT NULL,
    created_at timestamptz NOT NULL,
    version integer NOT NULL
);
CREATE INDEX watchly_users_admins ON watchly_users (id) WHERE role = 'admin';

-- Who stays signed in. Of refresh tokens only digests are kept, see `watchly_core.sessions`.
CREATE TABLE watchly_sessions (
    id text COLLATE "C" PRIMARY KEY,
    user_id integer NOT NULL REFERENCES watchly_users ON DELETE CASCADE,
    handle bytea NOT NULL UNIQUE,
    secret bytea NOT NULL,
    created_at timestamptz NOT NULL,
    rotated_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX watchly_sessions_user_id ON watchly_sessions (user_id);
CREATE INDEX watchly_sessions_expires_at ON watchly_sessions (expires_at);

-- Keys of services, also those that were revoked. One without a user is the operator's.
CREATE TABLE watchly_api_keys (
    id integer GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name text NOT NULL,
    role text NOT NULL CHECK (role IN ('viewer', 'editor', 'admin')),
    prefix text COLLATE "C" NOT NULL UNIQUE,
    digest bytea NOT NULL,
    user_id integer REFERENCES watchly_users ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz
);
CREATE INDEX watchly_api_keys_user_id ON watchly_api_keys (user_id, id);

-- What tokens are signed by, sealed by SECRET_KEY.
CREATE TABLE watchly_signing_keys (
    kid text COLLATE "C" PRIMARY KEY,
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL,
    signs_from timestamptz NOT NULL,
    ends_at timestamptz
);

-- How often something was tried; a bucket begins anew at `until`.
CREATE TABLE watchly_throttles (
    bucket text COLLATE "C" PRIMARY KEY,
    count integer NOT NULL,
    until timestamptz NOT NULL
);
CREATE INDEX watchly_throttles_until ON watchly_throttles (until);
