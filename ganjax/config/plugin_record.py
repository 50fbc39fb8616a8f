"""The plugins of a run, in its folder: `plugins.json` names them, and `plugins/` has a copy of each file.

So whoever opens the run later loads the same code again. What runs is code that the user names (a recipe, `--plugin`),
installed packages with an entry point, and copies that this user has run before, as their hash shows: a folder from
elsewhere runs nothing by itself. Nothing here imports JAX.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ganjax.config import plugins
from ganjax.config.plugins import Source
from ganjax.runtime import processes
from ganjax.runtime.errors import UserError
from ganjax.runtime.files import atomic_write_json, read_json, replace_file

FILE, COPIES = "plugins.json", "plugins"


def used(*flats: Mapping[str, Any]) -> list[Source]:
    """Returns the sources of what these flat configs name, each once, in the order in which they came."""
    found: dict[str, Source] = {}
    for (kind, name), place in plugins.ENTRIES.items():
        key = plugins.KINDS[kind][1]
        if any(name in (part.strip() for part in str(flat[key]).split(",")) for flat in flats):
            found[place.source.path] = place.source
    return list(found.values())


def store(folder: Path, *flats: Mapping[str, Any]) -> None:
    """Writes into the folder of a run or study which plugins these flat configs use, and a copy of each file.

    Raises:
      UserError: it was made with other ones.
    """
    records = read(folder)
    had = {name: record for record in records for name in record["names"]}
    new = []
    for source in used(*flats):
        own = [
            f"{kind} {name}"
            for (kind, name), place in plugins.ENTRIES.items()
            if place.source.path == source.path
        ]
        for record in (had[name] for name in own if name in had):
            if record["sha256"] != source.sha256:
                raise UserError(
                    f"{folder} was made with {', '.join(record['names'])} of another {record['path']}: its sha256 was "
                    f"{record['sha256'][:12]}…, and that of {source.path} is {source.sha256[:12]}…. Bring back what it "
                    f"was{' (a copy: ' + str(folder / COPIES / record['copy']) + ')' if record['copy'] else ''}, or "
                    "give another --workdir."
                )
        if not any(name in had for name in own):
            new.append(source)
            copy = (
                f"{Path(source.path).stem}_{source.sha256[:8]}.py"
                if source.sha256 and not source.module
                else ""
            )
            records.append({**vars(source), "copy": copy, "names": own})
    if not new:
        return
    (folder / COPIES).mkdir(exist_ok=True)
    for record in records:
        if record["text"] and record["copy"]:
            replace_file(folder / COPIES / record["copy"], record["text"].encode())
    kept = ("path", "sha256", "module", "copy", "names")
    atomic_write_json(folder / FILE, [{key: record[key] for key in kept} for record in records])


def forget(folder: Path) -> None:
    """Removes what `store` has written, for a run that has not begun."""
    for path in (folder / FILE, *(folder / COPIES).glob("*.py")):
        path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        (folder / COPIES).rmdir()


def read(folder: Path) -> list[dict[str, Any]]:
    """Returns the plugins of a run or study, with the text of their copies, as `restore` takes them; or none.

    Raises:
      UserError: the record is damaged.
    """
    try:
        records = read_json(folder / FILE)
        if not isinstance(records, list):
            raise ValueError(f"a {type(records).__name__}")
        for record in records:
            plain = [record[key] for key in ("path", "sha256", "module", "copy")] + list(record["names"])
            if not all(isinstance(value, str) for value in plain):
                raise ValueError("a value that is no text")
            record["copy"] = Path(record["copy"]).name  # never a way out of the folder
            copy = folder / COPIES / record["copy"]
            found = (
                [plugins.source_of(path) for path in (str(copy), record["path"])] if record["copy"] else []
            )
            texts = [source.text for source in found if source.sha256 == record["sha256"]]
            record |= {"text": texts[0] if texts else "", "folder": str(folder)}
    except (FileNotFoundError, NotADirectoryError):
        return []
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{folder / FILE} is damaged: {error!r}. It should list the plugins of the run. Restore it."
        ) from None
    return records


def restore_run(folder: Path) -> None:
    """Loads the plugins of a run in all processes; the main one reads the folder, which the others may not see.

    Raises:
      UserError: see `restore`.
    """
    records = read(folder) if processes.is_main() else []
    restore(records)
    if processes.count() > 1:
        restore(processes.from_main(records), trusted=True)  # the main process has loaded them


def restore(records: Sequence[Mapping[str, Any]], *, trusted: bool = False) -> None:
    """Loads the plugins of a run, unless this process has them.

    Args:
      records: those of `read`, perhaps of another process.
      trusted: True runs the copies in any case; else only if this user has run the same code before.

    Raises:
      UserError: one is gone or has changed, or is not known to be trusted; the message says what to do.
    """
    plugins.load_packages()
    for record in records:
        if _loaded(record):
            continue
        path = str(Path(record["folder"]).absolute() / COPIES / record["copy"])
        if record["text"] and (trusted or (plugins.trusted_folder() / record["sha256"]).exists()):
            plugins.SOURCES[path] = Source(path, record["sha256"], record["text"])
            plugins.run_text(record["text"], path, "plugin")
        if not _loaded(record):
            origin = record["module"] or record["path"]
            raise UserError(
                f"{record['folder']} was made with {', '.join(record['names'])} of {origin}. {_remedy(record, path)}"
            )


def _loaded(record: Mapping[str, Any]) -> bool:
    """Returns True if this process has what a run was made with: the same code, or the names where it had no file."""
    found = [plugins.ENTRIES.get(tuple(name.split(" ", 1))) for name in record["names"]]  # type: ignore[arg-type]
    return all(place is not None and record["sha256"] in ("", place.source.sha256) for place in found)


def _remedy(record: Mapping[str, Any], copy: str) -> str:
    """Returns what to do about a plugin that could not be loaded."""
    if not record["sha256"]:
        return "That is no file: register them before, or put them into a file and give it: --plugin=FILE."
    if record["module"]:
        return (
            "That module is not loaded, or has changed. Install the package that the run was made with; one without "
            f"an entry point of the group {plugins.GROUP} is loaded by a file that imports it: --plugin=FILE."
        )
    if not record["text"]:
        return f"It and its copy {copy} are gone or have changed: bring back the file with sha256 {record['sha256']}."
    return f"Its copy was never run here. Read it, and if you trust it, give it: --plugin={copy}"
