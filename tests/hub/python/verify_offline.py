"""Checks one cached repository against its own tree file, without any network.

python verify_offline.py CACHE REPOSITORY REVISION; needs huggingface_hub 1.22 or newer. It recomputes every hash that
the tree file names, as `hf cache verify` does with the hub's list, and compares sizes.
"""

import pathlib
import sys

from huggingface_hub._tree_cache import read_tree_cache
from huggingface_hub.file_download import repo_folder_name
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils._verification import collect_local_files, resolve_local_root, verify_maps


def listed(path, entry):
    lfs = None
    if entry.lfs_sha256:
        lfs = {"oid": entry.lfs_sha256, "size": entry.lfs_size, "pointerSize": 0}
    return RepoFile(path=path, size=entry.size, oid=entry.blob_id, lfs=lfs)


def main(cache, repository, revision):
    cache = pathlib.Path(cache)
    root, commit = resolve_local_root(
        repo_id=repository, repo_type="model", revision=revision, cache_dir=cache, local_dir=None
    )
    tree = read_tree_cache(str(cache / repo_folder_name(repo_id=repository, repo_type="model")), commit)
    if tree is None:
        sys.exit(f"{repository}@{commit}: no usable trees/{commit}.json")
    files = collect_local_files(root)
    found = verify_maps(
        remote_by_path={path: listed(path, entry) for path, entry in tree.items()},
        local_by_path=files,
        revision=commit,
        verified_path=root,
    )
    wrong = {
        "wrong hash": [mismatch["path"] for mismatch in found.mismatches],
        "missing": found.missing_paths,
        "not listed": found.extra_paths,
        "wrong size": [path for path in files if path in tree and files[path].stat().st_size != tree[path].size],
    }
    for what, paths in wrong.items():
        for path in paths:
            print(f"{repository}@{commit}: {what}: {path}", file=sys.stderr)
    print(f"{repository}@{commit}: {found.checked_count} files checked")
    sys.exit(any(wrong.values()))


if __name__ == "__main__":
    main(*sys.argv[1:])
