"""The documentation site of several versions beside each other: `python docs/versions.py REF... [--out FOLDER]`.

    FOLDER/v0.1.0/      the site of each tag or branch, built from its own tree
    FOLDER/v0.2.0/
    FOLDER/index.html   that of the last one named, or of --latest, once more
    FOLDER/versions.json

Each page has a list of the versions at the end of the sidebar, by a template that the theme furo has for it. It leads
to the same page of another version. Trees that are older than this file have it too.

Further arguments after `--` go to Sphinx, such as `-D nb_execution_mode=off`, which leaves the notebooks out.
"""

import argparse
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEMPLATES = Path(__file__).parent / "versions_template"
INDEX = "versions.json"


def main(words: list[str]) -> None:
    """Builds the sites. Ends with a sentence if a version cannot be built."""
    end = words.index("--") if "--" in words else len(words)
    own, sphinx = words[:end], words[end + 1 :]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("refs", nargs="+", metavar="REF", help="a tag or branch")
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "docs-versions", help="the folder of the sites")
    parser.add_argument("--latest", help="the version at the root; by default the last one")
    parser.add_argument("--repository", type=Path, default=ROOT, help="the git repository")
    arguments = parser.parse_args(own)
    refs = list(dict.fromkeys(arguments.refs))
    latest = arguments.latest or refs[-1]
    if latest not in refs:
        sys.exit(f"--latest {latest} is none of the versions: {', '.join(refs)}.")
    build_versions(arguments.repository, refs, latest, arguments.out, sphinx)
    print(f"the sites are in {arguments.out / 'index.html'}")


def build_versions(repository: Path, refs: list[str], latest: str, out: Path, sphinx: list[str]) -> None:
    """Builds the site of each version into a new folder, which then replaces `out`.

    Args:
        repository: The git repository.
        refs: Tags or branches.
        latest: The one at the root.
        out: The folder. It is replaced if it is empty or was written by this function.
        sphinx: Further arguments of Sphinx.
    """
    if out.exists() and any(out.iterdir()) and not (out / INDEX).is_file():
        sys.exit(f"{out} has other files. Remove it, or name another folder.")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as scratch:
        sites = Path(scratch) / "sites"
        for ref in refs:
            print(f"building {ref}", flush=True)
            build(repository, ref, sites / folder_name(ref), sphinx)
        pages = {folder_name(ref): site_pages(sites / folder_name(ref)) for ref in refs}
        if clash := sorted(set(pages) & {path.name for path in (sites / folder_name(latest)).iterdir()}):
            sys.exit(f"a version cannot be named {clash[0]}, which is a page or folder of the site. Tag it otherwise.")
        shutil.copytree(sites / folder_name(latest), sites, dirs_exist_ok=True)
        index = [{"name": name, "url": f"{name}/", "latest": name == folder_name(latest)} for name in pages]
        (sites / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
        (sites / "versions.js").write_text(f"window.docsVersions = {json.dumps(pages)};\n", encoding="utf-8")
        if out.exists():
            shutil.rmtree(out)
        sites.rename(out)


def build(repository: Path, ref: str, site: Path, sphinx: list[str]) -> None:
    """Builds the site of one version from its tree in the repository, with the packages of this Python."""
    archive = subprocess.run(["git", "-C", str(repository), "archive", ref], capture_output=True, check=False)
    if archive.returncode:
        sys.exit(f"{repository} has no tag or branch {ref}: {archive.stderr.decode().strip()}")
    with tempfile.TemporaryDirectory() as folder:
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as tar:
            tar.extractall(folder, filter="data")
        if not (Path(folder) / "docs" / "conf.py").is_file():
            sys.exit(f"{ref} has no docs/conf.py, so it has no site. Leave it out.")
        words = ["-q", "-W", "--keep-going", "-b", "html", "-D", f"templates_path={TEMPLATES}"]
        words += ["-A", f"version_name={folder_name(ref)}", *sphinx, str(Path(folder) / "docs"), str(site)]
        environment = {**os.environ, "PYTHONPATH": folder}
        if subprocess.run([sys.executable, "-P", "-m", "sphinx", *words], check=False, env=environment).returncode:
            sys.exit(f"the site of {ref} cannot be built; the reason is above.")
    shutil.rmtree(site / ".doctrees", ignore_errors=True)


def folder_name(ref: str) -> str:
    """The folder of a version: feature/x -> feature-x."""
    return ref.replace("/", "-")


def site_pages(site: Path) -> list[str]:
    """The pages of a site, relative to it."""
    return sorted(path.relative_to(site).as_posix() for path in site.rglob("*.html"))


if __name__ == "__main__":
    main(sys.argv[1:])
