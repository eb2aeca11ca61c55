# query x = data.test.r with input.a as 3
package test

r := [input.a, input.b]

# ----
# reads input.a
# reads input.b
