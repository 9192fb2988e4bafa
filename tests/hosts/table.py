"""table.py RESULTS CACHE [HOST…]: the logs of the hosts as docs/hosts.md, one row per test, one column per host. With hosts named:
as docs/kernels.md, the tests alone that not each of them passes."""
import os
import re
import sys

results, cache = sys.argv[1:3]
# Of those named, the ones that have been run.
kernels = [host for host in sys.argv[3:] if os.path.exists(f"{results}/{host}.log")]
HOSTS = kernels or ["here", "masked", "systemd-v1", "uml", "uml-masked", "selinux", "qemu"]
here = os.path.dirname(os.path.realpath(__file__))


def read(path):
    try:
        with open(path) as f:
            return f.read()
    except FileNotFoundError:
        return ""


def verdicts(host):
    """Test name -> ok, FAILED or skip, and the reasons of the skips."""
    text = read(f"{results}/{host}.log")
    out, skips = {}, {}
    for name, verdict in re.findall(r"^test (\S+) \.\.\. .*?(ok|FAILED)$", text, re.M):
        out[name] = verdict
    for name, reason in re.findall(r"^  ([a-z_0-9]+(?: \([^)]*\))?): (.+)$", text, re.M):
        # An assertion that failed prints its two sides in the same form.
        if name not in ("left", "right"):
            skips[name] = reason
    for name in out:
        if name.split("::")[-1] in skips:
            out[name] = "skip"
    return out, skips


print(read(f"{here}/{'kernels' if kernels else 'header'}.md"), end="")
found = {h: verdicts(h) for h in HOSTS}
print("\n## Counts\n")
print("| host | passed | failed | skipped |\n|---|---|---|---|")
for h in HOSTS:
    values = list(found[h][0].values())
    print(f"| {h} | {values.count('ok')} | {values.count('FAILED')} | {values.count('skip')} |")
for h in kernels:
    about = [line for line in read(f"{results}/{h}.log").splitlines() if line.startswith("kernel: Linux ")]
    said = "; then some of the tests again: ".join(line.removeprefix("kernel: ") for line in about)
    print(f"\n{h}: {said}.")
print("\n## Skips and their reasons\n")
for h in HOSTS:
    for name, reason in sorted(found[h][1].items()):
        print(f"- {h}: `{name}` needs {reason}")
print("\n## Tests\n")
print("| test | " + " | ".join(HOSTS) + " |\n|---" * 1 + "|---" * len(HOSTS) + "|")
names = sorted({n for h in HOSTS for n in found[h][0]})
if kernels:
    names = [n for n in names if {found[h][0].get(n) for h in HOSTS} != {"ok"}]
for name in names:
    print(f"| {name} | " + " | ".join(found[h][0].get(name, "–") for h in HOSTS) + " |")
rows = [] if kernels else [line.split("\t") for line in read(f"{cache}/conformance/conex-uml.tsv").splitlines()]
if rows:
    reasons = dict((r[0], r[2]) for r in (l.split("\t") for l in read(f"{here}/conformance-uml.tsv").splitlines()))
    print("\n## The OCI's validation programs on uml\n")
    print(f"{sum(r[1] == 'pass' for r in rows)} of {len(rows)} pass.\n")
    print("| program | verdict | why not |\n|---|---|---|")
    for r in rows:
        print(f"| {r[0]} | {r[1]} | {reasons.get(r[0], '')} |")
