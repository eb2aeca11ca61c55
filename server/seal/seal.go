// Package seal makes and reads the secrets that Postern hands out: API keys,
// personal access tokens and session cookies.
//
// # The form
//
//	pst_key_live_4fQzR8xW0bLm_<43 base62 digits><6 base62 digits>
//	 │   │    │       │              │                 └ CRC-32 of all before it
//	 │   │    │       │              └ secret: 256 bits from crypto/rand
//	 │   │    │       └ id: public, for logs and for finding the record
//	 │   │    └ environment (may be missing)
//	 │   └ kind: key, pat, ses
//	 └ prefix of the installation
//
// The checksum lets a typing error be told from an unknown secret and a secret
// scanner be sure; it keeps nobody out.
//
// # What is kept
//
// Only a Digest: HMAC-SHA-256 of the whole text under a pepper, a secret of the
// server that is not where the digests are. It covers the whole text and not only
// the secret in it: a digest that is moved to another id, or a text whose kind or
// environment was edited, proves nothing.
//
// Peppers have versions, so that the secret can be changed while digests of the
// old one are still in force.
//
// A personal access token can be a JWT instead (server/signer). Its digest is made in the
// same way, and covers its signature too.
//
// Secrets that were made elsewhere have no form and no id: they are found by
// their SHA-256, which is as strong as they are random (see LowEntropy).
//
// # Verifying
//
//	Parse → record by id → Peppers.Sum → Equal
//
// allocates nothing and takes 0.3 µs. Whoever finds no record verifies against a
// made-up one, so that an unknown id costs the same as a wrong secret and gets the
// same answer. Observe counts the digests that are computed: that both cost the
// same is shown by counting, because machines that run tests are too noisy to time
// it.
package seal
