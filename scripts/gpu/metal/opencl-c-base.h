// clang includes this file by itself; what it would declare is declared in metal_stdlib.
