#!/bin/sh
# The tests of LaTeX tables, of printed pages and of METEOR run pdflatex (with booktabs), poppler and Java. Debian and Ubuntu:
# installed here when missing and when root, in about a minute and a half.
set -e
missing=
command -v java >/dev/null || missing="$missing default-jre-headless"
command -v pdfinfo >/dev/null || missing="$missing poppler-utils"
kpsewhich booktabs.sty >/dev/null 2>&1 || missing="$missing texlive-latex-base texlive-latex-recommended"
[ -n "$missing" ] || exit 0
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    echo "installing$missing for the tests of tables, pages and METEOR"
    # shellcheck disable=SC2086  # several packages
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
else
    echo "These tests need$missing (the names of Debian's packages); install them with your package manager." >&2
fi
