-- The ledger of budgets. What is promised of an account is never more than its ceiling:
-- the database itself sees to that.

CREATE TABLE ledger_accounts (
    key        TEXT PRIMARY KEY,
    budget     TEXT NOT NULL,
    unit       TEXT NOT NULL,
    subject    TEXT NOT NULL,
    tenant     TEXT NOT NULL,
    begin_at   INTEGER NOT NULL,
    end_at     INTEGER NOT NULL,
    ceiling    INTEGER NOT NULL,
    settled    INTEGER NOT NULL CHECK (settled >= 0),
    reserved   INTEGER NOT NULL CHECK (reserved >= 0),
    leased     INTEGER NOT NULL CHECK (leased >= 0),
    overrun    INTEGER NOT NULL CHECK (overrun >= 0),
    lost       INTEGER NOT NULL CHECK (lost >= 0),
    recalled   BOOLEAN NOT NULL,
    due_at     INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    updated_at INTEGER NOT NULL,
    parts      BLOB NOT NULL,
    CHECK (settled + reserved + leased <= ceiling)
);
CREATE INDEX ledger_accounts_budget ON ledger_accounts (budget, key);
CREATE INDEX ledger_accounts_tenant ON ledger_accounts (tenant, key) WHERE tenant <> '';
CREATE INDEX ledger_accounts_recalled ON ledger_accounts (key) WHERE recalled;
CREATE INDEX ledger_accounts_due ON ledger_accounts (due_at) WHERE due_at <> 0;
CREATE INDEX ledger_accounts_expiry ON ledger_accounts (expires_at) WHERE expires_at <> 0;

CREATE TABLE ledger_settlements (
    id         TEXT PRIMARY KEY,
    sum        TEXT NOT NULL,
    expires_at INTEGER NOT NULL
);
CREATE INDEX ledger_settlements_expiry ON ledger_settlements (expires_at);
