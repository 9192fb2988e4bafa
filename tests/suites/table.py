"""table.py RESULTS HERE SUITE…: docs/suites.md from RESULTS/SUITE-RUNTIME.tsv and HERE/differences.tsv, on standard output.

Exits with 1 where a test passes with the suite's own runtime and not with conex, and no reason is given for it; or where a
reason is given for what is no difference.
"""

import os
import sys

results, here, suites = sys.argv[1], sys.argv[2], sys.argv[3:]
OWN = {"runc": "runc", "crun": "crun"}


def rows(path):
    with open(path, errors="replace") as f:
        return [line.rstrip("\n").split("\t") for line in f if line.strip() and not line.startswith("#")]


def verdicts(suite, runtime):
    return {(file, test): verdict for file, test, verdict in rows(f"{results}/{suite}-{runtime}.tsv")}


reasons = {(suite, file, test): why for suite, file, test, why in rows(f"{here}/differences.tsv")}
print(open(f"{here}/header.md").read())
print(f"Made {os.environ['MADE']}.\n")
print("| suite | runtime | passed | failed | skipped |\n|---|---|---|---|---|")
known, new, gone = [], [], []
for suite in suites:
    control, conex = verdicts(suite, OWN[suite]), verdicts(suite, "conex")
    for runtime, found in ((OWN[suite], control), ("conex", conex)):
        count = [list(found.values()).count(verdict) for verdict in ("ok", "not ok", "skip")]
        print(f"| {suite} | {runtime} | {count[0]} | {count[1]} | {count[2]} |")
    for key, verdict in control.items():
        differs = verdict == "ok" and conex.get(key) != "ok"
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
