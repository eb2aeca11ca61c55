package test

r := type_name(input.a)
s := is_object(input.a.b)

# ----
# reads input.a
