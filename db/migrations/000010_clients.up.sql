-- Who may call, and what their callbacks are signed with.
CREATE TABLE clients (
    name text NOT NULL,
    -- SHA-256 of the API key. No slow hash: the key is 256 random bits, which
    -- nobody guesses, however fast a guess is checked.
    key_hash bytea NOT NULL,
    -- whsec_…, or sealed with SECRETS_KEY. Signing needs the secret itself, so no
    -- hash would do.
    secret text NOT NULL,
    -- Those before the latest rotation, which work for a day after it.
    old_key_hash bytea,
    old_secret text,
    created_at timestamptz NOT NULL,
    rotated_at timestamptz,
    disabled_at timestamptz,

    CONSTRAINT clients_pkey PRIMARY KEY (name),
    CONSTRAINT clients_key_hash_unique UNIQUE (key_hash),
    CONSTRAINT clients_name_is_plain
        CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$'),
    -- Whoever calls without a key in local mode.
    CONSTRAINT clients_local_is_reserved
        CHECK (name <> 'local'),
    CONSTRAINT clients_hashes_are_sha256
        CHECK (octet_length(key_hash) = 32 AND octet_length(old_key_hash) = 32),
    CONSTRAINT clients_rotated_has_old
        CHECK ((rotated_at IS NOT NULL) = (old_key_hash IS NOT NULL)
           AND (rotated_at IS NOT NULL) = (old_secret IS NOT NULL))
);
