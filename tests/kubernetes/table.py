"""table.py RESULTS FIGURES >PAGE: what `make kubernetes` found, as docs/kubernetes-results.md."""
import sys

CLASSES = ["runc", "conex-runc", "conex"]
tests, verdicts = [], {}
with open(sys.argv[1]) as f:
    for line in f:
        test, name, verdict = line.rstrip("\n").split("\t")
        if test not in tests:
            tests.append(test)
        verdicts[test, name] = verdict
figures = {}
with open(sys.argv[2]) as f:
    for line in f:
        what, name, value = line.rstrip("\n").split("\t")
        figures.setdefault(what, []).append((name, value))

print("""# A whole Kubernetes

`make kubernetes` writes this page: Kubernetes 1.20.2 of Debian's source (API server, controller manager, scheduler, kubelet
and proxy, with etcd), containerd 1.6 and the CNI plugins of Debian bookworm, on one node in namespaces of its own. The same
manifests run with three runtime classes at once, and what they show (phases, reasons, exit codes, output, mounts, limits,
capabilities) must be what it is with runc. `runc`: containerd's shim with runc; `conex-runc`: containerd's shim with conex;
`conex`: conex with its own shim, configured as docs/kubernetes.md says.
""")
print("| test | " + " | ".join(CLASSES) + " |\n|---|---|---|---|")
for test in tests:
    print(f"| {test} | " + " | ".join(verdicts.get((test, name), "–") for name in CLASSES) + " |")
print("\n## Figures\n\nOne run on two cores; the classes one after the other.\n")
for what, values in figures.items():
    print(f"- {what}:")
    for name, value in values:
        print(f"  - {name}: {value}")
