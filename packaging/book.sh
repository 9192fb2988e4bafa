#!/bin/bash
# book.sh CACHE: builds docs/ as a book, in target/book, with Debian forky's mdBook in a root of its own. Fails if a page is
# missing in docs/SUMMARY.md, or a link leads to no page.
set -euo pipefail
cd "$(dirname "$(realpath "$0")")/.."
cache=$1
for page in docs/*.md; do
	page=${page#docs/}
	[ "$page" = SUMMARY.md ] || grep -qF "($page)" docs/SUMMARY.md || { echo "book: docs/SUMMARY.md lacks $page"; exit 1; }
done
bad=$(grep -noE '\]\([^)#:]+\.md' docs/*.md | sed -E 's/\]\(//' | while IFS=: read -r file line target; do
	target=${target##*(}
	[ -e "docs/$target" ] || echo "$file:$line: $target is not there"
done)
[ -z "$bad" ] || { echo "$bad"; exit 1; }
tests/forky/root.sh "$cache/book" mdbook
tests/forky/enter.sh "$cache/book" mdbook build
echo "target/book/index.html"
