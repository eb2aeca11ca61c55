// Package jose reads what an issuer signs and what it publishes, strictly: JSON
// that has one reading, compact JWS (RFC 7515), JWKs and key sets (RFC 7517),
// and the documents that say where a key set is (OpenID Connect Discovery 1.0,
// RFC 8414). Every kind of credential that rests on signed tokens shares it.
//
// # Claims
//
// What an issuer says of a caller is read in one way whatever brought it: the claims of a
// token whose signature was proven, or the answer of an issuer that was asked. ClaimRules
// check for whom and for how long it holds, CheckAccessToken that it was meant for an API
// at all, a ClaimMap makes a principal of it, and ReadConfirmation says what the caller
// must show besides.
//
// # Keys
//
// A key set is read whole or not at all, its keys one by one: a key that is
// weak, malformed, ambiguous or not meant for verifying signatures is left out
// with a warning, and the others still count. What is left is a KeySet, which
// never changes. Nothing in a key leads anywhere else: x5u, x5c and jku are
// neither fetched nor read.
//
// # Sources
//
// A Source keeps the keys of one issuer. It belongs to that issuer alone: two
// issuers with one URL have two sources, so neither can sign for the other, and
// an issuer that hangs holds up nobody else. Its state is one immutable value
// behind an atomic pointer, so that Find for a known key is a map look-up
// without lock, allocation or I/O.
//
// One goroutine does all the fetching, one fetch at a time. It fetches
//
//	at the start    and, until the first success, after 1 s, 2 s, 4 s … cooldown
//	by age          every refresh, or sooner if the issuer's Cache-Control says so
//	after a failure every cooldown
//	on demand       when a token names an unknown key, but only if the last
//	                fetch began at least one cooldown ago
//
// Whoever needs an answer that a running fetch may bring waits for it, no longer
// than its own context and never in a crowd of more than maxWaiters. The fetch
// itself has its own deadline and goes on when they leave.
//
// A fetch replaces the key set only if it brought at least one usable key. All
// else (an error, HTML, a redirect, 204, too many bytes, an empty set) keeps the
// last good set, up to keep_stale after it was fetched. From then on the answer
// is an error: could not find out. It is never "no keys", because what follows
// from "no such key" is a refusal of the token, and that must be a fact. The exception
// is a SPIFFE bundle: without keys it says that its trust domain is to be trusted no
// more, and that counts at once.
//
// The keys decide who may call, so where they come from is held narrowly: https,
// no redirects, the issuer's own origin or a host that the configuration names,
// no address of the inside network. Addresses are checked when the connection is
// made, on the resolved address, so that a name which resolves differently the
// second time gains nothing. Responses are bounded in time and in decoded bytes.
package jose
