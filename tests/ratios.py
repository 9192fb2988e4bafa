"""ratios.py BENCH CROWD [LANDED]: three ratios of conex, from what bench and crowd printed. With LANDED, the file of those that
landed last: exits with 1 if one is more than 15 % worse."""
import re
import sys

medians, title = {}, ""
for line in open(sys.argv[1]):
    if found := re.match(r"  (\w+)\s+median\s+([\d.]+) ms", line):
        medians.setdefault((title, found[1]), float(found[2]))
    elif not line.startswith(" "):
        title = line.split(" ")[0]
crowd = {tuple(line.split("\t")[:4]): float(line.split("\t")[4]) for line in open(sys.argv[2])}
ratios = {
    "run, by the kernel floor": medians["run", "conex"] / medians["run", "floor"],
    "exec, by its kernel floor": medians["exec", "conex"] / medians["exec", "floor"],
    "run beside 3,000 mounts, by run beside none": crowd["mounts", "3000", "conex", "run"] / crowd["nothing", "0", "conex", "run"],
}
landed = dict(line.rstrip("\n").split("\t") for line in open(sys.argv[3])) if len(sys.argv) > 3 else {}
worse = False
for name, ratio in ratios.items():
    if not landed:
        print(f"{name}\t{ratio:.3f}")
        continue
    bad = ratio > 1.15 * float(landed[name])
    worse |= bad
    print(f"{name}: {ratio:.2f} (landed {landed[name]})" + (": more than 15 % worse" if bad else ""))
sys.exit(worse)
