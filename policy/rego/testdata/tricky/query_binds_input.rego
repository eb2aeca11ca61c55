# query x = input.a; y = x.b
package test

# ----
# reads input.a
