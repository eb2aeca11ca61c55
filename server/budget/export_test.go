package budget

import "hash/maphash"

var seedForTests = maphash.MakeSeed()
