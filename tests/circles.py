#!/usr/bin/env python3
"""circles.py DIR…: the modules at the top of each crate, and which of them need each other in a circle. The compiler keeps the
crates apart; inside one it allows everything. Exits with 1 if there is a circle that ALLOWED does not name."""
import os
import re
import sys

ALLOWED = {}


def module_of(root, path):
    """The first name below src/, or the whole crate's for lib.rs and main.rs."""
    first = os.path.relpath(path, root).split(os.sep)[0]
    return first.removesuffix(".rs")


def edges(root):
    """module -> modules at the top that its files name."""
    out = {}
    for base, _, files in os.walk(root):
        for file in (f for f in files if f.endswith(".rs")):
            path = os.path.join(base, file)
            module = module_of(root, path)
            if module in ("lib", "main"):
                continue
            # Comments and tests say nothing of who needs whom.
            text = re.sub(r"(?m)^\s*//.*$", "", open(path).read()).split("#[cfg(test)]")[0]
            depth = len(os.path.relpath(path, root).split(os.sep)) - (file == "mod.rs")
            up = "super::" * depth
            found = set(re.findall(r"\bcrate::([a-z_]+)", text))
            for group in re.findall(r"\b(?:crate|(?<!super::)" + up.removesuffix("::") + r")::\{([^;]*?)\}", text, re.S):
                found |= set(re.findall(r"\b([a-z_]+)\b(?=\s*(?:::|,|\}|$))", group))
            found |= set(re.findall(r"(?<!super::)\b" + up + r"([a-z_]+)", text))
            out.setdefault(module, set()).update(found)
    return {m: {d for d in deps if d in out and d != m} for m, deps in out.items()}


def circles(graph):
    """Strongly connected components of more than one module (Tarjan)."""
    index, low, stack, found = {}, {}, [], []

    def visit(node):
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(graph[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            part = []
            while True:
                part.append(stack.pop())
                if part[-1] == node:
                    break
            if len(part) > 1:
                found.append(sorted(part))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def main():
    bad = 0
    for root in sys.argv[1:]:
        graph = edges(root)
        for circle in circles(graph):
            inside = {m: sorted(graph[m] & set(circle)) for m in circle}
            print(f"{root}: a circle of {len(circle)} modules: {inside}")
            bad = 1
    sys.exit(bad)


main()
