// Package bundle brings policies in: it fetches OPA bundles, verifies them, puts
// them in force, and keeps the last good ones.
//
// # From a server to a decision
//
//	fetch    where it is      → bytes      bounded in size and time; a 304 counts only if we asked for it
//	screen   bytes            → bytes      a bounded archive of plain files, each there once
//	verify   bytes            → content    OPA's own reader, and what it does not refuse
//	order    content          →            not older than the one that runs
//	compile  all contents     → Snapshot   aside, together with the other bundles
//	activate Snapshot         → Engine     one atomic pointer
//	persist  bytes            → disk       what is in force, for the next start
//
// An error at any of them leaves everything as it was: the policy that runs, the
// bytes on disk and the ETag with which the server is asked. The ETag always names
// what runs, so a bundle that was refused is offered again by the next poll.
//
// Bundles are activated together. What is kept of each is its packed bytes; when
// one changes, the others are read again from theirs. A new bundle is first tried
// with the newest of the others, even with those that did not load alone: two
// bundles that need each other may change in any order.
//
// # Why not OPA's downloader
//
// OPA's v1/plugins/rest proves who we are to the server, its v1/bundle reads and
// verifies. Its v1/download is not used. It unpacks what came before anything has
// bounded the number of entries or their sum; it believes a 304 that names an ETag
// which was never downloaded; its OCI part writes what the registry sends to disk
// without a bound and panics where there is no temporary directory.
package bundle
