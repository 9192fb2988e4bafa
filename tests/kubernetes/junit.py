"""junit.py NAME DIRECTORY: the reports of a test run as lines of test, name and verdict."""
import pathlib
import sys
import xml.etree.ElementTree as tree

name, directory = sys.argv[1:3]
found = {}
for file in pathlib.Path(directory).glob("*.xml"):
    for case in tree.parse(file).getroot().iter("testcase"):
        if case.find("skipped") is not None:
            continue
        failure = case.find("failure")
        first = ((failure.text or "").strip().splitlines() or [""])[0] if failure is not None else ""
        # Each process of the run reports what the others did as skipped.
        found[case.get("name")] = f"fail: {first[:200]}" if failure is not None else "pass"
for test, verdict in sorted(found.items()):
    print(test.replace("\t", " "), name, verdict.replace("\t", " "), sep="\t")
