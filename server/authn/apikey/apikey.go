// Package apikey proves API keys and personal access tokens, whose form and digests
// are those of package seal.
//
// # What is kept
//
// A keys file holds a digest of each key, HMAC-SHA-256 under a pepper that is not
// in that file, and who calls with it (see Key). Keys of foreign formats can be
// imported: all that is known of them is their SHA-256, so they are found by it.
// The same file holds the denylist for credentials of every kind (see
// authn.Revocation). It is read all or nothing, and never with a key in it; a
// million entries as Key.Entry writes them take some three seconds (see
// loadKeysFile). Further keys come from other indexes, such as the mirror of a
// store (see Deps.Indexes).
//
//	revocations:
//	  - {jti: 0b9e…, note: laptop lost}
//	  - {subject: alice, issuer: "https://login.example.com", issued_before: 2026-03-01T12:00:00Z}
//	keys:
//	  - id: 4fQzR8xW0bLm
//	    digest: hmac-sha256:v1:5d41…
//	    name: nightly export
//	    principal: {id: svc-export, tenant: acme, scopes: [orders.read]}
//	    constraints: {networks: [10.0.0.0/8], methods: [GET]}
//	    created_at: 2026-01-15T09:00:00Z
//	    expires_at: 2026-04-01T00:00:00Z
//	  - id: old-billing
//	    digest: sha256:9f86…
//	    principal: {id: svc-billing}
//
// # A request
//
// Reload builds an immutable index and swaps it in; a request loads it once.
//
//	own format      parse → record by id → HMAC → constant-time compare
//	a JWT of ours   the same, by its jti, and then the signature (see signed)
//	anything else   SHA-256 → record by digest
//
// The checksum is only looked at when that fails, to say "misspelt" rather than
// "unknown".
//
// The keys file is asked first, then the other indexes in their order; whoever has
// the id, one digest is computed. An id that nobody has goes the same way with a
// decoy, so that it costs the same as a wrong secret and gets the same answer. Only
// who has proven the secret learns that a key is disabled, revoked, rotated or
// expired.
//
// A credential that is neither an own key nor an imported one is refused where
// the place it came from is for keys only (header x-api-key), and otherwise left
// to the next authenticator (authorization: bearer, where tokens come too).
package apikey
