"""Sets of videos in their own layouts: UCF-101, and Kinetics with its tables."""

import csv
from collections.abc import Mapping
from pathlib import Path

from data.packing.sources.base import existing
from data.packing.sources.listed import ListedSource, text_of
from data.packing.sources.split_names import SplitNames
from launch.command.cli import UserError


class Ucf101Source(ListedSource):
    """`UCF-101/CLASS/v_CLASS_gNN_cNN.avi`, with the first of the three published splits where its lists are there.

    The lists are `trainlist01.txt` and `testlist01.txt`, beside or below the folder; without them all is `train`.
    """

    media = "videos"
    about = "UCF-101: CLASS/v_*.avi, with trainlist01.txt and testlist01.txt"

    def __init__(self, root: str) -> None:
        top = existing(root, "UCF-101's folder")
        super().__init__(top)
        files, split_of = [], self._lists(top)
        if not split_of:
            self.tally.noted("no trainlist01.txt, so all of it is train", str(top))
        for path, _ in self.listing.samples:
            *_, folder, name = ["", *path.split("/")]
            split = split_of.get(name) if split_of else "train"
            if not name.startswith("v_") or not folder:
                self.tally.left_out("not CLASS/v_CLASS_gNN_cNN", path, of="videos")
            elif split is None:
                self.tally.left_out("in neither of the lists of split 01", path, of="videos")
            else:
                files.append((path, folder, split))
        self.take(files, {})

    @staticmethod
    def _lists(top: Path) -> dict[str, str]:
        """Split of each file's name."""
        found = {}
        for split in ("train", "test"):
            name = f"{split}list01.txt"
            lists = sorted(top.rglob(name)) or sorted(top.resolve().parent.glob(f"*/{name}"))
            for line in text_of(lists[0]).splitlines() if lists else ():
                if line.strip():
                    found[line.split()[0].rpartition("/")[2]] = split
        return found


class KineticsSource(ListedSource):
    """Clips named `ID_START_END.mp4` (seconds in six digits), and tables of `label,youtube_id,time_start,time_end`.

    The split is the table's column `split`, else the table's name. Clips in folders of classes are kind=folder.
    """

    media = "videos"
    about = "Kinetics: ID_START_END.mp4 and its tables train.csv, val.csv, …"
    options = ("splits",)

    def __init__(self, root: str, splits: Mapping[str, str] | None = None) -> None:
        super().__init__(existing(root, "Kinetics' folder"))
        rows = self._rows(SplitNames(splits))
        if not rows:
            raise UserError(
                f"source={root} has no table with youtube_id, time_start and time_end: put train.csv and val.csv "
                "there, or use kind=folder for folders of classes"
            )
        files = []
        for path, _ in self.listing.samples:
            row = rows.pop(path.rpartition("/")[2].rpartition(".")[0], None)
            if row is None:
                self.tally.left_out("in none of the tables", path, of="videos")
            elif row[1]:
                files.append((path, *row))
            else:
                self.tally.ignored("left out by the setting splits", path)
        if rows:
            self.tally.noted("in a table, but not there, as are videos that are gone", min(rows), count=len(rows))
        self.take(files, {})

    def _rows(self, names: SplitNames) -> dict[str, tuple[str, str]]:
        """Label and split ("": left out) of each clip by its file's stem."""
        found = {}
        for table in sorted(self.root.rglob("*.csv")):
            for row in csv.DictReader(text_of(table).splitlines()):
                try:
                    stem = f"{row['youtube_id']}_{float(row['time_start']):06.0f}_{float(row['time_end']):06.0f}"
                except (KeyError, TypeError, ValueError):
                    break  # another table
                split = names.of_folder(row.get("split") or "")
                split = names.of_folder(table.stem.rpartition("_")[2]) if split is None else split
                if split is None:
                    raise UserError(
                        f"source: {table} tells no split by its name or a column: call it train.csv, or set splits "
                        f'to {{"{table.stem.rpartition("_")[2]}": "train"}}'
                    )
                found[stem] = ((row.get("label") or "").strip(), split)
        return found
