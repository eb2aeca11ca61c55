# query data.test.allow
package test

allow if input.a
other if opa.runtime()

# ----
# reads input.a
