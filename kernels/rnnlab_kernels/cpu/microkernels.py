"""C++ text of the micro-kernels: rows times a packed panel, with every sum in a register of its own.

An array of vector registers would be spilled to memory by some compilers, so each sum is a scalar variable,
which is why this text is generated. A sum runs over the depth in order whatever the block, so that a row's
bits do not depend on how many rows are computed with it. Each step of the depth also asks for a cache line of
what is read next: where the weights do not fit in L2 (H=512) that makes 1.15 times the speed.
"""

MOST_ROWS_32 = {4: 6, 3: 8, 2: 10, 1: 12}
MOST_ROWS_16 = {3: 4, 2: 6, 1: 8}
"""For each number of vectors, the most rows whose sums fit in 32 or 16 vector registers."""
NEAR = 5
"""How many rows are addressed from one pointer. With one for all, ten rows by two took 1.05 times as long."""


def micro_kernels() -> str:
    """The header that `core.cpp` includes."""
    return "\n".join(
        [
            "#if defined(__AVX512F__) || defined(__aarch64__)",
            _kernels(MOST_ROWS_32),
            "#else",
            _kernels(MOST_ROWS_16),
            "#endif",
            "",
        ]
    )


def _kernels(most_rows: dict[int, int]) -> str:
    lines = [
        "typedef void (*Kernel)(const S*, long, long, const S*, long, long, S*, long, Into, const char*);",
        *(_kernel(rows, vectors) for vectors, most in most_rows.items() for rows in range(1, most + 1)),
        f"constexpr long MOST_VECTORS = {max(most_rows)};",
        "constexpr long MOST_ROWS[] = {" + ", ".join(str(most_rows.get(v, 1)) for v in range(5)) + "};",
        "const Kernel KERNELS[5][13] = {",
    ]
    for vectors in range(5):
        names = [f"k{rows}x{vectors}" for rows in range(1, most_rows.get(vectors, 0) + 1)]
        lines.append("  {" + ", ".join(["nullptr", *names]) + "},")
    return "\n".join([*lines, "};"])


def _kernel(rows: int, vectors: int) -> str:
    cells = [(r, v) for r in range(rows) for v in range(vectors)]
    columns = range(vectors)
    lines = [
        f"static void k{rows}x{vectors}(const S* a, long lda, long step, const S* p, long ldp, long depth, "
        "S* c, long ldc, Into into, const char* ahead) {",
        "  V " + ", ".join(f"s{r}_{v}{{}}" for r, v in cells) + ";",
        "  if (into == ONTO) {",
        *(f"    s{r}_{v} = load(c + {r} * ldc + {v} * VL);" for r, v in cells),
        "  } else if (into == ADDED) {",
        *(f"    __builtin_prefetch(c + {r} * ldc + {v} * VL, 1, 3);" for r, v in cells),
        "  }",
        *(f"  const S* a{r} = a + {r} * lda;" for r in range(0, rows, NEAR)),
        "  for (long k = 0; k < depth; k++, p += ldp, ahead += 64) {",
        "    __builtin_prefetch(ahead, 0, 2);",
        "    const V " + ", ".join(f"b{v} = load(p + {v} * VL)" for v in columns) + ";",
    ]
    for r in range(rows):
        element = f"a{r - r % NEAR}[{r % NEAR} * lda]"
        sums = " ".join(f"s{r}_{v} += x * b{v};" for v in columns)
        lines.append(f"    {{ const S x = {element}; {sums} }}")
    lines += [
        "    " + " ".join(f"a{r} += step;" for r in range(0, rows, NEAR)),
        "  }",
        "  if (into == ADDED) {",
        *(f"    s{r}_{v} = load(c + {r} * ldc + {v} * VL) + s{r}_{v};" for r, v in cells),
        "  }",
        *(f"  store(c + {r} * ldc + {v} * VL, s{r}_{v});" for r, v in cells),
        "}",
    ]
    return "\n".join(lines)
