#!/usr/bin/env python3
"""circles.py [--files] DIR…: which modules of a crate need each other in a circle; exits with 1 if any do. The compiler keeps
crates apart; inside one it allows everything. Without --files a directory below src/ is one module, as its mod.rs is the face
of the rest; with it each file is one."""
import os
import re
import sys


def paths(text):
    """Every path that begins with crate, super or self, with the groups of `use` written out."""
    def expand(prefix, rest):
        rest = rest.strip()
        at = rest.find("{")
        if at < 0:
            yield prefix + rest.split(" as ")[0].strip()
            return
        head, inner, depth, part = rest[:at], rest[at + 1:rest.rfind("}")], 0, ""
        for c in inner + ",":
            depth += (c == "{") - (c == "}")
            if c == "," and depth == 0:
                if part.strip():
                    yield from expand(prefix + head, part)
                part = ""
            else:
                part += c

    for use in re.findall(r"\buse\s+((?:crate|super|self)\b[^;]*);", text):
        yield from expand("", re.sub(r"\s+", " ", use))
    yield from re.findall(r"\b(?:crate|super|self)(?:::\w+)+", re.sub(r"\buse\s+[^;]*;", "", text))


def modules(root):
    out = {}
    for base, _, files in os.walk(root):
        for file in (f for f in files if f.endswith(".rs")):
            path = os.path.join(base, file)
            parts = os.path.relpath(path, root).removesuffix(".rs").split(os.sep)
            if parts[-1] == "mod":
                parts.pop()
            if parts in (["lib"], ["main"]):
                continue
            # Comments and tests say nothing of who needs whom.
            text = re.sub(r"(?m)^\s*//.*$", "", open(path).read()).split("#[cfg(test)]")[0]
            out[tuple(parts)] = text
    return out


def edges(root, files):
    found = modules(root)
    graph = {}
    for module, text in found.items():
        name = module if files else module[:1]
        children = {m[-1] for m in found if m[:-1] == module}
        inner = [f"self::{p}" for p in re.findall(r"(?<![\w:])(\w+)::", text) if p in children]
        for path in [*paths(text), *inner]:
            parts = [p.strip() for p in path.split("::")]
            at = list(module)
            if parts[0] == "crate":
                at, parts = [], parts[1:]
            while parts and parts[0] in ("super", "self"):
                at = at[:-1] if parts.pop(0) == "super" else at
            whole = tuple(at + parts)
            target = next((whole[:n] for n in range(len(whole), 0, -1) if whole[:n] in found), ())
            target = target if files else target[:1]
            if target and target != name:
                graph.setdefault(name, set()).add(target)
        graph.setdefault(name, set())
    return {m: {t for t in to if t in graph} for m, to in graph.items()}


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
            while not part or part[-1] != node:
                part.append(stack.pop())
            if len(part) > 1:
                found.append(sorted(part))

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return found


def main():
    roots = [a for a in sys.argv[1:] if a != "--files"]
    bad = 0
    for root in roots:
        graph = edges(root, "--files" in sys.argv)
        for circle in circles(graph):
            inside = {"::".join(m): ["::".join(t) for t in sorted(graph[m] & set(circle))] for m in circle}
            print(f"{root}: a circle of {len(circle)} modules: {inside}")
            bad = 1
    sys.exit(bad)


main()
