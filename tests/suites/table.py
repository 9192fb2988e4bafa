"""table.py RESULTS HERE SUITE…: docs/suites.md from RESULTS/SUITE-RUNTIME.tsv and HERE/differences.tsv, on standard output.

Exits with 1 where a test passes with the suite's own runtime and not with conex, and no reason is given for it; or where a
reason is given for what is no difference.
"""

import os
import sys

results, here, suites = sys.argv[1], sys.argv[2], sys.argv[3:]
COLUMNS = {"runc": ["runc", "conex"], "crun": ["crun", "conex"]}
CONTAINERD = ["runc", "conex", "conex-shim"]
NAMES = {"client": "containerd's client", "cri": "containerd's CRI"}


def rows(path):
    with open(path, errors="replace") as f:
        return [line.rstrip("\n").split("\t") for line in f if line.strip() and not line.startswith("#")]


def verdicts(suite, runtime):
    return {(file, test): verdict for file, test, verdict in rows(f"{results}/suite-{suite}-{runtime}.tsv")}


reasons = {(suite, file, test): why for suite, file, test, why in rows(f"{here}/differences.tsv")}
print(open(f"{here}/header.md").read())
print(f"Made {os.environ['MADE']}.\n")
print("| suite | runtime | passed | failed | skipped |\n|---|---|---|---|---|")
known, new, gone = [], [], []
for suite in suites:
    own, *others = COLUMNS.get(suite, CONTAINERD)
    control = verdicts(suite, own)
    found = {own: control} | {other: verdicts(suite, other) for other in others}
    for runtime, of in found.items():
        count = [list(of.values()).count(verdict) for verdict in ("ok", "not ok", "skip")]
        print(f"| {NAMES.get(suite, suite)} | {runtime} | {count[0]} | {count[1]} | {count[2]} |")
    for runtime in others:
        for (file, test), verdict in control.items():
            # Where there are two columns beside the control, the file says which is meant.
            key = (file if len(others) == 1 else runtime, test)
            differs = verdict == "ok" and found[runtime].get((file, test)) != "ok"
            why = reasons.pop((suite, *key), None)
            if differs:
                (known if why else new).append((suite, *key, why))
            elif why:
                gone.append((suite, *key))
gone += [key for key in reasons if key[0] in suites]
print("\n## What passes with the suite's own runtime and not with conex\n")
print("| suite | file | test | why |\n|---|---|---|---|")
for suite, file, test, why in known:
    print(f"| {suite} | {file} | {test} | {why} |")
for row in new:
    print("no reason is given for:", *row[:3], sep="\t", file=sys.stderr)
for row in gone:
    print("no difference any more:", *row, sep="\t", file=sys.stderr)
sys.exit(1 if new or gone else 0)
