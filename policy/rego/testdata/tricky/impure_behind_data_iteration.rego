# query data.test.allow
package test

allow if data.test.lib[input.k]
lib.x := opa.runtime()

# ----
# reads input.k
# impure: impure_behind_data_iteration.rego:5: data.test.lib.x calls opa.runtime: the answer is the process's configuration and environment
