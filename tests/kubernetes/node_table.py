"""node_table.py RESULTS >PAGE: what Kubernetes' own node tests found; fails if runc passes one that conex does not."""
import sys

CLASSES = ["runc", "conex-runc", "conex"]
verdicts = {}
with open(sys.argv[1]) as f:
    for line in f:
        test, name, verdict = line.rstrip("\n").split("\t")
        verdicts.setdefault(test, {})[name] = verdict
print("""# Kubernetes' own node tests

`make kubernetes NODE_TESTS=NodeConformance` writes this page: the node end-to-end tests of Kubernetes 1.20.2 (those for every
node, `[NodeConformance]`, that are not `[Serial]`, `[Slow]` or of an optional feature), built from Debian's source, on the
cluster of docs/kubernetes-results.md, with each runtime in turn as the node's default. Their images are made here under the
same names (BusyBox, and the tests' own program agnhost from the same source); a test that needs another one fails with every
runtime. `conex-runc`: containerd's shim with conex; `conex`: conex with its own shim.
""")
counts = [sum(v.get(name) == "pass" for v in verdicts.values()) for name in CLASSES]
ran = [sum(name in v for v in verdicts.values()) for name in CLASSES]
print("| | " + " | ".join(CLASSES) + " |\n|---|---|---|---|")
print("| passed of those that ran | " + " | ".join(f"{n} of {m}" for n, m in zip(counts, ran)) + " |\n")
mark = lambda v: "–" if v is None else v.split(":")[0]
odd = {t: v for t, v in verdicts.items() if {mark(v.get(n)) for n in CLASSES} != {"pass"}}
if odd:
    print("Not passed by all:\n\n| test | " + " | ".join(CLASSES) + " |\n|---|---|---|---|")
    for test, v in sorted(odd.items()):
        print(f"| {test} | " + " | ".join(mark(v.get(n)) for n in CLASSES) + " |")
worse = [t for t, v in odd.items() if mark(v.get("runc")) == "pass" and {mark(v.get(n)) for n in CLASSES[1:]} != {"pass"}]
for test in worse:
    print(f"runc passes, conex does not: {test}: {verdicts[test]}", file=sys.stderr)
few = min(ran, default=0) < 1
if few:
    print("no test ran with one of the runtimes", file=sys.stderr)
sys.exit(1 if worse or few else 0)
