"""Mending a row's folder: what is damaged is set aside, and its samples become undone."""

import os
from collections import defaultdict
from collections.abc import Collection
from pathlib import Path

from hetpure.runs.files import free_name, set_aside, write_whole
from hetpure.runs.store import Line, RecordStore, load_images, some


def mend(store: RecordStore, world: int = 1) -> list[str]:
    """Leaves only whole samples in the files of this process; nothing that is not a kill's remainder is deleted.

    Of the files of this process, and of the processes rank + world, rank + 2 world, .. of an earlier, larger run: each
    of ``world`` processes mends its own. Half a line at the end, a sample there without all its lines and half an image
    are what a kill leaves: they are removed. A file with a damaged line, and a damaged file of images, is kept under
    another name; so are records whose images are lost.

    Returns:
        One line of text for each damaged file.

    Raises:
        OSError: if the folder cannot be written.
    """
    texts = [f"{path.name} is no {kind}; {_aside(path)}" for path, kind in _misplaced(store).items()]
    lines, done, own = store.lines(), store.done(), [file for file in store.files if _is_own(file, store, world)]
    lost, reports = _lost_images(store, [line for file in own for line in lines[file]], done)
    texts += reports
    left = done - lost
    first: dict[tuple[int, str], Line] = {}
    for line in (line for file in lines for line in lines[file] if line.record is not None):
        assert line.record is not None
        first.setdefault((line.record.index, line.record.protocol), line)
    for file in own:
        whole = [line for line in lines[file] if line.record is not None and line.record.index in left]
        kept = [line for line in whole if first[line.record.index, line.record.protocol] is line]  # pyright: ignore
        if len(kept) == len(lines[file]):
            continue
        gone = lines[file][len(kept) :]
        if kept == lines[file][: len(kept)] and not any(_is_damaged(line, lost) for line in gone):
            os.truncate(file, gone[0].start)
            continue
        texts += _rewrite(file, lines[file], kept, lost)
    for part in store.folder.glob(f"adversarial/*{'' if world == 1 else '.' + store.file.stem}.part"):
        part.unlink(missing_ok=True)
    return [f"{store.folder.name}/{text}" for text in texts]


def _is_own(file: Path, store: RecordStore, world: int) -> bool:
    return (int(file.stem.removeprefix("samples-")) - store.rank) % world == 0


def _is_damaged(line: Line, lost: Collection[int]) -> bool:
    return line.problem is not None or (line.record is not None and line.record.index in lost)


def _misplaced(store: RecordStore) -> dict[Path, str]:
    """Folders where files should be, and the other way round."""
    found = {path: "file" for path in store.folder.glob("samples-*.jsonl") if not path.is_file()}
    images = store.folder / "adversarial"
    return found | ({images: "folder"} if os.path.lexists(images) and not images.is_dir() else {})


def _lost_images(store: RecordStore, lines: Collection[Line], done: Collection[int]) -> tuple[set[int], list[str]]:
    """Finished samples whose image is missing or damaged, and a line for each such file, which is set aside."""
    batches: defaultdict[str, set[int]] = defaultdict(set)
    for line in lines:
        if line.record is not None and line.record.image is not None and line.record.index in done:
            batches[line.record.image].add(line.record.index)
    lost, missing, damaged = set[int](), list[str](), list[str]()
    for name, indices in batches.items():
        file, shape = store.folder / name, store.expected.shape
        loaded = load_images(file, indices).items()
        bad = {index for index, image in loaded if image is None or (shape is not None and image.shape != shape)}
        if not bad:
            continue
        lost |= bad
        if not os.path.lexists(file):
            missing.append(name)
        elif bad == indices:
            damaged.append(f"{name} (kept as {set_aside(file).name})")
        else:  # others need it
            damaged.append(name)
    texts = [f"{some(missing)} missing" for _ in missing[:1]] + [f"{some(damaged)} damaged" for _ in damaged[:1]]
    return lost, [f"{text}; {_named(lost)} evaluated again" for text in texts]


def _rewrite(file: Path, lines: list[Line], kept: list[Line], lost: Collection[int]) -> list[str]:
    """Keeps a whole copy of a file with damaged lines, and only its whole samples in the file itself."""
    content = file.read_bytes()
    copy = free_name(file)
    write_whole(copy, content)
    write_whole(file, b"".join(content[line.start : line.end] for line in kept))
    ends = {line.end for line in kept}
    removed = [line for line in lines if line.end not in ends]
    reasons = [f"line {line.number} {line.problem}" for line in removed if line.problem is not None]
    indices = {line.record.index for line in removed if line.record is not None}
    if torn := indices - set(lost):
        reasons.append(f"records of {_named(torn)} are incomplete or contradict each other")
    if imageless := indices & set(lost):
        reasons.append(f"records of {_named(imageless)} have lost their image")
    return [f"{file.name}: {some(reasons)}; kept as {copy.name}; what is missing is evaluated again"]


def _aside(path: Path) -> str:
    return f"kept as {set_aside(path).name}"


def _named(indices: Collection[int]) -> str:
    shown = ", ".join(map(str, sorted(indices)[:3])) + (", .." if len(indices) > 3 else "")
    return f"sample {shown}" if len(indices) == 1 else f"{len(indices)} samples ({shown})"
