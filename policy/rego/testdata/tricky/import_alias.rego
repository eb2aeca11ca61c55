package test

import input.attributes.request.http as h
import input.a.b
allow if h.method == "GET"
allow if b.c == 1

# ----
# reads input.a.b.c
# reads input.attributes.request.http.method
