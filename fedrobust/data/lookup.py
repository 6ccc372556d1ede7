"""Which file a table means by a name: found where exactly one file can be meant, else refused with
the files that could be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from fedrobust.data.files import Files, is_image
from fedrobust.errors import DataError
from fedrobust.utils.names import clean_name, shown_name


class FileLookup:
    """The files below a root, by name.

    A name is a path from the root, or the end of one ("b/1.jpg" for "all/a/b/1.jpg"), with or
    without the ending of the file, whose case does not matter. Unicode forms (composed,
    decomposed), blanks at the ends and backslashes make no difference.

    Args:
        files: those below the root.
        strip: how many of the first parts of a stored name no table writes (the position of a root
            among several).
        show: writes a stored name for people.
        whole: whether a name is the whole path from the root, with its ending, and nothing else.
    """

    def __init__(
        self,
        files: Files,
        strip: int = 0,
        show: Callable[[str], str] = shown_name,
        *,
        whole: bool = False,
    ) -> None:
        self._show, self._whole = show, whole
        self._paths: dict[str, list[str]] = {}
        self._stems: dict[str, list[tuple[PurePosixPath, str]]] = {}
        for stored in files.names:
            path = PurePosixPath(*PurePosixPath(clean_name(stored)).parts[strip:])
            self._paths.setdefault(path.as_posix(), []).append(stored)
            if is_image(stored):
                self._stems.setdefault(path.stem, []).append((path, stored))

    def candidates(self, name: str) -> list[str]:
        """The stored names of all files that a name can mean; one alone, where the name is the
        whole path of a file."""
        wanted = _as_path(name)
        whole = self._paths.get(wanted.as_posix(), [])
        if whole or self._whole:
            return whole
        ending, above = wanted.suffix.lower(), wanted.parts[:-1]
        same = [
            (path, stored)
            for path, stored in self._stems.get(wanted.stem, [])
            if ending and path.suffix.lower() == ending
        ] or self._stems.get(wanted.name, [])
        return [stored for path, stored in same if _ends_with(path.parts[:-1], above)]

    def find(self, name: str, source: str) -> str:
        """The stored name of the file that a table means.

        Raises:
            DataError: a path that leads out of the root, a file that is not there, or several files
                that could be meant; `source` names the table.
        """
        shown = shown_name(name)
        path = _as_path(name)
        if path.is_absolute() or ".." in path.parts or ":" in "".join(path.parts[:1]):
            raise DataError(
                f"{source}: image {shown} leads out of the data folder; use paths relative to it"
            )
        found = self.candidates(name)
        if len(found) > 1:
            raise DataError(f"{source}: image {shown} can be {self._listed(found)}")
        if not found:
            near = self._similar(path)
            hint = f"there is {self._show(near)}" if near else "check data.root"
            raise DataError(f"{source}: image {shown} is not in the data folder; {hint}")
        return found[0]

    def _similar(self, path: PurePosixPath) -> str:
        """A file that differs from the name in case or ending."""
        stem = path.stem.lower()
        near = (found for one, found in self._stems.items() if one.lower() == stem)
        return next((stored for found in near for _, stored in found), "")

    def _listed(self, found: Sequence[str]) -> str:
        first, second, *rest = sorted(found)
        more = f" or {len(rest)} more" if rest else ""
        names = [self._show(first), self._show(second)]
        reason = ""
        if clean_name(first) == clean_name(second):
            names = [ascii(one)[1:-1] for one in names]
            reason = ", one name in two Unicode forms"
        return (
            f"{names[0]} or {names[1]}{more}{reason}; write the whole path and ending, or keep "
            "only one of them below the data folder"
        )


def _as_path(name: str) -> PurePosixPath:
    return PurePosixPath(clean_name(name).replace("\\", "/"))


def _ends_with(parts: tuple[str, ...], end: tuple[str, ...]) -> bool:
    return parts[len(parts) - len(end) :] == end if end else True
