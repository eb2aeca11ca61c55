-- TEXT, INTEGER and BLOB are spelled by each engine: text compares by its bytes, an
-- integer has 64 bits. Times are microseconds since 1970, 0 is none.

CREATE TABLE feed (
    one    INTEGER PRIMARY KEY CHECK (one = 1),
    epoch  TEXT NOT NULL,
    head   INTEGER NOT NULL,
    audit  INTEGER NOT NULL,
    floor  INTEGER NOT NULL,
    purges INTEGER NOT NULL
);

CREATE TABLE records (
    kind       TEXT NOT NULL,
    id         TEXT NOT NULL,
    tenant     TEXT NOT NULL,
    owner      TEXT NOT NULL,
    digest     TEXT NOT NULL,
    expires_at INTEGER NOT NULL,
    body       BLOB,
    version    INTEGER NOT NULL,
    deleted    BOOLEAN NOT NULL,
    PRIMARY KEY (kind, id)
);
CREATE INDEX records_feed ON records (version, kind, id);
CREATE INDEX records_tenant ON records (kind, tenant, id) WHERE tenant <> '';
CREATE INDEX records_owner ON records (kind, owner, id) WHERE owner <> '';
CREATE INDEX records_expiry ON records (expires_at) WHERE expires_at <> 0;
CREATE UNIQUE INDEX records_digest ON records (digest) WHERE digest <> '';

CREATE TABLE audit (
    seq    INTEGER PRIMARY KEY,
    at     INTEGER NOT NULL,
    actor  TEXT NOT NULL,
    action TEXT NOT NULL,
    target TEXT NOT NULL,
    tenant TEXT NOT NULL,
    entry  BLOB NOT NULL
);
CREATE INDEX audit_tenant ON audit (tenant, seq);
CREATE INDEX audit_actor ON audit (actor, seq);
CREATE INDEX audit_target ON audit (target, seq);
CREATE INDEX audit_at ON audit (at);

CREATE TABLE usage (
    credential   TEXT NOT NULL,
    day          TEXT NOT NULL,
    route        TEXT NOT NULL,
    tenant       TEXT NOT NULL,
    principal    TEXT NOT NULL,
    allowed      INTEGER NOT NULL,
    denied       INTEGER NOT NULL,
    last_used_at INTEGER NOT NULL,
    PRIMARY KEY (credential, day, route)
);
CREATE INDEX usage_tenant ON usage (tenant, credential);
