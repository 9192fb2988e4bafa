#!/usr/bin/env python3
"""names.py PAGE…: files and functions that a page names in backticks exist. In a row of a table the functions are those of the
row's file."""
import os
import re
import sys

bad = 0
for page in sys.argv[1:]:
    for number, line in enumerate(open(page), 1):
        words = re.findall(r"`([^`]+)`", line)
        files = [w for w in words if re.fullmatch(r"[\w.-]+(/[\w.-]+)+", w)]
        for file in files:
            if not os.path.exists(file):
                print(f"{page}:{number}: there is no {file}")
                bad = 1
        sources = [f for f in files if f.endswith(".rs") and os.path.exists(f)]
        if line.startswith("| ") and len(sources) == 1:
            text = open(sources[0]).read()
            # What a row says in words may name other things: only the column of functions counts.
            cells = line.split("|")
            column = next((c for c in cells[cells.index(next(c for c in cells if sources[0] in c)) + 1:] if "`" in c), "")
            for name in re.findall(r"`(\w+)`", column):
                if not re.search(rf"\bfn {name}\b", text):
                    print(f"{page}:{number}: {sources[0]} has no function {name}")
                    bad = 1
sys.exit(bad)
